"""Companions: files that belong to the photo or video beside them, recognised by their names.

They are the RAW photo beside a JPEG, the film of a Live Photo (its video of three seconds), and
sidecars with metadata: XMP, and the JSON of Google Takeout.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import TYPE_CHECKING, Literal

from mmsearch.media.kinds import FORMATS, ending_of, kind_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

RawPairs = Literal["one", "both"]
"""Whether a RAW photo and the JPEG or HEIC of the same name are one item or both."""

RAW = frozenset(ending for ending, form in FORMATS.items() if form.package == "rawpy")
FILM = ".mov"
XMP, JSON = ".xmp", ".json"

COMPANION_ENDINGS = RAW | {FILM, XMP, JSON}
"""The endings (lower case) of files that may be companions."""

_STILLS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".heic", ".heif", ".hif"})

_METADATA = "supplemental-metadata"
_CUT = 46
"""Characters to which Takeout cuts the name of a JSON file, not counting ".json"."""

_NUMBER = re.compile(r"\(\d+\)$")
"""What Takeout adds to a name that is taken; the JSON of `a(1).jpg` is `a.jpg(1).json`."""

_ENGLISH = ("-edited", "-effects", "-smile", "-mix")
_OTHERS = ("-bearbeitet", "-bewerkt", "-edytowane", "-modificato", "-modifié", "-editat")
_EDITED = (*_ENGLISH, *_OTHERS, "-ha editado", "-編集済み")
"""What Google Photos adds to the name of an edited photo, in several languages."""


def find_companions(
    photos: Collection[str], others: Iterable[str], raw_pairs: RawPairs = "one"
) -> dict[str, list[str]]:
    """Name of a photo or video → the names of its companions, XMP before JSON before RAW and film.

    A sidecar may belong to several files; a RAW photo or a film belongs to one still, and a still
    has one film at most. A sidecar of a RAW photo also belongs to its still; a sidecar of a film
    stays with the film, which may turn out to be an item.

    Args:
        photos: The names of the photos and videos in a folder, without RAW and FILM.
        others: The names in it whose endings are in COMPANION_ENDINGS.
        raw_pairs: With "both", RAW photos are no companions.
    """
    sidecars: list[str] = []
    attached: dict[str, str] = {}
    filmed: set[str] = set()
    named = [*photos]
    stills = {_stem(name): name for name in sorted(photos, reverse=True) if _is_still(name)}
    for name in sorted(others):
        ending = ending_of(name)
        if ending in (XMP, JSON):
            sidecars.append(name)
            continue
        named.append(name)
        still = stills.get(_stem(name))
        if still is not None and (still not in filmed if ending == FILM else raw_pairs == "one"):
            attached[name] = still
            filmed |= {still} if ending == FILM else set()
    found: dict[str, set[str]] = {}
    for name, owner in _owners(sidecars, named):
        item = owner if ending_of(owner) == FILM else attached.get(owner, owner)
        found.setdefault(item, set()).add(name)
    for name, still in attached.items():
        found.setdefault(still, set()).add(name)
    return {
        item: sorted(files, key=lambda file: _order(file, item)) for item, files in found.items()
    }


def may_be_sidecar(name: str) -> bool:
    """Whether a file may be the XMP or JSON of a photo or video beside it."""
    ending = ending_of(name)
    if ending == JSON:
        base, number = _without_number(name[: -len(JSON)])
        return len(base) in (_CUT, _CUT - len(number)) or any(map(_is_media, _titles(base)))
    return ending == XMP


def _order(name: str, item: str) -> tuple[int, bool, str]:
    """The sort key of a companion: a.jpg.xmp, a.xmp, a.jpg.json, then others."""
    ending = ending_of(name)
    return (ending == JSON) + 2 * (ending not in (XMP, JSON)), _stem(name) != item, name


def _owners(sidecars: Iterable[str], photos: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pairs of a sidecar and a photo or video that it belongs to."""
    names = frozenset(photos)
    ordered = sorted(names)
    cut: dict[str, dict[str, dict[str, list[str]]]] = {}
    by_stem: dict[str, list[str]] = {}
    for name in ordered:
        by_stem.setdefault(_stem(name), []).append(name)
    for name in sidecars:
        stem = _stem(name)
        if ending_of(name) == XMP:
            owners = by_stem.get(stem, [])
            owners = [*owners, stem] if stem in names else owners
        else:
            base, number = _without_number(stem)
            owners = list(_titled(base, number, names))
            if not owners and len(base) in (_CUT, _CUT - len(number)):
                if base not in cut:
                    cut[base] = _cut_to(base, ordered)
                owners = _only(cut[base], number)
        for owner in owners:
            yield name, owner


def _titled(base: str, number: str, names: Collection[str]) -> Iterator[str]:
    """The photos named by a JSON file, and their edited versions."""
    for title in _titles(base):
        if _is_media(title):
            stem, ending = _stem(title), title[len(_stem(title)) :]
            for edited in ("", *_EDITED):
                if (name := f"{stem}{edited}{number}{ending}") in names:
                    yield name


def _cut_to(base: str, ordered: list[str]) -> dict[str, dict[str, list[str]]]:
    """The photos whose names begin with a cut name: by number, then by unedited stem."""
    found: dict[str, dict[str, list[str]]] = {}
    at = bisect_left(ordered, base)
    while at < len(ordered) and ordered[at].startswith(base):
        stem = _unedited(_stem(ordered[at]))
        stems = found.setdefault(_without_number(stem)[1], {})
        stems.setdefault(stem, []).append(ordered[at])
        at += 1
    return found


def _only(cut: dict[str, dict[str, list[str]]], number: str) -> list[str]:
    """The photo of a number and its edited versions, if only one fits."""
    if not number and len(cut) == 1:  # the number may be part of a title
        [stems] = cut.values()
    else:
        stems = cut.get(number, {})
    return next(iter(stems.values())) if len(stems) == 1 else []


def _titles(base: str) -> Iterator[str]:
    """The names of photos that a JSON file, by its name without the number, may belong to."""
    yield base
    title, dot, rest = base.rpartition(".")
    if dot and _METADATA.startswith(rest):
        yield title


def _without_number(stem: str) -> tuple[str, str]:
    found = _NUMBER.search(stem)
    return (stem[: found.start()], found[0]) if found else (stem, "")


def _unedited(stem: str) -> str:
    base, number = _without_number(stem)
    for edited in _EDITED:
        base = base.removesuffix(edited)
    return base + number


def _stem(name: str) -> str:
    return name[: len(name) - len(ending_of(name))]


def _is_still(name: str) -> bool:
    return ending_of(name) in _STILLS


def _is_media(name: str) -> bool:
    return kind_of(name) in ("image", "video")
