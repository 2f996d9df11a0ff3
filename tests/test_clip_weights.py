"""`clip:` names, and where their weights lie; told without torch or a network."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmsearch.encoders import hub
from mmsearch.encoders.clip import names, weights
from mmsearch.encoders.clip.names import parse
from mmsearch.encoders.registry import load_encoder, pull
from mmsearch.errors import ModelUnavailable, UnknownModel

needs_open_clip = pytest.mark.skipif(
    importlib.util.find_spec("open_clip") is None, reason="open_clip is not installed"
)


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch) -> Path:
    """Empty caches of our own."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("MMSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def in_hub(caches: Path, repository: str, *files: str) -> Path:
    """A repository in the hub's cache, as its client lays it out."""
    folder = caches / "hf" / "hub" / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc123")
    snapshot = folder / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    for file in files:
        (snapshot / file).write_text("{}")
    return snapshot


@pytest.mark.parametrize(
    "name", ["clip:ViT-B-32/openai", "clip:RN50@/w/x.pt", "clip:@/w", "clip:hf-hub:org/repo"]
)
def test_a_name_comes_back_from_what_it_stands_for(name):
    assert parse(name).name == name


def test_a_path_becomes_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert parse("clip:RN50@w.pt").name == f"clip:RN50@{tmp_path / 'w.pt'}"
    assert parse("clip:RN50@~/w.pt").path == tmp_path / "w.pt"
    assert parse("clip:local-dir:models").path == tmp_path / "models"


@needs_open_clip
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("clip:ViT-B-32", r"which weights of ViT-B-32\? Write clip:ViT-B-32/TAG .*openai"),
        ("clip:ViT-B-32/nope", r"no weights called 'nope'.*laion2b_s34b_b79k"),
        ("clip:ViT-B32/openai", r"no model called 'ViT-B32'. Do you mean ViT-B-32"),
        ("clip:Nothing@/no/file.pt", r"no model called 'Nothing'"),
        ("clip:", r"Write clip:ARCH/TAG"),
        ("clip:hf-hub:x", r"names no repository"),
        ("clip:RN50@", r"names no file"),
    ],
)
def test_a_name_of_nothing_says_what_there_is(name, words):
    with pytest.raises(UnknownModel, match=words):
        load_encoder(name)


@needs_open_clip
def test_the_table_read_from_the_source_is_open_clips_own():
    from open_clip import list_models
    from open_clip.pretrained import _PRETRAINED

    for arch, listed in _PRETRAINED.items():
        assert names.tags(arch) == sorted(listed)
        for tag, config in listed.items():
            found = names.places(names.Source(arch, tag))
            assert {key: found.get(key, "") for key in ("url", "hf_hub")} == {
                key: config.get(key, "") for key in ("url", "hf_hub")
            }
    assert set(list_models()) <= set(names.architectures())


@needs_open_clip
@pytest.mark.parametrize(
    "name", ["clip:ViT-B-32/laion2b_s34b_b79k", "clip:RN50/openai", "clip:hf-hub:org/repo"]
)
def test_weights_that_are_not_here_are_an_error_within_a_second(name):
    began = time.perf_counter()
    with pytest.raises(ModelUnavailable, match=f"mmsearch models pull {name}"):
        load_encoder(name)
    assert time.perf_counter() - began < 1
    assert not weights.is_here(name)


@needs_open_clip
def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelUnavailable, match=r"there is no file .*none.pt"):
        load_encoder(f"clip:RN50@{tmp_path / 'none.pt'}")
    with pytest.raises(ModelUnavailable, match="holds no weights"):
        load_encoder(f"clip:@{tmp_path}")


@needs_open_clip
@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_weights_in_the_hubs_cache_are_found(caches, file):
    repository = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    name = "clip:ViT-B-32/laion2b_s34b_b79k"
    assert not weights.is_here(name)
    snapshot = in_hub(caches, repository, file)
    assert weights.is_here(name)
    assert weights.find(parse(name)) == snapshot / file
    assert not weights.is_here(f"clip:hf-hub:{repository}")  # its config is not there
    (snapshot / "open_clip_config.json").write_text("{}")
    assert weights.is_here(f"clip:hf-hub:{repository}")


@needs_open_clip
def test_weights_that_open_clip_downloaded_by_address_are_found(caches):
    (caches / ".cache" / "clip").mkdir(parents=True)
    (caches / ".cache" / "clip" / "RN50.pt").write_bytes(b"x")
    assert weights.is_here("clip:RN50/openai")


@needs_open_clip
def test_asking_whether_weights_are_here_imports_nothing_heavy(caches):
    code = (
        "import sys\n"
        "from mmsearch.encoders.clip.weights import is_here\n"
        "is_here('clip:ViT-B-32/openai'), is_here('clip:hf-hub:a/b'), is_here('clip:@/no')\n"
        "heavy = {'torch', 'open_clip', 'huggingface_hub', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_file_is_hashed_again_only_when_it_has_changed(tmp_path, monkeypatch):
    file = tmp_path / "w.pt"
    file.write_bytes(b"one")
    source = parse(f"clip:RN50@{file}")
    first = weights.fingerprint_of(source)
    monkeypatch.setattr(hashlib, "file_digest", None)  # would fail if it were read
    assert weights.fingerprint_of(source) == first
    monkeypatch.undo()
    monkeypatch.setenv("MMSEARCH_CACHE", str(tmp_path / "cache"))
    file.write_bytes(b"other")
    assert weights.fingerprint_of(source) != first


def test_the_same_weights_in_another_architecture_are_another_model(tmp_path):
    file = tmp_path / "w.pt"
    file.write_bytes(b"one")
    names = (f"clip:ViT-B-32@{file}", f"clip:ViT-B-32-quickgelu@{file}")
    assert len({weights.fingerprint_of(parse(name)) for name in names}) == 2


@needs_open_clip
def test_fetching_without_a_network_fails_in_seconds(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    began = time.perf_counter()
    with pytest.raises(ModelUnavailable, match="cannot be reached"):
        pull("clip:ViT-B-32/openai")
    assert time.perf_counter() - began < 3


@needs_open_clip
def test_fetching_where_the_network_is_switched_off_says_so():
    with pytest.raises(ModelUnavailable, match="HF_HUB_OFFLINE is set"):
        pull("clip:ViT-B-32/openai")


@needs_open_clip
def test_fetching_what_is_here_downloads_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "_download", None)  # would fail if it were called
    file = tmp_path / "w.pt"
    file.write_bytes(b"x")
    assert pull(f"clip:RN50@{file}") == file


@needs_open_clip
def test_fetching_takes_the_files_open_clip_would(caches, monkeypatch):
    pytest.importorskip("huggingface_hub")
    text = json.dumps({"model_cfg": {"text_cfg": {}}})
    there = [
        "README.md",
        "open_clip_config.json",
        "open_clip_pytorch_model.bin",
        "open_clip_pytorch_model.safetensors",
    ]
    asked: list[str] = []
    told: list[tuple[int, int | None]] = []

    def describe(_api, _repository, **_options):
        siblings = [SimpleNamespace(rfilename=name, size=10) for name in there]
        return SimpleNamespace(siblings=siblings)

    def download(repository, name, *, revision, tqdm_class):
        assert revision == "main"
        asked.append(name)
        with tqdm_class(total=10, initial=0, unit="B", desc=name, name="x") as bar:
            bar.update(4)
            bar.update(6)
        snapshot = hub.snapshot(repository) or in_hub(caches, repository)
        (snapshot / name).write_text(text)
        return str(snapshot / name)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", describe)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(hub, "check_reachable", lambda *_: None)
    monkeypatch.setattr(weights, "_fetch_tokenizer", lambda _source: None)
    found = pull("clip:hf-hub:org/repo", lambda *done: told.append(done))
    assert found.name == "open_clip_pytorch_model.safetensors"
    assert asked == ["open_clip_config.json", found.name]
    assert told[-3:] == [(14, 20), (20, 20), (20, 20)]
