"""What an index can be asked: hits, copies, labels, descriptions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmsearch.collection.held import Held
from mmsearch.errors import InvalidQuery
from mmsearch.search.settings import Settings, takes_settings
from mmsearch.types import Hit, Query, Ranking

if TYPE_CHECKING:
    from mmsearch.search.describe import Description
    from mmsearch.search.duplicates import Group
    from mmsearch.search.searcher import Searcher
    from mmsearch.types import Progress, Vectors


class Asking(Held):
    """Searching, and what else vectors tell."""

    @takes_settings(Settings)
    def search(self, query: str | Query, settings: Settings) -> list[Hit]:
        """The k best hits for one query, best first; fewer when the collection is smaller.

        Args:
            query: Words, or `Query.image(...)`, or several: `Query.text("a dog") -
                Query.text("snow")`.
            settings: Each by keyword: `search("a dog", k=20, target="image")`.

        Raises:
            InvalidQuery: the query is empty or k is below 1.
            InvalidOption, InvalidFilter: a setting cannot have such a value.
            UnknownTarget: there is no such facet.
            UnsupportedModality: none of the index's models takes one of the parts.
            PathNotFound, UnreadableFile: the example file cannot be used.
        """
        return self._searcher().search([query], settings)[0]

    @takes_settings(Settings)
    def search_many(self, queries: Sequence[str | Query], settings: Settings) -> list[list[Hit]]:
        """`search` for each query, encoded in batches; a list of hits a query."""
        return self._searcher().search(_several(queries), settings)

    @takes_settings(Settings)
    def rank_many(self, queries: Sequence[str | Query], settings: Settings) -> list[Ranking]:
        """The items that `search_many` finds, as (id, score) pairs, quicker: nothing is looked up.

        For thousands of queries, or ranks; `spans` make no difference.
        """
        return self._searcher().rank(_several(queries), settings)

    @takes_settings(Settings)
    def search_vectors(self, queries: Vectors, settings: Settings) -> list[list[Hit]]:
        """`search` for queries that are encoded already: unit vectors (n, dim) of `encoder`."""
        return self._searcher().search_vectors(queries, settings)

    @takes_settings(Settings)
    def similar(self, path: str | os.PathLike[str], settings: Settings) -> list[Hit]:
        """Items like a file, the file itself left out; it need not be in the index."""
        return self._searcher().similar(os.fspath(path), settings)

    def _searcher(self) -> Searcher:
        from mmsearch.search.searcher import Searcher

        return Searcher(self._index)

    # ------------------------------------------------------------------ what else vectors tell

    def tag(
        self,
        labels: Sequence[str],
        *,
        min_confidence: float | None = None,
        target: str | None = None,
        progress: Progress | None = None,
    ) -> dict[str, int]:
        """Give items the labels they show or sound like; by label, how many have it.

        A filter on `tag` then finds them. Labels are remembered for `tag_new`.

        Args:
            labels: Words, such as "dog" or "a birthday party".
            min_confidence: From which an item is given a label; left out, 0.6.
            target: "image" or "audio": only look, or only listen.
            progress: Called with (vectors looked at, vectors in all).

        Raises:
            InvalidOption: there is no label, or nothing to look at, or the confidence is none.
            UnknownTarget: the target is neither.
            IndexBusy: another process is writing to the index.
        """
        from mmsearch.search.tagging import tag_items

        with self.writing("tagging"):
            counts = tag_items(
                self._index,
                labels,
                min_confidence=min_confidence,
                target=target,
                progress=progress,
            )
            self._catalog.words.refresh()
            self._keep_backup()
        return counts

    def tag_new(self, *, progress: Progress | None = None) -> dict[str, int]:
        """Give the labels asked for before to what has come or changed since."""
        from mmsearch.search.tagging import tag_new

        with self.writing("tagging"):
            counts = tag_new(self._index, progress)
            self._catalog.words.refresh()
            self._keep_backup(changed=bool(counts))
        return counts

    def untag(self, labels: Sequence[str] | None = None) -> int:
        """Take labels off all items, all labels if none is named; returns how many there were."""
        from mmsearch.search.tagging import forget_labels

        with self.writing("tagging"):
            gone = forget_labels(self._catalog, labels)
            self._catalog.words.refresh()
            self._keep_backup(changed=bool(gone))
        return gone

    def describe(
        self, path: str | os.PathLike[str], *, k: int = 5, labels: Sequence[str] | None = None
    ) -> Description:
        """What a file shows: its own texts, the index's texts that fit it best, and labels.

        Args:
            path: A photo, text or sound, indexed or not.
            k: How many texts and labels.
            labels: To choose from; left out, those of `tag`, else everyday words.

        Raises:
            PathNotFound, UnreadableFile: the file cannot be used.
        """
        from mmsearch.search.describe import describe

        return describe(self._index, os.fspath(path), k=k, labels=labels)

    def duplicates(
        self,
        *,
        threshold: float | None = None,
        same: bool = False,
        progress: Progress | None = None,
    ) -> list[Group]:
        """Groups of files that are copies of one another, those that waste most bytes first.

        Args:
            threshold: The cosine from which files are alike; left out, as measured for the model.
            same: Only files of the same content.
            progress: Called with (items compared, items in all).
        """
        from mmsearch.search.duplicates import duplicate_groups

        return duplicate_groups(self._index, threshold=threshold, same=same, progress=progress)


def _several(queries: Sequence[str | Query]) -> list[str | Query]:
    if isinstance(queries, str):
        raise InvalidQuery("search_many takes a list of queries; for one there is search")
    return list(queries)
