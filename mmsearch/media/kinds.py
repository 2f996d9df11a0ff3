"""Which files can be indexed, and of what kind they are: by their endings, or by first bytes."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from mmsearch.errors import UnreadableFile

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


# ---------------------------------------------------------------------- other endings

_UNFINISHED = ".part .partial .crdownload .download .opdownload .filepart .aria2 .!qb .!ut"
_COPIES = ".bak .old .orig .backup"
_PREVIEWS = ".thm .lrv .lrf"  # that cameras make of what lies beside them
_NOT_MISSED = frozenset(f"{_UNFINISHED} {_COPIES} {_PREVIEWS}".split())

_ENDING_OF_DECODER = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "WEBP": ".webp",
    "HEIF": ".heic",
    "AVIF": ".avif",
}
_ENDING_OF_CONTAINER = {
    "aac": ".aac",
    "ac3": ".ac3",
    "aiff": ".aiff",
    "amr": ".amr",
    "asf": ".wmv",
    "au": ".au",
    "avi": ".avi",
    "caf": ".caf",
    "eac3": ".eac3",
    "flac": ".flac",
    "flv": ".flv",
    "matroska": ".mkv",
    "mp3": ".mp3",
    "mp4": ".mp4",
    "mpeg": ".mpg",
    "mpegts": ".mts",
    "ogg": ".ogg",
    "tta": ".tta",
    "w64": ".w64",
    "wav": ".wav",
    "wv": ".wv",
}
_ENDING_OF_BRAND = {b"M4A ": ".m4a", b"M4B ": ".m4b", b"qt  ": ".mov", b"crx ": None}
"""Of what begins like MP4; the last are raw photos."""


def may_be_missed(ending: str) -> bool:
    """Whether files of an ending that is not in FORMATS may hold pictures or sounds all the same.

    Not those of endings that stand for something else, unfinished downloads, and copies.
    """
    if ending in FORMATS or ending in _NOT_MISSED or ending.endswith(("~", "_original")):
        return False
    from mimetypes import types_map

    known = types_map.get(ending, "application/octet-stream")
    return known == "application/octet-stream" or known.startswith(("image/", "audio/", "video/"))


def ending_by_content(path: str) -> str | None:
    """The ending that a picture, sound or video should have, by its first bytes; None of others."""
    from mmsearch.media.open_media import open_file

    with suppress(UnreadableFile, OSError), open_file(path) as file:
        return _ending_of_picture(file, ending_of(path)) or _ending_of_sound(file)
    return None


def _ending_of_picture(file: BinaryIO, ending: str) -> str | None:
    from mmsearch.media.image import decoder_of

    with suppress(UnreadableFile):
        decoder = decoder_of(file)
        if decoder == "BMP":  # two letters, which a text may begin with, then after 12 bytes
            file.seek(14)
            if int.from_bytes(file.read(4), "little") not in range(12, 125):
                return None
        if decoder == "TIFF" and ending and not ending.startswith(".tif"):
            return None  # a raw photo, which has only a small picture in this form
        return _ENDING_OF_DECODER[decoder]
    return None


def _ending_of_sound(file: BinaryIO) -> str | None:
    from mmsearch.media.sound_files import container_of

    container = container_of(file)
    if container is None:
        return None
    file.seek(0)
    head = file.read(4 * 188 + 1)
    if container == "mp4":
        return _ENDING_OF_BRAND.get(head[8:12], ".mp4")
    if container in ("mp3", "aac") and head[:3] != b"ID3":
        # the two bytes that a frame begins with are those of other files, too
        likely = head[:2] in (
            b"\xff\xfb",
            b"\xff\xfa",
            b"\xff\xf3",
            b"\xff\xf2",
            b"\xff\xf1",
            b"\xff\xf9",
        )
        return _ENDING_OF_CONTAINER[container] if likely else None
    if container == "mpegts" and head[2 * 188 : 3 * 188 + 1 : 188] != b"GG":
        return None
    return _ENDING_OF_CONTAINER[container]
