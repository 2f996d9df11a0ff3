"""The built-in model: what its vectors promise, and what it says when it cannot keep them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from mmsearch.encoders.mini import FOLDER
from mmsearch.encoders.mini.encoder import MiniEncoder, load_mini
from mmsearch.encoders.previous import with_previous
from mmsearch.errors import ModelDamaged, UnsupportedModality

SAME = 1e-4


@pytest.fixture(scope="module")
def mini() -> MiniEncoder:
    return load_mini()


def noise(seed: int, width: int = 320, height: int = 200) -> Image.Image:
    """A picture of soft random blobs."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def sound(seed: int, *, hertz: float = 440) -> np.ndarray:
    """A window of a tone in noise."""
    dice = np.random.default_rng(seed)
    at = np.arange(5 * 16000) / 16000
    tone = 0.3 * np.sin(2 * np.pi * hertz * (1 + seed) * at)
    return (tone + 0.05 * dice.standard_normal(len(at))).astype(np.float32)


def deaf(tmp_path: Path) -> MiniEncoder:
    """The model without what makes it hear."""
    folder = copied(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]["audio.onnx"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "audio.onnx").unlink()
    return load_mini(folder)


def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "mini"))


def test_rows_have_unit_length(mini: MiniEncoder) -> None:
    photos = mini.encode("image", [noise(seed) for seed in range(3)])
    texts = mini.encode("text", ["a dog", "a city street at night", ""])
    sounds = mini.encode("audio", [sound(0), sound(1), np.zeros(5 * 16000, np.float32)])
    for vectors in (photos, texts, sounds):
        assert vectors.shape == (3, mini.dim)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("modality", ["image", "text", "audio"])
def test_no_things_have_no_rows(mini: MiniEncoder, modality: str) -> None:
    assert mini.encode(modality, []).shape == (0, mini.dim)  # type: ignore[arg-type]


def test_a_text_has_the_same_vector_whatever_the_batch(mini: MiniEncoder) -> None:
    texts = [
        "dog",
        "a man in a red shirt climbs a rock " * 4,
        "",
        *(f"{n} boats" for n in range(60)),
    ]
    together = mini.encode("text", texts)
    alone = np.concatenate([mini.encode("text", [text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=SAME)


def test_a_photo_has_the_same_vector_whatever_the_batch(mini: MiniEncoder) -> None:
    photos = [noise(seed, 100 + 40 * seed, 300) for seed in range(19)]
    together = mini.encode("image", photos)
    alone = np.concatenate([mini.encode("image", [photo]) for photo in photos])
    np.testing.assert_allclose(together, alone, atol=SAME)


def test_prepared_things_have_the_same_vectors(mini: MiniEncoder) -> None:
    photo = noise(1)
    prepared = mini.prepare("image", photo)
    assert prepared.shape == (mini.image_size, mini.image_size, 3)
    assert prepared.dtype == np.uint8
    np.testing.assert_array_equal(mini.encode("image", [prepared]), mini.encode("image", [photo]))
    assert mini.prepare("text", "a dog") == "a dog"


def test_a_sound_has_the_same_vector_whatever_the_batch(mini: MiniEncoder) -> None:
    sounds = [sound(seed) for seed in range(9)]
    together = mini.encode("audio", sounds)
    alone = np.concatenate([mini.encode("audio", [one]) for one in sounds])
    np.testing.assert_allclose(together, alone, atol=SAME)


def test_a_prepared_sound_is_a_picture_with_the_same_vector(mini: MiniEncoder) -> None:
    prepared = mini.prepare("audio", sound(3))
    assert prepared.shape == (mini.image_size, mini.image_size)
    assert prepared.dtype == np.uint8
    np.testing.assert_array_equal(
        mini.encode("audio", [prepared]), mini.encode("audio", [sound(3)])
    )


def test_the_same_sound_has_the_same_vector_to_the_bit(mini: MiniEncoder) -> None:
    first = mini.encode("audio", [sound(0)])
    for encoder in (mini, load_mini()):
        np.testing.assert_array_equal(encoder.encode("audio", [sound(0)]), first)


def test_hearing_changes_no_image_and_no_text_vector(mini: MiniEncoder, tmp_path: Path) -> None:
    without = deaf(tmp_path)
    mini.encode("audio", [sound(0)])
    photos, texts = [noise(seed) for seed in range(3)], ["a dog", "the sound of rain"]
    np.testing.assert_array_equal(mini.encode("image", photos), without.encode("image", photos))
    np.testing.assert_array_equal(mini.encode("text", texts), without.encode("text", texts))


def test_a_model_that_does_not_hear_is_of_the_same_space(tmp_path: Path) -> None:
    without = deaf(tmp_path)
    assert without.modalities == {"image", "text"}
    assert without.sample_rate == 0
    assert without.fingerprint == load_mini().fingerprint
    with pytest.raises(UnsupportedModality, match=r"audio.*image and text"):
        without.encode("audio", [sound(0)])


def test_indexes_of_earlier_releases_stay_valid(mini: MiniEncoder) -> None:
    assert "084f0c58b661080b" in {one.fingerprint for one in with_previous(mini)}
    assert mini.modalities == {"image", "text", "audio"}
    assert mini.sample_rate == 16000


def test_a_grey_photo_is_taken_as_rgb(mini: MiniEncoder) -> None:
    grey = noise(2).convert("L")
    np.testing.assert_array_equal(
        mini.encode("image", [grey]), mini.encode("image", [grey.convert("RGB")])
    )


def test_text_past_the_limit_is_left_out(mini: MiniEncoder) -> None:
    limit = json.loads((FOLDER / "manifest.json").read_text())["max_tokens"]
    at_limit, beyond = "dog " * (limit - 2), "dog " * (limit - 2) + "cat " * 5000
    np.testing.assert_allclose(*mini.encode("text", [at_limit, beyond]), atol=SAME)


@pytest.mark.parametrize("text", ["", " ", "\n\t", "日本語", "🐕", "\x00", "a\u0301" * 300])
def test_any_string_has_a_vector(mini: MiniEncoder, text: str) -> None:
    assert np.isfinite(mini.encode("text", [text])).all()


@pytest.mark.parametrize(
    ("photo", "words"),
    [
        ("chelsea", "a cat"),
        ("coffee", "a cup of coffee"),
        ("rocket", "a rocket"),
    ],
)
def test_a_real_photo_lies_nearest_to_its_description(
    mini: MiniEncoder, photo: str, words: str
) -> None:
    data = pytest.importorskip("skimage.data")
    names = ["a cat", "a cup of coffee", "a rocket", "a red car", "two men playing football"]
    scores = mini.encode("image", [getattr(data, photo)()])[0] @ mini.encode("text", names).T
    assert names[int(scores.argmax())] == words


def test_what_is_not_known_is_refused_with_what_can_be_encoded(mini: MiniEncoder) -> None:
    with pytest.raises(UnsupportedModality, match=r"smell.*audio and image and text"):
        mini.encode("smell", [])  # type: ignore[arg-type]
    with pytest.raises(UnsupportedModality):
        mini.prepare("smell", b"")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("file", "modality", "thing"),
    [
        ("image.onnx", "image", noise(0)),
        ("text.onnx", "text", "a"),
        ("tokenizer.json", "text", "a"),
        ("audio.onnx", "audio", sound(0)),
        ("image.onnx", "audio", sound(0)),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, file: str, modality: str, thing: object) -> None:
    folder = copied(tmp_path)
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(ModelDamaged, match=rf"{file}.*SHA-256.*[Rr]einstall"):
        load_mini(folder).encode(modality, [thing])  # type: ignore[arg-type]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    (folder / "text.onnx").unlink()
    encoder = load_mini(folder)
    assert encoder.encode("image", [noise(0)]).shape == (1, encoder.dim)
    with pytest.raises(ModelDamaged, match=r"text\.onnx"):
        encoder.encode("text", ["a dog"])


@pytest.mark.parametrize("content", [None, "", "[]", '{"dim": 512}', '{"sha256": 3}'])
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ModelDamaged, match=r"manifest\.json"):
        load_mini(tmp_path)


def test_the_fingerprint_follows_the_weights(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    assert load_mini(folder).fingerprint == load_mini().fingerprint
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"]["text.onnx"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert load_mini(folder).fingerprint != load_mini().fingerprint


def test_threads_share_one_encoder() -> None:
    encoder, found = load_mini(), dict[int, np.ndarray]()

    def work(seed: int) -> None:
        found[seed] = np.concatenate(
            [encoder.encode("text", [f"{seed} dogs"]), encoder.encode("audio", [sound(seed)])]
        )

    threads = [Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, vectors in found.items():
        np.testing.assert_allclose(
            vectors[0], encoder.encode("text", [f"{seed} dogs"])[0], atol=SAME
        )
        np.testing.assert_allclose(vectors[1], encoder.encode("audio", [sound(seed)])[0], atol=SAME)
    assert len(found) == 4


def test_the_shipped_files_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 65_000_000


def test_a_text_query_needs_neither_torch_nor_pillow() -> None:
    code = (
        "import sys; from mmsearch.encoders.mini.encoder import load_mini;"
        "assert 'numpy' not in sys.modules;"
        "load_mini().encode('text', ['a dog']);"
        "heavy = {'torch', 'PIL', 'transformers', 'open_clip'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or None)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_written_to_the_users_home_nor_reported(tmp_path: Path) -> None:
    """ONNX Runtime's own telemetry would leave a device id there."""
    code = "import mmsearch; mmsearch.load_encoder('mini').encode('text', ['a dog'])"
    kept = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=kept)
    assert list(tmp_path.rglob("*")) == []
