"""How fast the built-in model encodes: `python benchmarks/encode.py`.

Photos are decoded 224-pixel RGB pictures, so reading and decoding files is not in the figures;
resizing is. Each figure is the median of some rounds. Loading is timed in fresh processes, with
imports apart.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from PIL import Image
from timing import machine, median_seconds, stages

import mmsearch

LOAD = """
import numpy, onnxruntime, tokenizers
from PIL import Image
from mmsearch.encoders.mini.encoder import load_mini
mark("import")
load_mini().encode({modality!r}, [{thing}])
mark("load")
"""


def load_seconds(modality: str, thing: str, rounds: int) -> tuple[float, float]:
    """Median seconds to import what a tower needs, and to load it and encode one thing."""
    taken = stages(LOAD.format(modality=modality, thing=thing), rounds)
    return taken["import"], taken["load"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=128, help="how many, default %(default)s")
    parser.add_argument("--texts", type=int, default=512, help="how many, default %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (options.photos, 224, 224, 3), dtype=np.uint8)
    photos = [Image.fromarray(one) for one in pixels]
    words = ["dog", "boy", "red", "two", "people", "runs", "on", "grass", "near", "mountain"]
    texts = [" ".join(rng.choice(words, rng.integers(5, 18))) for _ in range(options.texts)]
    encoder = mmsearch.load_encoder("mini")
    few = photos[:16]
    prepared = [encoder.prepare("image", photo) for photo in photos]
    encoder.encode("image", prepared[:16])
    encoder.encode("text", texts[:32])

    print(f"{machine()}, median of {options.rounds} rounds\n")
    jobs: list[tuple[str, int, Callable[[], object]]] = [
        ("photos/s, resized and encoded", len(photos), lambda: encoder.encode("image", photos)),
        ("photos/s, resized before", len(photos), lambda: encoder.encode("image", prepared)),
        ("photos/s, one at a time", 16, lambda: [encoder.encode("image", [p]) for p in few]),
        ("texts/s", len(texts), lambda: encoder.encode("text", texts)),
        ("texts/s, one at a time", 64, lambda: [encoder.encode("text", [t]) for t in texts[:64]]),
    ]
    for what, count, work in jobs:
        print(f"{what:32} {count / median_seconds(work, options.rounds):8.0f}")
    for modality, thing in (("text", "'a dog'"), ("image", "Image.new('RGB', (224, 224))")):
        imports, load = load_seconds(modality, thing, options.rounds)
        print(f"{modality + ' tower, load + first':32} {1000 * load:8.0f} ms", end="")
        print(f"  (after {1000 * imports:.0f} ms of imports)")


if __name__ == "__main__":
    main()
