"""Files that a scan passes over though users may want them, and how to include them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from mmsearch.indexing.scopes import is_inside, outermost
from mmsearch.media.kinds import Format, ending_by_content, may_be_missed
from mmsearch.storage import Store
from mmsearch.types import Kind

COUNTS = "passed over"
"""The setting with the counts by index root and group, from the last complete walk of each."""

_ALL_SAMPLED = 8
"""Files of an unknown ending that are all sampled; beyond these, the 16th, 32nd, 64th, …"""

_MOST_SAMPLES = 200
"""Files of unknown endings whose first bytes a run reads, at most."""

_MOST_NAMED = 5
"""Endings that the warning names."""

_KINDS: dict[Kind, tuple[str, str]] = {
    "image": ("photo", "no model of this index can encode photos; to add one"),
    "text": ("text", ""),
    "audio": ("sound", "no model of this index can encode sounds; to add one"),
    "video": ("video", "to include videos"),
    "document": ("PDF", "to include PDFs"),
}
"""What a kind is called, and what its step is for."""

_STEPS: dict[Kind, tuple[str, str | None]] = {
    "image": ("mmsearch index --model mini", None),
    "audio": ("mmsearch index --model mini", None),
    "video": ("mmsearch index --video", "av"),
    "document": ("mmsearch index --pdf", "pypdfium2"),
}
"""The command that includes a kind, and the package that it needs."""

_PACKAGES: dict[str, tuple[Kind, str, str]] = {
    "anydoc": ("text", "document", "docs"),
    "av": ("audio", "M4A, AAC or WMA sound", "av"),
    "pillow_jxl": ("image", "JPEG XL picture", "jxl"),
    "pypdfium2": ("document", "PDF", "pdf"),
    "rawpy": ("image", "RAW photo", "raw"),
}
"""Package of FORMATS → kind, name and extra of the files that need it."""


_TARS = "tar"
"""The group of tar archives, which are read only where they are named."""


@dataclass(slots=True)
class _Unknown:
    """The files of an ending that is not in FORMATS."""

    number: int = 0
    samples: list[str] = field(default_factory=list)
    """Absolute paths of some."""


class PassedOver:
    """Counts of the files that a scan passes over, in groups that one step would include.

    A group is a kind that the index does not include, or else the package that its files need.

    Attributes:
        by_root: Index root → group → number of files, of roots that were walked as a whole.
    """

    def __init__(self, kinds: Collection[Kind]) -> None:
        """Count nothing yet; `kinds` are those that the index includes."""
        self.by_root: dict[str, Counter[str]] = {}
        self._kinds = kinds
        self._by_folder: dict[str, Counter[str]] = {}
        self._unknown: dict[str, _Unknown] = {}

    def walk(self, root: str) -> None:
        """Start the counts of a root (absolute; a folder or file) that is walked as a whole."""
        self.by_root[root] = Counter()

    def add(self, root: str, formats: Mapping[Format, int]) -> None:
        """Count files of some formats below a root (absolute)."""
        for (kind, package), number in formats.items():
            group = package if package is not None and kind in self._kinds else kind
            self._by_folder.setdefault(root, Counter())[group] += number
            if root in self.by_root:
                self.by_root[root][group] += number

    def add_tars(self, root: str, number: int) -> None:
        """Count tar archives below a root (absolute)."""
        if number:
            self._by_folder.setdefault(root, Counter())[_TARS] += number
            if root in self.by_root:
                self.by_root[root][_TARS] += number

    def add_unknown(self, folder: str, names: Mapping[str, Sequence[str]]) -> None:
        """Count the files of a folder (absolute) of unknown endings, given by ending."""
        for ending, files in names.items():
            unknown = self._unknown.setdefault(ending, _Unknown())
            for name in files:
                unknown.number += 1
                if unknown.number <= _ALL_SAMPLED or unknown.number.bit_count() == 1:
                    unknown.samples.append(os.path.join(folder, name))

    def store(self, store: Store) -> None:
        """Store the counts of the roots that were walked as a whole; those of others stay."""
        before = _stored(store)
        roots = {root.path for root in store.index_roots.all()}
        counts = before | {root: dict(number) for root, number in self.by_root.items()}
        after = {root: found for root, found in counts.items() if found and root in roots}
        if after != before:
            store.settings.set(COUNTS, json.dumps(after))

    def warnings(self, *, look_inside: bool) -> Iterator[str]:
        """What to tell the user about them.

        Args:
            look_inside: Whether to read the first bytes of files of unknown endings.
        """
        total: Counter[str] = Counter()
        for folder, found in self._by_folder.items():
            if not is_inside(folder, self.by_root):  # else that counts them, too
                total.update(found)
        for group in _groups(total):
            cure = f" ({group['cure']})" if group["cure"] else ""
            yield f"passed over {group['files']} {group['what']}{cure}"
        if look_inside and (warning := self._warning_of_unknown()):
            yield warning

    def _warning_of_unknown(self) -> str | None:
        left = _MOST_SAMPLES
        total, exact = 0, True
        counted: list[str] = []
        example = ""
        for ending, unknown in sorted(self._unknown.items(), key=lambda one: -one[1].number):
            if not may_be_missed(ending):
                continue
            samples = unknown.samples[:left]
            if not samples:  # more endings than can be looked into
                exact = False
                break
            left -= len(samples)
            media = [(path, right) for path in samples if (right := ending_by_content(path))]
            if not media:
                continue
            if len(samples) == unknown.number:
                number, how_many = len(media), f" ×{len(media)}"
            elif len(media) == len(samples):
                number, how_many = unknown.number, f" ×{unknown.number}"
            else:
                number, how_many, exact = len(media), f", some of {unknown.number}", False
            total += number
            counted.append(f"{ending or 'no ending'}{how_many}")
            if not example:
                path, right = media[0]
                name = os.path.basename(path)
                example = f"{name!r} to {name[: len(name) - len(ending)] + right!r}"
        if not total:
            return None
        if (more := len(counted) - _MOST_NAMED) > 0:
            counted[_MOST_NAMED:] = [f"and {more} more endings" if more > 1 else "and one more"]
        if total == 1:
            return (
                "passed over 1 file that contains a picture, sound or video, but has an unknown "
                f"ending: rename {example}"
            )
        return (
            f"passed over {'' if exact else 'at least '}{total} files that contain pictures, "
            f"sounds or videos, but have unknown endings ({', '.join(counted)}): rename them, "
            f"for example {example}"
        )


def stored_groups(store: Store) -> list[dict[str, Any]]:
    """The `passed_over` of `Collection.status`: the groups of all index roots."""
    counts = _stored(store)
    total: Counter[str] = Counter()
    # files below two roots count once
    for root in outermost(root.path for root in store.index_roots.all()):
        total.update(counts.get(root, {}))
    return _groups(total)


def _stored(store: Store) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = json.loads(store.settings.get(COUNTS) or "{}")
    return found


def _groups(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Each group as {"kind", "what", "files", "cure"}; see `Collection.status`."""
    return [
        {"kind": kind, "what": name + "s" * (number != 1), "files": number, "cure": cure}
        for group, number in sorted(counts.items())
        if number
        for kind, name, cure in _described(group)
    ]


def _described(group: str) -> Iterator[tuple[Kind, str, str]]:
    """The kind, name and cure of a group; nothing if only a later version knows it."""
    for kind, (name, purpose) in _KINDS.items():
        if group == kind:
            yield kind, name, f"{purpose}: {_step(*_STEPS[kind])}" if kind in _STEPS else ""
    if group == _TARS:
        yield "image", "tar archive", "to index what is in them: `mmsearch index FOLDER/*.tar`"
    if group in _PACKAGES:
        kind, name, _ = _PACKAGES[group]
        yield kind, name, f"to include {name}s: {_step('mmsearch index', group)}"


def _step(command: str, package: str | None) -> str:
    """A command, after the installation of the package that it needs; the page shows it, too."""
    if package is None or find_spec(package) is not None:  # it may have been installed since
        return f"`{command}`"
    return f"`pip install 'mmsearch[{_PACKAGES[package][2]}]'`, then `{command}`"
