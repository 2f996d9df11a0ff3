"""Conversion to sRGB from the colour space that a file states, by an ICC profile or by numbers."""

from __future__ import annotations

import io
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import Image

# ---------------------------------------------------------------------- which colour space


class Primaries(NamedTuple):
    """Chromaticities (CIE x, y) of white and of the three primaries."""

    white: tuple[float, float]
    red: tuple[float, float]
    green: tuple[float, float]
    blue: tuple[float, float]


_D65 = (0.3127, 0.3290)
_SRGB = Primaries(_D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_ADOBE_RGB = Primaries(_D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
_PRIMARIES = {
    9: Primaries(_D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),  # BT.2020
    11: Primaries((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # DCI-P3
    12: Primaries(_D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # Display P3
}
"""Number in ITU-T H.273 → primaries that visibly differ from those of sRGB."""

_LINEAR, _PQ, _HLG = 8, 16, 18
_EXPONENTS = {4: 2.2, 5: 2.8, _LINEAR: 1.0}
_SRGB_CURVE = 13
"""The number of sRGB's transfer curve in H.273; television's is displayed as if it were this."""
_WHITE = 203.0
"""cd/m² of diffuse white in HDR pictures (ITU-R BT.2408); what is brighter becomes white."""
_ADOBE_EXPONENT = 563 / 256
_USUAL_EXPONENTS = 2.1, 2.3
"""Between these, the gamma of a PNG stands for sRGB's curve, which it can only approximate."""
_HEAD = 1 << 16
"""Bytes at the beginning of a file, in which its colour space is stated."""


def profile_of(
    opened: Image.Image, head: bytes = b"", *, is_adobe_rgb: bool = False
) -> bytes | None:
    """The ICC profile of a picture, built if its file states colours by numbers; None for sRGB.

    Args:
        opened: The picture, with the metadata that Pillow read.
        head: The beginning of the file, where some formats state numbers that Pillow ignores.
        is_adobe_rgb: Whether its EXIF says so.
    """
    info = opened.info
    if at := head.find(b"\0\0\0\4cICP") + 1:  # PNG; takes precedence over a profile
        return numbered_profile(head[at + 7], head[at + 8])
    if profile := info.get("icc_profile"):
        return bytes(profile)
    if nclx := info.get("nclx_profile"):  # HEIF
        return numbered_profile(nclx["color_primaries"], nclx["transfer_characteristics"])
    if at := head.find(b"colrnclx") + 1:  # AVIF
        return numbered_profile(*struct.unpack_from(">HH", head.ljust(at + 11), at + 7))
    if is_adobe_rgb:
        return _profile(_ADOBE_RGB, _ADOBE_EXPONENT)
    return _profile_of_png(info)


def head_of(file: Any) -> bytes:
    """The `head` of an open file, whose position it changes."""
    file.seek(0)
    return bytes(file.read(_HEAD))


def numbered_profile(primaries: int, transfer: int) -> bytes | None:
    """The profile of the colours that two numbers of ITU-T H.273 state; None for sRGB.

    Args:
        primaries: `ColourPrimaries`.
        transfer: `TransferCharacteristics`.
    """
    curve = transfer if transfer in (_PQ, _HLG) else _EXPONENTS.get(transfer, _SRGB_CURVE)
    return _profile(_PRIMARIES.get(primaries, _SRGB), curve)


def _profile_of_png(info: Mapping[Any, Any]) -> bytes | None:
    if "srgb" in info or not {"gamma", "chromaticity"} & info.keys():
        return None
    exponent = 1 / (info.get("gamma") or 1 / 2.2)
    low, high = _USUAL_EXPONENTS
    curve = _SRGB_CURVE if low < exponent < high or not 0.9 < exponent < 3 else exponent
    values = info.get("chromaticity") or sum(_SRGB, ())
    pairs = zip(values[::2], values[1::2], strict=True)
    return _profile(Primaries(*pairs), curve)


@lru_cache(maxsize=16)
def _profile(primaries: Primaries, curve: float) -> bytes | None:
    """An ICC profile (version 2.4); None if it would be sRGB's, or the primaries are degenerate.

    Args:
        primaries: Its primaries.
        curve: The exponent (gamma), or _SRGB_CURVE, _PQ or _HLG.
    """
    import numpy as np

    differ = np.abs(np.subtract(primaries, _SRGB)).max() > 0.005
    if not differ and curve == _SRGB_CURVE:
        return None
    try:
        red, green, blue = _columns_at_d50(primaries)
    except (ZeroDivisionError, np.linalg.LinAlgError):
        return None
    levels = np.linspace(0, 1, 1024)
    values = np.clip(_intensities(levels, curve), 0, 1)
    table = b"curv" + struct.pack(">II", 0, 1024) + (values * 65535).round().astype(">u2").tobytes()
    tags = {
        b"desc": b"desc" + struct.pack(">II", 0, 7) + b"stated\0" + bytes(78),
        b"cprt": b"text" + bytes(8),
        b"wtpt": _xyz(_D50),
    }
    for letter, primary in ((b"r", red), (b"g", green), (b"b", blue)):
        tags |= {letter + b"XYZ": _xyz(primary), letter + b"TRC": table}
    start = 132 + 12 * len(tags)
    entries = data = b""
    for name, tag in tags.items():
        entries += name + struct.pack(">II", start + len(data), len(tag))
        data += tag + bytes(-len(tag) % 4)
    header = b"lcms\2\x40\0\0mntrRGB XYZ " + struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp"
    header += bytes(28) + _xyz(_D50)[8:] + bytes(48)
    size = struct.pack(">I", start + len(data))
    return size + header + struct.pack(">I", len(tags)) + entries + data


_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))


def _columns_at_d50(primaries: Primaries) -> Any:
    """XYZ of the three primaries (3, 3), adapted to D50, the white of profiles (ICC.1, annex E)."""
    import numpy as np

    white, *colours = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in primaries)
    columns = np.stack(colours, axis=1)
    columns = columns * np.linalg.solve(columns, white)
    scale = np.diag((np.array(_BRADFORD) @ _D50) / (np.array(_BRADFORD) @ white))
    return (np.linalg.solve(_BRADFORD, scale @ _BRADFORD) @ columns).T


def _intensities(levels: Any, curve: float) -> Any:
    """Intensities, 1 for white, of the levels 0 to 1 of a channel."""
    import numpy as np

    if curve == _SRGB_CURVE:
        return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    if curve == _PQ:  # SMPTE ST 2084
        powered = levels ** (1 / 78.84375)
        quotient = np.maximum(powered - 0.8359375, 0) / (18.8515625 - 18.6875 * powered)
        return quotient ** (1 / 0.1593017578125) * 10_000 / _WHITE
    if curve == _HLG:  # ITU-R BT.2100, on a display of 1,000 cd/m²
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(levels <= 0.5, levels**2 / 3, (np.exp((levels - c) / a) + b) / 12)
        return scene**1.2 * 1000 / _WHITE
    return levels**curve


def _xyz(values: Any) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(one) * 65536) for one in values))


# ---------------------------------------------------------------------- conversion

_UNNOTICED = 3
"""Of 255; a profile that changes no colour by more is taken for sRGB."""
_LARGEST_PROFILE = 2**24
"""Bytes."""
_PROFILED = {"L": "L", "LA": "L", "RGB": "RGB", "RGBA": "RGB", "RGBX": "RGB", "CMYK": "CMYK"}
"""Mode of a picture → mode of the colours that its profile describes."""


def to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """The picture with its colours in sRGB; the picture itself if they are.

    Args:
        picture: With 8-bit channels; LAB becomes RGB too.
        profile: An ICC profile. One that is damaged, or of other channels, is ignored.
    """
    if picture.mode == "LAB":
        return _apply(_transform(None, "LAB"), picture)
    mode = _PROFILED.get(picture.mode)
    if not profile or mode is None or len(profile) > _LARGEST_PROFILE:
        return picture
    transform = _transform(bytes(profile), mode)
    if transform is None:
        return picture
    if picture.mode == mode:
        return _apply(transform, picture)
    converted = _apply(transform, picture.convert(mode))
    if picture.mode in ("LA", "RGBA"):
        converted.putalpha(picture.getchannel("A"))
    return converted


@lru_cache(maxsize=16)
def _transform(profile: bytes | None, mode: str) -> Any:
    """The transform of colours to sRGB; None if they are sRGB, or the profile cannot be used.

    Whether they are is tested on a grid of colours; only once, as nearly all files have one of a
    few profiles.
    """
    from PIL import Image, ImageCms

    srgb = ImageCms.createProfile("sRGB")
    if profile is None:
        return ImageCms.buildTransform(ImageCms.createProfile("LAB"), srgb, mode, "RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, srgb, mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    if mode == "CMYK":
        return transform
    bands = len(Image.new(mode, (1, 1)).getbands())
    levels = bytes(range(0, 256, 15))
    grid = Image.frombytes(
        mode,
        (len(levels), len(levels) ** (bands - 1)),
        levels
        if bands == 1
        else bytes(value for r in levels for g in levels for b in levels for value in (r, g, b)),
    )
    before, after = grid.convert("RGB").tobytes(), _apply(transform, grid).tobytes()
    changes = max(abs(one - other) for one, other in zip(before, after, strict=True))
    return transform if changes > _UNNOTICED else None


def _apply(transform: Any, picture: Image.Image) -> Image.Image:
    converted: Image.Image = transform.apply(picture)
    return converted
