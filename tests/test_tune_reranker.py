"""A reranker tuned on a user's own pairs, for a `clip:` model."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mmsearch
from mmsearch.encoders.clip.token_towers import FILES, tuned_folder
from mmsearch.encoders.model_files import MANIFEST
from mmsearch.encoders.onnx import session
from mmsearch.encoders.registry import load_encoder
from mmsearch.errors import (
    InvalidOption,
    MissingExtra,
    ModelDamaged,
    UnsupportedModality,
)
from mmsearch.training import NEEDED, tune_reranker, undo_reranker

HERE = all(importlib.util.find_spec(package) for package in NEEDED)
needs_torch = pytest.mark.skipif(not HERE, reason="torch and open_clip are not installed")

COLOURS = {
    "red": (220, 20, 20),
    "green": (20, 190, 30),
    "blue": (20, 30, 220),
    "white": (250, 250, 250),
    "black": (5, 5, 5),
    "yellow": (240, 230, 20),
    "pink": (250, 120, 190),
    "brown": (110, 60, 20),
    "grey": (128, 128, 128),
    "orange": (250, 140, 10),
}
TEXT = {"width": 64, "heads": 2, "layers": 1, "context_length": 16}
VIT = {"image_size": 40, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8}
MODELS: dict[str, Any] = {
    "vit": {"embed_dim": 32, "vision_cfg": VIT, "text_cfg": TEXT},
    "resnet": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16},
        "text_cfg": TEXT,
    },
    "custom text": {
        "embed_dim": 32,
        "custom_text": True,
        "vision_cfg": VIT | {"no_ln_pre": True, "pool_type": "avg"},
        "text_cfg": TEXT | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    },
    "coca": {
        "embed_dim": 32,
        "custom_text": True,
        "vision_cfg": VIT
        | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"width": 64, "heads": 2, "layers": 1, "context_length": 16},
    },
}
BYTES = 4096


def checkpoint(folder: Path, kind: str = "vit", seed: int = 0) -> str:
    """The name of a small untrained model, saved as open_clip saves one."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    config = {"model_cfg": MODELS[kind], "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(seed)
    state = open_clip.create_model(f"local-dir:{folder}").state_dict()
    save_file(state, folder / "open_clip_model.safetensors")
    return f"clip:@{folder}"


def flags(folder: Path, count: int = 250, *, told: bool = True) -> tuple[Path, Path]:
    """Photos of three colours side by side, and captions that name them, or those of another."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    every = list(itertools.combinations(COLOURS, 3))
    lines = []
    for number in range(count):
        names = every[number % len(every)]
        stripes = np.zeros((40, 40, 3), np.float64)
        for at, name in enumerate(rng.permutation(names)):
            stripes[:, 13 * at : 13 * at + 14] = COLOURS[name]
        noisy = np.clip(stripes + rng.normal(0, 12, stripes.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:03}.png")
        said = names if told else every[int(rng.integers(len(every)))]
        lines.append(f"{number:03}.png\t{' and '.join(said)}")
    captions = folder / "captions.tsv"
    captions.write_text("\n".join(lines))
    return folder, captions


@dataclass(frozen=True)
class World:
    """A model that was tuned, and what it was tuned on."""

    name: str
    photos: Path
    captions: Path
    cache: Path
    learnt: Any
    figures: Any


def tune(name: str, photos: Path, captions: Path) -> Any:
    """Tune a model on what an index of it holds, which is made beside the photos."""
    index = photos.parent / "of captions"
    with mmsearch.index(photos, into=index, model=name, captions=captions) as library:
        return tune_reranker(library)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> World:
    for package in NEEDED:
        pytest.importorskip(package)
    import torch

    from mmsearch.training import reranker_tuning as tuning

    folder = tmp_path_factory.mktemp("tuned")
    name = checkpoint(folder / "model")
    photos, captions = flags(folder / "photos")
    learnt: list[Any] = []
    write = tuning.write_graphs

    def written(made: Path, *parts: Any) -> None:
        write(made, *parts)
        learnt.extend(parts)

    with pytest.MonkeyPatch.context() as patch, one_thread(torch):
        patch.setenv("MMSEARCH_CACHE", str(folder / "cache"))
        patch.setattr(tuning, "EPOCHS", (25, 25))
        patch.setattr(tuning, "write_graphs", written)
        figures = tune(name, photos, captions)
    return World(name, photos, captions, folder / "cache", learnt, figures)


@contextmanager
def one_thread(torch: Any) -> Iterator[None]:
    """So little is computed that threads would mostly wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def world(tuned: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The tuned model, with a cache of its own that may be damaged."""
    cache = Path(shutil.copytree(tuned.cache, tmp_path / "cache"))
    monkeypatch.setenv("MMSEARCH_CACHE", str(cache))
    monkeypatch.setenv("MMSEARCH_HOME", str(tmp_path / "home"))
    return replace(tuned, cache=cache)


def stripes(world: World, count: int = 12) -> list[Image.Image]:
    return [Image.open(world.photos / f"{number:03}.png") for number in range(count)]


TEXTS = ["red and green and blue", "grey", "", "pink and brown", "white, black and orange " * 20]


def test_what_is_learnt_finds_more_on_pairs_that_were_held_out(tuned: World) -> None:
    assert tuned.figures.photos == 50
    assert tuned.figures.gain["mean"].low > 20
    assert all(gain.low > 0 for gain in tuned.figures.gain.values())


def test_a_tuned_model_finds_the_photo_that_shows_what_is_said(world: World) -> None:
    encoder = load_encoder(world.name)
    lines = world.captions.read_text().splitlines()[:40]
    _, regions = encoder.encode_with_tokens("image", stripes(world, 40))
    _, words = encoder.encode_with_tokens("text", [line.split("\t")[1] for line in lines])
    best = [int(encoder.match("text", one, regions).argmax()) for one in words]
    assert np.mean(np.equal(best, range(40))) > 0.5


def test_the_graphs_say_what_torch_says(world: World) -> None:
    import torch

    encoder = load_encoder(world.name)
    model, photo_tower, word_tower, matcher = world.learnt
    pixels = np.stack([encoder.prepare("image", photo) for photo in stripes(world)])
    ids = model.tokens(TEXTS)
    with torch.no_grad():
        photos, texts = photo_tower(torch.from_numpy(pixels)), word_tower(torch.from_numpy(ids))
    folder = tuned_folder(encoder.fingerprint)
    by_graph = session(folder / "regions.onnx", optimise=True).run(None, {"pixels": pixels})[0]
    np.testing.assert_allclose(by_graph, photos, atol=1e-3)
    by_graph = session(folder / "words.onnx", optimise=False).run(None, {"ids": ids})[0]
    np.testing.assert_allclose(by_graph, texts, atol=1e-3)
    words = encoder.encode_with_tokens("text", TEXTS)[1][0]
    regions = np.stack(encoder.encode_with_tokens("image", list(pixels))[1])
    with torch.no_grad():
        by_text, _ = matcher(*(torch.from_numpy(one) / 127 for one in (words[None], regions)))
        _, by_photo = matcher(*(torch.from_numpy(one) / 127 for one in (words[None], regions[:1])))
    np.testing.assert_allclose(encoder.match("text", words, list(regions)), by_text, atol=1e-3)
    np.testing.assert_allclose(encoder.match("image", regions[0], [words]), by_photo, atol=1e-3)


def test_looking_closer_leaves_vectors_as_they_are(world: World) -> None:
    encoder = load_encoder(world.name)
    for modality, things in (("image", stripes(world)), ("text", TEXTS)):
        vectors, rows = encoder.encode_with_tokens(modality, things)
        np.testing.assert_array_equal(vectors, encoder.encode(modality, things))
        assert len(rows) == len(things)
        for own in rows:
            assert own.dtype == np.int8
            assert 0 < own.nbytes <= BYTES


def test_rows_are_the_same_whatever_the_batch(world: World) -> None:
    encoder = load_encoder(world.name)
    for modality, things in (("image", stripes(world)), ("text", TEXTS)):
        together = encoder.encode_with_tokens(modality, things)[1]
        for thing, rows in zip(things, together, strict=True):
            alone = encoder.encode_with_tokens(modality, [thing])[1][0]
            np.testing.assert_allclose(alone.astype(int), rows.astype(int), atol=1)


def test_no_things_have_no_rows(world: World) -> None:
    encoder = load_encoder(world.name)
    for modality in ("image", "text"):
        vectors, rows = encoder.encode_with_tokens(modality, [])
        assert vectors.shape == (0, encoder.dim)
        assert rows == []


def test_threads_share_what_was_tuned(world: World) -> None:
    encoder = load_encoder(world.name)
    photos = stripes(world, 6)
    for photo in photos:
        photo.load()  # Pillow reads a file for one thread alone

    def work(at: int) -> np.ndarray:
        regions = encoder.encode_with_tokens("image", photos)[1]
        return encoder.match("text", encoder.encode_with_tokens("text", [TEXTS[at]])[1][0], regions)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
    np.testing.assert_allclose(found, [work(at) for at in range(4)], atol=1e-5)


def test_a_query_on_a_tuned_model_imports_no_torch(world: World) -> None:
    code = (
        "import sys; from mmsearch.encoders.registry import load_encoder\n"
        f"encoder = load_encoder({world.name!r})\n"
        "words = encoder.encode_with_tokens('text', ['a red flag'])[1][0]\n"
        "assert len(encoder.match('text', words, [words])) == 1\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "open_clip", "transformers"} & set(done.stdout.split())


def some_photos(world: World, folder: Path, count: int = 20) -> Path:
    folder.mkdir()
    for number in range(count):
        shutil.copy(world.photos / f"{number:03}.png", folder)
    return folder


def found_first(world: World, library: Any, **settings: Any) -> int:
    """Of the first twenty photos, how many their own captions find before all others."""
    lines = [line.split("\t") for line in world.captions.read_text().splitlines()[:20]]
    settings |= {"lexical": False, "target": "image", "k": 1}
    hits = library.search_many([caption for _, caption in lines], **settings)
    return sum(Path(hit.path).name == name for (hit,), (name, _) in zip(hits, lines, strict=True))


def test_a_search_is_reranked_by_a_tuned_model(world: World, tmp_path: Path) -> None:
    photos = some_photos(world, tmp_path / "photos")
    with mmsearch.index(photos, into=tmp_path / "index", model=world.name) as library:
        assert found_first(world, library, rerank="fusion") > 10
        assert found_first(world, library) < 5


# ---------------------------------------------------------------------- not tuned


def test_a_model_that_was_not_tuned_is_not_offered(world: World, tmp_path: Path) -> None:
    shutil.rmtree(tuned_folder(load_encoder(world.name).fingerprint))
    encoder = load_encoder(world.name)
    assert encoder.token_modalities == frozenset()
    with pytest.raises(UnsupportedModality, match=r"not tuned.*tune --reranker"):
        encoder.encode_with_tokens("text", ["a dog"])
    with pytest.raises(UnsupportedModality, match="not tuned"):
        encoder.match("text", np.zeros((1, 128), np.int8), [])
    photos = some_photos(world, tmp_path / "photos", 3)
    library = mmsearch.index(photos, into=tmp_path / "index", model=world.name)
    with pytest.raises(InvalidOption, match="tuned"):
        library.search("red", rerank="fusion")


def test_what_was_tuned_for_other_weights_is_passed_over(world: World, tmp_path: Path) -> None:
    other = load_encoder(checkpoint(tmp_path / "other", seed=1))
    tuned = load_encoder(world.name)
    assert tuned.token_modalities == {"image", "text"}
    shutil.copytree(tuned_folder(tuned.fingerprint), tuned_folder(other.fingerprint))
    assert load_encoder(other.name).token_modalities == frozenset()


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_damaged_file_is_named(world: World, name: str) -> None:
    path = tuned_folder(load_encoder(world.name).fingerprint) / name
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ModelDamaged, match=rf"{name}.*[Tt]une it again, or delete"):
        use(world)


def test_a_missing_file_is_named(world: World) -> None:
    (tuned_folder(load_encoder(world.name).fingerprint) / "words.bin").unlink()
    with pytest.raises(ModelDamaged, match=r"words\.bin cannot be read"):
        use(world)


def use(world: World) -> None:
    encoder = load_encoder(world.name)
    regions = encoder.encode_with_tokens("image", stripes(world, 2))[1]
    encoder.match("text", encoder.encode_with_tokens("text", ["red"])[1][0], regions)


def test_another_tuning_of_the_same_model_has_another_version(world: World) -> None:
    encoder = load_encoder(world.name)
    path = tuned_folder(encoder.fingerprint) / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["sha256"]["words.bin"] = "0"
    path.write_text(json.dumps(manifest))
    assert len({load_encoder(world.name).tokens_version, encoder.tokens_version, ""}) == 3


# ---------------------------------------------------------------------- refusals


def test_captions_that_say_nothing_of_the_photos_are_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from mmsearch.training import reranker_tuning as tuning

    photos, captions = flags(tmp_path / "photos", told=False)
    monkeypatch.setattr(tuning, "EPOCHS", (4, 4))
    folder = tuned_folder(load_encoder(world.name).fingerprint)
    before = (folder / MANIFEST).read_bytes()
    with one_thread(torch):
        figures = tune(world.name, photos, captions)
    assert not figures.helps
    assert "R@1 on 50 held-out" in figures.table()
    assert (folder / MANIFEST).read_bytes() == before


@needs_torch
def test_a_few_photos_are_refused(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MMSEARCH_CACHE", str(tmp_path / "cache"))
    photos, captions = flags(tmp_path / "photos", 30)
    with pytest.raises(InvalidOption, match=r"30 photos .* at least 200"):
        tune(checkpoint(tmp_path / "model"), photos, captions)


def test_only_clip_models_are_tuned_so(toy: Any, photos: Path, tmp_path: Path) -> None:
    with mmsearch.index(photos, into=tmp_path / "idx", model="toy") as library:
        with pytest.raises(InvalidOption, match="not that of 'toy'"):
            tune_reranker(library)
        with pytest.raises(InvalidOption, match="not that of 'toy'"):
            undo_reranker(library)


def test_missing_packages_are_named(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = some_photos(world, tmp_path / "photos", 3)
    with mmsearch.index(photos, into=tmp_path / "idx", model=world.name) as library:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(MissingExtra, match=r"mmsearch\[clip\]"):
            tune_reranker(library)


def test_what_was_tuned_is_taken_back(world: World, tmp_path: Path) -> None:
    photos = some_photos(world, tmp_path / "photos", 3)
    with mmsearch.index(photos, into=tmp_path / "idx", model=world.name) as library:
        assert not undo_reranker(library).exists()
        with pytest.raises(InvalidOption, match="was not tuned"):
            undo_reranker(library)
    assert load_encoder(world.name).token_modalities == frozenset()


@needs_torch
@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "vit"])
def test_other_towers_show_their_places_and_tokens(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from mmsearch.encoders.clip.names import parse
    from mmsearch.encoders.clip.torch_model import TorchModel
    from mmsearch.training.clip_features import GridTower, StateTower

    model = TorchModel(parse(checkpoint(tmp_path / "model", kind)))
    blank = torch.zeros(3, model.pixels.height, model.pixels.width, 3, dtype=torch.uint8)
    ids = torch.from_numpy(model.tokens(["a dog", "two"]))
    with torch.no_grad():
        assert GridTower(model)(blank).shape[2:] == (5, 5)
        assert StateTower(model)(ids).shape[:2] == ids.shape


@needs_torch
def test_a_tower_without_a_grid_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    from mmsearch.encoders.clip.names import parse
    from mmsearch.encoders.clip.torch_model import TorchModel
    from mmsearch.training.clip_features import GridTower

    model = TorchModel(parse(checkpoint(tmp_path / "model")))
    monkeypatch.delattr(type(model.model.visual), "forward_intermediates")
    with pytest.raises(InvalidOption, match="no features of the places"):
        GridTower(model)


# ---------------------------------------------------------------------- figures


@needs_torch
def test_a_weight_is_judged_by_photos_it_was_not_chosen_on() -> None:
    from mmsearch.training.reranker_figures import Candidates, choose_weight

    def asked(helped: int) -> Candidates:
        """Of 40 queries the right one is second; reranking puts it first for some."""
        count = 40
        right = np.array([False, True])
        match = [np.array([0, 1.0 if at < helped else -1.0], np.float32) for at in range(count)]
        first = [np.array([0.6, 0.55], np.float32)] * count
        return Candidates(first, match, [right] * count, np.arange(count))

    half = choose_weight({"text→image": asked(20), "image→text": asked(40)}, 40)
    assert half.weight == 0.1
    assert half.before == {"text→image": 0.0, "image→text": 0.0, "mean": 0.0}
    assert half.gain["text→image"].mean == 50
    assert half.gain["mean"].mean == 75
    assert half.helps
    assert not choose_weight({"text→image": asked(0), "image→text": asked(0)}, 40).helps


@needs_torch
def test_more_in_one_direction_and_less_in_the_other_is_no_help() -> None:
    from mmsearch.metrics import Interval
    from mmsearch.training.reranker_figures import TuneFigures

    gain = {"a": Interval(9, 8, 10), "b": Interval(-1, -2, 0), "mean": Interval(4, 3, 5)}
    assert not TuneFigures(9, 9, 0.1, dict.fromkeys(gain, 1.0), gain).helps


@needs_torch
def test_photos_with_more_captions_take_turns_at_them() -> None:
    import torch

    from mmsearch.training.features import Captions, TextStates

    nothing = TextStates(torch.zeros(6), torch.zeros(6, 1), torch.arange(7))
    captions = Captions(nothing, torch.tensor([0, 1, 4, 6]))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([captions.draw(torch.tensor([2, 0, 1]), generator) for _ in range(50)])
    assert [set(column.tolist()) for column in drawn.T] == [{4, 5}, {0}, {1, 2, 3}]


@needs_torch
def test_no_photo_is_learnt_from_and_held_out() -> None:
    from mmsearch.training.clip_features import CaptionedPhoto
    from mmsearch.training.reranker_tuning import split_pairs

    pairs = [CaptionedPhoto(Path(f"{number}.png"), ("a",)) for number in range(250)]
    train, held_out = split_pairs(pairs, 3)
    assert len(held_out) == 50
    assert sorted(train + held_out, key=lambda pair: pair.path) == sorted(
        pairs, key=lambda pair: pair.path
    )
    assert split_pairs(pairs, 3) == (train, held_out) != split_pairs(pairs, 4)


def test_what_was_indexed_before_is_given_its_regions_once_a_model_was_tuned(
    world: World, tmp_path: Path
) -> None:
    photos, index = some_photos(world, tmp_path / "photos"), tmp_path / "index"
    folder = tuned_folder(load_encoder(world.name).fingerprint)
    folder.rename(tmp_path / "later")
    mmsearch.index(photos, into=index, model=world.name).close()
    (tmp_path / "later").rename(folder)
    with mmsearch.open(index) as library, pytest.raises(InvalidOption):
        found_first(world, library, rerank="fusion")
    with mmsearch.index(photos, into=index) as library:
        assert library.report.filled == 20
        assert found_first(world, library, rerank="fusion") > 10
    assert mmsearch.index(photos, into=index).report.filled == 0


def test_regions_of_another_tuning_are_made_anew(world: World, tmp_path: Path) -> None:
    photos, index = some_photos(world, tmp_path / "photos"), tmp_path / "index"
    mmsearch.index(photos, into=index, model=world.name).close()
    path = tuned_folder(load_encoder(world.name).fingerprint) / "regions.bin"
    content = path.read_bytes() + b"0"  # which no weight uses
    path.write_bytes(content)
    manifest = json.loads((path.parent / MANIFEST).read_text())
    manifest["sha256"]["regions.bin"] = hashlib.sha256(content).hexdigest()
    (path.parent / MANIFEST).write_text(json.dumps(manifest))
    with mmsearch.open(index) as library, pytest.raises(InvalidOption):
        found_first(world, library, rerank="fusion")
    with mmsearch.index(photos, into=index) as library:
        assert library.report.filled == 20
        assert found_first(world, library, rerank="fusion") > 10
