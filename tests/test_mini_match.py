"""The built-in model's closer look: rows of regions and words, and what they promise."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmsearch.encoders.mini import FOLDER
from mmsearch.encoders.mini.encoder import TOKEN_GRAPHS, MiniEncoder, load_mini
from mmsearch.errors import ModelDamaged, UnsupportedModality

BYTES = 4096
TEXTS = ["a dog runs", "dog", "", "two people on a beach " * 30, "🐕", *map(str, range(40))]


@pytest.fixture(scope="module")
def mini() -> MiniEncoder:
    return load_mini()


def noise(seed: int) -> Image.Image:
    """A picture of soft random blobs."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((300 + seed, 200), Image.Resampling.BICUBIC)


PHOTOS = [noise(seed) for seed in range(6)]


def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "mini"))


def without_details(tmp_path: Path) -> MiniEncoder:
    folder = copied(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in TOKEN_GRAPHS:
        del manifest["sha256"][name]
        (folder / name).unlink()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return load_mini(folder)


def test_both_sides_of_a_match_can_be_told(mini: MiniEncoder) -> None:
    assert mini.token_modalities == {"image", "text"}
    assert mini.match_weight > 0


@pytest.mark.parametrize(("modality", "things"), [("image", PHOTOS), ("text", TEXTS)])
def test_looking_closer_leaves_vectors_as_they_are_to_the_bit(
    mini: MiniEncoder, modality: str, things: list[object]
) -> None:
    vectors, _ = mini.encode_with_tokens(modality, things)  # type: ignore[arg-type]
    np.testing.assert_array_equal(vectors, mini.encode(modality, things))  # type: ignore[arg-type]


@pytest.mark.parametrize(("modality", "things"), [("image", PHOTOS), ("text", TEXTS)])
def test_each_thing_has_a_few_rows_of_bytes(
    mini: MiniEncoder, modality: str, things: list[object]
) -> None:
    _, details = mini.encode_with_tokens(modality, things)  # type: ignore[arg-type]
    assert len(details) == len(things)
    for rows in details:
        assert rows.dtype == np.int8
        assert len(rows) > 0
        assert rows.nbytes <= BYTES
        if rows.any():  # a text without a word has one row of zeros
            np.testing.assert_allclose(np.linalg.norm(rows.astype(float), axis=1), 127, atol=6)


@pytest.mark.parametrize(("modality", "things"), [("image", PHOTOS), ("text", TEXTS)])
def test_rows_are_the_same_whatever_the_batch(
    mini: MiniEncoder, modality: str, things: list[object]
) -> None:
    _, together = mini.encode_with_tokens(modality, things)  # type: ignore[arg-type]
    for thing, rows in zip(things, together, strict=True):
        alone = mini.encode_with_tokens(modality, [thing])[1][0]  # type: ignore[arg-type]
        assert alone.shape == rows.shape
        np.testing.assert_allclose(alone.astype(int), rows.astype(int), atol=1)


def test_a_longer_text_has_more_rows_up_to_a_bound(mini: MiniEncoder) -> None:
    _, (none, one, two, many) = mini.encode_with_tokens(
        "text", ["", "dog", "dog run", "dog " * 100]
    )
    assert not none.any()
    assert len(none) == len(one) < len(two) < len(many)
    assert many.nbytes == BYTES


def test_no_things_have_no_rows(mini: MiniEncoder) -> None:
    vectors, details = mini.encode_with_tokens("image", [])
    assert vectors.shape == (0, mini.dim)
    assert details == []


def test_a_photo_is_scored_the_same_among_others(mini: MiniEncoder) -> None:
    regions, words = (
        mini.encode_with_tokens("image", PHOTOS)[1],
        mini.encode_with_tokens("text", TEXTS)[1],
    )
    together = mini.match("text", words[0], regions)
    alone = [mini.match("text", words[0], [one])[0] for one in regions]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_candidate_fits_the_same_whatever_the_others(mini: MiniEncoder) -> None:
    regions, words = (
        mini.encode_with_tokens("image", PHOTOS)[1],
        mini.encode_with_tokens("text", TEXTS)[1],
    )
    together = mini.match("image", regions[0], words)
    alone = [mini.match("image", regions[0], [one])[0] for one in words]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_no_candidates_have_no_match(mini: MiniEncoder) -> None:
    words = mini.encode_with_tokens("text", ["a dog"])[1][0]
    assert mini.match("text", words, []).shape == (0,)


@pytest.mark.parametrize(
    ("photo", "words"),
    [("chelsea", "a cat"), ("coffee", "a cup of coffee"), ("rocket", "a rocket is launched")],
)
def test_a_real_photo_matches_its_description_best(
    mini: MiniEncoder, photo: str, words: str
) -> None:
    data = pytest.importorskip("skimage.data")
    names = ["a cat", "a cup of coffee", "a rocket is launched", "two men playing football"]
    regions = mini.encode_with_tokens("image", [getattr(data, photo)()])[1][0]
    scores = mini.match("image", regions, mini.encode_with_tokens("text", names)[1])
    assert names[int(scores.argmax())] == words


def test_sounds_are_not_looked_at_closer(mini: MiniEncoder) -> None:
    with pytest.raises(UnsupportedModality, match="audio"):
        mini.encode_with_tokens("audio", [])
    with pytest.raises(UnsupportedModality, match="audio"):
        mini.match("audio", np.zeros((3, 128), np.int8), [])


def test_a_model_without_a_closer_look_is_of_the_same_space(tmp_path: Path) -> None:
    without = without_details(tmp_path)
    assert without.token_modalities == frozenset()
    assert without.fingerprint == load_mini().fingerprint
    with pytest.raises(UnsupportedModality):
        without.encode_with_tokens("text", ["a dog"])


@pytest.mark.parametrize(
    ("file", "modality", "thing"),
    [
        ("regions.onnx", "image", PHOTOS[0]),
        ("words.onnx", "text", "a"),
        ("text.bin", "text", "a"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, file: str, modality: str, thing: object) -> None:
    folder = copied(tmp_path)
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(ModelDamaged, match=rf"{file}.*SHA-256.*[Rr]einstall"):
        load_mini(folder).encode_with_tokens(modality, [thing])  # type: ignore[arg-type]


def test_a_missing_scorer_is_named(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    (folder / "rerank.onnx").unlink()
    encoder = load_mini(folder)
    words = encoder.encode_with_tokens("text", ["a dog"])[1][0]
    with pytest.raises(ModelDamaged, match=r"rerank\.onnx"):
        encoder.match("text", words, [np.ones((27, 128), np.int8)])


def test_threads_share_one_closer_look() -> None:
    encoder = load_mini()

    def work(seed: int) -> np.ndarray:
        regions = encoder.encode_with_tokens("image", [PHOTOS[seed]])[1]
        return encoder.match("text", encoder.encode_with_tokens("text", ["a dog"])[1][0], regions)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(6)))
    np.testing.assert_allclose(found, [work(seed) for seed in range(6)], atol=1e-4)
