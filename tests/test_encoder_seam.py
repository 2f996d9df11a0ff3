"""A new family of models is one class and one line: a toy with token embeddings, all through."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import paint
from typer.testing import CliRunner

from mmsearch.cli.app import app
from mmsearch.encoders import Runtime, TokenEncoder, token_encoder
from mmsearch.encoders.family import Family, ModelRow
from mmsearch.encoders.registry import REGISTRY
from mmsearch.errors import ModelUnavailable

COLOURS = ("red", "green", "blue")
SIZES = ("small", "large")


class Colours(TokenEncoder):
    """Its vectors tell the colour of a square in a photo, its token embeddings the size."""

    fingerprint = "colours-1"
    dim = 3
    modalities = frozenset({"image", "text"})
    image_size = 8
    token_modalities = modalities
    match_weight = 0.5

    def __init__(self, name: str) -> None:
        self.name = name

    def prepare(self, modality: str, thing: Any) -> Any:
        return np.asarray(thing.resize((8, 8)), np.float32) / 255 if modality == "image" else thing

    def encode(self, modality: str, batch: Sequence[Any]) -> Any:
        rows = np.array([self._tower(modality, thing) for thing in batch]).reshape(-1, self.dim)
        rows = rows.astype(np.float32) + 1e-3
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def _tower(self, modality: str, thing: Any) -> list[float]:
        if modality == "text":
            return [float(colour in thing.split()) for colour in COLOURS]
        mean: list[float] = thing[thing.min(axis=2) < 0.5].mean(axis=0).tolist()
        return mean

    def encode_with_tokens(self, modality: str, batch: Sequence[Any]) -> Any:
        return self.encode(modality, batch), [self._tokens(modality, thing) for thing in batch]

    def _tokens(self, modality: str, thing: Any) -> Any:
        if modality == "image":
            found = ["large" if (thing.min(axis=2) < 0.5).mean() > 0.5 else "small"]
        else:
            found = [word for word in thing.split() if word in SIZES]
        return np.array(
            [[127 * (word == size) for size in SIZES] for word in found or [""]], np.int8
        )

    def match(self, modality: str, query: Any, candidates: Sequence[Any]) -> Any:
        return np.array([float((query @ one.T).max() > 0) for one in candidates], np.float32)


class ColourModels(Family):
    """`colours:NAME`, of which a file says that it is there."""

    forms = ("colours:NAME",)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, name: str, how: Runtime) -> Colours:
        if not self.is_here(name):
            raise ModelUnavailable(f"{name} is not here")
        return Colours(name)

    def is_here(self, name: str) -> bool:
        return (self.folder / name.partition(":")[2]).is_file()

    def pull(self, name: str, progress: Any) -> Path:
        path = self.folder / name.partition(":")[2]
        path.touch()
        return path

    def rows(self) -> Any:
        for path in sorted(self.folder.iterdir()):
            yield ModelRow(f"colours:{path.name}", "here", 1, "mit", "tells colours")


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ColourModels:
    (tmp_path / "models").mkdir()
    family = ColourModels(tmp_path / "models")
    monkeypatch.setitem(REGISTRY, "colours", family)
    monkeypatch.setenv("MMSEARCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MMSEARCH_INDEX", raising=False)
    return family


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Squares of all colours and two sizes on white, with their captions."""
    from PIL import Image

    folder = tmp_path / "photos"
    for colour in COLOURS:
        for size, side in zip(SIZES, (16, 60), strict=True):
            path = paint(folder / f"{size}-{colour}.png", "white", (64, 64))
            square = Image.new("RGB", (side, side), colour if colour != "green" else "lime")
            with Image.open(path) as picture:
                picture.paste(square, (0, 0))
                picture.save(path)
            path.with_suffix(".txt").write_text(f"a {size} {colour} square")
    return folder


def run(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_family_is_loaded_listed_and_pulled_by_its_names(family: ColourModels):
    run("models", "pull", "colours:plain")
    run("models", "default", "colours:plain")
    rows = {row["name"]: row for row in json.loads(run("models", "--json"))}
    assert rows["colours:plain"]["state"] == "here"
    assert rows["colours:plain"]["is_default"]
    assert "mini" in rows


def test_a_name_that_no_family_accepts_lists_the_forms_of_all(family: ColourModels):
    done = CliRunner().invoke(app, ["models", "pull", "qqqqqq"])
    assert done.exit_code != 0
    assert "colours:NAME" in done.stderr


def test_a_family_is_indexed_searched_reranked_and_checked(family: ColourModels, photos: Path):
    (family.folder / "plain").touch()
    run("index", photos, "--model", "colours:plain")

    def found(*options: str) -> list[str]:
        hits = run("query", *options, "--in", "image", "--lexical", "off", "-f", "-k", "2")
        return [Path(line).name for line in hits.splitlines()]

    assert set(found("a large blue square")) == {"large-blue.png", "small-blue.png"}
    assert found("a large blue square", "--rerank", "fusion")[0] == "large-blue.png"
    assert found("a small blue square", "--rerank", "fusion")[0] == "small-blue.png"
    findings = json.loads(run("doctor", "--json"))
    assert {finding["state"] for finding in findings} == {"ok"}, findings


def test_an_encoder_without_token_embeddings_is_no_token_encoder():
    class Plain(Colours):
        token_modalities = frozenset()

    assert token_encoder(Colours("x")) is not None
    assert token_encoder(Plain("x")) is None
