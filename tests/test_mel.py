"""The picture of a sound: what the formulas say, and what does not change it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from mmsearch.encoders.mini.mel import BANDS, RATE, SILENCE, log_mel, mel_picture

SIDE = 260


def tone(hertz: float, seconds: float = 5.0) -> NDArray[np.float32]:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)


def noise(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, 5 * RATE).astype(np.float32)


def by_the_book(samples: NDArray[np.float32], column: int, band: int) -> float:
    """One value, with sums written out: no transform, no matrix."""

    def hertz(edge: int) -> float:
        low, high = (2595 * math.log10(1 + f / 700) for f in (20.0, 8000.0))
        return 700 * (10 ** ((low + (high - low) * edge / (BANDS + 1)) / 2595) - 1)

    below, middle, above = hertz(band), hertz(band + 1), hertz(band + 2)
    total = 0.0
    for line in range(513):
        at = line * 16000 / 1024
        weight = max(0.0, min((at - below) / (middle - below), (above - at) / (above - middle)))
        if not weight:
            continue
        real = imaginary = 0.0
        for place in range(400):
            where = 160 * column - 200 + place
            if 0 <= where < len(samples):
                windowed = float(samples[where]) * (0.5 - 0.5 * math.cos(2 * math.pi * place / 400))
                angle = -2 * math.pi * line * place / 1024
                real += windowed * math.cos(angle)
                imaginary += windowed * math.sin(angle)
        total += weight * (real * real + imaginary * imaginary)
    return 10 * math.log10(total)


@pytest.mark.parametrize(("column", "band"), [(0, 3), (1, 64), (250, 0), (499, 127), (77, 40)])
def test_a_value_is_what_the_formula_says(column: int, band: int) -> None:
    samples = noise()
    assert log_mel(samples)[band, column] == pytest.approx(
        by_the_book(samples, column, band), abs=1e-3
    )


def test_five_seconds_have_a_column_each_ten_milliseconds() -> None:
    found = log_mel(noise())
    assert found.shape == (128, 500)
    assert found.dtype == np.float32


@pytest.mark.parametrize("hertz", [60, 440, 1000, 3999, 7500])
def test_a_tone_is_loudest_in_the_band_around_it(hertz: float) -> None:
    band = int(log_mel(tone(hertz))[:, 100].argmax())
    ends = np.linspace(*(2595 * np.log10(1 + np.array([20, 8000]) / 700)), BANDS + 2)
    edges = 700 * (10 ** (ends / 2595) - 1)
    assert edges[band] - RATE / 1024 <= hertz <= edges[band + 2] + RATE / 1024


def test_a_picture_has_low_pitches_below_and_time_to_the_right() -> None:
    low_then_high = np.concatenate([tone(100, 2.5), tone(6000, 2.5)])
    picture = mel_picture(low_then_high, SIDE).astype(int)
    assert picture.shape == (SIDE, SIDE)
    half = SIDE // 2
    assert picture[half:, : half - 5].max(axis=0).min() > 230
    assert picture[:half, half + 5 :].max(axis=0).min() > 230
    assert picture[:half, : half - 5].mean() < picture[half:, : half - 5].mean()


@pytest.mark.parametrize("gain", [0.5, 0.03125])
def test_a_sound_looks_the_same_at_any_volume(gain: float) -> None:
    samples = noise()
    loud, soft = (mel_picture(s, SIDE).astype(int) for s in (samples, gain * samples))
    assert np.abs(loud - soft).max() <= 1


def test_silence_is_black() -> None:
    assert not mel_picture(np.zeros(5 * RATE, np.float32), SIDE).any()
    assert log_mel(np.zeros(5 * RATE, np.float32)).max() == SILENCE


def test_the_same_sound_has_the_same_picture_to_the_bit() -> None:
    first = mel_picture(noise(), SIDE)
    assert first.dtype == np.uint8
    assert all(np.array_equal(first, mel_picture(noise(), SIDE)) for _ in range(3))
