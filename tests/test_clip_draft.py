"""Large JPEGs are decoded small; the vectors stay those of the whole photo."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmsearch.encoders import Runtime
from mmsearch.encoders.registry import load_encoder
from mmsearch.media.image import load_image

pytest.importorskip("open_clip")
pytest.importorskip("skimage")
pytest.importorskip("sklearn")

LARGE = 12_000_000
"""Pixels."""


def large_jpegs(folder: Path) -> list[Path]:
    """Real photos, scaled up to 12 megapixels: no photo of that size ships in a package."""
    images = Path(importlib.util.find_spec("skimage").origin).parent / "data"
    sources = [images / f"{name}.png" for name in ("astronaut", "chelsea", "coffee", "ihc")]
    images = Path(importlib.util.find_spec("sklearn").origin).parent / "datasets" / "images"
    sources += [images / "china.jpg", images / "flower.jpg"]
    found = []
    for source in sources:
        photo = Image.open(source).convert("RGB")
        scale = (LARGE / (photo.width * photo.height)) ** 0.5
        size = (round(photo.width * scale), round(photo.height * scale))
        found.append(folder / f"{source.stem}.jpg")
        photo.resize(size, Image.Resampling.LANCZOS).save(found[-1], quality=92)
    return found


@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
def test_vectors_of_large_jpegs_stay_within_a_cosine_of_0_999(tmp_path, monkeypatch, resize_mode):
    import open_clip
    import torch
    from safetensors.torch import save_file

    monkeypatch.setenv("MMSEARCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    config = open_clip.get_model_config("ViT-S-32")  # sees 224 pixels, as most models do
    written = {"model_cfg": config, "preprocess_cfg": {"resize_mode": resize_mode}}
    (folder / "open_clip_config.json").write_text(json.dumps(written))
    torch.manual_seed(0)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    paths = large_jpegs(tmp_path)
    with torch.no_grad():
        whole = torch.stack([preprocess(Image.open(path)) for path in paths])
        wanted = model.eval().encode_image(whole, normalize=True).numpy()

    encoder = load_encoder(f"clip:@{folder}", Runtime(runtime="torch", device="cpu"))
    drafted = [load_image(path, at_least=encoder.image_size)[0] for path in paths]
    assert all(photo.width * photo.height < LARGE / 4 for photo in drafted)
    found = encoder.encode("image", drafted)
    middle = wanted.mean(axis=0)  # untrained vectors are all alike: their differences must agree
    one, other = wanted - middle, found - middle
    cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert cosines.min() > 0.999
