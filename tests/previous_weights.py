"""Vectors that `mini` made of some photos and sentences: `python tests/previous_weights.py`.

They are kept in a file when the weights of the model are about to change, since no test can have
both: the maps of the new weights (mmsearch/encoders/previous.py) are held to them.
"""

from __future__ import annotations

import runpy
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

RECORDED = Path(__file__).with_suffix(".npz")

SENTENCES = (
    "an astronaut in an orange suit smiles in front of a flag",
    "a brick wall",
    "a man with a camera on a tripod",
    "a cat lies on a blanket and looks up",
    "a cup of coffee on a wooden table",
    "old coins in rows",
    "green grass",
    "many small stones",
    "galaxies and stars in the night sky",
    "the surface of the moon",
    "a motorcycle is parked in a garage",
    "a page of a printed book",
    "the back of a human eye",
    "a rocket takes off from its launch pad",
    "handwriting on paper",
    "a Chinese temple with a tower",
    "a pink flower in a garden",
    "a woman smiles at the camera",
    "a dog runs on a beach",
    "two men play football",
    "a black and white photo of a man outdoors",
    "a close-up of an animal's face",
    "a building under a blue sky",
    "a drink in a white cup",
)


def photos() -> list[Image.Image]:
    """The photos of the demo, each whole and without its left half; 38."""
    gather = runpy.run_path(str(Path(__file__).parent.parent / "demo" / "gather.py"))
    found = []
    for folder, names in gather["PHOTOS"].items():
        package, _, inside = folder.partition("/")
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        for name in names:
            with Image.open(Path(spec.origin).parent / inside / name) as opened:
                whole = opened.convert("RGB")
            found += [whole, whole.crop((whole.width // 2, 0, *whole.size))]
    return found


def recorded() -> tuple[str, NDArray[np.float32], NDArray[np.float32]]:
    """The fingerprint of the weights, and unit rows (n, 512) of the photos and of the sentences."""
    with np.load(RECORDED) as file:
        rows = [file[name].astype(np.float32) for name in ("photos", "sentences")]
        fingerprint = str(file["fingerprint"])
    image, text = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in rows)
    return fingerprint, image, text


def record() -> None:
    """Write the file with the weights that are installed."""
    from mmsearch.encoders.mini.encoder import load_mini

    mini = load_mini()
    np.savez_compressed(
        RECORDED,
        fingerprint=mini.fingerprint,
        photos=mini.encode("image", photos()).astype(np.float16),
        sentences=mini.encode("text", SENTENCES).astype(np.float16),
    )


if __name__ == "__main__":
    record()
