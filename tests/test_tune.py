"""A space tuned on a user's own pairs: what it learns, when it is switched on, how it is undone."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from postgres_server import schema
from typer.testing import CliRunner

import mmsearch
from mmsearch.cli.app import app
from mmsearch.collection.doctor import examine
from mmsearch.encoders import Encoder, MultilingualEncoder, TokenEncoder
from mmsearch.encoders.family import SingleModel
from mmsearch.encoders.query_bank import QueryBank, pack_bank, unpack_bank, unpack_heads
from mmsearch.encoders.registry import REGISTRY
from mmsearch.encoders.tuned import Head, TunedEncoder
from mmsearch.errors import (
    InvalidOption,
    InvalidQuery,
    MissingExtra,
    PathNotFound,
    UnknownModel,
)
from mmsearch.spaces.query_banks import QueryBanks, calibrated_bank, projected_bank
from mmsearch.storage.place import index_place
from mmsearch.training import tune, undo_tuning
from mmsearch.training.switching import switch_on
from mmsearch.vectors.hubness import hub_weight

HAS_TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed")

DIM = 16
PHOTOS = 120


def thing(number: int) -> np.ndarray:
    """The vector that the photo and the caption of a number share."""
    return np.random.default_rng(number).normal(size=DIM)


def turned() -> np.ndarray:
    """A rotation by 50° in each of half the planes, and a scaling of some axes."""
    matrix = np.eye(DIM)
    cos, sin = np.cos(np.radians(50)), np.sin(np.radians(50))
    for at in range(0, DIM, 2):
        matrix[at : at + 2, at : at + 2] = [[cos, -sin], [sin, cos]]
    return matrix * np.where(np.arange(DIM) % 4 == 0, 2.0, 1.0)


class Skewed(Encoder):
    """Photo and caption of a number have the same vector, but that of the photo is rotated."""

    name = "skewed"
    fingerprint = "skewed-1"
    dim = DIM
    modalities = frozenset({"image", "text"})
    image_size = 2

    def __init__(self) -> None:
        self.encoded = {"image": 0, "text": 0}

    def prepare(self, modality: str, given: Any) -> Any:
        return np.asarray(given.convert("RGB").resize((2, 2))) if modality == "image" else given

    def encode(self, modality: str, batch: Any) -> Any:
        self.encoded[modality] += len(batch)
        rows = np.zeros((len(batch), DIM), np.float32)
        for row, one in zip(rows, batch, strict=True):
            if modality == "image":
                pixels = one if isinstance(one, np.ndarray) else self.prepare("image", one)
                high, low, related = pixels[0, 0].tolist()
                number = 256 * high + low
                row[:] = turned() @ thing(number if related else number + 10_000)
            else:
                row[:] = thing(int(one.split()[-1])) if one.split()[-1].isdigit() else 1.0
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def photo(folder: Path, number: int, *, related: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    colour = (number // 256, number % 256, 255 if related else 0)
    path = folder / f"{number:04}.png"
    Image.new("RGB", (2, 2), colour).save(path)
    return path


def captioned(folder: Path, numbers: range, *, related: bool = True) -> Path:
    """Photos, and a file of their captions beside them."""
    for number in numbers:
        photo(folder, number, related=related)
    lines = [f"{number:04}.png\tnumber {number}" for number in numbers]
    (folder / "captions.tsv").write_text("\n".join(lines))
    return folder


@pytest.fixture(autouse=True)
def skewed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Skewed:
    encoder = Skewed()
    monkeypatch.setitem(REGISTRY, "skewed", SingleModel("skewed", lambda: encoder))
    monkeypatch.setenv("MMSEARCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MMSEARCH_INDEX", raising=False)
    return encoder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of captioned photos, and the same tuned: `plain` and `tuned`."""
    top = tmp_path_factory.mktemp("tune")
    folder = captioned(top / "photos", range(PHOTOS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRY, "skewed", SingleModel("skewed", Skewed))
        mmsearch.index(
            folder, into=top / "plain", model="skewed", captions=folder / "captions.tsv"
        ).close()
        shutil.copytree(top / "plain", top / "tuned")
        if HAS_TORCH:
            with mmsearch.open(top / "tuned") as library:
                (report,) = tune(library)
            assert report.switched_on
            (top / "report.txt").write_text(f"{report.mean.low} {report.epochs}")
    return top


@pytest.fixture
def plain(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built / "plain", tmp_path / "plain"))


@pytest.fixture
def tuned(built: Path, tmp_path: Path) -> Path:
    if not HAS_TORCH:
        pytest.skip("torch is not installed")
    return Path(shutil.copytree(built / "tuned", tmp_path / "tuned"))


def found_first(library: mmsearch.Collection, numbers: range) -> float:
    """The share of captions that find their photo first, by its pixels only."""
    captions = [f"number {number}" for number in numbers]
    hits = library.search_many(captions, k=1, target="image", lexical=False)
    names = [Path(one.path).stem for (one,) in hits]
    right = [name == f"{number:04}" for name, number in zip(names, numbers, strict=True)]
    return float(np.mean(right))


def opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def rows_of(library: mmsearch.Collection, name: str) -> dict[str, Any]:
    """The ids and vectors of a model's space, by modality."""
    store = library.store
    space = next(one for one in store.spaces.all() if one.name == name)
    return {
        modality: [array.tobytes() for array in store.vectors.of(space, modality)]
        for modality in ("image", "text")
    }


def tuned_encoder(library: mmsearch.Collection) -> TunedEncoder:
    assert isinstance(library.encoder, TunedEncoder)
    return library.encoder


def serving(library: mmsearch.Collection) -> list[str]:
    return [space.name for space in library.store.spaces.all() if space.serves]


# ---------------------------------------------------------------------- training


def test_a_known_rotation_is_learnt_from_the_captions_of_an_index(built: Path, tuned: Path) -> None:
    with mmsearch.open(built / "plain") as library:
        before = found_first(library, range(PHOTOS))
    with mmsearch.open(tuned) as library:
        after = found_first(library, range(PHOTOS))
        assert serving(library) == ["tuned:skewed"]
    assert after > before + 0.2
    low, epochs = map(float, (built / "report.txt").read_text().split())
    assert low > 0
    assert epochs > 0


def test_photos_that_are_added_later_go_through_the_heads(tuned: Path, tmp_path: Path) -> None:
    later = range(2_000, 2_060)
    more = captioned(tmp_path / "more", later)
    with mmsearch.open(tuned) as library:
        encoder = tuned_encoder(library)
        library.add(more)
        assert found_first(library, later) > 0.6
        space = next(one for one in library.store.spaces.all() if one.serves)
        ids = [item.id for item in library.items if item.path == str(more / "2007.png")]
        stored = library.store.vectors.of(space, "image", ids)[1][0]
    own = encoder.base.encode("image", [opened(more / "2007.png")])
    np.testing.assert_allclose(stored, encoder.projections["image"](own)[0], atol=1e-3)


def test_the_same_seed_gives_the_same_heads_and_nothing_stored_is_encoded(
    plain: Path, tuned: Path, skewed: Skewed
) -> None:
    with mmsearch.open(plain) as library:
        tune(library)
        again = library.encoder.fingerprint
    assert skewed.encoded == {"image": 0, "text": 0}
    with mmsearch.open(tuned) as library:
        assert library.encoder.fingerprint == again


def test_pairs_of_a_file_are_learnt_from(plain: Path, built: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pairs = tmp_path / "pairs.tsv"
    lines = [f"picture {number}\t{number:04}.png" for number in range(120)]
    pairs.write_text("\n".join(lines))
    with mmsearch.open(plain) as library:
        (report,) = tune(library, pairs)
        assert (report.pairs, report.independent, report.switched_on) == (120, 120, True)


# ---------------------------------------------------------------------- when it is switched on


@needs_torch
def test_pairs_that_say_nothing_change_nothing(tmp_path: Path) -> None:
    """There would seem to be a gain if pairs were evaluated with heads trained on them."""
    folder = captioned(tmp_path / "photos", range(120), related=False)
    with mmsearch.index(
        folder, into=tmp_path / "idx", model="skewed", captions=folder / "captions.tsv"
    ) as library:
        before = rows_of(library, "skewed")
        (report,) = tune(library)
        assert not report.switched_on
        assert report.mean.low <= 0
        assert serving(library) == ["skewed"]
        assert [space.name for space in library.store.spaces.all()] == ["skewed"]
        assert rows_of(library, "skewed") == before


def test_a_direction_that_gets_worse_prevents_the_switch() -> None:
    from mmsearch.evaluation.comparison import Compared, Comparison, Difference
    from mmsearch.evaluation.results import Figure
    from mmsearch.training.report import is_better

    def direction(change: float) -> Compared:
        figure = Figure(change, change, change)
        return Compared("a→b", 9, 9, {"MRR": Difference(0.5, 0.5, figure, "B is better")})

    def of(*changes: float) -> Comparison:
        return Comparison(None, None, tuple(map(direction, changes)))  # type: ignore[arg-type]

    certain = Figure(0.1, 0.05, 0.2)
    assert is_better(of(0.2, 0.0), certain)
    assert not is_better(of(0.3, -0.1), certain)
    assert not is_better(of(0.2, 0.2), Figure(0.1, 0.0, 0.2))


@needs_torch
def test_too_few_pairs_are_refused_with_how_many_are_needed(tmp_path: Path) -> None:
    folder = captioned(tmp_path / "photos", range(12))
    with mmsearch.index(
        folder, into=tmp_path / "idx", model="skewed", captions=folder / "captions.tsv"
    ) as library:
        with pytest.raises(InvalidOption, match=r"captions of 12 files.*at least 100"):
            tune(library)
        pairs = tmp_path / "pairs.tsv"
        pairs.write_text("number 3\tnowhere.png\n")
        with pytest.raises(InvalidQuery, match="in the index"):
            tune(library, pairs)
        with pytest.raises(PathNotFound, match=r"nothing\.tsv"):
            tune(library, tmp_path / "nothing.tsv")
    photo(tmp_path / "bare", 1)
    with (
        mmsearch.index(tmp_path / "bare", into=tmp_path / "other", model="skewed") as library,
        pytest.raises(InvalidOption, match=r"captions of 0 files.*--captions"),
    ):
        tune(library)


@needs_torch
def test_pairs_of_words_and_texts_are_refused_with_what_a_pair_needs(
    plain: Path, tmp_path: Path
) -> None:
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(f"number {number}")
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("".join(f"picture {number}\t{number}.txt\n" for number in range(3)))
    with mmsearch.open(plain) as library:
        library.add([tmp_path / f"{number}.txt" for number in range(3)])
        with pytest.raises(InvalidOption, match="of different kinds, such as words and a photo"):
            tune(library, pairs)


@needs_torch
def test_no_photo_is_in_two_parts_of_a_split(built: Path) -> None:
    from mmsearch.evaluation.pairs import Pair
    from mmsearch.training.examples import examples_of, judged_queries
    from mmsearch.types import Query

    def names(number: int) -> dict[str, float]:
        return {f"{one:04}.png": 1.0 for one in (number, number + number % 2)}

    pairs = [Pair(Query.text(f"a {number}"), names(number)) for number in range(60)]
    pairs += [Pair(Query.text(f"the {number}"), names(number)) for number in range(60)]
    with mmsearch.open(built / "plain") as library:
        (space,) = library.store.spaces.all()
        judged = judged_queries(library, pairs).queries
        (whole,) = examples_of(library, space, library.encoder, judged)
    groups = np.unique(whole.item_groups)
    one, other = whole.subset(groups[::2]), whole.subset(groups[1::2])
    assert not set(one.paths) & set(other.paths)
    assert not set(one.labels) & set(other.labels)
    assert len(one.labels) + len(other.labels) == 120
    for part in (one, other):
        for label, relevant in zip(part.labels, part.relevant, strict=True):
            expected = names(int(label.split()[-1]))
            assert {Path(part.paths[at]).name for at in relevant} == expected.keys()


def test_without_torch_the_extra_is_named(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with mmsearch.open(plain) as library, pytest.raises(MissingExtra, match=r"mmsearch\[clip\]"):
        tune(library)


# ---------------------------------------------------------------------- undo


def test_undo_restores_the_same_vectors_and_hits(built: Path, tuned: Path) -> None:
    with mmsearch.open(built / "plain") as library:
        rows, hits = rows_of(library, "skewed"), library.search("number 7")
    with mmsearch.open(tuned) as library:
        report = undo_tuning(library)
        assert (report.filled, report.warnings) == (0, [])
        assert [space.name for space in library.store.spaces.all()] == ["skewed"]
        assert rows_of(library, "skewed") == rows
        assert [(one.path, one.score) for one in library.search("number 7")] == [
            (one.path, one.score) for one in hits
        ]
        with pytest.raises(InvalidOption, match="not tuned"):
            undo_tuning(library)


def test_undo_encodes_what_was_added_since(tuned: Path, tmp_path: Path, skewed: Skewed) -> None:
    more = captioned(tmp_path / "more", range(2_000, 2_004))
    with mmsearch.open(tuned) as library:
        library.add(more)
        skewed.encoded["image"] = 0
        assert undo_tuning(library).filled == 4
        assert skewed.encoded["image"] == 4
        assert len(rows_of(library, "skewed")["image"][0]) == 8 * (PHOTOS + 4)


def test_undo_encodes_captions_that_changed_since(tuned: Path, built: Path, tmp_path: Path) -> None:
    changed = tmp_path / "captions.tsv"
    changed.write_text("0007.png\tnumber 9000\n")
    with mmsearch.open(tuned) as library:
        library.add(built / "photos" / "0007.png", captions=changed)
        undo_tuning(library)
        (item,) = (one for one in library.items if one.path.endswith("0007.png"))
        (space,) = library.store.spaces.all()
        (row,) = library.store.vectors.of(space, "text", [item.id])[1]
    assert row @ thing(9_000) > 0.99 * np.linalg.norm(thing(9_000))


def test_undo_waits_for_files_that_are_not_there(tuned: Path, tmp_path: Path) -> None:
    more = captioned(tmp_path / "more", range(2_000, 2_004))
    with mmsearch.open(tuned) as library:
        library.add(more)
        more.rename(tmp_path / "away")
        with pytest.raises(InvalidOption, match=r"4 stored files are not there just now"):
            undo_tuning(library)
        assert serving(library) == ["tuned:skewed"]
        (tmp_path / "away").rename(more)
        undo_tuning(library)
        assert serving(library) == ["skewed"]


def test_a_tuning_is_undone_before_the_next_one(tuned: Path) -> None:
    with mmsearch.open(tuned) as library, pytest.raises(InvalidOption, match="tune --undo"):
        tune(library)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("what", ["epochs", "vectors", "hubs"])
def test_an_interrupted_run_leaves_the_index_as_it_was(
    plain: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mmsearch.open(plain) as library:
        rows, hits = rows_of(library, "skewed"), library.search("number 7")
        (space,) = library.store.spaces.all()
        encoder = TunedEncoder(library.encoder, {"image": head(1)})
        if what == "epochs":
            pytest.importorskip("torch")
            with pytest.raises(KeyboardInterrupt):
                tune(library, progress=interrupt)
        elif what == "vectors":
            with pytest.raises(KeyboardInterrupt):
                switch_on(library, space, encoder, interrupt)
        else:  # the tuned space serves by then
            monkeypatch.setattr(QueryBanks, "update", interrupt)
            with pytest.raises(KeyboardInterrupt):
                switch_on(library, space, encoder, None)
        assert [space.name for space in library.store.spaces.all()] == ["skewed"]
        assert serving(library) == ["skewed"]
        assert rows_of(library, "skewed") == rows
        assert library.search("number 7") == hits


def test_undo_deletes_what_a_killed_run_left(plain: Path) -> None:
    with mmsearch.open(plain) as library:
        (space,) = library.store.spaces.all()
        encoder = TunedEncoder(library.encoder, {"image": head(1)})
        added = library.store.spaces.add(encoder)
        banks = library.index.query_banks
        banks.put_tuned(added, encoder, banks.bank(space))
    with mmsearch.open(plain) as library:
        undo_tuning(library)
        assert [one.name for one in library.store.spaces.all()] == ["skewed"]
        assert serving(library) == ["skewed"]


def test_what_a_killed_run_left_does_not_serve_after_the_next_indexing(plain: Path) -> None:
    with mmsearch.open(plain) as library:
        (space,) = library.store.spaces.all()
        encoder = TunedEncoder(library.encoder, {"image": head(1)})
        added = library.store.spaces.add(encoder)
        banks = library.index.query_banks
        banks.put_tuned(added, encoder, banks.bank(space))
        library.store.spaces.serve_with([encoder])
    with mmsearch.open(plain) as library:
        library.add()
        assert serving(library) == ["skewed"]


class Ear(Skewed):
    """A model of sounds, which `Hearing` has encoded until it came."""

    name = fingerprint = "ear"
    modalities = frozenset({"audio", "text"})
    sample_rate = 8_000


class Hearing(Skewed):
    modalities = frozenset({"image", "audio", "text"})
    sample_rate = 8_000


def test_sounds_stay_with_the_model_that_serves_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, made in (("skewed", Hearing), ("ear", Ear)):
        monkeypatch.setitem(REGISTRY, name, SingleModel(name, made))

    def served(library: mmsearch.Collection) -> dict[str, frozenset[str]]:
        return {one.name: one.serves for one in library.store.spaces.all()}

    photos, sounds = frozenset({"image", "text"}), frozenset({"audio", "text"})
    photo(tmp_path / "photos", 1)
    with mmsearch.index(tmp_path / "photos", tmp_path / "idx", model=["skewed", "ear"]) as library:
        space = next(one for one in library.store.spaces.all() if one.name == "skewed")
        switch_on(library, space, TunedEncoder(library.index.encoder(space), {}), None)
        assert served(library) == {"tuned:skewed": photos, "ear": sounds, "skewed": frozenset()}
        undo_tuning(library)
        assert served(library) == {"skewed": photos, "ear": sounds}


@pytest.mark.parametrize("engine", ["postgresql", "milvus"])
def test_an_index_on_a_server_is_tuned_and_undone(
    engine: str, built: Path, tuned: Path, request: pytest.FixtureRequest
) -> None:
    with mmsearch.open(tuned) as library:
        heads = tuned_encoder(library).projections
    with ExitStack() as stack:
        if engine == "milvus":
            address = request.getfixturevalue("milvus").address(f"tuned{os.getpid()}")
        else:
            url, name = stack.enter_context(schema())
            address = f"{url}{'&' if '?' in url else '?'}schema={name}"
        mmsearch.copy(built / "plain", address)
        with mmsearch.open(address) as library:
            before = found_first(library, range(PHOTOS))
            (space,) = library.store.spaces.all()
            switch_on(library, space, TunedEncoder(library.encoder, heads), None)
            assert serving(library) == ["tuned:skewed"]
            assert found_first(library, range(PHOTOS)) > before + 0.2
        with mmsearch.open(address) as library:
            undo_tuning(library)
            assert serving(library) == ["skewed"]
            assert found_first(library, range(PHOTOS)) == before


# ---------------------------------------------------------------------- a tuned index


def test_a_copy_stays_tuned_and_can_be_undone(tuned: Path, tmp_path: Path) -> None:
    mmsearch.copy(tuned, tmp_path / "copy")
    with mmsearch.open(tuned) as library:
        hits = library.search_many(["number 7", "number 8"], target="image")
    with mmsearch.open(tmp_path / "copy") as library:
        assert library.search_many(["number 7", "number 8"], target="image") == hits
        undo_tuning(library)
        assert serving(library) == ["skewed"]


def test_indexing_with_the_model_that_was_tuned_keeps_the_tuning(
    tuned: Path, built: Path, skewed: Skewed
) -> None:
    with mmsearch.index(built / "photos", into=tuned, model="skewed") as library:
        assert serving(library) == ["tuned:skewed"]
        assert library.report.filled == 0
    assert skewed.encoded == {"image": 0, "text": 0}


def test_another_model_takes_the_place_of_a_tuned_one(tuned: Path, built: Path, toy: Any) -> None:
    with mmsearch.index(built / "photos", into=tuned, model="toy") as library:
        assert serving(library) == ["toy"]
    said = CliRunner().invoke(app, ["status", "-i", str(tuned)]).stdout
    assert " skewed (16 dimensions, not used any more" in said


def test_imported_vectors_of_the_model_go_through_the_heads(tuned: Path, skewed: Skewed) -> None:
    numbers = range(3_000, 3_040)
    rows = np.stack([turned() @ thing(number) for number in numbers])
    names = [{"path": f"/else/{number}.png"} for number in numbers]
    with mmsearch.open(tuned) as library:
        library.add_vectors(rows, names, model="skewed")
        assert serving(library) == ["tuned:skewed"]
        hits = library.search_many([f"number {one}" for one in numbers], k=1, target="image")
        own = [Path(one.path).stem == str(n) for (one,), n in zip(hits, numbers, strict=True)]
        assert np.mean(own) > 0.8
        library.add_vectors(-rows, names, model="skewed")
        hits = library.search_many([f"number {one}" for one in numbers], k=1, target="image")
        own = [Path(one.path).stem == str(n) for (one,), n in zip(hits, numbers, strict=True)]
        assert np.mean(own) < 0.2


def test_a_tuned_model_with_other_weights_is_recognised(
    tuned: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Newer(Skewed):
        fingerprint = "skewed-2"

    monkeypatch.setitem(REGISTRY, "skewed", SingleModel("skewed", Newer))
    expected = pytest.raises(mmsearch.MMSearchError, match="mmsearch index --model skewed")
    with mmsearch.open(tuned) as library, expected:
        library.search("number 7")
    with mmsearch.index(built / "photos", into=tuned, model="skewed") as library:
        assert serving(library) == ["skewed"]


def test_status_says_why_the_base_of_a_tuned_space_is_kept(tuned: Path) -> None:
    said = CliRunner().invoke(app, ["status", "-i", str(tuned)]).stdout
    assert "tuned:skewed (16 dimensions)" in said
    assert re.search(r" skewed \(16 dimensions, kept for `mmsearch tune .*--undo", said)


def test_commands_that_name_a_tuned_model_are_told_what_to_do_instead(
    tuned: Path, built: Path
) -> None:
    with pytest.raises(UnknownModel, match="the model to name is 'skewed'"):
        mmsearch.index(built / "photos", into=tuned, model="tuned:skewed")
    with (
        mmsearch.open(tuned) as library,
        pytest.raises(InvalidOption, match="mmsearch tune --undo"),
    ):
        library.drop_space("tuned:skewed")


def test_a_tuned_index_is_in_order(tuned: Path) -> None:
    findings = examine(index_place(tuned))
    assert not [one for one in findings if one.state == "wrong"]


class Rereading(Skewed, TokenEncoder):
    """Compares photos and captions again, by their vectors in a byte a number."""

    name = "rereading"
    fingerprint = "rereading-1"
    token_modalities = frozenset({"image", "text"})
    match_weight = 1.0

    def encode_with_tokens(self, modality: str, batch: Any) -> Any:
        vectors = self.encode(modality, batch)
        return vectors, [np.rint(127 * row[None]).astype(np.int8) for row in vectors]

    def match(self, modality: str, query: Any, candidates: Any) -> Any:
        return np.array([float((query @ one.T.astype(float)).max()) for one in candidates])


def test_a_tuned_model_reranks_with_the_stored_token_embeddings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Rereading()
    monkeypatch.setitem(REGISTRY, "rereading", SingleModel("rereading", lambda: encoder))
    folder = captioned(tmp_path / "photos", range(9))
    with mmsearch.index(folder, into=tmp_path / "idx", model="rereading") as library:
        how = {"rerank": "fusion", "lexical": False, "target": "image"}
        before = library.search("number 7", **how)
        encoder.encoded["image"] = 0
        (space,) = library.store.spaces.all()
        nothing = Head(*(np.zeros(one, np.float32) for one in ((DIM, 1), (1, DIM), DIM)))
        switch_on(library, space, TunedEncoder(encoder, {"image": nothing}), None)
        assert serving(library) == ["tuned:rereading"]
        assert [hit.path for hit in library.search("number 7", **how)] == [
            hit.path for hit in before
        ]
        assert encoder.encoded["image"] == 0


# ---------------------------------------------------------------------- heads and banks


class Learning(Skewed, MultilingualEncoder):
    """Texts that do not begin with "number" are in a language that its second version learnt."""

    def __init__(self, version: str) -> None:
        super().__init__()
        self.languages_version = version

    def is_english(self, text: str) -> bool:
        return text.startswith("number")

    def encode(self, modality: str, batch: Any) -> Any:
        if modality == "image" or self.languages_version != "1":
            return super().encode(modality, batch)
        known = [text if self.is_english(text) else "unknown" for text in batch]
        return super().encode(modality, known)


@pytest.fixture
def learnt(
    built: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Installs a version of the model; the first one has encoded the texts of `plain`."""

    def install(version: str) -> None:
        model = SingleModel("skewed", lambda: Learning(version))
        monkeypatch.setitem(REGISTRY, "skewed", model)

    install("1")
    lines = [f"{number:04}.png\tNummer {number}" for number in range(PHOTOS)]
    (tmp_path / "captions.tsv").write_text("\n".join(lines))
    with mmsearch.open(plain) as library:
        library.add(built / "photos", captions=tmp_path / "captions.tsv")
    return install


def texts_are_as_encoded_now(library: mmsearch.Collection) -> bool:
    (space,) = (one for one in library.store.spaces.all() if one.serves)
    ids, rows, positions = library.store.vectors.of(space, "text")
    items = library.store.items.get(ids.tolist())
    places = zip(ids.tolist(), positions.tolist(), strict=True)
    texts = [items[id_].texts[position].text for id_, position in places]
    return np.allclose(library.encoder.encode("text", texts), rows, atol=2e-3)


@needs_torch
def test_an_older_index_is_tuned_on_texts_as_the_model_encodes_them_now(
    plain: Path, learnt: Callable[[str], None]
) -> None:
    learnt("2")
    with mmsearch.open(plain) as library:
        (report,) = tune(library)
        assert all(one.measures["MRR"].a > 0.5 for one in report.comparison.directions)
        assert texts_are_as_encoded_now(library)


def test_a_tuned_index_has_texts_encoded_again_when_its_model_learns_languages(
    plain: Path, learnt: Callable[[str], None]
) -> None:
    with mmsearch.open(plain) as library:
        (space,) = library.store.spaces.all()
        heads = {"image": head(1), "text": head(2)}
        switch_on(library, space, TunedEncoder(library.encoder, heads), None)
        assert texts_are_as_encoded_now(library)
    learnt("2")
    for filled in (PHOTOS, 0):
        with mmsearch.open(plain) as library:
            assert library.add().filled == filled
            assert texts_are_as_encoded_now(library)
    with mmsearch.open(plain) as library:
        undo_tuning(library)
        assert texts_are_as_encoded_now(library)


def head(seed: int, size: float = 0.3, dim: int = DIM) -> Head:
    rng = np.random.default_rng(seed)
    down, up = rng.normal(size=(dim, 4)), size * rng.normal(size=(4, dim))
    return Head(*(one.astype(np.float32) for one in (down, up, np.zeros(dim))))


def unit(seed: int, number: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(number, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_heads_are_stored_along_with_a_bank() -> None:
    heads = {"image": head(1), "text": head(2)}
    bank = QueryBank({"text": unit(3, 50)}, shipped=True)
    packed = pack_bank("weights", bank, heads)
    found = unpack_heads(packed, "weights")
    np.testing.assert_array_equal(found["image"](unit(4, 9)), heads["image"](unit(4, 9)))
    assert unpack_bank(packed, "weights").shipped
    assert not unpack_heads(packed, "other")
    assert not unpack_heads(pack_bank("weights", bank), "weights")


def test_the_bank_of_an_identity_is_that_of_its_base() -> None:
    rows = {"text": unit(1, 400), "image": unit(2, 400)}
    bank = calibrated_bank(rows, {"text": unit(3, 400), "image": unit(4, 400)})
    found = projected_bank(bank, {})
    assert found.shipped == bank.shipped
    for pair, numbers in bank.references.items():
        np.testing.assert_allclose(found.references[pair], numbers, atol=1e-6)
    for pair, hubs in bank.hubs.items():
        np.testing.assert_allclose(found.hubs[pair], hubs, atol=1e-6)


def test_a_bank_is_projected_with_hubs_and_references_of_its_own() -> None:
    rows = {"text": unit(1, 600), "image": unit(2, 600)}
    heldout = {"text": unit(3, 600), "image": unit(4, 600)}
    encoder = TunedEncoder(Skewed(), {"text": head(5), "image": head(6)})
    bank = calibrated_bank(rows, heldout)
    found = projected_bank(bank, encoder.projections)
    moved = [
        {name: encoder.project(name, one) for name, one in part.items()} for part in (rows, heldout)
    ]
    exact = calibrated_bank(*moved)
    for pair in exact.references:
        new, wanted = (
            level + growth * np.log(600)
            for level, growth, _ in (one.references[pair] for one in (found, exact))
        )
        assert abs(new - wanted) < 0.05
        np.testing.assert_allclose(found.hubs.get(pair, 0), exact.hubs.get(pair, 0), atol=1e-6)


def test_the_built_in_model_keeps_its_bank_and_reranking(photos: Path, tmp_path: Path) -> None:
    with mmsearch.index(photos, into=tmp_path / "idx", model="mini") as library:
        (space,) = library.store.spaces.all()
        heads = {"image": head(1, 0.05, dim=space.dim), "text": head(2, 0.05, dim=space.dim)}
        switch_on(library, space, encoder := TunedEncoder(library.encoder, heads), None)
        (tuned, _) = library.index.serving()[0]
        assert library.index.query_banks.hub_weight(tuned, "text", "image") == hub_weight(
            "text", "image"
        )
        for rerank in ("none", "fusion"):
            hits = library.search("red", target="image", lexical=False, rerank=rerank)
            assert all(hit.confidence is not None for hit in hits)
        (item,) = (one for one in library.items if one.path.endswith("red.png"))
        (row,) = library.store.vectors.of(tuned, "image", [item.id])[1]
        own = encoder.base.encode("image", [opened(photos / "red.png")])
        assert row @ heads["image"](own)[0] > 0.99


def test_other_heads_are_another_model() -> None:
    base = Skewed()
    names = {
        TunedEncoder(base, heads).fingerprint
        for heads in ({}, {"image": head(1)}, {"text": head(1)}, {"image": head(2)})
    }
    assert len(names | {base.fingerprint}) == 5
    moved = replace(head(1), bias=np.ones(DIM, np.float32))
    assert TunedEncoder(base, {"image": moved}).fingerprint not in names


# ---------------------------------------------------------------------- the command


def run(*arguments: str | Path, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["tune", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


@needs_torch
def test_the_command_reports_draws_and_undoes(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("mmsearch.cli.console.SECONDS_A_LINE", 0.0)
    curves = tmp_path / "curves.png"
    shown = run("-i", plain, "--plot", curves, "--json")
    assert "steps [00:00" in shown.stderr
    (report,) = json.loads(shown.stdout)
    assert report["switched_on"]
    assert {one["direction"] for one in report["differences"]} == {"text→image", "image→text"}
    assert curves.read_bytes().startswith(b"\x89PNG")
    assert run("-i", plain, "--undo", "-q").stderr.startswith("the tuning is undone")
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("".join(f"{n:04}.png\tnumber {(n + 7) % 120}\n" for n in range(121)))
    said = run(pairs, "--columns", "file,query", "-i", plain, "--seed", "3", "-q", code=1)
    assert "[00:00" not in said.stderr
    assert "1 file not in the index: '0120.png'" in said.stderr
    assert "MRR" in said.stdout
    assert "not switched on" in said.stdout


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--undo", "--plot", "a.png"], "leave out"),
        (["--undo", "--json"], "leave out"),
        (["--columns", "file,query"], "give PAIRS"),
        (["--reranker", "--plot", "a.png"], "leave out --plot"),
        (["--reranker"], "only the reranking of a clip: model"),
        (["--reranker", "--undo"], "only the reranking of a clip: model"),
        (["--undo"], "not tuned"),
    ],
)
def test_wrong_uses_are_explained(plain: Path, given: list[str], expected: str) -> None:
    assert expected in run(*given, "-i", plain, code=2).stderr
