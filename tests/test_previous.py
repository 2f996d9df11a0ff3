"""Indexes of a model's previous weights: searched through maps, and moved by `mmsearch index`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import previous_weights as recorded_weights
import pytest
from PIL import Image
from postgres_server import schema
from typer.testing import CliRunner

import mmsearch
from mmsearch.cli.app import app
from mmsearch.encoders import Encoder, MultilingualEncoder, TokenEncoder, previous, query_bank
from mmsearch.encoders.family import SingleModel
from mmsearch.encoders.mini.encoder import load_mini
from mmsearch.encoders.previous import (
    LinearMap,
    PreviousEncoder,
    PreviousWeights,
    previous_bank,
    previous_weights,
)
from mmsearch.encoders.projected import projected
from mmsearch.encoders.query_bank import QueryBank, pack_bank, shipped_bank
from mmsearch.encoders.registry import REGISTRY
from mmsearch.encoders.tuned import Head, TunedEncoder
from mmsearch.errors import IndexUnusable, InvalidOption
from mmsearch.evaluation import evaluate
from mmsearch.evaluation.pairs import Pair
from mmsearch.spaces.query_banks import calibrated_bank, projected_bank
from mmsearch.training import undo_tuning
from mmsearch.training.switching import switch_on
from mmsearch.vectors.hubness import WEIGHTS

DIM = 16
PHOTOS = 24
ROTATION = np.linalg.qr(np.random.default_rng(7).normal(size=(DIM, DIM)))[0]
HOW: dict[str, Any] = {"target": "image", "lexical": False}


def unit(rows: Any) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


class Model(TokenEncoder, MultilingualEncoder):
    """The photo and the caption of a number are near each other; version 2 rotates everything."""

    name = "model"
    dim = DIM
    modalities = frozenset({"image", "text"})
    image_size = 2
    token_modalities = frozenset({"image", "text"})
    match_weight = 1.0

    def __init__(self, version: int) -> None:
        self.fingerprint = f"model-{version}"
        self.tokens_version = self.languages_version = str(version)
        self.encoded = {"image": 0, "text": 0}

    def prepare(self, modality: str, given: Any) -> Any:
        return np.asarray(given.convert("RGB").resize((2, 2))) if modality == "image" else given

    def encode(self, modality: str, batch: Any) -> Any:
        self.encoded[modality] += len(batch)
        rows = []
        for one in batch:
            if modality == "image":
                pixels = one if isinstance(one, np.ndarray) else self.prepare("image", one)
                number, salt = int(pixels[0, 0, 1]), 1
            else:
                number, salt = (int(one.split()[-1]) if one[-1].isdigit() else 255), 2
            shared, own = (
                np.random.default_rng(seed).normal(size=DIM) for seed in (number, [number, salt])
            )
            rows.append(shared + 0.4 * own)
        made = unit(np.reshape(rows, (len(batch), DIM)))
        return made if self.fingerprint == "model-1" else made @ ROTATION.astype(np.float32)

    def encode_with_tokens(self, modality: str, batch: Any) -> Any:
        vectors = self.encode(modality, batch)
        return vectors, [np.rint(127 * row[None]).astype(np.int8) for row in vectors]

    def match(self, modality: str, query: Any, candidates: Any) -> Any:
        return np.array([float((query @ one.T.astype(float)).max()) for one in candidates])

    def is_english(self, text: str) -> bool:
        return text.startswith("number")


MAPS = {
    modality: LinearMap(ROTATION.T.astype(np.float32), np.zeros(DIM, np.float32))
    for modality in ("image", "text")
}


def bank_of(version: int) -> QueryBank:
    def some(start: int) -> dict[Any, Any]:
        rows = unit(np.random.default_rng(start).normal(size=(400, DIM)))
        own = rows if version == 1 else rows @ ROTATION.astype(np.float32)
        return {"text": own[:200], "image": own[200:]}

    return calibrated_bank(some(1), some(2))


@pytest.fixture(autouse=True)
def install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[[int], list[Model]]]:
    """Installs a version of the model; version 2 comes with maps to version 1."""
    made: list[Model] = []

    def load() -> Model:
        made.append(Model(installed))
        return made[-1]

    def install_version(version: int) -> list[Model]:
        nonlocal installed
        installed = version
        forget()
        bank = bank_of(version)
        (tmp_path / "bank.npz").write_bytes(pack_bank(f"model-{version}", bank))
        if version == 2:
            mapped = replace(projected_bank(bank, MAPS), rows={})
            weights = PreviousWeights("model-1", "model-2", "1", MAPS, mapped)  # type: ignore[arg-type]
            (tmp_path / "previous.npz").write_bytes(weights.pack())
        made.clear()
        return made

    installed = 1
    monkeypatch.setitem(REGISTRY, "model", SingleModel("model", load))
    monkeypatch.setattr(query_bank, "SHIPPED", {"model": tmp_path / "bank.npz"})
    monkeypatch.setattr(previous, "SHIPPED", {"model": tmp_path / "previous.npz"})
    monkeypatch.setenv("MMSEARCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MMSEARCH_INDEX", raising=False)
    install_version(1)
    yield install_version
    forget()


def forget() -> None:
    for cached in (shipped_bank, previous_weights, previous_bank):
        cached.cache_clear()


def photo(folder: Path, number: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number:03}.png"
    Image.new("RGB", (2, 2), (0, number, 0)).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number in range(PHOTOS):
        photo(folder, number)
    lines = (f"{number:03}.png\tnumber {number}" for number in range(PHOTOS))
    (folder / "captions.tsv").write_text("\n".join(lines))
    return folder


def indexed(photos: Path, into: Path) -> mmsearch.Collection:
    return mmsearch.index(photos, into=into, model="model", captions=photos / "captions.tsv")


@pytest.fixture
def old(photos: Path, tmp_path: Path, install: Callable[[int], list[Model]]) -> Path:
    """An index that version 1 has made, now that version 2 is installed."""
    indexed(photos, tmp_path / "idx").close()
    install(2)
    return tmp_path / "idx"


def ranked(library: mmsearch.Collection, query: Any = "number 7", **options: Any) -> Any:
    hits = library.search(query, k=PHOTOS, **HOW | options)
    return [Path(hit.path).stem for hit in hits], np.array([hit.score for hit in hits])


def fingerprints(library: mmsearch.Collection) -> list[str]:
    return [space.fingerprint for space in library.store.spaces.all() if space.serves]


@pytest.fixture
def before(photos: Path, tmp_path: Path, install: Callable[[int], list[Model]]) -> dict[str, Any]:
    """What version 1 answers."""
    install(1)
    with indexed(photos, tmp_path / "before") as library:
        by_photo = mmsearch.Query.image(photos / "007.png")
        item = next(one.id for one in library.items if one.path.endswith("007.png"))
        return {
            "text": ranked(library),
            "photo": ranked(library, by_photo),
            "item": ranked(library, mmsearch.Query.item(item)),
            "texts": ranked(library, by_photo, target="text"),
            "confidence": library.search("number 7", **HOW)[0].confidence,
        }


# ---------------------------------------------------------------------- searches


def test_searches_of_an_old_index_answer_as_they_did(
    before: dict[str, Any], old: Path, photos: Path
) -> None:
    with mmsearch.open(old) as library:
        by_photo = mmsearch.Query.image(photos / "007.png")
        item = next(one.id for one in library.items if one.path.endswith("007.png"))
        found = {
            "text": ranked(library),
            "photo": ranked(library, by_photo),
            "item": ranked(library, mmsearch.Query.item(item)),
            "texts": ranked(library, by_photo, target="text"),
        }
        for kind, (names, scores) in found.items():
            assert names[:3] == before[kind][0][:3], kind
            np.testing.assert_allclose(scores, before[kind][1], atol=0.02)
        confidence = library.search("number 7", **HOW)[0].confidence
        assert confidence == pytest.approx(before["confidence"], abs=0.1)
        assert library.encoder.fingerprint == "model-1"
        assert fingerprints(library) == ["model-1"]


def test_everything_else_works_on_an_old_index(old: Path, photos: Path) -> None:
    with mmsearch.open(old) as library:
        described = library.describe(photos / "007.png", labels=["number 7", "number 9"], k=1)
        assert described.labels[0][0] == "number 7"
        library.tag(["number 7"])
        assert library.duplicates() == []
        pairs = [Pair(mmsearch.Query.text("number 7"), {str(photos / "007.png"): 1.0})]
        assert evaluate(library, pairs).directions[0].measures["MRR"].value == 1
        assert library.status()["models"][0]["previous"]


def test_hubs_and_references_of_an_old_index_are_those_of_the_mapped_bank(old: Path) -> None:
    with mmsearch.open(old) as library:
        ((space, _),) = library.index.serving()
        banks = library.index.query_banks
        assert banks.hub_weight(space, "text", "image") == WEIGHTS["text", "image"]
        bank, wanted = banks.bank(space), bank_of(1)
        assert bank is not None
        for modality, rows in wanted.rows.items():
            np.testing.assert_allclose(bank.rows[modality], rows, atol=0.03)
        for pair, hubs in wanted.hubs.items():
            np.testing.assert_allclose(bank.hubs[pair], hubs, atol=0.03)
        for pair, numbers in wanted.references.items():
            np.testing.assert_allclose(bank.references[pair], numbers, atol=0.05)


def test_a_folder_that_cannot_be_written_is_searched_as_well(old: Path) -> None:
    files = [old, *old.rglob("*")]
    for file in files:
        file.chmod(0o555 if file.is_dir() else 0o444)
    try:
        with mmsearch.open(old) as library:
            assert ranked(library)[0][0] == "007"
    finally:
        for file in files:
            file.chmod(0o755 if file.is_dir() else 0o644)


def test_an_old_index_is_reranked_once_it_is_moved(old: Path) -> None:
    with mmsearch.open(old) as library:
        (space,) = library.store.spaces.all()
        stored = library.store.token_embeddings.of(space, "image", [1, 2, 3])
        with pytest.raises(InvalidOption, match="mmsearch index"):
            ranked(library, rerank="fusion")
        assert library.store.token_embeddings.of(space, "image", [1, 2, 3]).keys() == stored.keys()
        library.add()
        assert ranked(library, rerank="fusion")[0][0] == "007"


def test_weights_before_the_previous_ones_are_refused(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REGISTRY, "model", SingleModel("model", lambda: Model(3)))
    with (
        mmsearch.open(old) as library,
        pytest.raises(IndexUnusable, match="mmsearch index --model model"),
    ):
        library.search("number 7")


def test_status_says_that_indexing_moves_it(old: Path) -> None:
    said = CliRunner().invoke(app, ["status", "-i", str(old)]).stdout
    assert "model (16 dimensions, encoded with previous weights: `mmsearch index" in said
    mmsearch.index(old.parent / "photos", into=old).close()
    said = CliRunner().invoke(app, ["status", "-i", str(old)]).stdout
    assert "previous" not in said
    assert "model (16 dimensions, not used any more" in said


def test_a_server_is_ready_with_an_old_index(old: Path) -> None:
    from server_world import served

    with served(old) as client:
        hits = client.get("/api/v1/search", params={"q": "number 7", "target": "image"}).json()
        assert hits["hits"][0]["path"].endswith("007.png")


# ---------------------------------------------------------------------- moving


def test_indexing_moves_an_old_index(old: Path, photos: Path) -> None:
    with mmsearch.index(photos, into=old) as library:
        assert library.report is not None
        assert library.report.filled == 2 * PHOTOS
        assert fingerprints(library) == ["model-2"]
        assert ranked(library)[0][0] == "007"
        assert library.add().filled == 0


def test_keeping_up_to_date_moves_it_as_well(old: Path) -> None:
    with mmsearch.open(old) as library:
        library.refresh()
        assert fingerprints(library) == ["model-2"]


def test_what_it_does_is_told(old: Path, photos: Path) -> None:
    told = CliRunner().invoke(app, ["index", str(photos), "-i", str(old)]).stderr
    assert "'model' has new weights: re-encoding the stored items" in told
    told = CliRunner().invoke(app, ["index", str(photos), "-i", str(old)]).stderr
    assert "new weights" not in told


def test_the_old_vectors_answer_while_it_is_moved_and_find_what_is_new(
    old: Path, photos: Path, install: Callable[[int], list[Model]], monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(photos, 200)
    with monkeypatch.context() as patch:
        patch.setattr("mmsearch.indexing.backfill.Backfill._encode_files", interrupt)
        with mmsearch.open(old) as library, pytest.raises(KeyboardInterrupt):
            library.add()
    made = install(2)
    with mmsearch.open(old) as library:
        assert fingerprints(library) == ["model-1"]
        assert ranked(library, "number 200")[0][0] == "200"
        assert ranked(library)[0][0] == "007"
        library.add()
        assert fingerprints(library) == ["model-2"]
        assert ranked(library, "number 200")[0][0] == "200"
        assert made[0].encoded["image"] == PHOTOS  # photo 200 had been encoded before
        assert len(made) == 1  # both spaces share what is loaded


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_while_files_are_away_the_old_vectors_go_on_answering(
    old: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = photos.rename(photos.with_name("away"))
    with caplog.at_level("INFO"), mmsearch.open(old) as library:
        for _ in range(2):
            library.add()
            assert caplog.text.count("new weights") == 1
            assert fingerprints(library) == ["model-1"]
            assert ranked(library)[0][0] == "007"
        away.rename(photos)
        library.add()
        assert fingerprints(library) == ["model-2"]


def test_an_index_whose_user_chose_another_model_is_not_touched(
    old: Path, photos: Path, toy: Any
) -> None:
    with mmsearch.index(photos, into=old, model="toy") as library:
        before = library.store.spaces.all()
        library.add()
        assert library.store.spaces.all() == before
        assert fingerprints(library) == ["toy-1"]
        assert toy.encoded["image"] == PHOTOS


def test_another_model_that_is_asked_for_takes_over_at_once(
    old: Path, photos: Path, toy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"), mmsearch.index(photos, into=old, model="toy") as library:
        assert {space.name for space in library.store.spaces.all()} == {"model", "toy"}
        assert "model-2" not in {space.fingerprint for space in library.store.spaces.all()}
        assert fingerprints(library) == ["toy-1"]
    assert "new weights" not in caplog.text


def test_another_model_that_is_being_filled_is_filled_on(
    old: Path, photos: Path, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("mmsearch.indexing.backfill.Backfill._encode_files", interrupt)
        with pytest.raises(KeyboardInterrupt):
            mmsearch.index(photos, into=old, model="toy")
    with mmsearch.open(old) as library:
        library.add()
        assert fingerprints(library) == ["toy-1"]


def test_an_index_on_a_server_is_searched_and_moved(old: Path) -> None:
    with schema() as (url, name):
        address = f"{url}{'&' if '?' in url else '?'}schema={name}"
        mmsearch.copy(old, address)
        with mmsearch.open(address) as library:
            assert ranked(library)[0][0] == "007"
            library.add()
            assert fingerprints(library) == ["model-2"]
            assert ranked(library)[0][0] == "007"


# ---------------------------------------------------------------------- tuned


@pytest.fixture
def tuned(photos: Path, tmp_path: Path, install: Callable[[int], list[Model]]) -> Path:
    """The same, tuned: photos and texts are turned once more."""
    turn = np.linalg.qr(np.random.default_rng(9).normal(size=(DIM, DIM)))[0].astype(np.float32)
    head = Head(turn - np.eye(DIM, dtype=np.float32), np.eye(DIM, dtype=np.float32), 0 * turn[0])
    with indexed(photos, tmp_path / "idx") as library:
        (space,) = library.store.spaces.all()
        switch_on(library, space, TunedEncoder(library.encoder, dict.fromkeys(MAPS, head)), None)
    install(2)
    return tmp_path / "idx"


def test_a_tuned_index_keeps_answering_and_is_not_moved(tuned: Path, photos: Path) -> None:
    photo(photos, 200)
    with mmsearch.index(photos, into=tuned) as library:
        assert library.report is not None
        assert library.encoder.name == "tuned:model"
        assert ranked(library)[0][0] == "007"
        assert ranked(library, "number 200")[0][0] == "200"
        assert "`mmsearch index --model model`" in " ".join(library.report.warnings)
        assert library.refresh([str(photos)]).warnings == []
    with mmsearch.index(photos, into=tuned, model="model") as library:
        assert library.encoder.name == "model"
        assert fingerprints(library) == ["model-2"]


def test_undoing_a_tuning_restores_the_old_vectors(tuned: Path, photos: Path) -> None:
    with mmsearch.open(tuned) as library:
        assert undo_tuning(library).filled == 0
        assert fingerprints(library) == ["model-1"]
        assert ranked(library)[0][0] == "007"
        library.add()
        assert fingerprints(library) == ["model-2"]


# ---------------------------------------------------------------------- import


@pytest.fixture
def exported(old: Path, tmp_path: Path) -> Path:
    with mmsearch.open(old) as library:
        library.export(tmp_path / "out", format="npy")
    return tmp_path / "out"


@pytest.mark.parametrize("model", [None, "model"])
def test_an_export_of_the_previous_weights_answers_in_an_index_of_its_own(
    exported: Path, tmp_path: Path, model: str | None
) -> None:
    with mmsearch.Collection(tmp_path / "new", create=True) as library:
        library.import_files(exported, model=model)
        assert fingerprints(library) == ["model-1"]
        assert ranked(library)[0][0] == "007"
        library.add()  # the files are there, but were not indexed
        assert ranked(library)[0][0] == "007"


def test_an_export_of_the_previous_weights_is_refused_where_the_new_ones_serve(
    exported: Path, photos: Path, tmp_path: Path
) -> None:
    with mmsearch.index(photos, into=tmp_path / "new", model="model") as library:
        with pytest.raises(InvalidOption, match="previous weights of 'model'"):
            library.import_files(exported)
        assert fingerprints(library) == ["model-2"]


# ---------------------------------------------------------------------- the file


def test_maps_lose_little_in_eight_bits() -> None:
    rng = np.random.default_rng(0)
    matrix, bias = rng.normal(size=(64, 64)), rng.normal(size=64)
    exact = LinearMap(matrix.astype(np.float32), bias.astype(np.float32))
    packed = PreviousWeights("old", "new", "7", {"audio": exact}, QueryBank({})).pack()
    found = PreviousWeights.unpack(packed)
    assert (found.fingerprint, found.current, found.languages_version) == ("old", "new", "7")
    rows = unit(rng.normal(size=(50, 64)))
    assert (found.maps["audio"](rows) * exact(rows)).sum(axis=1).min() > 0.9995


def test_a_damaged_file_is_named(old: Path, tmp_path: Path) -> None:
    content = (tmp_path / "previous.npz").read_bytes()
    (tmp_path / "previous.npz").write_bytes(content[: len(content) // 2])
    with (
        mmsearch.open(old) as library,
        pytest.raises(mmsearch.MMSearchError, match=r"previous\.npz.*Reinstall"),
    ):
        library.search("number 7")
    with mmsearch.open(old) as library:
        assert not library.status()["models"][0]["previous"]


def test_a_file_whose_bank_is_of_other_weights_is_damaged() -> None:
    packed = PreviousWeights("old", "new", "7", {}, QueryBank({})).pack()
    arrays = query_bank.npz_arrays(packed)
    arrays["bank"] = np.frombuffer(pack_bank("other", QueryBank({})), np.uint8)
    file = BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    with pytest.raises(ValueError, match="other weights"):
        PreviousWeights.unpack(file.getvalue())


def test_a_file_for_other_weights_is_not_used(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(Model):
        def __init__(self) -> None:
            super().__init__(2)
            self.fingerprint = "model-2b"

    monkeypatch.setitem(REGISTRY, "model", SingleModel("model", Other))
    with mmsearch.open(old) as library:
        assert not library.status()["models"][0]["previous"]
        with pytest.raises(IndexUnusable):
            library.search("number 7")


# ---------------------------------------------------------------------- the built-in model


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> PreviousWeights:
    monkeypatch.undo()  # what `install` has replaced
    forget()
    found = previous_weights("mini")
    if found is None:
        pytest.skip("the built-in model has no previous weights")
    return found


def test_the_previous_weights_of_the_built_in_model_are_complete(shipped: PreviousWeights) -> None:
    mini = load_mini()
    assert previous.SHIPPED["mini"].stat().st_size <= 1_000_000
    assert shipped.current == mini.fingerprint
    assert shipped.maps.keys() == mini.modalities
    bank, found = shipped_bank("mini", mini.fingerprint), previous_bank("mini", shipped.fingerprint)
    assert bank is not None
    assert found is not None
    assert found.references.keys() == bank.references.keys()
    for (_, modality), hubs in found.hubs.items():
        assert len(hubs) == len(bank.rows[modality])


class Recorded(Encoder):
    """`mini` with the weights that made what is recorded; it encodes nothing any more."""

    name = "mini"
    dim = 512
    modalities = frozenset({"image", "text", "audio"})

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint


def test_an_index_of_the_recorded_weights_is_searched_with_the_new_ones(
    shipped: PreviousWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprint, photos, sentences = recorded_weights.recorded()
    assert fingerprint == shipped.fingerprint, "record the vectors of the weights that are replaced"
    with monkeypatch.context() as patch:
        patch.setitem(REGISTRY, "mini", SingleModel("mini", lambda: Recorded(fingerprint)))
        with mmsearch.Collection(tmp_path / "idx", model="mini", create=True) as library:
            names = [{"path": f"/photos/{number}.png"} for number in range(len(photos))]
            library.add_vectors(photos, names, model="mini")
    with mmsearch.open(tmp_path / "idx") as library:
        hits = library.search_many(list(recorded_weights.SENTENCES), k=5, **HOW)
        assert isinstance(library.encoder, PreviousEncoder)
    best = np.argsort(-sentences @ photos.T, axis=1)[:, :5]
    shared = [
        len({int(Path(hit.path).stem) for hit in found} & set(rows.tolist())) / 5
        for found, rows in zip(hits, best, strict=True)
    ]
    assert np.mean(shared) > 0.6


def test_new_vectors_are_mapped_near_the_recorded_ones(shipped: PreviousWeights) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    _, photos, sentences = recorded_weights.recorded()
    mini = load_mini()
    texts = mini.encode("text", list(recorded_weights.SENTENCES))
    pictures = mini.encode("image", recorded_weights.photos())
    by_text = projected(shipped.maps, "text", texts) @ photos.T
    by_photo = projected(shipped.maps, "image", pictures) @ sentences.T
    for mapped, old in ((by_text, sentences @ photos.T), (by_photo, photos @ sentences.T)):
        agreement = [np.corrcoef(one, other)[0, 1] for one, other in zip(mapped, old, strict=True)]
        assert np.mean(agreement) > 0.8
