"""A toy encoder that knows four colours, and folders to point it at."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import milvus_server
import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from mmsearch.encoders import Encoder
from mmsearch.encoders.family import SingleModel
from mmsearch.encoders.registry import REGISTRY

os.environ["HF_HUB_OFFLINE"] = "1"
# what this machine's owner has fetched makes no difference here
_CACHE = tempfile.TemporaryDirectory(prefix="mmsearch-tests-")
os.environ["HF_HOME"] = f"{_CACHE.name}/hub"
os.environ["MMSEARCH_CACHE"] = f"{_CACHE.name}/cache"
for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session")
def milvus() -> Iterator[milvus_server.MilvusServer]:
    """A Milvus server for the tests that ask for one."""
    if not milvus_server.is_installed():
        pytest.skip("milvus-lite or pymilvus is not installed")
    server = milvus_server.MilvusServer()
    yield server
    server.stop()


def pytest_collection_finish() -> None:
    """Collections of garbage need not look at what was imported: they take a tenth of the time."""
    gc.collect()
    gc.freeze()


settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

COLOURS = {
    "red": (220, 20, 20),
    "green": (20, 200, 30),
    "blue": (20, 30, 220),
    "white": (250, 250, 250),
}


class ToyEncoder(Encoder):
    """Sees the mean colour of a picture, and reads colour words; counts what it encodes."""

    name = "toy"
    fingerprint = "toy-1"
    dim = 8
    modalities = frozenset({"image", "text"})
    image_size = 8

    def __init__(self) -> None:
        self.encoded = {"image": 0, "text": 0}

    def prepare(self, modality: str, thing: Any) -> Any:
        assert modality in self.modalities
        return np.asarray(thing.resize((8, 8))) if modality == "image" else thing

    def encode(self, modality: str, batch: Any) -> Any:
        self.encoded[modality] += len(batch)
        rows = np.zeros((len(batch), self.dim), dtype=np.float32)
        for row, thing in zip(rows, batch, strict=True):
            if modality == "image":
                pixels = self.prepare("image", thing) if isinstance(thing, Image.Image) else thing
                row[:3] = pixels.reshape(-1, 3).mean(axis=0) / 255
            else:
                for word in thing.lower().split():
                    row[:3] += np.array(COLOURS.get(word.strip(".,"), (0, 0, 0))) / 255
                row[3 + len(thing) % 4] += 0.1  # so that two texts differ
            row[7] = 0.05
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class SecondToy(ToyEncoder):
    """Sees the same in other numbers, as another model would."""

    name = "second"
    fingerprint = "second-1"

    def encode(self, modality: str, batch: Any) -> Any:
        return super().encode(modality, batch)[:, ::-1].copy()


PITCHES = {"low": 200, "middle": 800, "high": 3000}


class Ear(Encoder):
    """Hears how high a tone is, and reads the words for it."""

    name = "ear"
    fingerprint = "ear-1"
    dim = 4
    modalities = frozenset({"audio", "text"})
    sample_rate = 8000

    def prepare(self, modality: str, thing: Any) -> Any:
        return thing

    def encode(self, modality: str, batch: Any) -> Any:
        rows = np.zeros((len(batch), self.dim), dtype=np.float32)
        rows[:, 3] = 0.01
        for row, thing in zip(rows, batch, strict=True):
            if modality == "audio":
                loud = thing[np.abs(thing) > 1e-3]
                turns = np.count_nonzero(np.diff(np.sign(loud)))
                hertz = turns / 2 / max(len(loud), 1) * self.sample_rate
                for place, pitch in enumerate(PITCHES.values()):
                    row[place] = np.exp(-3 * abs(np.log2(max(hertz, 1) / pitch)))
            else:
                for word in thing.lower().split():
                    if word in PITCHES:
                        row[list(PITCHES).index(word)] = 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Preferred(SingleModel):
    """A model that `auto` stands for."""

    def best_here(self) -> str:
        return self.forms[0]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ToyEncoder:
    """The toy encoder in place of the built-in model, and a home of its own."""
    encoder = ToyEncoder()
    monkeypatch.setitem(REGISTRY, "toy", Preferred("toy", lambda: encoder))
    monkeypatch.setitem(REGISTRY, "second", SingleModel("second", SecondToy))
    monkeypatch.setitem(REGISTRY, "ear", SingleModel("ear", Ear))
    monkeypatch.setenv("MMSEARCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MMSEARCH_INDEX", raising=False)
    return encoder


def paint(path: Path, colour: str, size: tuple[int, int] = (40, 30), **options: Any) -> Path:
    """A photo of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, COLOURS[colour]).save(path, **options)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos, one of them in a subfolder."""
    folder = tmp_path / "photos"
    paint(folder / "red.png", "red")
    paint(folder / "green.png", "green")
    paint(folder / "deep" / "blue.png", "blue")
    return folder


def tone(path: Path, *pitches: str, seconds: float = 5.0) -> Path:
    """A sound of tones, one after the other; "" is silence."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(seconds * 16_000)) / 16_000
    parts = [
        0.5 * np.sin(2 * np.pi * PITCHES[pitch] * time) if pitch else 0 * time for pitch in pitches
    ]
    soundfile.write(path, np.concatenate(parts).astype(np.float32), 16_000)
    return path


def tuned_and_undone(library: Any, target: str) -> None:
    """Check that searches in words use the heads of a tuned model, until that is undone."""
    from mmsearch.encoders.tuned import Head, TunedEncoder
    from mmsearch.training import undo_tuning
    from mmsearch.training.switching import switch_on

    def scores() -> list[float]:
        hits = library.search("a red wall", target=target, lexical=False, hubness=False)
        return [hit.score for hit in hits]

    base, (space, *_) = library.encoder, library.store.spaces.all()
    before, stored = scores(), library.store.vectors.of(space, target)[1]
    draw = np.random.default_rng(0).normal
    sizes = ((base.dim, 2), (2, base.dim), (base.dim,))
    heads: Any = {
        modality: Head(*(draw(size=size).astype(np.float32) for size in sizes))
        for modality in sorted(base.modalities)
    }
    switch_on(library, space, TunedEncoder(base, heads), None)
    query = heads["text"](base.encode_query("text", ["a red wall"]))[0]
    expected = sorted((heads[target](stored) @ query).tolist(), reverse=True)
    assert scores() == pytest.approx(expected, abs=5e-3)
    assert scores() != pytest.approx(before, abs=5e-3)
    assert undo_tuning(library).filled == 0
    assert scores() == before
