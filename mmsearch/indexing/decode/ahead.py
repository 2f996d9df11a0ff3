"""Work done in threads before its result is asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def look_ahead(
    pool: Executor, work: Callable[[Given], Made], given: Iterable[Given], most: int
) -> Iterator[Made]:
    """What `work` makes of each thing, in order, made in threads that are up to `most` ahead."""
    ahead: deque[Future[Made]] = deque()
    for thing in given:
        ahead.append(pool.submit(work, thing))
        if len(ahead) > most:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()
