"""Which files can be indexed, and of what kind they are: by their endings, or by first bytes."""

from __future__ import annotations

import re
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
    ("image", None, ".heic .heif .hif .avif .jp2 .j2k .jpx .jpf .ppm .pgm .pbm .pnm .pfm"),
    ("image", None, ".ico .tga .icb .vda"),
    ("image", "rawpy", ".cr2 .cr3 .nef .arw .dng .raf .orf .rw2"),
    ("image", "pillow_jxl", ".jxl"),
    ("text", None, ".txt .text .md .markdown"),
    ("text", "anydoc", ".docx .pptx .odt .html .htm .epub .rtf .eml"),
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


_ROW = re.compile(r"\.(?:parquet|jsonl|ndjson)::\d+\Z", re.IGNORECASE | re.ASCII)


def ending_of(name: str) -> str:
    """The ending of a file's name, ".jpg", in lower case; "" if it has none."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""


def kind_of(name: str) -> Kind | None:
    """The kind of a file, or None if it cannot be indexed.

    A row without an ending (`texts.jsonl::3`; see `corpora`) is a text.
    """
    if (found := FORMATS.get(ending_of(name))) is not None:
        return found.kind
    return "text" if _ROW.search(name) else None


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
_PREVIEWS = ".thm .lrv .lrf"  # which cameras make of the files beside them
_NEVER_MISSED = frozenset(f"{_UNFINISHED} {_COPIES} {_PREVIEWS}".split())

_USUAL_ENDINGS = {
    "JPEG": ".jpg",
    "TIFF": ".tif",
    "HEIF": ".heic",
    "JPEG2000": ".jp2",
    "asf": ".wmv",
    "matroska": ".mkv",
    "mpeg": ".mpg",
    "mpegts": ".mts",
}
"""By decoder of pictures, or container of sounds, if it is not that name itself."""
_ENDING_OF_BRAND = {b"M4A ": ".m4a", b"M4B ": ".m4b", b"qt  ": ".mov"}
"""Of files that begin like MP4."""
_USUAL_FRAMES = b"\xfb\xfa\xf3\xf2\xf1\xf9"
"""The second byte of frames of MP3 and AAC, in nearly all files; other files have the others."""


def may_be_missed(ending: str) -> bool:
    """Whether files of an ending that is not in FORMATS may hold pictures or sounds all the same.

    Not those of unfinished downloads and copies, and of endings that stand for something else.
    """
    if ending in FORMATS or ending in _NEVER_MISSED or ending.endswith(("~", "_original")):
        return False
    from mimetypes import types_map

    known = types_map.get(ending, "application/octet-stream")
    return known == "application/octet-stream" or known.startswith(("image/", "audio/", "video/"))


def ending_by_content(source: str | bytes) -> str | None:
    """The ending that a picture, sound or video should have, by its first bytes; None of others.

    Args:
        source: The path of a file, or its bytes.
    """
    from mmsearch.media.open_media import open_file

    ending = "" if isinstance(source, bytes) else ending_of(source)
    with suppress(UnreadableFile, OSError), open_file(source) as file:
        return _ending_of_picture(file, ending) or _ending_of_sound(file)
    return None


def _ending_of_picture(file: BinaryIO, ending: str) -> str | None:
    from mmsearch.media.image import decoder_of
    from mmsearch.media.raw import ending_of_raw

    with suppress(UnreadableFile):
        decoder = decoder_of(file)
        file.seek(0)
        head = file.read(18)
        # a text may begin with the letters of these, but not go on like them
        is_text = (
            decoder == "BMP" and int.from_bytes(head[14:], "little") not in range(12, 125)
        ) or (decoder == "PPM" and not head[3:4].isdigit() and head[2:4] != b"\n#")
        # a raw photo of another kind has only a small picture in the form of a TIFF
        is_other = decoder == "TIFF" and ending and not ending.startswith(".tif")
        if is_text or is_other or decoder == "TGA":  # which has no magic
            return None
        return ending_of_raw(file) or None if decoder == "RAW" else _usual_ending(decoder)
    return None


def _ending_of_sound(file: BinaryIO) -> str | None:
    from mmsearch.media.sound_files import FilePart, after_id3, container_of, is_transport_stream

    whole = FilePart(file)
    start = after_id3(whole)
    sound = whole.part(start)
    container, head = container_of(sound), sound.bytes_at(0, 12)
    if container == "mp4":
        return _ENDING_OF_BRAND.get(head[8:], ".mp4")
    by_chance = (container in ("mp3", "aac") and not start and head[1] not in _USUAL_FRAMES) or (
        container == "mpegts" and not is_transport_stream(sound, packets=4)
    )
    return None if container is None or by_chance else _usual_ending(container)


def _usual_ending(name: str) -> str:
    return _USUAL_ENDINGS.get(name, f".{name.lower()}")
