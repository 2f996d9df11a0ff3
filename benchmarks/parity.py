"""How far vectors are from those of the libraries that models come from: one row a model.

    python benchmarks/parity.py

The models are the tests' own: tiny, of random weights, one of each family of open_clip and one of
each kind that sentence-transformers loads. A figure is the largest difference of a number, of unit
vectors: of ours in fp32, by ONNX where we export a model, and of the library's own. It needs the
extras `clip` and `st`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from timing import machine, table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
os.environ["HF_HUB_OFFLINE"] = "1"

Row = list[str]

KINDS = ("text", "query", "image", "audio", "video")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MMSEARCH_HOME"] = os.environ["MMSEARCH_CACHE"] = folder
        rows = [*of_open_clip(Path(folder)), *of_sentence_transformers(Path(folder))]
    print(machine())
    table("Largest difference", rows, ["model", *KINDS])


def of_open_clip(folder: Path) -> Iterator[Row]:
    """A model of each family, by the ONNX graphs that ours makes of it."""
    import test_clip_families as families
    import timm

    create = timm.create_model
    timm.create_model = lambda name, **given: create(name, **given | families.small_tower(name))
    pictures = families.photos()
    for architecture in (*families.ARCHITECTURES, families.NAFLEX):
        place = folder / architecture
        model = families.write_checkpoint(architecture, place)
        seen, read = families.by_open_clip(model, f"local-dir:{place}", pictures)
        runtime = families.Runtime(precision="fp32", device="cpu")
        encoder = families.load_encoder(f"clip:@{place}", runtime)
        text = difference(encoder.encode("text", families.TEXTS), read)
        image = difference(encoder.encode("image", pictures), seen)
        yield [f"clip:{architecture}", text, "", image, "", ""]
    timm.create_model = create


def of_sentence_transformers(folder: Path) -> Iterator[Row]:
    """A model of each kind; the library does not pad texts for SigLIP, so transformers does."""
    import test_sentence_transformers as tests
    import torch

    pictures = [tests.picture(seed) for seed in range(3)]
    frames = np.stack([np.asarray(tests.picture(seed)) for seed in range(6)])
    facts = {"fps": 1.0, "total_num_frames": 6, "duration": 6.0}
    for name in ("clip", "siglip", "clap", "one_space", "gemma"):
        torch.manual_seed(0)
        place = folder / name
        with suppress(ImportError):  # an older release of transformers
            getattr(tests, f"write_{name}")(place)
        if not place.exists():
            continue
        ours, theirs = tests.encoder_of(place), tests.own(place)
        found = {}
        texts = [{"text": text} for text in tests.TEXTS]
        if name == "siglip":
            found["text"] = ours.encode("text", tests.TEXTS), tests.padded_texts(place)
        else:
            found["text"] = ours.encode("text", tests.TEXTS), theirs.encode_document(texts)
            found["query"] = ours.encode_query("text", tests.TEXTS), theirs.encode_query(texts)
        if "image" in ours.modalities:
            found["image"] = ours.encode("image", pictures), theirs.encode_document(pictures)
        if "audio" in ours.modalities:
            rate = ours.sample_rate
            sounds = [tests.sound(seed)[:rate] for seed in range(3)]
            given = [{"audio": {"array": one, "sampling_rate": rate}} for one in sounds]
            found["audio"] = ours.encode("audio", sounds), theirs.encode_document(given)
        if tests.video_encoder(ours) is not None:
            video = [{"video": {"array": frames, "video_metadata": facts}}]
            found["video"] = ours.encode_video(frames, 1.0), theirs.encode_document(video)
        yield [f"st:{name}", *(difference(*found[k]) if k in found else "" for k in KINDS)]


def difference(ours: Any, theirs: Any) -> str:
    """The largest of a number, of unit vectors (n, dim)."""
    unit = theirs / np.linalg.norm(theirs, axis=-1, keepdims=True)
    return f"{np.abs(ours - unit).max():.1e}"


if __name__ == "__main__":
    main()
