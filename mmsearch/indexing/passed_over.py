"""Files that a scan skips though users may want them, and how to have them indexed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mmsearch.media.kinds import ending_by_content, may_be_missed
from mmsearch.types import Kind

_ALL_SAMPLED = 8
"""Files of an unknown ending that are all sampled; beyond these, the 16th, 32nd, 64th, …"""

_MOST_SAMPLES = 200
"""Files of unknown endings whose first bytes a run reads, at most."""

_MOST_NAMED = 5
"""Endings that the warning names."""

_OTHERS: dict[Kind, tuple[str, str]] = {
    "image": (
        "photo",
        "no model of this index can encode photos; to add one: `mmsearch index --model mini`",
    ),
    "text": ("text", ""),
    "audio": (
        "sound",
        (
            ".m4a and the like need `pip install 'mmsearch[av]'`; others a model that can encode "
            "sounds: `mmsearch index --model mini`"
        ),
    ),
    "video": ("video", "to include videos: `mmsearch index --video`"),
    "document": ("PDF", "to include PDFs: `mmsearch index --pdf`"),
}
"""What a kind is called, and what to do; the page shows it too, so commands are named whole."""


@dataclass(slots=True)
class _Unknown:
    """The files of an ending that is not in FORMATS."""

    number: int = 0
    samples: list[str] = field(default_factory=list)
    """Absolute paths of some."""


class PassedOver:
    """The files that a scan passes over, counted.

    Attributes:
        others: How many files of each kind that this index does not include.
    """

    def __init__(self) -> None:
        self.others: Counter[Kind] = Counter()
        self._unknown: dict[str, _Unknown] = {}

    def add_unknown(self, folder: str, names: Mapping[str, Sequence[str]]) -> None:
        """Count the files of a folder (absolute) of unknown endings, given by ending."""
        for ending, files in names.items():
            unknown = self._unknown.setdefault(ending, _Unknown())
            for name in files:
                unknown.number += 1
                if unknown.number <= _ALL_SAMPLED or unknown.number.bit_count() == 1:
                    unknown.samples.append(os.path.join(folder, name))

    def warnings(self, *, look_inside: bool) -> Iterator[str]:
        """What to tell the user about them.

        Args:
            look_inside: Whether to read the first bytes of files of unknown endings.
        """
        for kind, number in sorted(self.others.items()):
            name, cure = _OTHERS[kind]
            counted = f"{number} {name}" if number == 1 else f"{number} {name}s"
            yield f"passed over {counted}" + (f" ({cure})" if cure else "")
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
