"""The models a person can use: what is listed, what `auto` is, and how more are fetched."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.cli import render
from mmsearch.collection import Collection
from mmsearch.encoders import clip, hub, registry
from mmsearch.encoders.clip import SMALL, weights
from mmsearch.encoders.clip.names import Source
from mmsearch.encoders.family import ModelRow
from mmsearch.errors import InvalidOption, MissingExtra, ModelUnavailable, UnknownModel

ROOT = Path(__file__).parent.parent
RECOMMENDED = registry.recommended()
BY_NAME = {model.name: model for model in RECOMMENDED}


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home and a hub cache with nothing in them, on a machine with every package."""
    for name in ("HF_ENDPOINT", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MMSEARCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MMSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(clip, "find_spec", lambda _: True)
    return tmp_path


needs_open_clip = pytest.mark.skipif(find_spec("open_clip") is None, reason="needs open_clip")
"""Of the tests that check a name against open_clip's list."""


@dataclass
class Caches:
    """Where clip models are found, and downloaded to, in place of open_clip's caches."""

    here: set[str] = field(default_factory=set)
    fetched: list[str] = field(default_factory=list)


@pytest.fixture
def clip_weights(monkeypatch: pytest.MonkeyPatch) -> Caches:
    """A stand-in for the caches of clip models."""
    caches = Caches()

    def find(source: Source) -> Path | None:
        return Path("/weights") if source.name in caches.here else None

    def download(source: Source, _progress: object) -> None:
        caches.fetched.append(source.name)
        caches.here.add(source.name)

    monkeypatch.setattr(weights, "find", find)
    monkeypatch.setattr(weights, "_download", download)
    monkeypatch.setattr(weights, "_fetch_tokenizer", lambda _source: None)
    return caches


def put(repository: str, *names: str, content: str = "x") -> Path:
    """Files in the hub's cache, as huggingface_hub puts them there."""
    home = hub.cache() / f"models--{repository.replace('/', '--')}"
    folder = home / "snapshots" / "0123abc"
    folder.mkdir(parents=True, exist_ok=True)
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / "main").write_text("0123abc")
    for name in names:
        (folder / name).write_text(content)
    return folder


def put_model(name: str) -> None:
    """A recommended model, fetched."""
    model = BY_NAME[name]
    if model.family == "clap":
        files = ("model.safetensors", "preprocessor_config.json", "tokenizer.json")
        put(model.repository, *files)
        put(model.repository, "config.json", content='{"model_type": "clap"}')
        return
    put(model.repository, "open_clip_model.safetensors")
    if model.reads:
        put(model.reads, "tokenizer.json")


def row_of(name: str) -> ModelRow:
    return next(row for row in registry.listing() if row.name == name)


# ---------------------------------------------------------------------- what is recommended


def test_every_recommended_model_is_one_that_open_clip_has():
    open_clip = pytest.importorskip("open_clip")
    there = set(open_clip.list_pretrained())
    for model in RECOMMENDED:
        if model.family == "clip":
            arch, tag = model.name.removeprefix("clip:").split("/")
            assert (arch, tag) in there
            config = open_clip.get_model_config(arch)
            assert model.dim == config["embed_dim"], model.name
            assert model.reads == config["text_cfg"].get("hf_tokenizer_name"), model.name
            source = open_clip.get_pretrained_cfg(arch, tag)["hf_hub"]
            assert source == f"{model.repository}/", model.name


def test_the_best_is_first_by_recall_on_coco():
    clips = [model for model in RECOMMENDED if model.family == "clip"]
    recalls = [model.recall["coco"].at1 for model in clips]
    assert recalls == sorted(recalls, reverse=True)
    assert not any(model.recall for model in RECOMMENDED[len(clips) :])


def test_every_figure_is_a_percentage_with_a_source_and_every_name_is_there_once():
    for model in RECOMMENDED:
        assert model.source.startswith("https://")
        for at1, at5 in model.recall.values():
            assert 0 < at1 < (at5 or 100) <= 100
    assert len(BY_NAME) == len(RECOMMENDED)


def test_what_to_begin_with_is_free_to_use_and_reads_no_second_repository():
    model = BY_NAME[SMALL]
    assert (model.licence, model.reads) == ("mit", None)


def test_the_documentation_has_the_same_table():
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([^`]+)` \| (.*) \|$", text, re.MULTILINE))
    for model in RECOMMENDED:
        flickr, coco = (model.recall.get(name) for name in ("flickr30k", "coco"))
        figures = [*(flickr or (None, None)), *(coco or (None, None))]
        shown = " · ".join("–" if figure is None else f"{figure:.1f}" for figure in figures)
        size = f"{'' if model.weights_in_listing else '≈ '}{model.megabytes:,}"
        assert rows[model.name] == f"{size} | {model.dim} | {model.licence} | {shown}"
    assert set(rows) == set(BY_NAME)


# ---------------------------------------------------------------------- where things lie


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HUGGINGFACE_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({"HOME": "/me"}, "/me/.cache/huggingface/hub"),
        ({"HOME": "/me", "HF_HOME": "~/x"}, "/me/x/hub"),
        ({"HOME": "/me", "HF_HUB_CACHE": "$HOME/y"}, "/me/y"),
    ],
)
def test_the_cache_is_where_huggingface_hub_has_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
):
    monkeypatch.delenv("HF_HOME")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert hub.cache() == Path(expected)
    pytest.importorskip("huggingface_hub")
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def test_a_snapshot_is_what_huggingface_hub_would_read():
    huggingface_hub = pytest.importorskip("huggingface_hub")
    put("someone/thing", "config.json")
    found = huggingface_hub.try_to_load_from_cache(
        "someone/thing", "config.json", cache_dir=hub.cache()
    )
    assert found == str(hub.snapshot("someone/thing") / "config.json")
    assert hub.snapshot("someone/other") is None
    assert [name for name, _ in hub.repositories()] == ["someone/thing"]


# ---------------------------------------------------------------------- what auto is


def test_with_nothing_fetched_auto_is_mini_and_says_how_to_do_better():
    choice = registry.choose()
    assert choice.name == "mini"
    assert f"mmsearch models pull {SMALL}" in choice.advice
    assert "pip" not in choice.advice
    assert "\n" not in choice.advice


def test_the_advice_begins_with_the_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(clip, "find_spec", lambda _: None)
    assert "pip install 'mmsearch[clip]', then mmsearch models pull" in registry.choose().advice


def test_auto_is_the_best_of_those_that_are_here():
    names = [model.name for model in RECOMMENDED if model.family == "clip"]
    for name in reversed(names):
        put_model(name)
        assert registry.choose() == registry.Choice(name, None)


def test_auto_is_never_a_model_of_sounds_alone():
    put_model("clap:laion/clap-htsat-unfused")
    assert registry.choose().name == "mini"


def test_auto_passes_over_a_model_whose_packages_are_missing(monkeypatch: pytest.MonkeyPatch):
    put_model(SMALL)
    put_model("clip:ViT-B-16-SigLIP/webli")
    monkeypatch.setattr(clip, "find_spec", lambda name: name != "transformers" or None)
    assert registry.choose().name == SMALL
    monkeypatch.setattr(clip, "find_spec", lambda name: name != "open_clip" or None)
    assert registry.choose().name == "mini"


def test_auto_passes_over_a_model_that_is_not_whole():
    put(BY_NAME[SMALL].repository, "README.md")
    put(BY_NAME["clip:ViT-B-16-SigLIP/webli"].repository, "open_clip_model.safetensors")
    folder = put(BY_NAME["clip:ViT-L-14/datacomp_xl_s13b_b90k"].repository)
    (folder / "open_clip_model.safetensors").symlink_to("../../blobs/gone")
    assert registry.choose().name == "mini"


def test_auto_is_a_model_that_was_exported_where_open_clip_is_gone(
    clip_weights: Caches, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    towers = tmp_path / "cache" / "towers" / "0123"
    monkeypatch.setattr(weights, "cached_towers", lambda name: towers if name == SMALL else None)
    monkeypatch.setattr(clip, "find_spec", lambda name: name != "open_clip" or None)
    (towers / "image-int8").mkdir(parents=True)
    (towers / "image-int8" / "graph.onnx").touch()
    assert registry.choose().name == "mini"
    assert not registry.is_here(SMALL)
    (towers / "text-int8").mkdir()
    (towers / "text-int8" / "graph.onnx").touch()
    assert registry.choose() == registry.Choice(SMALL, None)
    assert registry.is_here(SMALL)
    monkeypatch.setattr(clip, "find_spec", lambda _: True)
    assert registry.choose().name == "mini"  # open_clip asks for the weights


def test_choosing_takes_milliseconds_and_imports_nothing_heavy(own_home: Path):
    put_model("clip:xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k")
    code = (
        "import sys, time\n"
        "from mmsearch.encoders import registry\n"
        "def timed():\n"
        "    start = time.perf_counter(); registry.choose(); return time.perf_counter() - start\n"
        "assert min(timed() for _ in range(5)) < 0.005\n"
        "heavy = {'torch', 'open_clip', 'transformers', 'huggingface_hub', 'numpy', 'ssl'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------------- the default


def test_a_default_that_was_set_is_what_auto_is():
    put_model(SMALL)
    assert registry.default() is None
    registry.set_default("mini")
    assert registry.default() == "mini"
    assert registry.choose() == registry.Choice("mini", None)
    registry.set_default("auto")
    assert registry.default() is None
    assert registry.choose().name == SMALL


def test_a_model_that_is_not_here_cannot_be_the_default():
    with pytest.raises(ModelUnavailable, match=rf"mmsearch models pull {SMALL}$"):
        registry.set_default(SMALL)
    assert registry.default() is None
    put_model(SMALL)
    registry.set_default(SMALL)
    assert registry.default() == SMALL


def test_a_model_that_is_not_recommended_can_be_the_default(clip_weights: Caches, tmp_path: Path):
    own = "clip:ViT-B-32@/weights/own.pt"
    with pytest.raises(ModelUnavailable):
        registry.set_default(own)
    clip_weights.here.add(own)
    registry.set_default(own)
    assert registry.choose() == registry.Choice(own, None)
    assert row_of(own).is_default


def test_a_default_is_the_same_model_from_every_folder(
    clip_weights: Caches, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    clip_weights.here.add(f"clip:ViT-B-32@{tmp_path / 'own.pt'}")
    registry.set_default("clip:ViT-B-32@own.pt")
    assert registry.default() == f"clip:ViT-B-32@{tmp_path / 'own.pt'}"
    files = ("config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json")
    (tmp_path / "clap").mkdir()
    for name in files:
        (tmp_path / "clap" / name).write_text("{}")
    registry.set_default("clap:clap")
    assert registry.default() == f"clap:{tmp_path / 'clap'}"


NO_NAMES = ["", "minni", "mini:", "mini:x", "clip", "clip:", "clip:ViT-B-32", "whisper:x"]


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_name_cannot_be_the_default(name: str):
    with pytest.raises(UnknownModel):
        registry.set_default(name)
    assert registry.default() is None


def test_other_settings_are_kept(own_home: Path):
    (own_home / "home").mkdir()
    file = own_home / "home" / "settings.json"
    file.write_text('{"colour": "blue"}')
    registry.set_default("mini")
    assert json.loads(file.read_text()) == {"colour": "blue", "model": "mini"}
    registry.set_default("auto")
    assert json.loads(file.read_text()) == {"colour": "blue"}
    assert [path.name for path in file.parent.iterdir()] == ["settings.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"model": 3}', b'{"model": "what:x"}', b'{"model": ""}'],
)
def test_damaged_settings_are_an_error_with_a_cure_that_works(own_home: Path, content: bytes):
    (own_home / "home").mkdir()
    (own_home / "home" / "settings.json").write_bytes(content)
    with pytest.raises(InvalidOption, match=r"settings\.json.*mmsearch models default"):
        registry.choose()
    registry.set_default("mini")
    assert registry.default() == "mini"


def test_settings_that_cannot_be_written_are_an_error_and_leave_nothing_behind(own_home: Path):
    (own_home / "home").write_text("a file where the folder should be")
    with pytest.raises(InvalidOption, match="cannot be"):
        registry.set_default("mini")


def test_a_failed_write_leaves_the_settings_as_they_were(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
):
    registry.set_default("mini")
    put_model(SMALL)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InvalidOption, match="No space left"):
        registry.set_default(SMALL)
    assert registry.default() == "mini"
    assert [path.name for path in (own_home / "home").iterdir()] == ["settings.json"]


# ---------------------------------------------------------------------- the list


def test_the_list_has_mini_then_what_is_recommended():
    rows = registry.listing()
    assert [row.name for row in rows] == ["mini", *BY_NAME]
    assert rows[0].state == "built in"
    assert 30 <= rows[0].megabytes <= 60
    assert {row.state for row in rows[1:]} == {"downloadable"}
    assert [row.name for row in rows if row.is_default] == ["mini"]


def test_the_list_says_where_figures_were_published_and_which_were_not(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("COLUMNS", "200")
    table = render.models_table(registry.listing())
    lines = {line.split()[0]: line for line in table.splitlines() if line.strip()}
    assert "57.1" in lines["clip:PE-Core-L-14-336/meta"]
    assert lines["st:google/embeddinggemma-2"].count("–") == 2
    assert "–" not in lines["mini"]
    published = {model.source for model in RECOMMENDED if model.recall}
    assert published == {line.strip() for line in lines.values() if "https://" in line}
    rows = registry.listing()
    written = [line.split("\t")[-1] for line in render.models_tsv(rows).split("\n")]
    assert written[: len(rows)] == [row.source or "" for row in rows]


def test_the_list_says_what_is_here():
    put_model(SMALL)
    put_model("clap:laion/clap-htsat-unfused")
    here = {row.name for row in registry.listing() if row.state == "here"}
    assert here == {SMALL, "clap:laion/clap-htsat-unfused"}
    assert row_of(SMALL).is_default


def test_the_list_has_what_else_is_in_the_cache_and_plainly_a_model():
    put("someone/clip", "open_clip_config.json", "open_clip_pytorch_model.bin")
    put("someone/clap", "model.safetensors", "preprocessor_config.json", "tokenizer.json")
    put("someone/clap", "config.json", content='{"model_type": "clap"}')
    put("someone/bert", "model.safetensors", "preprocessor_config.json", "tokenizer.json")
    put("someone/bert", "config.json", content='{"model_type": "bert"}')
    put("someone/broken", "model.safetensors", "preprocessor_config.json", "tokenizer.json")
    put("someone/broken", "config.json", content="not JSON")
    put("someone/half", "open_clip_config.json")
    others = [row.name for row in registry.listing()[len(RECOMMENDED) + 1 :]]
    assert others == ["clap:someone/clap", "clip:hf-hub:someone/clip"]


# ---------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("clip:ViT-B-32/laion2b", SMALL),
        ("clip:vit-b-32/laion2b_s34b_b79k", SMALL),
        ("ViT-B-32/laion2b_s34b_b79k", SMALL),
        ("minni", "mini"),
        ("siglip2", "clip:ViT-B-16-SigLIP2/webli"),
        ("clap-htsat-unfused", "clap:laion/clap-htsat-unfused"),
    ],
)
def test_a_wrong_name_gets_those_that_are_like_it(name: str, near: str):
    assert near in str(registry.unknown(name))


def test_a_name_like_no_other_gets_the_forms_there_are():
    assert "clip:ARCH/TAG" in str(registry.unknown("qqqqqq"))


@given(name=st.text(max_size=40))
def test_any_text_is_a_name_or_an_error_that_says_so(name: str):
    if name == "mini" or (name.startswith(("clip:", "clap:")) and len(name) > 5):
        registry.check_name(name)
    else:
        with pytest.raises(UnknownModel, match=re.escape(repr(name))):
            registry.check_name(name)


# ---------------------------------------------------------------------- fetching


def test_the_built_in_model_is_here_at_once():
    assert (registry.pull("mini") / "manifest.json").is_file()


def test_what_is_here_is_not_fetched(clip_weights: Caches):
    put_model(SMALL)
    put_model("clap:laion/clap-htsat-unfused")
    assert registry.pull(SMALL).name == "open_clip_model.safetensors"
    assert (registry.pull("clap:laion/clap-htsat-unfused") / "config.json").is_file()
    assert clip_weights.fetched == []


@needs_open_clip
def test_what_is_not_here_is_fetched(clip_weights: Caches, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hub, "check_reachable", lambda *_: None)
    assert registry.pull(SMALL) == Path("/weights")
    siglip = "clip:ViT-B-16-SigLIP/webli"
    put(BY_NAME[siglip].repository, "open_clip_model.safetensors")  # and no tokenizer
    registry.pull(siglip)
    assert clip_weights.fetched == [SMALL, siglip]


@needs_open_clip
def test_offline_is_said_at_once(clip_weights: Caches, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in (SMALL, "clap:laion/clap-htsat-unfused", "clip:hf-hub:someone/clip"):
        with pytest.raises(ModelUnavailable, match="HF_HUB_OFFLINE"):
            registry.pull(name)
    assert clip_weights.fetched == []


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize(
    "name", [pytest.param(SMALL, marks=needs_open_clip), "clap:laion/clap-htsat-unfused"]
)
def test_a_hub_that_refuses_is_said_at_once(
    clip_weights: Caches, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    start = time.perf_counter()
    with pytest.raises(ModelUnavailable, match=r"127\.0\.0\.1 cannot be reached.*models\.md"):
        registry.pull(name)
    assert time.perf_counter() - start < 2


def test_a_name_server_that_never_answers_is_said_in_time(monkeypatch: pytest.MonkeyPatch):
    over = threading.Event()

    def slow(*_: object, **__: object) -> None:
        over.wait(20)
        raise OSError("no such host")

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(socket, "create_connection", slow)
    start = time.perf_counter()
    with pytest.raises(ModelUnavailable, match=r"huggingface\.co cannot be reached \(no answer\)"):
        hub.check_reachable("a model", seconds=0.3)
    assert time.perf_counter() - start < 2
    over.set()


def test_a_proxy_stands_for_the_hub(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    for name in ("no_proxy", "NO_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        hub.check_reachable("a model")
    with pytest.raises(ModelUnavailable, match=r"127\.0\.0\.1"):
        hub.check_reachable("a model")
    monkeypatch.setenv("no_proxy", "hub.invalid")
    with pytest.raises(ModelUnavailable, match=r"hub\.invalid"):
        hub.check_reachable("a model")


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_name_is_not_fetched(
    clip_weights: Caches, monkeypatch: pytest.MonkeyPatch, name: str
):
    with pytest.raises(UnknownModel):
        registry.pull(name)


def test_a_name_that_open_clip_does_not_have_gets_those_like_it(clip_weights: Caches):
    pytest.importorskip("open_clip")
    with pytest.raises(UnknownModel, match="laion2b_s34b_b79k"):
        registry.pull("clip:ViT-B-32/laion2b")
    with pytest.raises(UnknownModel, match="ViT-B-32"):
        registry.pull("clip:ViT-B-31/laion2b_s34b_b79k")
    with pytest.raises(ModelUnavailable, match="HF_HUB_OFFLINE"):
        registry.pull("clip:RN50/yfcc15m")


def test_a_checkpoint_of_ones_own_is_not_fetched(
    clip_weights: Caches, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(ModelUnavailable, match=r"no file or folder '/none\.pt'"):
        registry.pull("clip:ViT-B-32@/none.pt")


def test_packages_that_are_missing_are_named(clip_weights: Caches, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(clip, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"mmsearch\[clip\]"):
        registry.pull(SMALL)


# ---------------------------------------------------------------------- from a hub


class Hub(ThreadingHTTPServer):
    """A stand-in for the hub on this machine, which may break off one download."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.break_off_at: int | None = None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/models/(\w+/[\w.-]+?)(/revision/\w+)?", path):
            self._describe(found[1])
        elif found := re.fullmatch(r"/(\w+/[\w.-]+)/resolve/\w+/(.+)", path):
            self._send(found[1], found[2])
        else:
            self._reply(404, {}, b"")

    do_HEAD = do_GET  # noqa: N815 - so the standard library has it

    def log_message(self, *_: object) -> None:
        pass

    def _describe(self, repository: str) -> None:
        files = self.server.repositories.get(repository)
        if files is None:
            self._reply(404, {"X-Error-Code": "RepoNotFound"}, b"{}")
            return
        siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
        about = {"id": repository, "sha": "a" * 40, "siblings": siblings, "tags": []}
        self._reply(200, {"Content-Type": "application/json"}, json.dumps(about).encode())

    def _send(self, repository: str, name: str) -> None:
        data = self.server.repositories.get(repository, {}).get(name)
        if data is None:
            self._reply(404, {"X-Error-Code": "EntryNotFound"}, b"")
            return
        headers = {"X-Repo-Commit": "a" * 40, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        start = int(re.sub(r"\D", "", self.headers.get("Range", "0").partition("-")[0]) or 0)
        if self.command == "GET":
            self.server.asked.append(f"{name}@{start}")
        if self.command == "GET" and self.server.break_off_at and len(data) > 1000:
            part, self.server.break_off_at = data[: self.server.break_off_at], None
            self._reply(200, headers, part, length=len(data))
            self.close_connection = True
            self.connection.close()
            return
        self._reply(206 if start else 200, headers, data[start:])

    def _reply(
        self, status: int, headers: dict[str, str], body: bytes, length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub")
    with Hub() as hub_here:
        yield hub_here
        hub_here.shutdown()


def clap_files() -> dict[str, bytes]:
    return {
        "config.json": b'{"model_type": "clap"}',
        "preprocessor_config.json": b"{}",
        "tokenizer.json": b"{}",
        "tokenizer_config.json": b"{}",
        "README.md": b"of no use",
        "model.safetensors": bytes(range(256)) * 200,
        "pytorch_model.bin": b"the same once more",
    }


def pull_elsewhere(server: Hub, name: str) -> subprocess.CompletedProcess[str]:
    """`pull` in a process of its own, since huggingface_hub reads its settings when imported."""
    code = (
        "import sys\n"
        "from mmsearch.encoders.registry import pull\n"
        "seen = []\n"
        "try:\n"
        "    print(pull(sys.argv[1], lambda done, total: seen.append((done, total))))\n"
        "    print(seen)\n"
        "except Exception as error:\n"
        "    sys.exit(f'{type(error).__name__}: {error}')\n"
    )
    variables = {
        "PATH": os.environ["PATH"],
        "HF_HOME": os.environ["HF_HOME"],
        "HF_ENDPOINT": server.address,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "no_proxy": "127.0.0.1",
    }
    return subprocess.run(
        [sys.executable, "-c", code, name],
        capture_output=True,
        text=True,
        env=variables,
        check=False,
    )


def test_a_clap_model_is_fetched_with_all_it_needs_and_no_more(server: Hub):
    files = server.repositories["someone/clap"] = clap_files()
    done = pull_elsewhere(server, "clap:someone/clap")
    assert (done.returncode, done.stderr) == (0, "")
    where, seen = done.stdout.splitlines()
    needed = set(files) - {"README.md", "pytorch_model.bin"}
    assert Path(where) == hub.snapshot("someone/clap")
    assert {path.name: path.read_bytes() for path in Path(where).iterdir()} == {
        name: files[name] for name in needed
    }
    steps = eval(seen)
    size = sum(len(files[name]) for name in needed)
    assert steps[-1] == (size, size)
    assert steps == sorted(steps)
    assert registry.is_here("clap:someone/clap")

    asked = list(server.asked)
    assert pull_elsewhere(server, "clap:someone/clap").stdout.splitlines() == [where, "[]"]
    assert server.asked == asked


@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_a_clip_model_is_fetched_and_then_is_what_auto_is(server: Hub, file: str):
    pytest.importorskip("open_clip")
    server.repositories[BY_NAME[SMALL].repository] = {file: b"weights" * 1000}
    done = pull_elsewhere(server, SMALL)
    assert done.returncode == 0, done.stderr
    where, seen = done.stdout.splitlines()
    assert Path(where).read_bytes() == b"weights" * 1000
    assert eval(seen)[-1] == (7000, 7000)
    assert registry.choose() == registry.Choice(SMALL, None)


def test_a_broken_download_goes_on_where_it_stopped(server: Hub):
    files = server.repositories["someone/clap"] = clap_files()
    files["model.safetensors"] = bytes(25_000_000)  # huggingface_hub writes 10 MiB at a time
    server.break_off_at = 22_000_000
    first = pull_elsewhere(server, "clap:someone/clap")
    if first.returncode:  # some versions try again by themselves
        assert "ModelUnavailable" in first.stderr
        assert "goes on from there" in first.stderr
        assert not registry.is_here("clap:someone/clap")
        assert pull_elsewhere(server, "clap:someone/clap").returncode == 0
    whole = hub.snapshot("someone/clap") / "model.safetensors"
    assert whole.read_bytes() == files["model.safetensors"]
    starts = [int(ask.partition("@")[2]) for ask in server.asked if "safetensors" in ask]
    assert starts == [0, 20 * 1024**2]


def test_weights_come_as_a_pickle_where_there_is_nothing_safer(server: Hub):
    files = server.repositories["someone/clap"] = clap_files()
    del files["model.safetensors"]
    assert pull_elsewhere(server, "clap:someone/clap").returncode == 0
    assert registry.is_here("clap:someone/clap")


def test_a_repository_that_the_hub_does_not_have_is_an_unknown_model(server: Hub):
    done = pull_elsewhere(server, "clap:laion/clap-htsat-unfuse")
    assert done.returncode
    assert done.stderr.startswith("UnknownModel: the hub has no repository")
    assert "did you mean clap:laion/clap-htsat-unfused" in done.stderr


def test_a_repository_of_something_else_is_an_unknown_model(server: Hub):
    server.repositories["someone/text"] = {"config.json": b"{}", "vocab.json": b"{}"}
    done = pull_elsewhere(server, "clap:someone/text")
    assert "UnknownModel: someone/text is no CLAP model" in done.stderr


def test_an_index_in_which_no_model_answers_is_given_one_by_the_next_run(toy, photos, tmp_path):
    with Collection(tmp_path / "idx", model="toy", create=True) as library:
        library.store.spaces.add(library.encoder)
    with Collection(tmp_path / "idx") as library:
        library.add(photos)
        assert library.search("red", k=1)


@pytest.mark.parametrize("name", ["mini:x", "mini:", Path("mini"), 5, None])
def test_what_no_model_is_called_is_refused(name):
    with pytest.raises(UnknownModel):
        registry.load_encoder(name)
