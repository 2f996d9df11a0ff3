"""`clip:` models: open_clip's own vectors, on torch and on ONNX Runtime."""

from __future__ import annotations

import errno
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import paint, tuned_and_undone
from PIL import Image

import mmsearch
from mmsearch.encoders import Runtime
from mmsearch.encoders.clip import make_towers, runtimes
from mmsearch.encoders.clip import onnx_export as export
from mmsearch.encoders.clip.make_towers import ODD, SENTENCES
from mmsearch.encoders.clip.towers import TowerCache
from mmsearch.encoders.clip.weights import cached_towers, is_here
from mmsearch.encoders.registry import load_encoder
from mmsearch.errors import InvalidOption, MissingExtra, ModelUnavailable, UnsupportedModality

pytest.importorskip("open_clip")
pytest.importorskip("skimage")

TEXTS = [*SENTENCES[:6], *ODD]
TEXT = {"width": 64, "heads": 2, "layers": 2}
VIT = {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
MODELS = {
    "vit": {"embed_dim": 32, "vision_cfg": VIT, "text_cfg": TEXT},
    "vit-256": {
        "embed_dim": 32,
        "vision_cfg": VIT | {"image_size": 256, "patch_size": 32},
        "text_cfg": TEXT | {"context_length": 20},
        "quick_gelu": True,
    },
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
    "one layer": {
        "embed_dim": 32,
        "vision_cfg": VIT
        | {"layers": 1, "image_size": 72, "ls_init_value": 0.1, "patch_dropout": 0.5},
        "text_cfg": TEXT,
    },
    "custom blocks": {
        "embed_dim": 32,
        "vision_cfg": VIT
        | {"qk_norm": True, "scale_heads": True, "scale_attn": True, "scale_fc": True},
        "text_cfg": TEXT,
    },
    "coca": {
        "embed_dim": 32,
        "custom_text": True,
        "vision_cfg": VIT
        | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": TEXT | {"context_length": 16, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"width": 64, "heads": 2, "layers": 1, "context_length": 16},
    },
}
SQUASHED = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bilinear",
    "resize_mode": "squash",
}


def checkpoint(folder: Path, kind: str = "vit", preprocessing: dict | None = None) -> str:
    """The name of a small untrained model, saved as open_clip saves one."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": MODELS[kind], "preprocess_cfg": preprocessing or {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    state = open_clip.create_model(f"local-dir:{folder}").state_dict()
    # apart, as trained biases are: zero ones would hide a mistake
    state = {key: value + 0.01 * torch.randn(value.shape) for key, value in state.items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return f"clip:@{folder}"


def photos(count: int = 8) -> list[Image.Image]:
    """Crops of real photos, of all shapes."""
    folder = Path(importlib.util.find_spec("skimage").origin).parent / "data"
    chance = np.random.default_rng(0)
    found = []
    for number in range(count):
        name = ("astronaut", "chelsea", "coffee", "motorcycle_left", "ihc")[number % 5]
        photo = Image.open(folder / f"{name}.png").convert("RGB")
        wide, high = (int(side * chance.uniform(0.3, 0.9)) for side in photo.size)
        left, top = (int(chance.integers(0, 50)) for _ in range(2))
        found.append(photo.crop((left, top, left + wide, top + high)))
    return found


def by_open_clip(address: str, pretrained: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """What open_clip itself makes of the photos and the texts."""
    import open_clip
    import torch

    model, _, preprocess = open_clip.create_model_and_transforms(address, pretrained)
    tokenizer = open_clip.get_tokenizer(address)
    with torch.no_grad():
        seen = model.eval().encode_image(torch.stack([preprocess(one) for one in photos()]))
        read = model.encode_text(tokenizer(TEXTS))
    return tuple(torch.nn.functional.normalize(one, dim=-1).numpy() for one in (seen, read))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MMSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def small(tmp_path) -> str:
    return checkpoint(tmp_path / "model")


def graphs(encoder) -> set[str]:
    return {
        path.parent.name for path in TowerCache(encoder.fingerprint).folder.glob("*/graph.onnx")
    }


# ---------------------------------------------------------------------- parity


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
@pytest.mark.parametrize("kind", MODELS)
def test_vectors_are_those_of_open_clip(kind, runtime, tmp_path):
    name = checkpoint(tmp_path / "model", kind)
    wanted = by_open_clip(f"local-dir:{tmp_path / 'model'}")
    encoder = load_encoder(name, Runtime(runtime=runtime, device="cpu", precision="fp32"))
    for modality, batch, vectors in zip(("image", "text"), (photos(), TEXTS), wanted, strict=True):
        np.testing.assert_allclose(encoder.encode(modality, batch), vectors, atol=1e-5)
    assert encoder.dim == 32
    assert encoder.image_size == MODELS[kind]["vision_cfg"]["image_size"]
    assert graphs(encoder) == ({"image-fp32", "text-fp32"} if runtime == "onnx" else set())


def test_a_model_of_full_size_has_open_clips_vectors(tmp_path):
    import open_clip
    import torch

    torch.manual_seed(0)
    file = tmp_path / "weights.pt"
    torch.save({"state_dict": open_clip.create_model("ViT-B-32").state_dict()}, file)
    wanted = by_open_clip("ViT-B-32", str(file))
    encoder = load_encoder(f"clip:ViT-B-32@{file}", Runtime(runtime="onnx", precision="fp32"))
    np.testing.assert_allclose(encoder.encode("image", photos()), wanted[0], atol=1e-5)
    np.testing.assert_allclose(encoder.encode("text", TEXTS), wanted[1], atol=1e-5)
    assert (encoder.name, encoder.dim) == (f"clip:ViT-B-32@{file}", 512)


def test_a_model_that_squashes_photos_gets_them_squashed(tmp_path):
    name = checkpoint(tmp_path / "model", "custom text", SQUASHED)
    wanted, _ = by_open_clip(f"local-dir:{tmp_path / 'model'}")
    encoder = load_encoder(name, Runtime(runtime="onnx", precision="fp32"))
    np.testing.assert_allclose(encoder.encode("image", photos()), wanted, atol=1e-5)


def test_int8_vectors_are_near_those_of_fp32(small):
    fp32 = load_encoder(small, Runtime(precision="fp32"))
    int8 = load_encoder(small, Runtime(precision="int8"))
    for modality, batch in (("image", photos(16)), ("text", TEXTS)):
        one, other = fp32.encode(modality, batch), int8.encode(modality, batch)
        assert not np.array_equal(one, other)
        assert make_towers.compare(one, other, "fp32", 16).cosine > 0.98


@pytest.mark.parametrize("kind", ["vit", "vit-256", "resnet", "custom text"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_vector_does_not_depend_on_the_batch(kind, precision, tmp_path):
    encoder = load_encoder(checkpoint(tmp_path / "model", kind), Runtime(precision=precision))
    bright = [Image.new("RGB", (80, 80), colour) for colour in ("white", "black", "red")]
    for modality, batch in (("image", photos(21) + bright), ("text", TEXTS)):
        together = encoder.encode(modality, batch)
        alone = np.concatenate([encoder.encode(modality, [one]) for one in batch])
        np.testing.assert_allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_process_that_encodes_once_gets_the_same_vectors(small, modality, precision):
    things = TEXTS[:3] if modality == "text" else photos(1)
    wanted = load_encoder(small, Runtime(precision=precision)).encode(modality, things)
    once = load_encoder(small, Runtime(precision=precision, once=True)).encode(modality, things)
    if precision == "int8":
        assert np.array_equal(once, wanted)
    assert np.abs(once - wanted).max() < 1e-6


def test_channels_of_a_wide_range_cost_int8_no_precision(tmp_path):
    """As trained transformers have them: a few columns that are many times as wide as the rest."""
    from safetensors.torch import load_file, save_file

    name = checkpoint(tmp_path / "model")
    file = tmp_path / "model" / "open_clip_model.safetensors"
    state = load_file(file)
    for block in ("visual.transformer.resblocks.0", "visual.transformer.resblocks.1"):
        for norm, matrix in (("ln_1", "attn.in_proj_weight"), ("ln_2", "mlp.c_fc.weight")):
            for key in (f"{block}.{norm}.weight", f"{block}.{norm}.bias"):
                state[key][:2] *= 100
            state[f"{block}.{matrix}"][:, :2] /= 100
    save_file(state, file)
    fp32 = load_encoder(name, Runtime(precision="fp32")).encode("image", photos(32))
    int8 = load_encoder(name, Runtime(precision="int8")).encode("image", photos(32))
    assert make_towers.compare(fp32, int8, "fp32", 32).cosine > 0.98


@pytest.mark.parametrize("first", ["black", "dark"])
def test_int8_is_near_fp32_of_photos_unlike_the_first(first, tmp_path):
    """The ranges of int8 come from the first photos."""
    name = checkpoint(tmp_path / "model", "vit-256")
    black = Image.new("RGB", (80, 80))
    dark = [Image.blend(photo, black.resize(photo.size), 0.95) for photo in photos(64)]
    fp32 = load_encoder(name, Runtime(precision="fp32"))
    int8 = load_encoder(name, Runtime(precision="int8"))
    int8.encode("image", [black] if first == "black" else dark)
    noise = np.random.default_rng(1).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    unlike = [Image.new("RGB", (80, 80), "white"), Image.fromarray(noise), black, *photos(13)]
    one, other = fp32.encode("image", unlike), int8.encode("image", unlike)
    assert make_towers.compare(one, other, "fp32", 16).cosine > 0.98


def test_bf16_on_a_cpu_is_near_fp32(small):
    fp32 = load_encoder(small, Runtime(runtime="torch", precision="fp32"))
    bf16 = load_encoder(small, Runtime(precision="bf16"))
    one, other = (encoder.encode("image", photos()) for encoder in (fp32, bf16))
    assert one.dtype == other.dtype == np.float32
    assert 0.99 < (one * other).sum(axis=1).min() < 0.9999999


def test_prepared_things_have_the_vectors_of_raw_ones(small):
    encoder = load_encoder(small, Runtime(precision="fp32"))
    for modality, batch in (("image", photos(3)), ("text", ["a dog", "a cat"])):
        ready = [encoder.prepare(modality, one) for one in batch]
        assert np.array_equal(encoder.encode(modality, ready), encoder.encode(modality, batch))
    assert encoder.encode("image", []).shape == (0, encoder.dim)


def test_texts_that_each_index_needs_are_encoded_once(small):
    encoder = load_encoder(small)
    vectors = encoder.encode_kept("some", TEXTS)
    np.testing.assert_allclose(vectors, encoder.encode("text", TEXTS), atol=1e-6)
    file = TowerCache(encoder.fingerprint).folder / "some" / "vectors.npy"
    np.save(file, vectors[::-1])
    assert np.array_equal(load_encoder(small).encode_kept("some", TEXTS), vectors[::-1])
    for cut in (file.read_bytes()[:-1], file.read_bytes()[:9], b""):
        file.write_bytes(cut)
        assert np.array_equal(load_encoder(small).encode_kept("some", TEXTS), vectors)
        assert np.array_equal(np.load(file), vectors)
    assert len(encoder.encode_kept("some", TEXTS[:2])) == 2


def test_rows_have_unit_length(small):
    for vectors in (load_encoder(small).encode("image", photos()),):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_sound_is_refused_by_name(small):
    with pytest.raises(UnsupportedModality, match="cannot encode audio; it encodes image and text"):
        load_encoder(small).encode("audio", [np.zeros(10)])


def test_several_threads_get_the_same_vectors(small):
    encoder = load_encoder(small)
    found: list[np.ndarray] = []

    def work() -> None:
        found.append(encoder.encode("image", photos(4)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(np.array_equal(found[0], other) for other in found)


# ---------------------------------------------------------------------- without torch


def test_after_one_run_of_indexing_nothing_needs_torch(small, cache):
    load_encoder(small).encode("image", photos(64))  # the text tower is made beside it
    code = (
        "import sys\n"
        "for name in ('torch', 'open_clip', 'transformers', 'torchvision'):\n"
        "    sys.modules[name] = None\n"
        "from mmsearch.encoders.registry import load_encoder\n"
        "from PIL import Image\n"
        f"encoder = load_encoder({small!r})\n"
        "assert encoder.encode('text', ['a dog', 'Ünïcode &amp; more']).shape == (2, 32)\n"
        "assert encoder.encode('image', [Image.new('RGB', (90, 70))]).shape == (1, 32)\n"
        "assert not any('torch' in note for note in encoder.notes), encoder.notes\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=_environment(cache))


def test_a_model_never_run_here_asks_for_the_extra_where_torch_is_missing(small, monkeypatch):
    find = importlib.util.find_spec
    missing = lambda name, *more: None if name == "torch" else find(name, *more)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", missing)
    with pytest.raises(MissingExtra, match=r"for the first time needs .*mmsearch\[clip\]"):
        load_encoder(small)


def test_towers_outlive_the_weights_they_were_made_of(small, tmp_path):
    wanted = load_encoder(small).encode("text", ["a dog"])
    (tmp_path / "model" / "open_clip_model.safetensors").unlink()
    assert np.array_equal(load_encoder(small).encode("text", ["a dog"]), wanted)
    assert cached_towers(small) is not None
    assert not is_here(small)


def _environment(cache: Path) -> dict[str, str]:
    import os

    return os.environ | {"MMSEARCH_CACHE": str(cache)}


# ---------------------------------------------------------------------- the check


def test_a_check_is_made_once_on_real_photos_and_kept(small, monkeypatch):
    encoder = load_encoder(small)
    encoder.encode("image", photos(10))
    check = TowerCache(encoder.fingerprint).check("image", "int8")
    assert check["distinct"] == 10
    assert 0.9 < check["cosine"] <= 1
    monkeypatch.setattr(export, "export", None)  # would fail if it were made again
    load_encoder(small).encode("image", photos(10))


def test_an_older_versions_graph_is_made_again_where_that_is_possible(small, tmp_path):
    encoder = load_encoder(small)
    wanted = encoder.encode("image", photos())
    file = TowerCache(encoder.fingerprint).folder / "image-int8" / "check.json"
    older = json.loads(file.read_text())
    del older["photos_per_run"]
    file.write_text(json.dumps(older))
    weights = tmp_path / "model" / "open_clip_model.safetensors"
    weights.rename(tmp_path / "elsewhere")
    assert np.array_equal(load_encoder(small).encode("image", photos()), wanted)
    assert json.loads(file.read_text()) == older
    (tmp_path / "elsewhere").rename(weights)
    assert np.array_equal(load_encoder(small).encode("image", photos()), wanted)
    assert json.loads(file.read_text()).keys() - older.keys() == {"photos_per_run"}


def test_an_older_graph_that_failed_its_check_is_still_used_when_asked_for(small, tmp_path):
    how = Runtime(precision="int8")
    encoder = load_encoder(small, how)
    wanted = encoder.encode("image", photos())
    file = TowerCache(encoder.fingerprint).folder / "image-int8" / "check.json"
    older = json.loads(file.read_text()) | {"passed": False}
    del older["photos_per_run"]
    file.write_text(json.dumps(older))
    (tmp_path / "model" / "open_clip_model.safetensors").unlink()
    assert np.array_equal(load_encoder(small, how).encode("image", photos()), wanted)


def spoil(monkeypatch, *precisions: str) -> None:
    """Let graphs of these precisions fail their check."""
    compare = make_towers.compare

    def failing(wanted, found, precision, distinct):
        verdict = compare(wanted, found, precision, distinct)
        good = verdict.passed and precision not in precisions
        return make_towers.Verdict(good, 0.5, 0.5, distinct)

    monkeypatch.setattr(make_towers, "compare", failing)


def test_int8_that_fails_its_check_gives_way_to_fp32_and_says_so(small, monkeypatch):
    spoil(monkeypatch, "int8")
    encoder = load_encoder(small)
    wanted = load_encoder(small, Runtime(runtime="torch")).encode("image", photos(64))
    np.testing.assert_allclose(encoder.encode("image", photos(64)), wanted, atol=1e-5)
    assert "in int8 its image tower keeps 50% of nearest neighbours" in encoder.notes[0]
    again = load_encoder(small)
    again.encode("image", photos(64))
    assert again.notes == encoder.notes


def test_a_model_whose_graphs_all_fail_stays_on_torch_and_says_so(small, monkeypatch):
    spoil(monkeypatch, "int8", "fp32")
    encoder = load_encoder(small)
    wanted = load_encoder(small, Runtime(runtime="torch")).encode("image", photos())
    assert np.array_equal(encoder.encode("image", photos()), wanted)
    assert "off by a cosine of 0.5000" in encoder.notes[0]
    assert encoder.notes[0].endswith("it runs on torch")


def test_a_model_that_cannot_be_exported_stays_on_torch_and_says_so(small, monkeypatch):
    def fails(*_given):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(export, "export", fails)
    encoder = load_encoder(small)
    assert encoder.encode("image", photos()).shape == (8, 32)
    why = "its image tower has no ONNX graph (RuntimeError: no such operator)"
    assert encoder.notes == [f"{small}: {why}; it runs on torch"]
    with pytest.raises(InvalidOption, match="cannot run on ONNX Runtime"):
        load_encoder(small, Runtime(runtime="onnx")).encode("image", photos())


def test_a_network_that_cannot_be_exported_is_not_printed(capfd):
    import torch

    class Unknown(torch.nn.Module):
        def forward(self, numbers):
            return torch.special.bessel_j0(numbers)

    with pytest.raises(RuntimeError):
        export.trace(Unknown(), {"numbers": torch.ones(2)}, ["out"], {}, io.BytesIO())
    assert capfd.readouterr() == ("", "")


def test_weights_that_give_no_numbers_have_no_graph(small, tmp_path):
    from safetensors.torch import load_file, save_file

    file = tmp_path / "model" / "open_clip_model.safetensors"
    state = load_file(file)
    state["visual.transformer.resblocks.1.mlp.c_fc.weight"][0, 0] = float("nan")
    save_file(state, file)
    encoder = load_encoder(small)
    encoder.encode("image", photos())
    assert encoder.notes[0].endswith("it runs on torch")


def test_a_failure_on_few_photos_is_judged_again_on_more(small, monkeypatch):
    with monkeypatch.context() as spoiled:
        spoil(spoiled, "int8")
        load_encoder(small).encode("image", photos(1))
    encoder = load_encoder(small)
    encoder.encode("image", photos(40))
    assert TowerCache(encoder.fingerprint).check("image", "int8")["distinct"] == 40
    assert not any("image" in note for note in encoder.notes)


def test_int8_that_was_asked_for_runs_even_if_its_check_fails(small, monkeypatch):
    spoil(monkeypatch, "int8")
    encoder = load_encoder(small, Runtime(precision="int8"))
    assert encoder.encode("image", photos()).shape == (8, 32)
    assert encoder.notes[0].endswith("it runs in int8 on ONNX Runtime")


def test_few_photos_are_completed_with_crops_of_them():
    pixels = [np.asarray(photo.resize((32, 32))) for photo in photos(3)]
    sampled, distinct = make_towers.sample([*pixels, *pixels])
    assert (len(sampled), distinct) == (64, 3)
    assert len({one.tobytes() for one in sampled}) == 64
    assert {one.shape for one in sampled} == {(32, 32, 3)}


def test_the_check_counts_changed_neighbours():
    ring = np.linspace(0, 2 * np.pi, 64, endpoint=False) ** 1.01
    wanted = np.stack([np.cos(ring), np.sin(ring)], axis=1).astype(np.float32)
    assert make_towers.compare(wanted, wanted, "int8", 64).neighbours == 1
    assert make_towers.compare(wanted, wanted, "fp32", 64).cosine == pytest.approx(1)
    turned = wanted[::-1] * 0.5 + 0.5 * np.roll(wanted, 7, axis=0)
    assert not make_towers.compare(wanted, turned, "fp32", 64).passed


# ---------------------------------------------------------------------- the cache


def test_an_export_that_is_killed_leaves_nothing_that_is_used(small, cache, tmp_path):
    load_encoder(small)
    code = (
        "import os\n"
        "from mmsearch.encoders.clip import make_towers\n"
        "from mmsearch.encoders.registry import load_encoder\n"
        "make_towers.compare = lambda *given: os._exit(9)\n"
        f"load_encoder({small!r}).encode('text', ['a dog'])\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False, env=_environment(cache))
    assert killed.returncode == 9
    encoder = load_encoder(small)
    folder = TowerCache(encoder.fingerprint).folder
    assert [path for path in folder.iterdir() if not path.name.startswith(".")] == [
        folder / "facts"
    ]
    assert encoder.encode("text", ["a dog"]).shape == (1, 32)


def test_a_damaged_graph_is_made_again(small):
    encoder = load_encoder(small)
    wanted = encoder.encode("text", ["a dog"])
    for graph in TowerCache(encoder.fingerprint).folder.glob("*/graph.onnx"):
        graph.write_bytes(graph.read_bytes()[:100])
    assert np.array_equal(load_encoder(small).encode("text", ["a dog"]), wanted)


@pytest.mark.parametrize("part", ["graph.onnx", "weights.bin"])
def test_an_image_tower_cut_short_is_made_again(small, part):
    encoder = load_encoder(small)
    wanted = encoder.encode("image", photos())
    for file in TowerCache(encoder.fingerprint).folder.glob(f"image-*/{part}"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert np.array_equal(load_encoder(small).encode("image", photos()), wanted)


def test_a_model_runs_on_torch_where_the_cache_cannot_be_written(small, cache):
    cache.write_text("a file where a folder is needed")
    encoder = load_encoder(small)
    wanted = load_encoder(small, Runtime(runtime="torch")).encode("image", photos())
    assert np.array_equal(encoder.encode("image", photos()), wanted)
    assert encoder.encode("text", ["a dog"]).shape == (1, 32)
    assert "the cache cannot be written" in encoder.notes[0]
    assert encoder.notes[0].endswith("it runs on torch")


def test_an_older_graph_is_used_where_the_cache_cannot_be_written(small, monkeypatch):
    encoder = load_encoder(small)
    wanted = encoder.encode("image", photos())
    for file in TowerCache(encoder.fingerprint).folder.glob("image-*/check.json"):
        check = json.loads(file.read_text())
        check.pop("photos_per_run", None)
        file.write_text(json.dumps(check))
    unwritable(monkeypatch)
    assert np.array_equal(load_encoder(small).encode("image", photos()), wanted)


@pytest.mark.parametrize("full", [OSError(errno.ENOSPC, "no space"), RuntimeError("write failed")])
def test_towers_are_made_once_the_disk_has_room(small, monkeypatch, full):
    def fails(*_given):
        raise full

    usage = shutil.disk_usage
    with monkeypatch.context() as crowded:
        crowded.setattr(export, "export", fails)
        crowded.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=1000))
        encoder = load_encoder(small)
        assert encoder.encode("image", photos()).shape == (8, 32)
        assert "the cache cannot be written" in encoder.notes[0]
    encoder = load_encoder(small, Runtime(precision="fp32"))
    encoder.encode("image", photos())
    assert graphs(encoder) == {"image-fp32", "text-fp32"}


def unwritable(monkeypatch) -> None:
    """Let no tower be made."""

    def refuse(*_given, **_named):
        raise PermissionError(errno.EACCES, "read-only")

    monkeypatch.setattr("mmsearch.encoders.clip.towers.tempfile.mkdtemp", refuse)


def test_other_weights_have_another_fingerprint_and_other_towers(small, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    first = load_encoder(small)
    vectors = first.encode("text", ["a dog"])
    file = tmp_path / "model" / "open_clip_model.safetensors"
    state = load_file(file)
    save_file({key: value + 0.1 * torch.randn(value.shape) for key, value in state.items()}, file)
    second = load_encoder(small)
    assert second.fingerprint != first.fingerprint
    assert not np.allclose(second.encode("text", ["a dog"]), vectors, atol=1e-3)


def test_the_same_weights_elsewhere_have_the_same_fingerprint(small, tmp_path):
    shutil.copytree(tmp_path / "model", tmp_path / "copy")
    assert load_encoder(f"clip:@{tmp_path / 'copy'}").fingerprint == load_encoder(small).fingerprint


# ---------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (Runtime(runtime="onnx", precision="bf16"), "--precision bf16 cannot run"),
        (Runtime(runtime="torch", precision="int8"), "--precision int8 cannot run"),
        (Runtime(runtime="onnx", device="cuda"), "--runtime onnx runs on the CPU"),
        (Runtime(device="mps", precision="int8"), "--precision int8 runs on the CPU"),
    ],
)
def test_what_cannot_be_had_together_is_refused(small, how, words):
    with pytest.raises(InvalidOption, match=words):
        load_encoder(small, how)


def test_a_gpu_that_is_not_there_is_refused(small, monkeypatch):
    monkeypatch.setattr("mmsearch.encoders.clip.runtimes.has_device", lambda _name: False)
    with pytest.raises(InvalidOption, match="no cuda on this machine"):
        load_encoder(small, Runtime(device="cuda"))


def test_a_gpu_runs_torch_in_bf16(monkeypatch):
    from mmsearch.encoders.clip import runtimes

    monkeypatch.setattr(runtimes, "has_device", lambda _name: True)
    monkeypatch.setattr(runtimes, "best_device", lambda: "cuda")
    plan = runtimes.plan_for(Runtime(), "clip:x")
    assert (plan.graphs, plan.device, plan.precision) == ((), "cuda", "bf16")


def test_text_goes_through_torch_where_its_tokens_cannot_be_had_without(small, monkeypatch):
    monkeypatch.setattr(make_towers, "check_tokens", lambda *_given: 1 / 0)
    encoder = load_encoder(small)
    assert encoder.encode("text", ["a dog"]).shape == (1, 32)
    assert "without torch (ZeroDivisionError" in encoder.notes[0]


def test_weights_of_another_architecture_are_refused(small, tmp_path):
    file = tmp_path / "model" / "open_clip_model.safetensors"
    with pytest.raises(ModelUnavailable, match="cannot be loaded as clip:RN101@"):
        load_encoder(f"clip:RN101@{file}")


def test_runners_free_torch_once_the_graphs_are_made(small):
    encoder = load_encoder(small)
    encoder.encode("image", photos())
    runners: runtimes.Runners = encoder._runners
    assert runners._loaded is None


def test_a_space_is_tuned_and_the_tuning_undone(small, tmp_path):
    for colour in ("red", "blue", "green"):
        paint(tmp_path / "photos" / f"{colour}.png", colour)
    with mmsearch.index(tmp_path / "photos", into=tmp_path / "idx", model=small) as library:
        tuned_and_undone(library, "image")
