"""The sounds to learn from: labelled sets, their windows, and those changed at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmsearch.encoders.mel import BANDS, RANGE, RATE, log_mel, picture_of
from mmsearch.media.audio import WINDOW, windows
from mmsearch.training.phrases import phrases_of
from mmsearch.training.towers import IMAGE_SIZE

FULL = round(WINDOW * RATE)
"""Samples of a window."""

Wave = NDArray[np.float32]
"""(samples,) mono at 16 kHz."""
Picture = NDArray[np.uint8]
"""(260, 260) grey."""


@dataclass(frozen=True)
class Sound:
    """One file of a labelled set."""

    path: Path
    label: str
    concept: str
    phrases: tuple[str, ...]
    fold: int = 0
    """1 to 4; 0 of a set without folds."""
    picture: str = ""
    """The file of a picture that shows what is heard, if there is one."""


def read_esc10(folder: Path) -> list[Sound]:
    """ESC-10: `audio/`, and `labels.tsv` of file, label and fold."""
    return [
        Sound(folder / "audio" / file, label, *phrases_of(label), fold=int(fold))
        for file, label, fold in _rows(folder / "labels.tsv")
    ]


def read_stamps(folder: Path) -> list[Sound]:
    """Those of tuxpaint: `audio/`, and `labels.tsv` of file, caption, category and picture."""
    found = []
    for file, caption, kind, picture, *_ in _rows(folder / "labels.tsv"):
        animal = kind.startswith("animals") or caption in ("A bat.", "A black cat.")
        said = phrases_of(caption, animal=animal)
        found.append(Sound(folder / "audio" / file, caption, *said, picture=picture))
    return found


def _rows(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


def plain_pictures(sound: Sound) -> list[Picture]:
    """The windows of a sound as search sees them."""
    return [picture_of(log_mel(wave), IMAGE_SIZE) for wave in waves_of(sound)]


def whole(sound: Sound) -> Wave:
    """All of a sound, or its first minute."""
    waves = waves_of(sound)[:12]
    return waves[0] if len(waves) == 1 else np.concatenate([wave[: FULL // 2] for wave in waves])


def waves_of(sound: Sound) -> list[Wave]:
    """The windows of a sound as they are."""
    return [wave for _, wave in windows(sound.path, RATE)]


def changed_picture(wave: Wave, others: Sequence[Wave], dice: np.random.Generator) -> Picture:
    """A window of a sound at another speed and place, with noise, other sounds and gaps in it.

    Args:
        wave: The sound, of any length.
        others: Sounds that may be heard faintly behind it.
        dice: What is random.
    """
    import soxr

    if dice.random() < 0.7:  # pitch and tempo together
        wave = soxr.resample(wave, RATE * dice.uniform(0.85, 1.18), RATE, quality="LQ")
    wave = placed(_part(wave, dice), dice, repeat=dice.random() < 0.6)
    loudness = _loudness(wave)
    if dice.random() < 0.5:
        noise = _noise(dice)
        wave = wave + noise * (loudness * 10 ** (-dice.uniform(15, 50) / 20) / _loudness(noise))
    if others and dice.random() < 0.4:
        other = placed(others[int(dice.integers(len(others)))], dice, repeat=False)
        wave = wave + other * (loudness * 10 ** (-dice.uniform(6, 25) / 20) / _loudness(other))
    decibels = log_mel(wave.astype(np.float32)) + _tone(dice)
    return picture_of(_gaps(decibels, dice), IMAGE_SIZE)


def placed(wave: Wave, dice: np.random.Generator, *, repeat: bool) -> Wave:
    """A window (5 s,) of a sound: somewhere in it, or with it somewhere inside."""
    if len(wave) >= FULL:
        start = dice.integers(0, len(wave) - FULL + 1)
        return wave[start : start + FULL]
    if repeat:
        return np.roll(np.resize(wave, FULL), dice.integers(FULL))
    before = dice.integers(0, FULL - len(wave) + 1)
    return np.pad(wave, (before, FULL - len(wave) - before))


def _part(wave: Wave, dice: np.random.Generator) -> Wave:
    """Now and then only a stretch of a sound, if it holds enough of it."""
    if len(wave) <= RATE or dice.random() < 0.5:
        return wave
    least = max(0.3, RATE / len(wave))
    length = int(dice.uniform(least, 1) * len(wave))
    start = dice.integers(0, len(wave) - length + 1)
    part = wave[start : start + length]
    return part if _loudness(part) ** 2 > 0.05 * _loudness(wave) ** 2 else wave


def _loudness(wave: Wave) -> float:
    return float(np.sqrt(np.mean(wave**2))) + 1e-6


def _noise(dice: np.random.Generator) -> Wave:
    """White or dark noise (5 s,)."""
    noise = dice.standard_normal(FULL).astype(np.float32)
    if dice.random() < 0.5:
        return noise
    walk = np.cumsum(noise)
    return walk - np.convolve(walk, np.full(400, 1 / 400, np.float32), "same")


def _tone(dice: np.random.Generator) -> NDArray[np.float32]:
    """Decibels (128, 1) by which another microphone or room would change each band."""
    at = np.linspace(-1, 1, BANDS, dtype=np.float32)[:, None]
    wave = np.cos(2 * np.pi * (at + dice.uniform(-1, 1)))
    tone: NDArray[np.float32] = (dice.normal(0, 4) * at + dice.normal(0, 3) * wave).astype(
        np.float32
    )
    return tone


def _gaps(decibels: NDArray[np.float32], dice: np.random.Generator) -> NDArray[np.float32]:
    """With up to two bands and two moments blacked out.

    Source: SpecAugment, Park et al., arXiv:1904.08779.
    """
    decibels = decibels.copy()
    black = decibels.max() - RANGE
    for axis, most in ((0, 16), (1, 60)):
        for _ in range(dice.integers(0, 3)):
            size = dice.integers(1, most)
            start = dice.integers(0, decibels.shape[axis] - size)
            where = (slice(None),) * axis + (slice(start, start + size),)
            decibels[where] = black
    return decibels
