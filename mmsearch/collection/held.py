"""What an open index folder holds: its catalog, its encoders, its FAISS indexes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mmsearch.encoders import runtime_of
from mmsearch.encoders.models import choose, family_of, load_encoder
from mmsearch.errors import IndexNotFound, IndexUnusable
from mmsearch.types import Failure, Item, Report

if TYPE_CHECKING:
    from mmsearch.encoders import Encoder, Runtime
    from mmsearch.spaces.open_index import Serving
    from mmsearch.storage import Space, Store


class Items:
    """Everything in a collection: `len()` of it, or one item after the other in order of id."""

    def __init__(self, catalog: Store) -> None:
        self._catalog = catalog

    def __len__(self) -> int:
        return len(self._catalog)

    def __iter__(self) -> Iterator[Item]:
        return self._catalog.items.all()


class Held:
    """An index folder, open: everything but putting in, taking out and searching."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        model: str | Sequence[str] | None = None,
        how: Runtime | None = None,
        create: bool = False,
    ) -> None:
        self.folder = folder = Path(folder)
        self.report: Report | None = None
        """Of the last `add` on this object."""
        self._how = how or runtime_of()
        path = folder / "catalog.db"
        exists = path.is_file() and path.stat().st_size > 0
        if not create and not exists:
            raise IndexNotFound(
                f"there is no index at {folder}: make one with `mmsearch index FOLDER`"
            )
        names = [model] if isinstance(model, str) else list(model or [])
        self._advice: list[str] = []
        # loaded first: a wrong name leaves no empty index
        named = [name for name in names if name != "auto"]
        self._wanted = [load_encoder(name, self._how, strict=len(named) == 1) for name in named]
        if not exists:
            self._wanted = self._wanted or self._chosen()
            _make(folder)
        from mmsearch.spaces.open_index import OpenIndex
        from mmsearch.storage.sqlite import Catalog  # importing SQLAlchemy takes long

        self._catalog = Catalog(path)
        self._index = index = OpenIndex(folder, self._catalog, self._how)
        self._encoder_pool = index.encoders
        self._query_banks = index.query_banks
        self._indexes = index.vector_indexes
        if (
            exists
            and not self._wanted
            and not any(one.encodes_for for one in self._catalog.spaces.all())
        ):
            self._wanted = self._chosen()

    def _chosen(self) -> list[Encoder]:
        """The encoders of a new index for which none was named."""
        choice = choose()
        if choice.advice:
            self._advice.append(choice.advice)
        best = load_encoder(choice.name, self._how, strict=False)
        companion = family_of(choice.name).companion
        if companion is None or "audio" in best.modalities:
            return [best]
        return [load_encoder(companion), best]

    @property
    def encoder(self) -> Encoder:
        """The preferred encoder of this index, loaded when first needed."""
        spaces = self._spaces()
        if spaces:
            return self._encoder_pool.encoder_of(spaces[0])
        if not self._wanted:
            raise IndexUnusable(f"{self.folder} has no model yet: fill it with `mmsearch index`")
        return self._wanted[-1]

    def _spaces(self) -> list[Space]:
        """The spaces that can answer, the preferred one first."""
        return [space for space in self._catalog.spaces.all() if space.serves]

    def __len__(self) -> int:
        return len(self._catalog)

    @property
    def items(self) -> Items:
        """Everything stored, in order of id."""
        return Items(self._catalog)

    @property
    def failures(self) -> list[Failure]:
        """Files that could not be used, from all runs, by path."""
        return self._catalog.failures.all()

    def status(self) -> dict[str, Any]:
        """What is stored: folder, models, sources, items, vectors, failures, bytes."""
        from mmsearch.spaces.targets import served

        spaces = self._catalog.spaces.all()
        answering = served(spaces)
        first = next((space for space in spaces if space.id in answering), None)
        counts = self._catalog.counts()
        models = [
            {
                "name": space.name,
                "fingerprint": space.fingerprint,
                "dim": space.dim,
                "answers": sorted(answering.get(space.id, ())),
                "fills": sorted(space.backfills),
                "vectors": counts["vectors"].get(space.id, {}),
            }
            for space in spaces
        ]
        return {
            "index": str(self.folder),
            "model": first.name if first else None,
            "fingerprint": first.fingerprint if first else None,
            "dim": first.dim if first else None,
            "models": models,
            "sources": sorted(path for _, path in self._catalog.sources.all()),
            "items": counts["items"],
            "vectors": _answering(models),
            "indexes": self._indexes.describe(self._present()),
            "failures": counts["failures"],
            "bytes": sum(f.stat().st_size for f in self.folder.rglob("*") if f.is_file()),
        }

    def _present(self) -> Serving:
        """The spaces that can answer, the preferred one first, and the modalities they hold."""
        return self._index.serving()

    def writing(self, what: str, *, wait: float = 0.0) -> AbstractContextManager[None]:
        """The right to write, for as long as a `with` lasts; what writes takes it by itself.

        Args:
            what: What is being done, for those who find the index busy: "indexing".
            wait: Seconds to wait for another writer.

        Raises:
            IndexBusy: another process writes.
            StorageFailed: the folder cannot be written.
        """
        return self._index.writing(what, wait=wait)

    def _keep_backup(self, *, changed: bool = True) -> list[str]:
        return self._index.keep_backup(changed=changed)

    # ------------------------------------------------------------------ closing

    def close(self) -> None:
        """Let go of the catalog's file; calling it twice does no harm."""
        self._index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise IndexUnusable(f"no index can be made at {folder}: {error.strerror}") from error


def _answering(models: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How many vectors there are of each facet, in the model that answers for it."""
    found: dict[str, int] = {}
    for model in models:
        for facet, number in model["vectors"].items():
            if facet in model["answers"]:
                found.setdefault(facet, number)
    return found
