"""CLIP beside CLAP in one index, as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import paint, tone

import mmsearch

pytest.importorskip("open_clip")
pytest.importorskip("transformers")

from test_clap import write_model


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory):
    import open_clip
    import torch

    folder = tmp_path_factory.mktemp("both")
    clap = write_model(folder / "clap", "rand_trunc")
    torch.manual_seed(0)
    small = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16},
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 2,
        },
    }
    clip = folder / "clip"
    clip.mkdir()
    model = open_clip.model.CLIP(**small)
    torch.save(model.state_dict(), clip / "open_clip_pytorch_model.bin")
    (clip / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": small, "preprocess_cfg": {}})
    )
    photos = folder / "photos"
    for colour in ("red", "blue"):
        paint(photos / f"{colour}.png", colour)
        (photos / f"{colour}.txt").write_text(f"something {colour}")
    tone(photos / "low.wav", "low", seconds=8)
    names = [f"clip:@{clip}", f"clap:{clap}"]
    with mmsearch.index(photos, folder / "index", model=names, runtime="torch") as made:
        yield made


def test_each_answers_for_what_it_takes(library):
    answers = {m["name"].partition(":")[0]: m["answers"] for m in library.status()["models"]}
    assert answers == {"clip": ["image", "text"], "clap": ["audio", "text"]}
    assert library.status()["vectors"] == {"image": 2, "text": 2, "audio": 3}


def test_a_text_is_ranked_by_both_and_fused(library):
    hits = library.search("something red", target=["image", "audio"])
    assert {Path(hit.path).suffix for hit in hits} == {".png", ".wav"}
    assert {facet for hit in hits for facet in hit.signals} == {"image", "audio"}


def test_a_sound_finds_pictures_through_captions(library):
    sound = next(item.path for item in library.items if item.modality == "audio")
    hits = library.search(mmsearch.Query.audio(sound), target="image")
    assert {Path(hit.path).suffix for hit in hits} == {".png"}
    assert [hit.path for hit in library.similar(sound, target="image")] == [h.path for h in hits]
