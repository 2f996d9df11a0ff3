"""The store in Milvus."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmsearch.storage.milvus.store import MilvusStore
    from mmsearch.storage.place import IndexPlace


def open_store(
    place: IndexPlace, *, create: bool, initial: Mapping[str, str] | None = None
) -> MilvusStore:
    """The store of an index in Milvus.

    Args:
        place: Where it is.
        create: Whether it is made if there is none.
        initial: Settings that it is made with.

    Raises:
        MissingExtra: pymilvus is not installed.
        StorageFailed: the server cannot be reached, or refuses the token.
        IndexNotFound: there is none, and it is not to be made.
        IndexUnusable: a newer mmsearch made it.
    """
    from mmsearch.storage.milvus.client import Client
    from mmsearch.storage.milvus.store import MilvusStore
    from mmsearch.storage.place import index_not_found

    client = Client(place.url, place.token, place.address)
    try:
        place.folder.mkdir(parents=True, exist_ok=True)
        store = MilvusStore(client, place)
        found = store.database.exists
        if not found and create:
            store.database.make(initial or {})
            found = True
        if found:
            store.database.check_version()
            return store
    except BaseException:
        client.close()
        raise
    client.close()
    raise index_not_found(place)
