"""What a scan passes over though users may want it, and how to have it in the index."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mmsearch.media.kinds import ending_by_content, may_be_missed
from mmsearch.types import Kind

_ALL_READ = 8
"""So many files of an unknown ending are all looked into; of more, every 16th, 32nd, 64th … too."""

_MOST_READ = 200
"""Files of unknown endings that a run looks into: some 10 ms."""

_OTHERS: dict[Kind, str] = {
    "image": "photos, which none of this index's models sees: add one with --model mini",
    "text": "texts",
    "audio": "sounds: those that end in .m4a and the like need `pip install 'mmsearch[av]'`, the "
    "others a model that hears: add one with --model mini",
    "video": "videos: --video takes them in",
    "document": "PDFs: --pdf takes them in",
}


@dataclass(slots=True)
class _Unknown:
    """The files of an ending that is not known."""

    number: int = 0
    samples: list[str] = field(default_factory=list)
    """Absolute paths of some."""


class PassedOver:
    """The files that a scan passes over, counted.

    Attributes:
        others: Of kinds that this index does not take in.
    """

    def __init__(self) -> None:
        self.others: Counter[Kind] = Counter()
        self._unknown: dict[str, _Unknown] = {}

    def add_unknown(self, folder: str, names: Mapping[str, Sequence[str]]) -> None:
        """Count the files of a folder (absolute) that have no known ending, by ending."""
        for ending, some in names.items():
            unknown = self._unknown.setdefault(ending, _Unknown())
            for name in some:
                unknown.number += 1
                if unknown.number <= _ALL_READ or unknown.number.bit_count() == 1:
                    unknown.samples.append(os.path.join(folder, name))

    def warnings(self, *, look_inside: bool) -> Iterator[str]:
        """What to tell the user.

        Args:
            look_inside: Whether to look into files of unknown endings.
        """
        for kind, number in sorted(self.others.items()):
            yield f"passed over {number} {_OTHERS[kind]}"
        if look_inside and (warning := self._warning_of_unknown()):
            yield warning

    def _warning_of_unknown(self) -> str | None:
        left = _MOST_READ
        total, exact = 0, True
        counted: list[str] = []
        example = ""
        for ending, unknown in sorted(self._unknown.items(), key=lambda one: -one[1].number):
            if not left or not may_be_missed(ending):
                continue
            samples = unknown.samples[:left]
            left -= len(samples)
            held = [(path, right) for path in samples if (right := ending_by_content(path))]
            if not held:
                continue
            if len(samples) == unknown.number:
                number, how_many = len(held), f" ×{len(held)}"
            elif len(held) == len(samples):
                number, how_many = unknown.number, f" ×{unknown.number}"
            else:
                number, how_many, exact = len(held), f", some of {unknown.number}", False
            total += number
            counted.append(f"{ending or 'no ending'}{how_many}")
            if not example:
                path, right = held[0]
                name = os.path.basename(path)
                example = f"{name!r} to {name[: len(name) - len(ending)] + right!r}"
        if not total:
            return None
        return (
            f"passed over {'' if exact else 'at least '}{total} files that hold pictures, sounds "
            f"or videos, but have unknown endings ({', '.join(counted)}): rename them, {example} "
            "for example"
        )
