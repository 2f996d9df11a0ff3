"""Recall through the whole engine is that of clip_benchmark with the same model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmsearch
from mmsearch.evaluation import evaluate
from mmsearch.evaluation.pairs import Pair
from mmsearch.types import Query

pytest.importorskip("open_clip")
pytest.importorskip("clip_benchmark")

from clip_benchmark.metrics import zeroshot_retrieval
from test_clip import checkpoint

PHOTOS, CAPTIONS = 24, 3
CUTOFFS = [1, 5, 10]
WORDS = ["red", "green", "blue", "dog", "cat", "bird", "beach", "snow", "street", "tree", "boat"]


def made_photos(folder: Path) -> list[Path]:
    """Photos of random blots, each unlike the others."""
    chance = np.random.default_rng(3)
    folder.mkdir()
    paths = []
    for number in range(PHOTOS):
        blots = chance.integers(0, 256, size=(4, 5, 3), dtype=np.uint8)
        paths.append(folder / f"{number:02}.png")
        Image.fromarray(blots).resize((100, 80), Image.Resampling.NEAREST).save(paths[-1])
    return paths


def made_captions(folder: Path) -> list[list[str]]:
    """Captions of each photo, each also a text file.

    At every cutoff the scores lie 9e-4 apart or more; storing vectors in half precision moves them
    by 1.3e-4.
    """
    chance = np.random.default_rng(33)
    folder.mkdir()
    made = []
    for photo in range(PHOTOS):
        made.append([" ".join(chance.permutation(WORDS)[:6]) for _ in range(CAPTIONS)])
        for number, caption in enumerate(made[-1]):
            (folder / f"{photo:02}-{number}.txt").write_text(caption)
    return made


def by_clip_benchmark(
    model: Path, photos: list[Path], captions: list[list[str]]
) -> dict[str, float]:
    """What it measures with open_clip's own network, tokenizer and preprocessing."""
    import open_clip
    import torch

    address = f"local-dir:{model}"
    network, _, preprocess = open_clip.create_model_and_transforms(address)
    pixels = torch.stack([preprocess(Image.open(path)) for path in photos])
    batches = [(pixels[at : at + 8], captions[at : at + 8]) for at in range(0, PHOTOS, 8)]
    tokenizer = open_clip.get_tokenizer(address)
    return zeroshot_retrieval.evaluate(
        network.eval(), batches, tokenizer, "cpu", amp=False, recall_k_list=CUTOFFS
    )


def test_recall_is_that_of_clip_benchmark(tmp_path, monkeypatch):
    monkeypatch.setenv("MMSEARCH_CACHE", str(tmp_path / "cache"))
    name = checkpoint(tmp_path / "model")
    photos = made_photos(tmp_path / "photos")
    captions = made_captions(tmp_path / "texts")
    pairs = [
        Pair(Query.text(caption), {str(photo): 1})
        for photo, of_photo in zip(photos, captions, strict=True)
        for caption in of_photo
    ]
    folders = [tmp_path / "photos", tmp_path / "texts"]
    cosines = {"hubness": False, "lexical": False}  # the plain ones, as clip_benchmark ranks by
    with mmsearch.index(
        folders, tmp_path / "index", model=name, device="cpu", precision="fp32"
    ) as library:
        found = evaluate(library, pairs, settings=cosines | {"target": "image"})
        back = evaluate(library, pairs, direction="backward", settings=cosines)
    wanted = by_clip_benchmark(tmp_path / "model", photos, captions)
    for cutoff in CUTOFFS:
        for direction, its_name in (
            (found["text→image"], "image_retrieval"),
            (back["image→text"], "text_retrieval"),
        ):
            recall = direction.measures[f"Recall@{cutoff}"].value
            assert recall == pytest.approx(wanted[f"{its_name}_recall@{cutoff}"], abs=1e-6)
