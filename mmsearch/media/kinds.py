"""Which files can be indexed, and of what kind they are, by the endings of their names."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mmsearch.types import Kind


class Format(NamedTuple):
    """The kind of the files with an ending, and what reads them."""

    kind: Kind
    package: str | None = None
    """An optional package that is needed to read them."""


_TABLE: tuple[tuple[Kind, str | None, str], ...] = (
    ("image", None, ".jpg .jpeg .jpe .jfif .jif .mpo .png .apng .webp .gif .bmp .dib .tif .tiff"),
    ("image", None, ".heic .heif .hif .avif .jp2 .j2k .jpx .jpf .ppm .pgm .pbm .pnm"),
    ("text", None, ".txt .text .md .markdown"),
    ("audio", None, ".wav .wave .flac .ogg .oga .opus .mp3 .mp2 .mpga .aif .aiff .aifc"),
    ("audio", None, ".caf .au .w64 .rf64"),
    ("audio", "av", ".m4a .m4b .m4r .aac .wma .amr .3ga .mka .weba .wv .tta .ac3 .eac3"),
    ("video", "av", ".mp4 .m4v .mov .qt .mkv .webm .avi .divx .mpg .mpeg .mpe .m2v .vob .mod"),
    ("video", "av", ".mts .m2ts .m2t .tod .wmv .asf .flv .f4v .ogv .3gp .3g2"),
    ("document", "pypdfium2", ".pdf"),
)

FORMATS: dict[str, Format] = {
    ending: Format(kind, package) for kind, package, endings in _TABLE for ending in endings.split()
}
"""The endings (lower case) of files that can be indexed."""


def ending_of(name: str) -> str:
    """The ending of a file's name, ".jpg", in lower case; "" if it has none."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""


def kind_of(name: str) -> Kind | None:
    """The kind of a file, or None if it cannot be indexed."""
    found = FORMATS.get(ending_of(name))
    return found and found.kind


def endings_of(kinds: Collection[Kind]) -> frozenset[str]:
    """The endings of files of these kinds that the installed packages can read."""
    packages = {form.package for form in FORMATS.values() if form.package}
    missing = {package for package in packages if find_spec(package) is None}
    return frozenset(
        ending
        for ending, (kind, package) in FORMATS.items()
        if kind in kinds and package not in missing
    )
