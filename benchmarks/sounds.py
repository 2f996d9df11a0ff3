"""How fast the built-in model encodes sounds: `python benchmarks/sounds.py`.

Windows of five seconds are cut out of a file of noise that is written first, so decoding and
resampling are timed on their own. Each figure is the median of some rounds. How good it is with
sounds is printed by `python -m mmsearch.training evaluate` (see the model card).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
from timing import machine, median_seconds

import mmsearch
from mmsearch.media.audio import windows

RATE = 44100


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=int, default=4, help="of sound, default %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    options = parser.parse_args()

    encoder = mmsearch.load_encoder("mini")
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (60 * options.minutes * RATE, 2))
    print(f"{machine()}, median of {options.rounds} rounds\n")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs: list[tuple[str, Callable[[], object]]] = []
        for ending in ("wav", "flac", "ogg", "mp3"):
            path = Path(folder) / f"noise.{ending}"
            with soundfile.SoundFile(path, "w", RATE, 2) as file:
                for second in np.split(noise, len(noise) // RATE):
                    file.write(second)  # libsndfile crashes on a minute of Vorbis at once
            read = lambda path=path: list(windows(path, encoder.sample_rate))  # noqa: E731
            jobs.append((f"windows/s, read from stereo {ending}, one thread", read))
        waves = [wave for _, wave in windows(Path(folder) / "noise.wav", encoder.sample_rate)]
        prepare = lambda: list(pool.map(lambda wave: encoder.prepare("audio", wave), waves))  # noqa: E731
        pictures = prepare()
        encoder.encode("audio", pictures[:4])
        jobs += [
            ("windows/s, prepared, a thread a core", prepare),
            ("windows/s, encoded", lambda: encoder.encode("audio", pictures)),
        ]
        for what, work in jobs:
            print(f"{what:48} {len(waves) / median_seconds(work, options.rounds):8.0f}")


if __name__ == "__main__":
    main()
