"""Sets of ids: those of a server are counted there, and fetched only where they are needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mmsearch.vectors.id_set import FEW, IdSet, LazyIdSet

PASSING = np.array([3, 5, 8, 40, 41], np.int64)


class Server:
    """Knows which ids pass, and what it was asked for."""

    def __init__(self, ids: Any = PASSING) -> None:
        self.ids = ids
        self.asked: list[int | None] = []
        self.counts = 0

    def set(self) -> LazyIdSet:
        return LazyIdSet("the condition", self.count, self.fetch)

    def count(self) -> int:
        self.counts += 1
        return len(self.ids)

    def fetch(self, among: Any) -> Any:
        self.asked.append(None if among is None else len(among))
        return self.ids if among is None else np.intersect1d(among, self.ids)


@pytest.fixture
def server() -> Server:
    return Server()


def test_its_size_is_counted_once_and_fetches_nothing(server: Server):
    lazy = server.set()
    assert (len(lazy), len(lazy), lazy.condition) == (5, 5, "the condition")
    assert (server.counts, server.asked) == (1, [])


def test_it_is_the_set_of_the_ids_that_the_server_returns(server: Server):
    lazy, same = server.set(), IdSet.of(PASSING)
    assert lazy.ids.tolist() == PASSING.tolist()
    assert lazy.span == same.span
    assert lazy.mask(0, 50).tolist() == same.mask(0, 50).tolist()
    assert lazy.union(IdSet.of([7])).ids.tolist() == [3, 5, 7, 8, 40, 41]
    assert lazy.intersection(IdSet.of([8, 9])).ids.tolist() == [8]
    assert lazy.contains(np.array([3, 4, 99])).tolist() == [True, False, False]
    assert len(lazy) == 5
    assert (server.counts, server.asked) == (0, [None])


def test_of_a_few_ids_only_these_are_asked_for(server: Server):
    lazy = server.set()
    assert lazy.contains(np.array([41, 4, 3])).tolist() == [True, False, True]
    assert lazy.intersection(IdSet.of([8, 9])).ids.tolist() == [8]
    assert server.asked == [3, 2]


def test_of_many_ids_all_that_pass_are_fetched_once(server: Server):
    lazy = server.set()
    many = np.arange(FEW + 1)
    assert np.flatnonzero(lazy.contains(many)).tolist() == PASSING.tolist()
    assert lazy.intersection(IdSet.of(many)).ids.tolist() == PASSING.tolist()
    assert server.asked == [None]


def test_an_empty_one_has_nothing():
    lazy = Server(np.zeros(0, np.int64)).set()
    assert (len(lazy), lazy.ids.tolist()) == (0, [])
    assert lazy.contains(np.array([1])).tolist() == [False]
    assert lazy.intersection(IdSet.of([1])).ids.tolist() == []
