"""The documents that a search by words compares: of each item, its texts, names and facts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, Table, select

from mmsearch.storage.lexical import TOKENIZER, Document, item_document
from mmsearch.storage.sql.database import Prepared, is_one_of_ids
from mmsearch.storage.sql.index_settings import put_setting
from mmsearch.storage.sql.schema import USER, items, metadata, settings, sources, tags, texts
from mmsearch.storage.sql.types import id_list
from mmsearch.storage.transfer import ENGINE

TOKENIZED = f"{ENGINE}tokenizer"
"""The setting that holds the version of the tokens in the full-text index."""

_TOKENIZED = Prepared(select(settings.c.value).where(settings.c.key == TOKENIZED))


def _column(table: Table, name: str, order: str) -> Prepared:
    chosen = select(table.c.item_id, table.c[name]).where(is_one_of_ids(table.c.item_id))
    return Prepared(chosen.order_by(table.c.item_id, table.c[order]))


_TEXTS = _column(texts, "text", "position")

_METADATA = Prepared(
    select(metadata.c.item_id, metadata.c.key, metadata.c.text, metadata.c.origin)
    .where(is_one_of_ids(metadata.c.item_id))
    .order_by(metadata.c.item_id, metadata.c.key)
)

_TAGS = _column(tags, "tag", "tag")

_c = items.c

_ITEMS = Prepared(
    select(_c.id, sources.c.path, _c.folder, _c.name, _c.camera, _c.taken_at, _c.mtime_ns)
    .join(sources)
    .where(is_one_of_ids(_c.id))
)


def is_outdated(connection: Connection) -> bool:
    """Whether the full-text index holds tokens of an older version, or none yet."""
    found = _TOKENIZED.of(connection)
    return int(found[0][0] if found else 0) < TOKENIZER


def put_tokenizer(connection: Connection) -> None:
    """Record that the full-text index has tokens of this version, except for items that are due."""
    put_setting(connection, TOKENIZED, str(TOKENIZER))


def documents(connection: Connection, ids: Sequence[int]) -> Iterator[tuple[int, Document]]:
    """The ids and documents of some items, as far as they are there."""
    given = id_list(ids)
    own: dict[int, list[str]] = defaultdict(list)
    for item_id, text in _TEXTS.of(connection, ids=given):
        own[item_id].append(text)
    described: dict[int, list[tuple[str, str, bool]]] = defaultdict(list)
    for item_id, key, text, origin in _METADATA.of(connection, ids=given):
        described[item_id].append((key, text, origin == USER))
    tagged: dict[int, list[str]] = defaultdict(list)
    for item_id, tag in _TAGS.of(connection, ids=given):
        tagged[item_id].append(tag)
    for id_, root, folder, name, camera, taken_at, mtime_ns in _ITEMS.of(connection, ids=given):
        yield (
            id_,
            item_document(
                own[id_],
                described[id_],
                tagged[id_],
                root=root,
                folder=folder,
                name=name,
                camera=camera,
                taken_at=taken_at,
                mtime_ns=mtime_ns,
            ),
        )
