"""Which items are at a path, told of their folders and of their names.

Folders are few and looked through one by one. A pattern is split where that is the same as matching
the whole path: a star takes in slashes, a name has none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mmsearch.filters import Condition
from mmsearch.filters.match import folded, matcher
from mmsearch.filters.model import Op
from mmsearch.storage.columns.column import Held, Unfit
from mmsearch.storage.columns.text_predicates import (
    MOST_TEXTS,
    equal_to,
    part_test,
    texts_that,
    those,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Marks = NDArray[np.bool_]

_MOST_PATHS = 20  # for each of them all folders are looked through

Holds = Callable[[str], object]


def of_folder(one: Condition, held: Held) -> Marks:
    """Which items lie directly in a folder that a condition tells of."""
    folders = _Folders(held)
    if one.op == "in":
        wanted = set(one.value)
        return folders.where(wanted.__contains__, wanted.__contains__)
    holds = part_test(one.op, one.value, path=True)
    return folders.where(holds, holds if one.op == "glob" else _none)


def of_path(one: Condition, held: Held) -> Marks:
    """Which items are at a path that a condition tells of.

    Raises:
        Unfit: no way is known to split it.
    """
    if os.sep != "/" or (one.op == "in" and len(one.value) > _MOST_PATHS):
        raise Unfit
    if one.op == "in":
        return _any_of([_at_file(_Folders(held), held, path) for path in one.value])
    if one.op == "contains":
        return _containing(_Folders(held), held, one.value)
    return _matching(_Folders(held), held, one.value)


def _none(text: str) -> bool:
    del text
    return False


class _Folders:
    """The folders of items, each told by two names: below its source, and absolute."""

    def __init__(self, held: Held) -> None:
        self._column = held.column("folder")
        if self._column.values > MOST_TEXTS:
            raise Unfit
        self._sources = held.sources

    def where(self, absolute: Holds, relative: Holds = _none) -> Marks:
        """The items in folders of which either name is as wanted."""
        import numpy as np

        holds = np.zeros(self._column.values, np.bool_)
        for number, text in enumerate(self._column.texts):
            source, _, below = text.partition("/")
            root = self._sources.get(int(source), "")  # none: its items are gone too
            whole = os.path.join(root, below) if below else root
            holds[number] = bool(absolute(whole) or relative(below))
        return self._column.where(holds)


def _any_of(marks: Sequence[Marks]) -> Marks:
    found = marks[0]
    for other in marks[1:]:
        found = found | other
    return found


def _named(held: Held, op: Op, wanted: object) -> Marks:
    column = held.column("name")
    return column.where(texts_that(Condition("name", op, wanted), column))


def _at_file(folders: _Folders, held: Held, path: str) -> Marks:
    """The files whose path, absolute or below the source, is one path."""
    head, slash, name = path.rpartition("/")
    whole: Holds = lambda folder: slash and folder.rstrip("/") == head  # noqa: E731
    below: Holds = lambda folder: folder == head and bool(folder) == bool(slash)  # noqa: E731
    return _named(held, "in", (name,)) & folders.where(whole, below)


def _containing(folders: _Folders, held: Held, part: str) -> Marks:
    """The files whose absolute path has a part; a slash in it could stand before the name."""
    if "/" in folded(part):
        raise Unfit
    return folders.where(part_test("contains", part)) | _named(held, "contains", part)


def _matching(folders: _Folders, held: Held, pattern: str) -> Marks:
    """As `catalog.conditions` takes a pattern of paths."""
    plain = pattern.removeprefix("./").rstrip("/")
    if "[" in plain or "**/" in plain:  # a slash may stand in brackets
        raise Unfit
    if "/" not in plain and not pattern.startswith("/"):
        inside = matcher(f"*/{plain}/*")
        in_folders = folders.where(_none, lambda folder: inside(f"/{folder}/" if folder else "/"))
        return in_folders | _name_matching(held, plain)
    absolute = _below(folders, held, plain, whole=True)
    if plain[:1] in ("", "/", "*"):
        return absolute
    relative = _below(folders, held, plain, whole=False)
    return relative | absolute if plain[0] == "?" else relative


def _below(folders: _Folders, held: Held, plain: str, *, whole: bool) -> Marks:
    """The files that a pattern matches, and those below a folder that it matches."""
    inside = matcher(plain, below=True)
    marks = _in_those(folders, inside, whole=whole)
    head, slash, name = plain.rpartition("/")
    if not slash:
        return marks
    if not set("*?") & set(name):
        return marks | (
            _in_those(folders, matcher(head), whole=whole) & _named(held, "in", (name,))
        )
    if not name.startswith("*") or set("*?") & set(name.lstrip("*")):
        raise Unfit  # the star may take in a slash, with what stands before it in a folder
    anywhere = matcher(f"{head}/*")
    above = _in_those(folders, lambda folder: anywhere(f"{folder}/"), whole=whole)
    return marks | (above & _name_matching(held, name) if name.strip("*") else above)


def _in_those(folders: _Folders, holds: Holds, *, whole: bool) -> Marks:
    """The files in folders as wanted, told as what stands before the last slash of their path."""
    if whole:
        return folders.where(lambda folder: holds(folder.rstrip("/")))
    return folders.where(_none, lambda folder: folder and holds(folder))


def _name_matching(held: Held, pattern: str) -> Marks:
    """The files whose own name matches."""
    ending = pattern.lstrip("*")
    if ending != pattern and ending[:1] == "." and not set("*?[.") & set(ending[1:]):
        column = held.column("ending")
        return column.where(equal_to([ending[1:]], column))
    column = held.column("name")
    if not set("*?[") & set(pattern):
        return column.where(equal_to([pattern], column))
    return column.where(those(column, matcher(pattern)))
