"""Labelled sounds to learn from, their spectrograms, and random changes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsearch.encoders.mini.mel import BANDS, RANGE, RATE, log_mel, mel_picture, picture_of
from mmsearch.media.audio import WINDOW, windows
from mmsearch.training.backbones import IMAGE_SIZE
from mmsearch.training.phrases import phrases_of

WINDOW_SAMPLES = round(WINDOW * RATE)

NEAR_COPIES = {"0181.ogg", "0187.ogg", "0236.ogg", "0256.ogg", "0343.ogg"}
"""Animals whose recording, cut or encoded in another way, is also in a file of another fold or in
ESC-10: the correlation of both waves is above 0.5."""

Wave = NDArray[np.float32]
"""(samples,) mono at 16 kHz."""
Picture = NDArray[np.uint8]
"""(260, 260) grey."""


@dataclass(frozen=True)
class Sound:
    """One file of a labelled set.

    Attributes:
        fold: 1 to 4; 0 if the set has no folds.
        picture: The file of a picture that shows the source of the sound; "" without one.
    """

    path: Path
    label: str
    concept: str
    phrases: tuple[str, ...]
    fold: int = 0
    picture: str = ""


@dataclass(frozen=True)
class SoundSources:
    """The folders of the labelled sets."""

    esc10: Path
    animals: Path
    stamps: Path

    def sets(self) -> tuple[list[Sound], list[Sound], list[Sound]]:
        """The sounds of ESC-10, of the animals, and of the stamps, which have no folds."""
        return read_esc10(self.esc10), read_animals(self.animals), read_stamps(self.stamps)

    def read(self) -> list[Sound]:
        """The sounds of all sets, in this order."""
        return [sound for one in self.sets() for sound in one]


def read_esc10(folder: Path) -> list[Sound]:
    """ESC-10: `audio/`, and `labels.tsv` of file, label and fold."""
    return [
        Sound(folder / "audio" / file, label, *phrases_of(label), fold=int(fold))
        for file, label, fold in _rows(folder / "labels.tsv")
    ]


def read_animals(folder: Path) -> list[Sound]:
    """Sounds of animals: `audio/`, and `labels.tsv` of file and label; copies, and recordings in
    `NEAR_COPIES`, are left out.

    Each quarter of a label's files is a fold.
    """
    rows = _rows(folder / "labels.tsv")
    counts = Counter(label for _, label in rows)
    read: Counter[str] = Counter()
    found: dict[bytes, Sound] = {}
    for file, label in rows:
        fold = 1 + 4 * read[label] // counts[label]
        read[label] += 1
        if file in NEAR_COPIES:
            continue
        phrases = phrases_of(label, animal=True)
        sound = Sound(folder / "audio" / file, label, *phrases, fold=fold)
        found.setdefault(whole_wave(sound).tobytes(), sound)
    return list(found.values())


def read_stamps(folder: Path) -> list[Sound]:
    """Tuxpaint's stamps: `audio/`, and `labels.tsv` of file, caption, category and picture."""
    found = []
    for file, caption, category, picture, *_ in _rows(folder / "labels.tsv"):
        animal = category.startswith("animals") or caption in ("A bat.", "A black cat.")
        phrases = phrases_of(caption, animal=animal)
        found.append(Sound(folder / "audio" / file, caption, *phrases, picture=picture))
    return found


def _rows(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


def plain_pictures(sound: Sound) -> list[Picture]:
    """Spectrograms of the windows of a sound, as search computes them."""
    return [mel_picture(wave, IMAGE_SIZE) for wave in waves_of(sound)]


def whole_wave(sound: Sound) -> Wave:
    """All of a sound, or its first half minute."""
    waves = waves_of(sound)[:12]
    if len(waves) == 1:
        return waves[0]
    return np.concatenate([wave[: WINDOW_SAMPLES // 2] for wave in waves])


def waves_of(sound: Sound) -> list[Wave]:
    """The windows of a sound."""
    return [wave for _, wave in windows(sound.path, RATE)]


def changed_picture(wave: Wave, others: Sequence[Wave], rng: np.random.Generator) -> Picture:
    """The spectrogram of a window of a sound, augmented.

    Changed are speed, position, background and recording; bands and times are masked.

    Args:
        wave: The sound, of any length.
        others: Sounds that may be mixed in quietly.
        rng: The source of randomness.
    """
    import soxr

    if rng.random() < 0.7:  # pitch and tempo together
        wave = soxr.resample(wave, RATE * rng.uniform(0.85, 1.18), RATE, quality="LQ")
    wave = place_in_window(_random_part(wave, rng), rng, repeat=rng.random() < 0.6)
    loudness = _loudness(wave)
    if others and rng.random() < 0.4:
        other = place_in_window(others[int(rng.integers(len(others)))], rng, repeat=False)
        wave = wave + other * (loudness * 10 ** (-rng.uniform(6, 25) / 20) / _loudness(other))
    wave = poor_recording(wave, rng)
    decibels = log_mel(wave.astype(np.float32)) + _tone_curve(rng)
    return picture_of(_mask(decibels, rng), IMAGE_SIZE)


def poor_recording(wave: Wave, rng: np.random.Generator) -> Wave:
    """A window as a phone might record it: room, noise, clipping, limited bands, few bits.

    Args:
        wave: (5 s,)
        rng: Draws which of these happen, and how much.
    """
    if rng.random() < 0.3:  # decaying noise after the direct sound; it falls by 60 dB in 0.1 to 1 s
        times = np.arange(RATE // 2) / RATE
        echoes = rng.standard_normal(len(times)) * 10 ** (-3 * times / rng.uniform(0.1, 1))
        echoes *= rng.uniform(0.2, 1.5) / np.linalg.norm(echoes)
        wave = wave + _filtered(wave, np.fft.rfft(echoes, 2 * WINDOW_SAMPLES))
    if rng.random() < 0.6:
        noise = _noise(rng)
        wave = wave + noise * (
            _loudness(wave) * 10 ** (-rng.uniform(0, 50) / 20) / _loudness(noise)
        )
    if rng.random() < 0.2:
        most = np.abs(wave).max() * 10 ** (-rng.uniform(3, 20) / 20)
        wave = np.clip(wave, -most, most)
    if rng.random() < 0.4:
        hertz = np.fft.rfftfreq(2 * WINDOW_SAMPLES, 1 / RATE)
        lowest, highest = rng.choice([0, rng.uniform(50, 500)]), rng.uniform(2000, RATE / 2)
        wave = _filtered(wave, (hertz <= highest) / (1 + (lowest / (hertz + 1)) ** 4))
    if rng.random() < 0.2:  # logarithmic steps, as in telephony (μ-law), of 4 to 6 bits
        steps, most = 2 ** rng.integers(3, 6), np.abs(wave).max() + 1e-6
        level = np.log1p(255 * np.abs(wave) / most) / np.log(256)
        wave = np.sign(wave) * most * (256 ** (np.round(level * steps) / steps) - 1) / 255
    return wave


def _filtered(wave: Wave, response: NDArray[Any]) -> Wave:
    """A window through a filter, given its response at `rfft`'s frequencies of two windows."""
    spectrum = np.fft.rfft(wave, 2 * WINDOW_SAMPLES)
    return np.fft.irfft(spectrum * response)[:WINDOW_SAMPLES].astype(np.float32)


def place_in_window(wave: Wave, rng: np.random.Generator, *, repeat: bool) -> Wave:
    """A random window (5 s,) of a long sound, or a window with a short sound at a random place."""
    if len(wave) >= WINDOW_SAMPLES:
        start = rng.integers(0, len(wave) - WINDOW_SAMPLES + 1)
        return wave[start : start + WINDOW_SAMPLES]
    if repeat:
        return np.roll(np.resize(wave, WINDOW_SAMPLES), rng.integers(WINDOW_SAMPLES))
    before = rng.integers(0, WINDOW_SAMPLES - len(wave) + 1)
    return np.pad(wave, (before, WINDOW_SAMPLES - len(wave) - before))


def _random_part(wave: Wave, rng: np.random.Generator) -> Wave:
    """The sound or, half of the time, a random span of it that is not much quieter."""
    if len(wave) <= RATE or rng.random() < 0.5:
        return wave
    least = max(0.3, RATE / len(wave))
    length = int(rng.uniform(least, 1) * len(wave))
    start = rng.integers(0, len(wave) - length + 1)
    part = wave[start : start + length]
    return part if _loudness(part) ** 2 > 0.05 * _loudness(wave) ** 2 else wave


def _loudness(wave: Wave) -> float:
    return float(np.sqrt(np.mean(wave**2))) + 1e-6


def _noise(rng: np.random.Generator) -> Wave:
    """White or brown noise (5 s,)."""
    noise = rng.standard_normal(WINDOW_SAMPLES).astype(np.float32)
    if rng.random() < 0.5:
        return noise
    walk = np.cumsum(noise)
    return walk - np.convolve(walk, np.full(400, 1 / 400, np.float32), "same")


def _tone_curve(rng: np.random.Generator) -> NDArray[np.float32]:
    """Decibels (128, 1) for each band, as another microphone or room might add."""
    at = np.linspace(-1, 1, BANDS, dtype=np.float32)[:, None]
    wave = np.cos(2 * np.pi * (at + rng.uniform(-1, 1)))
    tone: NDArray[np.float32] = (rng.normal(0, 4) * at + rng.normal(0, 3) * wave).astype(np.float32)
    return tone


def _mask(decibels: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """A spectrogram with up to two bands of pitch and two of time masked.

    Source: SpecAugment, Park et al., arXiv:1904.08779.
    """
    decibels = decibels.copy()
    black = decibels.max() - RANGE
    for axis, most in ((0, 16), (1, 60)):
        for _ in range(rng.integers(0, 3)):
            size = rng.integers(1, most)
            start = rng.integers(0, decibels.shape[axis] - size)
            where = (slice(None),) * axis + (slice(start, start + size),)
            decibels[where] = black
    return decibels
