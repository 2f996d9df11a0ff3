"""Photos, upright and in RGB, with the time, camera and place in their EXIF."""

from __future__ import annotations

import io
import math
import re
import struct
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from mmsearch.errors import TooLarge, UnreadableFile
from mmsearch.media import exif, jpeg_xl, photo_metadata, raw
from mmsearch.media.colour import head_of, profile_of, to_srgb
from mmsearch.media.image_repair import (
    Tag,
    jpeg_ends,
    largest_icon,
    pillow_reads,
    png_without_faulty_chunks,
    tiff_directory,
    tiff_samples,
)
from mmsearch.media.open_media import damage_as_unreadable, open_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from mmsearch.media.photo_metadata import Facts

_DECODERS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",
    **dict.fromkeys(raw.MAGIC, "RAW"),
    jpeg_xl.CONTAINER: "JXL",
    jpeg_xl.CODESTREAM: "JXL",
    b"\0\0\1\0": "ICO",
    **{b"P%d%c" % (number, space): "PPM" for number in range(1, 7) for space in b" \t\r\n#"},
    **{b"Pf%c" % space: "PPM" for space in b" \t\r\n#"},
}
"""First bytes of a file → Pillow's decoder, RAW or JXL; `decoder_of` distinguishes containers.

No other decoder is run: a .jpg that contains PostScript must not start an interpreter.
"""
DECODE_SCALE = 2.0
"""A JPEG decoded at reduced size keeps sides of at least this many times `at_least`, unless the
encoder accepts less: cosines of any model's vectors then stay above 0.999."""

_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """Size of a photo, and the metadata in its EXIF, IPTC and XMP."""

    width: int
    """Pixels of the upright picture, at full size."""
    height: int
    taken_at: datetime | None
    """The camera's local time, without a zone: EXIF rarely names one."""
    camera: str | None
    latitude: float | None
    """Degrees, north positive."""
    longitude: float | None
    """Degrees, east positive."""
    facts: Facts = field(default_factory=dict)
    """The rest of its metadata."""


class _Limits(NamedTuple):
    """Arguments of `load_image`."""

    at_least: int | None
    max_megapixels: float
    decode_scale: float


def load_image(
    source: str | Path | bytes | BinaryIO,
    *,
    at_least: int | None = None,
    max_megapixels: float = 200.0,
    decode_scale: float = DECODE_SCALE,
) -> tuple[Image.Image, ImageInfo]:
    """An upright RGB picture, fully decoded, with its size and EXIF.

    EXIF orientation is applied, colours are converted to sRGB by the profile in the file,
    transparency becomes white, an animation its first frame. Faults that cost no pixel (ancillary
    chunks of a PNG, the end marker of a JPEG) do no harm.

    Args:
        source: A path, the bytes of a file, or a binary file object (which stays open).
        at_least: The side in pixels the caller will scale the picture to. The picture may then be
            reduced to sides of twice this length, or `decode_scale` times if it is a JPEG or a raw
            photo: scaled again it looks the same, and most of the time and memory is saved.
        max_megapixels: Larger pictures are refused before they are decoded.
        decode_scale: See `Encoder.decode_scale`.

    Raises:
        TooLarge: It has more than `max_megapixels`.
        UnreadableFile: It cannot be opened, is not an image, or is damaged or truncated.
    """
    from PIL import Image

    _silence_pillow()
    if Image.MAX_IMAGE_PIXELS is not None:  # never lowered: the whole process shares it
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, math.ceil(max_megapixels * 1e6))
    with open_file(source) as file, _damage_as_unreadable(max_megapixels):
        decoder = decoder_of(file)
        _import_decoder(decoder)
        limits = _Limits(at_least, max_megapixels, decode_scale)
        try:
            return _loaded(file, decoder, limits)
        except (UnreadableFile, Image.DecompressionBombError, MemoryError):
            raise
        except Exception:
            if repaired := _repaired(file, decoder, limits):
                return repaired
            raise


def _loaded(file: BinaryIO, decoder: str, limits: _Limits) -> tuple[Image.Image, ImageInfo]:
    """As `load_image`; raises whatever Pillow does."""
    if decoder == "RAW":
        return _raw_photo(file, limits)
    if decoder == "JXL":
        return _jpeg_xl(file, limits)
    if decoder == "ICO":
        icon, size = largest_icon(file)
        _check_size(*size, limits.max_megapixels)  # Pillow decodes it on opening
        file = io.BytesIO(icon)
    picture, size, opened = _decoded(file, decoder, limits)
    head = head_of(file) if decoder in ("PNG", "AVIF") else b""
    return _finished(picture, size, opened, head, limits.at_least)


def _decoded(
    file: BinaryIO, decoder: str, limits: _Limits
) -> tuple[Image.Image, tuple[int, int], Image.Image]:
    """The decoded picture, its size before it was reduced, and the picture that has its EXIF."""
    from PIL import Image

    file.seek(0)
    opened = Image.open(file, formats=[decoder])
    full_size = opened.size
    _check_size(*full_size, limits.max_megapixels)
    if limits.at_least is not None and decoder == "JPEG":
        opened.draft(None, (math.ceil(limits.decode_scale * limits.at_least),) * 2)
    drafted = opened.size != full_size
    picture = None
    if decoder == "TIFF" and not pillow_reads(tags := opened.tag_v2):  # type: ignore[attr-defined]
        try:
            found = tiff_samples(file, tags)
        except (ValueError, TypeError, OSError):
            if tags.get(Tag.PLANES, 1) != 1:
                raise
            found = None  # wrong sizes of strips, which Pillow does not need
        picture = found and _of_samples(found, tags.get(Tag.PHOTOMETRIC))
    if picture is None:
        opened.load()
        picture = opened
    width, height = full_size if drafted else picture.size  # decoding may rotate a TIFF
    if (
        decoder in ("BMP", "TGA")
        and picture.mode == "RGBA"
        and not picture.getchannel("A").getbbox()
    ):
        picture = picture.convert("RGB")  # four bytes a pixel, the last of them unused
    return picture, (width, height), opened


def _raw_photo(file: BinaryIO, limits: _Limits) -> tuple[Image.Image, ImageInfo]:
    """The preview in a raw photo if it is large enough, else the developed picture.

    The preview is the camera's own rendering, and is decoded in a tenth of the time.
    """
    at_least = limits.at_least
    needed = limits.decode_scale * at_least if at_least else math.inf
    with raw.open_raw(file) as photo:
        _check_size(*photo.samples, limits.max_megapixels)
        shorter = min(photo.size)
        preview = _preview(photo, limits)
        developed = None
        # cameras cut a few pixels off the edges of previews
        if preview is None or min(preview[1]) < min(needed, 0.9 * shorter):
            developed = photo.developed(half=shorter >= 2 * needed)
        preview_tags = exif.tags_of(preview[2]) if preview else {}
        described = raw.metadata_of(file)
        tags = raw.merged_exif(exif.tags_of(described), preview_tags)
        if developed is not None:
            picture = _upright_rgb(developed, 1, at_least, None)
        elif preview is not None:
            picture, size, opened = preview
            orientation = photo.orientation_of(*size, preview_tags.get(exif.ORIENTATION))
            is_adobe_rgb = exif.is_adobe_rgb({**tags, **preview_tags})
            profile = profile_of(opened, is_adobe_rgb=is_adobe_rgb)
            picture = _upright_rgb(picture, orientation, at_least, profile)
        else:
            raise UnreadableFile("damaged, or compressed in a way that LibRaw cannot read")
        return picture, _info(photo.size, described, tags)


def _preview(
    photo: raw.RawPhoto, limits: _Limits
) -> tuple[Image.Image, tuple[int, int], Image.Image] | None:
    """The preview of a raw photo, as `_decoded` returns it; None if there is none, or damaged."""
    with suppress(Exception):
        found = photo.preview()
        if isinstance(found, bytes):
            return _decoded(io.BytesIO(found), "JPEG", limits)
        if found is not None:
            return found, found.size, found
    return None


def _jpeg_xl(file: BinaryIO, limits: _Limits) -> tuple[Image.Image, ImageInfo]:
    from PIL import Image

    _check_size(*jpeg_xl.size_of(file), limits.max_megapixels)
    decoded = jpeg_xl.decode(file)
    if isinstance(decoded, bytes):
        return _loaded(io.BytesIO(decoded), "JPEG", limits)
    levels = decoded.samples
    if levels.dtype.itemsize > 1:
        levels = _to_8_bits(levels)
    picture = Image.fromarray(levels if levels.shape[2] > 1 else levels[:, :, 0])
    described = Image.new("1", (1, 1))
    described.info = {**jpeg_xl.metadata_of(file), "icc_profile": decoded.profile}
    with suppress(Exception):  # broken EXIF is no reason to refuse a photo
        described.getexif()[exif.ORIENTATION] = 1  # it is applied already
    return _finished(picture, picture.size, described, b"", limits.at_least)


def _finished(
    picture: Image.Image,
    size: tuple[int, int],
    described: Image.Image,
    head: bytes,
    at_least: int | None,
) -> tuple[Image.Image, ImageInfo]:
    """A decoded picture as `load_image` returns it.

    Args:
        picture: As it is in its file.
        size: Its width and height before it was reduced.
        described: What has its EXIF and profile.
        head: The beginning of the file.
        at_least: As of `load_image`.
    """
    tags = exif.tags_of(described)
    orientation = tags.get(exif.ORIENTATION, 1)  # 1 for HEIC too, which its decoder rotates
    width, height = reversed(size) if orientation in (5, 6, 7, 8) else size
    profile = profile_of(described, head, is_adobe_rgb=exif.is_adobe_rgb(tags))
    picture = _upright_rgb(picture, orientation, at_least, profile)
    return picture, _info((width, height), described, tags)


def _info(size: tuple[int, int], described: Image.Image, tags: Mapping[int, Any]) -> ImageInfo:
    """The metadata of an open picture, given its EXIF."""
    found = photo_metadata.of_picture(described, tags)
    place = found.latitude, found.longitude
    return ImageInfo(*size, found.taken_at, found.camera, *place, found.facts)


def _repaired(
    file: BinaryIO, decoder: str, limits: _Limits
) -> tuple[Image.Image, ImageInfo] | None:
    """The picture of a file that Pillow refuses though it is complete, if it can be repaired."""
    file.seek(0)
    if decoder == "PNG":
        return _loaded(io.BytesIO(png_without_faulty_chunks(file.read())), decoder, limits)
    if decoder == "JPEG":
        found = (_loaded(io.BytesIO(data), decoder, limits) for data in jpeg_ends(file.read()))
        first = next(found, None)
        if first and all(picture == first[0] for picture, _ in found):
            return first
    if decoder == "TIFF":
        return _tiff_of_unusual_samples(file, limits)
    return None


def _tiff_of_unusual_samples(
    file: BinaryIO, limits: _Limits
) -> tuple[Image.Image, ImageInfo] | None:
    """A TIFF of samples that Pillow refuses: 32 bits in colour, 64 bits, 16 with alpha."""
    from PIL import Image

    if (directory := tiff_directory(file)) is None:
        return None
    width, height = (int(directory.get(tag, 0)) for tag in (Tag.WIDTH, Tag.HEIGHT))
    _check_size(width, height, limits.max_megapixels)
    if (found := tiff_samples(file, directory)) is None:
        return None
    described = Image.new("1", (1, 1))
    file.seek(0)
    with suppress(Exception):  # broken EXIF is no reason to refuse a photo
        described.getexif().load_from_fp(file)
    if isinstance(profile := directory.get(Tag.PROFILE), bytes):
        described.info["icc_profile"] = profile
    picture = _of_samples(found, directory.get(Tag.PHOTOMETRIC))
    return _finished(picture, picture.size, described, b"", limits.at_least)


@contextmanager
def open_picture(source: str | Path | bytes | BinaryIO) -> Iterator[Image.Image]:
    """A picture as Pillow opens it, before its pixels are decoded.

    For a raw photo or JPEG XL, it has their metadata alone.

    Raises:
        UnreadableFile: It cannot be opened, is not an image, or is damaged.
    """
    from PIL import Image

    _silence_pillow()
    with open_file(source) as file, damage_as_unreadable():
        decoder = decoder_of(file)
        _import_decoder(decoder)
        if decoder == "RAW":
            yield raw.metadata_of(file)
        elif decoder == "JXL":
            picture = Image.new("1", (1, 1))
            picture.info.update(jpeg_xl.metadata_of(file))
            yield picture
        else:
            file.seek(0)
            yield Image.open(file, formats=[decoder])


def upright(picture: Image.Image, *, at_least: int | None = None, head: bytes = b"") -> Image.Image:
    """An open picture, decoded and turned upright in RGB as by `load_image`.

    Args:
        picture: With its EXIF and profile.
        at_least: As of `load_image`.
        head: The beginning of its file; see `profile_of`.

    Raises:
        UnreadableFile: Its file turns out to be damaged.
    """
    _silence_pillow()
    with _damage_as_unreadable(math.inf):
        picture.load()
        tags = exif.tags_of(picture)
        profile = profile_of(picture, head, is_adobe_rgb=exif.is_adobe_rgb(tags))
        return _upright_rgb(picture, tags.get(exif.ORIENTATION, 1), at_least, profile)


# ---------------------------------------------------------------------- files


def decoder_of(file: BinaryIO) -> str:
    """The name of Pillow's decoder, "RAW" or "JXL", by the first bytes: endings are often wrong."""
    file.seek(0)
    head = file.read(256)
    if not head:
        raise UnreadableFile("0 bytes")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp" and (decoder := _decoder_of_brands(head)):
        return decoder
    for magic, decoder in _DECODERS.items():
        if head.startswith(magic):
            if decoder == "TIFF" and raw.ending_of_tiff(file) is not None:
                return "RAW"
            return decoder
    if _may_be_tga(head):
        return "TGA"
    raise UnreadableFile("not an image")


def _decoder_of_brands(head: bytes) -> str | None:
    box = head[8 : int.from_bytes(head[:4], "big")]
    brands = {box[start : start + 4] for start in range(0, len(box), 4)}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    if brands & _HEIF_BRANDS:
        return "HEIF"
    return "RAW" if raw.CANON_3 in brands else None


def _may_be_tga(head: bytes) -> bool:
    """Whether a file may be a TGA, which has no magic number: all of its header is valid."""
    if len(head) < 18:
        return False
    _, palette, kind, _, colours, depth, *_, width, height, bits, flags = struct.unpack_from(
        "<BBBHHBHHHHBB", head
    )
    kind &= ~8  # run-length encoded
    if palette == 0:
        is_sound = kind in (2, 3) and head[3:8] == bytes(5)
    else:
        is_sound = (palette, kind) == (1, 1) and colours > 0 and depth in (15, 16, 24, 32)
    allowed = {1: (8,), 2: (16, 24, 32), 3: (8, 16)}.get(kind, ())
    # the lower four flags count bits of alpha, and the upper two are not used
    return (
        is_sound
        and width > 0 < height
        and bits in allowed
        and flags & 15 in (0, 1, 8)
        and flags < 64
    )


_MODULES = {
    "WEBP": "WebP",
    "AVIF": "Avif",
    "TIFF": "Tiff",
    "JPEG2000": "Jpeg2K",
    "ICO": "Ico",
    "TGA": "Tga",
}
"""Decoder → the name of its module, of decoders that Pillow does not import by itself."""


@cache
def _import_decoder(decoder: str) -> None:
    """Import one decoder: for one not imported yet, Pillow would import all fifty (0.1 s)."""
    if decoder == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    elif decoder in _MODULES:
        import_module(f"PIL.{_MODULES[decoder]}ImagePlugin")


def _silence_pillow() -> None:
    """Ignore Pillow's warnings, mostly of invalid EXIF, even where warnings are errors.

    `warnings.catch_warnings` swaps a list that all threads share, so decoding threads would undo
    each other's filters. So a filter for Pillow is put first, and again once another precedes it.
    """
    if warnings.filters[:1] != [_PILLOW_FILTER]:
        warnings.filterwarnings("ignore", module=_INSIDE_PILLOW)


_INSIDE_PILLOW = r"(PIL|pillow_heif)\."
_PILLOW_FILTER = ("ignore", None, Warning, re.compile(_INSIDE_PILLOW), 0)


def _check_size(width: int, height: int, max_megapixels: float) -> None:
    megapixels = width * height / 1e6
    if megapixels > max_megapixels:
        raise _too_large(f"{math.ceil(megapixels * 10) / 10:g}", max_megapixels)


def _too_large(megapixels: str, limit: float) -> TooLarge:
    return TooLarge(f"too large: {megapixels} megapixels (limit {limit:g}; raise --max-megapixels)")


@contextmanager
def _damage_as_unreadable(max_megapixels: float) -> Iterator[None]:
    from PIL import Image

    with damage_as_unreadable():
        try:
            yield
        except Image.DecompressionBombError as error:
            bound = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
            raise _too_large(f"over {bound:g}", max_megapixels) from error


# ---------------------------------------------------------------------- pixels


def _upright_rgb(
    opened: Image.Image, orientation: int, at_least: int | None, profile: bytes | None
) -> Image.Image:
    """The picture; shrunk first, so that a huge one is in memory only once."""
    from PIL import Image

    picture = _with_8_bit_channels(opened)
    factor = min(picture.size) // (2 * at_least) if at_least else 1
    if factor > 1:
        picture = picture.reduce(factor)
    if orientation in _TURNS:
        picture = picture.transpose(Image.Transpose[_TURNS[orientation]])
    if profile or picture.mode == "LAB":
        picture = to_srgb(picture, profile)
    if picture.has_transparency_data:
        transparent = picture.convert("RGBA")
        picture = Image.new("RGBA", transparent.size, "white")
        picture.alpha_composite(transparent)
    if picture.mode != "RGB" or picture is opened:
        picture = picture.convert("RGB")  # copies RGB, so that the file can be closed
    picture.info = {}  # with its EXIF it would be rotated a second time
    return picture


_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""EXIF orientation → the Pillow transposition that undoes it."""


def _with_8_bit_channels(picture: Image.Image) -> Image.Image:
    """The picture in a mode whose pixels can be averaged."""
    import numpy as np
    from PIL import Image

    if picture.mode in ("1", "P", "PA"):
        return picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    transparent = picture.info.get("transparency")  # the value of a PNG without alpha
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        values = np.asarray(picture)
        grey = Image.fromarray(_to_8_bits(values))
        if isinstance(transparent, int):
            grey.putalpha(Image.fromarray((values != transparent).astype(np.uint8) * np.uint8(255)))
        return grey
    if picture.mode == "RGB" and isinstance(transparent, tuple) and max(transparent) > 255:
        picture.info["transparency"] = tuple(level >> 8 for level in transparent)  # of 16 bits
    return picture


_WHITE_IS_ZERO = 0
"""A photometric interpretation of TIFF."""


def _of_samples(found: tuple[NDArray[Any], bool], photometric: int | None) -> Image.Image:
    """A picture of what `tiff_samples` returns."""
    import numpy as np
    from PIL import Image

    samples, has_alpha = found
    colours = samples[:, :, :-1] if has_alpha else samples
    levels = _to_8_bits(colours, may_be_12_bits=True)
    if photometric == _WHITE_IS_ZERO:
        levels = 255 - levels
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[levels.shape[2]]
    if has_alpha and mode != "CMYK":
        levels = np.concatenate([levels, _to_8_bits(samples[:, :, -1:])], axis=2)
        mode += "A"
    return Image.frombytes(mode, levels.shape[1::-1], levels.tobytes())


def _to_8_bits(values: NDArray[Any], *, may_be_12_bits: bool = False) -> NDArray[np.uint8]:
    """Samples of any type, scaled rather than clipped.

    Args:
        values: The samples.
        may_be_12_bits: Whether 16-bit samples whose upper four bits are all zero have 12 bits, as
            microscopes and scanners write them.
    """
    import numpy as np

    bits, kind = 8 * values.dtype.itemsize, values.dtype.kind
    if bits <= 16 and kind != "f":
        unsigned = values.astype(np.int32) + (1 << bits - 1) if kind == "i" else values
        if bits == 8:
            return unsigned.astype(np.uint8)
        shift = 4 if may_be_12_bits and 255 < unsigned.max() < 4096 else 8
        return (unsigned >> shift).astype(np.uint8)
    values = np.nan_to_num(values.astype(np.float32), posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    # such files do not state the value of white: it is the first usual one that no sample exceeds,
    # or else the highest sample
    for white in (1, 255, 65535) if kind == "f" else (255, 65535):
        if low >= 0 and high <= white:
            low, high = 0, white
            break
    values -= low
    values *= 255 / max(high - low, 1e-9)
    return values.round().astype(np.uint8)
