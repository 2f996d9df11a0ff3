"""Which items pass a filter: by Milvus's expressions, and in Python what these cannot say."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mmsearch.filters import KEYS, META, Filter
from mmsearch.filters.check import checked, conditions
from mmsearch.storage.milvus.database import Database
from mmsearch.storage.milvus.expressions import NOTHING, Expression, compiled
from mmsearch.storage.milvus.files import Sources
from mmsearch.storage.milvus.predicates import FilterValues, passes
from mmsearch.storage.milvus.rows import sorted_ids, texts_by_key
from mmsearch.storage.store import FilterStore
from mmsearch.storage.stored_text import text_of
from mmsearch.types import FacetCount, Facets
from mmsearch.vectors.id_set import IdSet, LazyIdSet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ANSWERS = 16
"""How many results are cached until the store changes."""

FEW = 2_000
"""So many items are sorted, or counted, by themselves."""

_PLACE = ("source_id", "folder", "name")
_FIELDS = {
    "path": _PLACE,
    "folder": _PLACE,
    "date": ("taken_at", "mtime_ns"),
    "megapixels": ("width", "height"),
    "near": ("latitude", "longitude"),
    "has": ("kind", "latitude", "longitude", "origins", "fields"),
    "tag": ("tags",),
}
"""The fields of items that keys are evaluated from, unless it is the key's own."""

_SUMMARISED = ("id", "kind", "taken_at", "mtime_ns", "camera", "source_id", "folder", "tags")


class Filters(FilterStore):
    """Answers filters.

    Args:
        database: The index's.
        sources: Of its items.
    """

    def __init__(self, database: Database, sources: Sources) -> None:
        self._database = database
        self._sources = sources
        self._answers: dict[Any, Any] = {}
        self._moment: Any = None

    def matching(self, filter_: Filter, most: int | None = None) -> NDArray[np.int64]:
        return self.passing(filter_).ids[:most]

    def passing(self, filter_: Filter) -> IdSet:
        answers = self._answers_of_now()
        if (known := answers.get(filter_)) is not None:
            return known  # type: ignore[no-any-return]
        found = checked(filter_, self._is_key, self._keys)
        expression = compiled(found, self._sources.roots())
        answer: IdSet
        if expression == NOTHING:
            answer = IdSet.of(())
        elif expression.exact:
            answer = self._lazy(expression)
        else:
            answer = IdSet.of(self._compared(found, expression))
        if len(answers) >= ANSWERS:
            answers.pop(next(iter(answers)))
        answers[filter_] = answer
        return answer

    def by_date(self, ids: IdSet | None = None, *, oldest: bool = False) -> NDArray[np.int64]:
        import numpy as np

        dates = {one.id: one.date for one in self._summaries(ids)}
        dated = sorted((id_ for id_ in dates if dates[id_]), key=dates.__getitem__,
                       reverse=not oldest)  # fmt: skip
        return np.array([*dated, *(id_ for id_ in dates if not dates[id_])], np.int64)

    def facets(self, ids: IdSet | None = None) -> Facets:
        kinds, months, folders, cameras, tags = (Counter[str]() for _ in range(5))
        for one in self._summaries(ids):
            kinds[one.kind] += 1
            months[one.date[:7]] += 1
            folders[one.folder] += 1
            cameras[one.camera or ""] += 1
            tags.update(one.tags)
        years: Counter[str] = Counter()
        for month, number in months.items():
            years[month[:4]] += number
        return Facets(
            kind=_most_frequent(kinds),
            year=_in_order(years),
            month=_in_order(months),
            folder=_most_frequent(folders),
            camera=_most_frequent(cameras),
            tag=_most_frequent(tags),
            counted=kinds.total(),
        )

    # ------------------------------------------------------------------ reading

    def _answers_of_now(self) -> dict[Any, Any]:
        moment = self._database.moment()
        if moment != self._moment:
            self._answers, self._moment = {}, moment
        return self._answers

    def _lazy(self, expression: Expression) -> LazyIdSet:
        client, items = self._database.client, self._database.collection("items")

        def fetch(among: NDArray[np.int64] | None) -> NDArray[np.int64]:
            if among is None:
                return sorted_ids(client.query(items, expression.as_filter, ["id"]))
            return sorted_ids(client.among(items, "id", among.tolist(), ["id"], expression.text))

        return LazyIdSet(expression, lambda: client.count(items, expression.text), fetch)

    def _compared(self, filter_: Filter, expression: Expression) -> list[int]:
        """The ids of the rows of an expression that pass when they are compared again."""
        sources = self._sources.roots()
        fields = _fields_of(one.key for one in conditions(filter_))
        items = self._database.collection("items")
        read = self._database.client.pages(items, expression.as_filter, fields)
        rows = (row for page in read for row in page)
        return [row["id"] for row in rows if passes(filter_, _values(row, sources))]

    def _is_key(self, key: str) -> bool:
        return key in self._keys()

    def _keys(self) -> list[str]:
        """The keys of the items' metadata, sorted."""
        answers = self._answers_of_now()
        if "keys" not in answers:
            items = self._database.collection("items")
            read = self._database.client.pages(items, "id >= 0", ["id", "meta"])
            answers["keys"] = sorted({key for page in read for row in page for key in row["meta"]})
        return answers["keys"]  # type: ignore[no-any-return]

    def _summaries(self, ids: IdSet | None) -> Iterable[_Summary]:
        """What dates and facets are made of, in order of id."""
        client, items = self._database.client, self._database.collection("items")
        sources = self._sources.roots()
        if ids is not None and len(ids) <= FEW:
            read = client.among(items, "id", ids.ids.tolist(), _SUMMARISED)
            return sorted((_Summary.of(row, sources) for row in read), key=lambda one: one.id)
        answers = self._answers_of_now()
        if "summaries" not in answers:
            every = client.pages(items, "id >= 0", _SUMMARISED)
            answers["summaries"] = [_Summary.of(row, sources) for page in every for row in page]
        found: list[_Summary] = answers["summaries"]
        return found if ids is None else _among(found, ids)


@dataclass(frozen=True, slots=True)
class _Summary:
    """What an item is counted and sorted by."""

    id: int
    kind: str
    date: str
    folder: str
    camera: str | None
    tags: Collection[str]

    @classmethod
    def of(cls, row: Mapping[str, Any], sources: Mapping[int, str]) -> _Summary:
        values = _values(row, sources)
        date = row["taken_at"] or _modified(row["mtime_ns"])
        folder = os.path.join(values.root, values.folder) if values.folder else values.root
        return cls(row["id"], row["kind"], date, folder, values.columns["camera"], values.tags)


def _among(found: Sequence[_Summary], ids: IdSet) -> Iterator[_Summary]:
    import numpy as np

    inside = ids.contains(np.array([one.id for one in found], np.int64))
    return (one for one, is_in in zip(found, inside.tolist(), strict=True) if is_in)


def _fields_of(keys: Iterable[str]) -> list[str]:
    fields = {"id"}
    for key in keys:
        if key.startswith(META):
            fields.add("meta")
        elif key in _FIELDS:
            fields.update(_FIELDS[key])
        else:
            fields.add(str(KEYS[key].field))
    return sorted(fields)


def _values(row: Mapping[str, Any], sources: Mapping[int, str]) -> FilterValues:
    return FilterValues(
        root=sources.get(row.get("source_id", 0), ""),
        folder=text_of(row.get("folder") or ""),
        name=text_of(row.get("name") or ""),
        columns=row if not row.get("camera") else {**row, "camera": text_of(row["camera"])},
        origins=row.get("origins") or (),
        tags=[text_of(tag) for tag in row.get("tags") or ()],
        metadata=texts_by_key(row["meta"]) if "meta" in row else {},
        heard=":audio|" in row.get("fields", ""),
    )


def _modified(mtime_ns: int) -> str:
    """When a file was modified, ISO 8601; "" if that is not known."""
    if not mtime_ns:
        return ""
    try:
        moment = datetime.fromtimestamp(mtime_ns // 1_000_000_000, UTC)
    except (ValueError, OverflowError, OSError):  # of a broken clock
        return ""
    return moment.isoformat()[:19]


def _most_frequent(counts: Counter[str]) -> list[FacetCount]:
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return [FacetCount(*pair) for pair in ordered if pair[0]]


def _in_order(counts: Counter[str]) -> list[FacetCount]:
    return [FacetCount(*pair) for pair in sorted(counts.items()) if pair[0]]
