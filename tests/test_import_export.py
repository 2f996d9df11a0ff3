"""What is given out of an index comes back as it was: vectors to the bit, names, types, spans."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Preferred, ToyEncoder
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mmsearch.cli.app import app
from mmsearch.collection import Collection
from mmsearch.encoders.registry import REGISTRY
from mmsearch.errors import (
    InvalidFilter,
    InvalidMetadata,
    InvalidOption,
    PathNotFound,
    StorageFailed,
)

DIM = 8


def unit(rows: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    """Unit rows."""
    matrix = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def everything(library: Collection) -> list[Any]:
    """All that an index holds but ids, in order of path."""
    catalog = library.store
    (space,) = catalog.spaces.all()
    found = [
        (
            *(item.path, item.kind, item.columns, item.texts),
            *(item.metadata, item.facts, item.tags, item.vectors),
        )
        for page in catalog.items.complete(space)
        for item in page
    ]
    return sorted(found, key=lambda one: os.fsencode(one[0]))


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy: Any) -> Collection:
    """An empty index."""
    return Collection(tmp_path / "index", create=True)


# ---------------------------------------------------------------------- round trips


@pytest.mark.parametrize("form", ["npy", "parquet"])
def test_an_export_says_what_made_its_vectors(
    toy: ToyEncoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
):
    out = tmp_path / ("o.parquet" if form == "parquet" else "o")
    with Collection(tmp_path / "one", create=True, model="toy") as one:
        one.add(photos)
        one.export(out, format=form)
        best = one.search("red", k=1, target="image")[0].path
    with Collection(tmp_path / "two", create=True) as two:
        two.import_files(out)
        assert [model["name"] for model in two.status()["models"]] == ["toy"]
        assert two.search("red", k=1, target="image")[0].path == best
    monkeypatch.setattr(toy, "fingerprint", "other weights")
    with Collection(tmp_path / "three", create=True) as three:
        three.import_files(out)
        assert [model["name"] for model in three.status()["models"]] == ["vectors"]
    with (
        Collection(tmp_path / "four", create=True) as four,
        pytest.raises(InvalidOption, match="other weights of 'toy' than are installed: index"),
    ):
        four.import_files(out, model="toy")


names = st.text(
    st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=12
) | st.binary(min_size=1, max_size=8).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"x")))
values = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9)
)
keys = st.sampled_from(["stars", "größe", "licence", "w i d e", "path2"])
span = st.none() | st.tuples(
    st.floats(0, 99), st.floats(0, 99), st.sampled_from(["second", "page"])
)
captions = st.lists(st.text(min_size=1, max_size=20).filter(str.strip), max_size=3)


@st.composite
def wholes(draw: Any) -> list[dict[str, Any]]:
    """Rows that say which vector of its item each is."""
    rows = []
    for path in draw(st.lists(names, unique=True, max_size=6)):
        said = [{"text": text, "origin": "caption"} for text in draw(captions)]
        item = {
            "path": path,
            "modality": draw(st.sampled_from(["image", "text", "audio", "video", "document"])),
            "width": draw(st.none() | st.integers(0, 10_000)),
            "latitude": draw(st.none() | st.floats(-90, 90)),
            "metadata": draw(st.dictionaries(keys, values, max_size=3)),
            "facts": draw(st.dictionaries(keys, values, max_size=3)),
            "tags": draw(st.dictionaries(keys, st.floats(0, 1), max_size=2)),
            "texts": said,
        }
        facets = draw(st.lists(st.sampled_from(["image", "audio", "text"]), unique=True))
        places = [(facet, n) for facet in facets for n in range(draw(st.integers(1, 3)))]
        for facet, position in places:
            start, end, unit_ = draw(span) or (None, None, None)
            place = {"facet": facet, "position": position, "start": start, "end": end}
            rows.append({**item, "vector_place": {**place, "unit": unit_}})
            item = {**item, "texts": None}
        if not places:
            rows.append({**item, "vector_place": None})
    return rows


@pytest.mark.parametrize("form", ["parquet", "npy"])
@settings(max_examples=40)
@given(rows=wholes(), seed=st.integers(0, 9))
def test_what_is_exported_and_imported_is_what_was_imported(form: str, rows: Any, seed: int):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        matrix = unit(sum(row["vector_place"] is not None for row in rows), seed)
        if not len(matrix):
            return
        (place / "given").mkdir()
        np.save(place / "given" / "vectors.npy", matrix)
        lines = [json.dumps(row) for row in rows]
        (place / "given" / "items.jsonl").write_text("\n".join(lines) + "\n")
        first = Collection(place / "a", create=True)
        first.import_files(place / "given")
        dest = place / ("out.parquet" if form == "parquet" else "out")
        first.export(dest, format=form)
        second = Collection(place / "b", create=True)
        second.import_files(dest)
        assert everything(second) == everything(first)
        first.close()
        second.close()


@pytest.fixture(autouse=True, scope="module")
def quick_to_open():
    """New indexes take the toy encoder, which loads in no time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(REGISTRY, "toy", Preferred("toy", ToyEncoder))
        yield


# ---------------------------------------------------------------------- files that come in


def shards(folder: Path, *rows: int) -> Path:
    """A folder as clip-retrieval writes it."""
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    for number, count in enumerate(rows, start=9):  # "10" sorts before "9"
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", unit(count, number))
        np.save(folder / "text_emb" / f"text_emb_{number}.npy", unit(count, number + 50))
        table = {
            "image_path": [f"{number}/{row}.jpg" for row in range(count)],
            "caption": [f"caption {number} {row}" for row in range(count)],
            "aesthetic": [row / 10 for row in range(count)],
        }
        parquet.write_table(pa.table(table), folder / "metadata" / f"metadata_{number}.parquet")
    return folder


def test_shards_of_clip_retrieval_are_paired_by_number(library: Collection, tmp_path: Path):
    report = library.import_files(shards(tmp_path / "laion", 3, 4))
    assert report.added == 7
    assert library.status()["vectors"] == {"image": 7, "text": 7}
    hit = library.search_vectors(unit(4, 10)[2:3], k=1, target="image")[0][0]
    assert (hit.path, hit.caption) == ("10/2.jpg", "caption 10 2")
    hit = library.search_vectors(unit(3, 59)[1:2], k=1, target="text")[0][0]
    assert hit.path == "9/1.jpg"


def test_files_that_do_not_have_as_many_rows_are_both_named(library: Collection, tmp_path: Path):
    folder = shards(tmp_path / "laion", 3, 4)
    np.save(folder / "img_emb" / "img_emb_10.npy", unit(5))
    with pytest.raises(InvalidOption, match=r"img_emb_10.npy has 5 rows, and .*data_10.parquet 4"):
        library.import_files(folder)
    assert len(library) == 0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", 'path,caption,stars\na.jpg,"a dog, wet",5\nb.jpg,,4\n'),
        ("m.tsv", "path\tcaption\tstars\na.jpg\ta dog, wet\t5\nb.jpg\t\t4\n"),
        ("m.txt", "path\tcaption\tstars\na.jpg\ta dog, wet\t5\nb.jpg\t\t4\n"),
        ("m.csv", "path;caption;stars\na.jpg;a dog, wet;5\nb.jpg;;4\n"),
        ("m.csv", "path\tcaption\tstars\na.jpg\ta dog, wet\t5\nb.jpg\t\t4\n"),
        ("m.csv", "sep=;\npath;caption;stars\na.jpg;a dog, wet;5\nb.jpg;;4\n"),
        (
            "m.jsonl",
            '{"path": "a.jpg", "caption": "a dog, wet", "stars": 5}\n\n'  # noqa: ISC004
            '{"path": "b.jpg", "stars": 4}\n',
        ),
    ],
)
def test_metadata_may_be_a_table_of_text(library: Collection, tmp_path: Path, name: str, text: str):
    np.save(tmp_path / "v.npy", unit(2))
    (tmp_path / name).write_text(text)
    library.import_files([tmp_path / "v.npy"], metadata=[tmp_path / name])
    first, second = library.items
    assert (first.path, first.texts[0].text) == ("a.jpg", "a dog, wet")
    assert (second.texts, second.metadata["meta"]) == ((), {"stars": "4"})


def test_a_row_of_empty_cells_is_that_of_its_vector(library: Collection, tmp_path: Path):
    np.save(tmp_path / "v.npy", unit(3))
    (tmp_path / "m.csv").write_text("caption,stars\na dog,5\n,\na cat,3\n")
    library.import_files(tmp_path / "v.npy", metadata=tmp_path / "m.csv")
    assert [item.metadata.get("meta") for item in library.items] == [
        {"stars": "5"},
        None,
        {"stars": "3"},
    ]


def test_a_table_that_is_not_utf8_is_read_and_told(library: Collection, tmp_path: Path):
    np.save(tmp_path / "v.npy", unit(1))
    (tmp_path / "m.csv").write_bytes("path;caption\ncafé.jpg;schön\n".encode("cp1252"))
    report = library.import_files(tmp_path / "v.npy", metadata=tmp_path / "m.csv")
    assert next(iter(library.items)).texts[0].text == "schön"
    assert "is not UTF-8 text and was read as cp1252" in report.warnings[0]


def test_rows_without_a_path_are_called_by_their_file_so_that_again_is_an_update(
    library: Collection, tmp_path: Path
):
    np.save(tmp_path / "one.npy", unit(2))
    np.save(tmp_path / "two.npy", unit(2, 1))
    library.import_files([tmp_path / "one.npy", tmp_path / "two.npy"])
    report = library.import_files(tmp_path / "one.npy")
    assert (report.added, report.updated, len(library)) == (0, 2, 4)
    assert next(iter(library.items)).path == str(tmp_path / "one.npy" / "0")


def test_a_parquet_file_of_anyones_with_a_column_of_lists_is_taken(
    library: Collection, tmp_path: Path
):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    table = pa.table({"url": ["a", "b"], "embedding": unit(2).tolist(), "n": [1, 2]})
    parquet.write_table(table, tmp_path / "x.parquet")
    library.import_files(tmp_path / "x.parquet")
    assert library.search_vectors(unit(2)[1:], k=1)[0][0].path == "b"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("v.npy", b"no array", "holds no array"),
        ("v.npy", b"\x93NUMPY cut short", "cannot be read as an array"),
        ("v.parquet", b"no table", "cannot be read as parquet"),
        ("v.txt", b"1 2 3", "end in .npy or .parquet"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    library: Collection, tmp_path: Path, name: str, content: bytes, why: str
):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidOption, match=f"{name}.*{why}"):
        library.import_files(tmp_path / name)


def test_a_line_that_is_no_object_is_named(library: Collection, tmp_path: Path):
    np.save(tmp_path / "v.npy", unit(2))
    (tmp_path / "m.jsonl").write_text('{"path": "a"}\n[]\n')
    with pytest.raises(InvalidMetadata, match="line 2"):
        library.import_files(tmp_path / "v.npy", metadata=tmp_path / "m.jsonl")


def test_a_file_that_is_not_there_is_named(library: Collection, tmp_path: Path):
    with pytest.raises(PathNotFound, match=r"gone\.npy"):
        library.import_files(tmp_path / "gone.npy")


# ---------------------------------------------------------------------- files that go out


def test_the_vectors_of_an_export_are_the_stored_ones_to_the_bit(
    library: Collection, tmp_path: Path
):
    halves = unit(9).astype(np.float16)
    library.add_vectors(halves, {"path": [str(n) for n in range(9)]})
    library.export(tmp_path / "out", format="npy")
    assert np.array_equal(np.load(tmp_path / "out" / "vectors.npy"), halves)
    parquet = pytest.importorskip("pyarrow.parquet")
    library.export(tmp_path / "out.parquet")
    column = parquet.read_table(tmp_path / "out.parquet")["vector"].combine_chunks()
    assert np.array_equal(column.flatten().to_numpy().reshape(9, DIM), halves)


def test_only_what_passes_is_exported_and_without_vectors_a_row_an_item(
    library: Collection, tmp_path: Path
):
    rows = {"path": ["a", "b", "c"], "n": [1, 2, 3], "caption": ["x", "y", "z"]}
    library.add_vectors(unit(3), rows, text_vectors=unit(3, 1))
    found = library.export(tmp_path / "o", format="npy", where={"n": {"$gte": 2}}, vectors=False)
    lines = [json.loads(line) for line in (tmp_path / "o" / "items.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == ["b", "c"]
    assert (found.items, found.vectors) == (2, 0)
    assert [file.name for file in found.files] == ["items.jsonl"]


def test_an_export_that_fails_leaves_what_was_there_and_nothing_else(
    library: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    library.add_vectors(unit(2))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "items.jsonl").write_text("old")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmsearch.indexing.bulk.export.rows_of", full)
    with pytest.raises(StorageFailed, match="No space left"):
        library.export(tmp_path / "out", overwrite=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["items.jsonl"]
    assert (tmp_path / "out" / "items.jsonl").read_text() == "old"


def test_an_export_that_fails_leaves_no_folder_that_it_made(library: Collection, tmp_path: Path):
    library.add_vectors(unit(2))
    with pytest.raises(InvalidFilter):
        library.export(tmp_path / "new" / "out", format="npy", where={"no such key": 1})
    (tmp_path / "old").mkdir()
    with pytest.raises(InvalidFilter):
        library.export(tmp_path / "old", where={"no such key": 1})
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "old").is_dir()


@pytest.mark.parametrize("form", ["parquet", "npy"])
def test_an_export_takes_the_place_of_another_only_where_that_is_asked_for(
    library: Collection, tmp_path: Path, form: str
):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    library.add_vectors(unit(2))
    dest = tmp_path / f"out.{form}"
    (file, *_) = library.export(dest, format=form).files
    before = file.read_bytes()
    library.add_vectors(unit(4))
    with pytest.raises(InvalidOption, match="already"):
        library.export(dest, format=form)
    assert file.read_bytes() == before
    library.export(dest, format=form, overwrite=True)
    assert file.read_bytes() != before


@pytest.mark.parametrize("form", ["parquet", "npy"])
def test_an_export_of_nothing_is_an_empty_one(library: Collection, tmp_path: Path, form: str):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    library.add_vectors(unit(2), {"n": [1, 2]})
    dest = tmp_path / f"out.{form}"
    found = library.export(dest, format=form, where={"n": 9})
    assert (found.items, found.vectors) == (0, 0)
    with Collection(tmp_path / "again", create=True) as again:
        again.import_files(dest)
        assert len(again) == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("form", ["parquet", "npy"])
def test_an_export_that_finds_the_disk_full_leaves_no_files(
    library: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    library.add_vectors(unit(2))
    (tmp_path / "out").mkdir()
    part = "mmsearch.indexing.bulk.export.part_of"

    def full(place: Path) -> Path:
        link = place.with_name(f"{place.name}.part")
        if not link.is_symlink():
            link.symlink_to("/dev/full")
        return link

    monkeypatch.setattr(part, full)
    dest = tmp_path / "out" if form == "npy" else tmp_path / "out" / "o.parquet"
    with pytest.raises(StorageFailed, match="No space left"):
        library.export(dest, format=form)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", ["o.csv", "o.npy", "o"])
def test_a_parquet_file_is_called_one(library: Collection, tmp_path: Path, name: str):
    pytest.importorskip("pyarrow")
    library.add_vectors(unit(2))
    with pytest.raises(InvalidOption, match=r"does not end in \.parquet"):
        library.export(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_an_export_is_of_one_moment(library: Collection, tmp_path: Path):
    library.add_vectors(unit(600), {"path": [str(n) for n in range(600)]})

    def meanwhile(done: int, _total: int | None) -> None:
        if done == 500:
            with Collection(library.folder) as other:
                other.add_vectors(unit(5, 1), {"path": [f"later {n}" for n in range(5)]})

    found = library.export(tmp_path / "out", format="npy", progress=meanwhile)
    assert (found.items, found.vectors) == (600, 600)
    assert len(np.load(tmp_path / "out" / "vectors.npy")) == 600
    assert len(library) == 605


def test_a_format_or_a_model_that_is_not_there_is_refused(library: Collection, tmp_path: Path):
    library.add_vectors(unit(1))
    with pytest.raises(InvalidOption, match="parquet, npy, not 'csv'"):
        library.export(tmp_path / "x", format="csv")
    with pytest.raises(InvalidOption, match="it has: vectors"):
        library.export(tmp_path / "x", space="mini")


# ---------------------------------------------------------------------- commands


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy: Any) -> Any:
    monkeypatch.chdir(tmp_path)
    np.save("v.npy", unit(4))
    paths = ["a b.jpg", "tab\there.jpg", "é/\udcff.jpg", "https://x.org/1.jpg"]
    rows = [{"path": path, "stars": number} for number, path in enumerate(paths)]
    Path("m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, [*arguments])

    done = run("import", "v.npy", "--metadata", "m.jsonl")
    assert done.exit_code == 0, done.output
    assert "added 4" in done.stderr
    return run


def test_list_shows_each_item_on_a_line(run: Any):
    lines = run("list").stdout.splitlines()
    assert len(lines) == 4
    assert lines[0].split("\t") == ["a b.jpg", "image", "0", ""]
    assert lines[1].startswith("tab\\there.jpg\t")


def test_list_gives_names_as_they_are_between_nuls(run: Any):
    assert run("list", "-0").stdout_bytes.split(b"\0")[2] == "é/".encode() + b"\xff.jpg"


@pytest.mark.parametrize(("limit", "number"), [("2", 2), ("0", 0), ("9" * 20, 4)])
def test_list_as_json_is_json_however_few_there_are(run: Any, limit: str, number: int):
    assert len(json.loads(run("list", "--json", "--limit", limit).stdout)) == number


def test_list_prints_the_form_that_is_asked_for(run: Any):
    rows = json.loads(run("list", "--json").stdout)
    assert list(map(json.loads, run("list", "--jsonl").stdout.splitlines())) == rows
    paths = [os.fsencode(row["path"]) for row in rows]
    for flag, end in (("-f", b"\n"), ("--paths", b"\n"), ("-0", b"\0"), ("--null", b"\0")):
        assert run("list", flag).stdout_bytes == b"".join(path + end for path in paths)
    assert run("list", "--tsv").stdout == run("list").stdout
    assert run("list", "--tsv", "--json").exit_code == 2


@pytest.mark.parametrize("conditions", [("stars > 1", "stars < 3"), ("stars < 3", "stars > 1")])
def test_list_and_export_leave_what_passes_every_condition(run: Any, conditions: tuple[str, str]):
    where = [word for condition in conditions for word in ("-w", condition)]
    assert run("list", "-0", *where).stdout_bytes == "é/".encode() + b"\xff.jpg\0"
    assert "exported items: 1," in run("export", "out", "--format", "npy", *where).stderr


def test_list_tells_when_nothing_passes(run: Any):
    done = run("list", "-w", "stars > 9")
    assert (done.exit_code, done.stdout) == (1, "")


def test_export_and_import_from_the_command_line(run: Any):
    assert run("export", "out", "--format", "npy", "-w", "stars >= 2").exit_code == 0
    assert run("import", "out", "-i", "./copy").exit_code == 0
    listed = run("list", "-0", "-i", "./copy").stdout_bytes.split(b"\0")
    assert listed == ["é/".encode() + b"\xff.jpg", b"https://x.org/1.jpg", b""]


def test_several_files_of_vectors_are_imported_each_with_its_own_beside_it(run: Any):
    for name, number in (("a", 2), ("b", 3)):
        np.save(f"{name}.npy", unit(number))
        np.save(f"{name}-texts.npy", unit(number, seed=1))
        rows = [{"path": f"{name}{row}.jpg", "caption": f"{name} {row}"} for row in range(number)]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metadata = ["--metadata", "a.jsonl", "--metadata", "b.jsonl"]
    texts = ["--text-vectors", "a-texts.npy", "--text-vectors", "b-texts.npy"]
    run("import", "a.npy", "b.npy", *metadata, *texts, "-i", "./two")
    listed = run("list", "-f", "-i", "./two").stdout.split()
    assert listed == ["a0.jpg", "a1.jpg", "b0.jpg", "b1.jpg", "b2.jpg"]
    status = json.loads(run("status", "--json", "-i", "./two").stdout)
    assert status["vectors"] == {"image": 5, "text": 5}


def test_imported_vectors_are_of_the_facet_that_is_named(run: Any):
    run("import", "v.npy", "--facet", "audio", "-i", "./sounds")
    assert json.loads(run("status", "--json", "-i", "./sounds").stdout)["vectors"] == {"audio": 4}


def test_imported_rows_are_the_files_of_their_root(run: Any, photos: Path):
    np.save("one.npy", np.eye(1, 8, dtype=np.float32))
    Path("one.jsonl").write_text('{"path": "deep/blue.png"}\n')
    beside = ["--metadata", "one.jsonl", "--model", "toy", "-i", "./rooted"]
    run("import", "one.npy", *beside, "--root", str(photos))
    assert run("list", "-f", "-i", "./rooted").stdout == f"{photos}/deep/blue.png\n"


def test_without_vectors_an_export_is_of_items_alone(run: Any):
    run("export", "out", "--format", "npy", "--no-vectors")
    assert [path.name for path in Path("out").iterdir()] == ["items.jsonl"]


def test_the_vectors_of_the_model_that_is_named_are_exported(run: Any, photos: Path):
    run("index", str(photos), "-i", "./photos-index")
    run("index", "--model", "second", "-i", "./photos-index")
    for name, space in (("new", []), ("old", ["--space", "toy"])):
        run("export", name, "--format", "npy", *space, "-i", "./photos-index")
    new, old = (np.load(f"{name}/vectors.npy") for name in ("new", "old"))
    np.testing.assert_array_equal(old[:, ::-1], new)


def test_a_query_that_is_encoded_already_is_asked_by_its_file(run: Any):
    np.save("q.npy", unit(4)[3] * 7)
    done = run("query", "--vector", "q.npy", "-k", "1", "--paths")
    assert done.stdout == "https://x.org/1.jpg\n"
    assert run("query", "words", "--vector", "q.npy").exit_code == 2


def test_a_query_file_of_several_vectors_is_refused(run: Any):
    np.save("q.npy", unit(2))
    done = run("query", "--vector", "q.npy")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "2 vectors" in done.stderr


def test_an_import_that_cannot_be_read_leaves_no_empty_index(run: Any, tmp_path: Path):
    Path("bad.npy").write_text("no array")
    assert run("import", "bad.npy", "-i", "./fresh").exit_code == 2
    assert run("import", "bad.npy", "--facet", "smell", "-i", "./fresh").exit_code == 2
    assert not Path("fresh").exists()


def test_vectors_may_come_as_large_lists_as_polars_writes_them(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = np.eye(3, 8, dtype=np.float32)
    cells = pa.array(rows.tolist(), pa.large_list(pa.float32()))
    table = pa.table({"path": ["a.jpg", "b.jpg", "c.jpg"], "embedding": cells})
    parquet.write_table(table, tmp_path / "v.parquet")
    with Collection(tmp_path / "idx", create=True) as library:
        library.import_files(tmp_path / "v.parquet")
        assert len(library) == 3


def test_each_row_of_a_path_that_came_before_counts_as_an_update(tmp_path):
    np.save(tmp_path / "v.npy", np.eye(3, 8, dtype=np.float32))
    (tmp_path / "v.csv").write_text("path,n\nx.jpg,1\ny.jpg,2\nx.jpg,3\n")
    with Collection(tmp_path / "idx", create=True) as library:
        report = library.import_files(tmp_path / "v.npy", metadata=tmp_path / "v.csv")
        assert (report.added, report.updated) == (2, 1)


@pytest.mark.parametrize("order", ["one after the other", "by path"])
def test_of_two_exports_in_one_file_the_last_row_of_an_item_counts(tmp_path, order):
    paths = ["a.jpg", "b.jpg", "c.jpg"]
    with Collection(tmp_path / "idx", create=True) as library:
        library.add_vectors(unit(3), {"path": paths, "n": [1, 2, 3]})
        library.export(tmp_path / "one", format="npy")
        library.add_vectors(unit(3, 1), {"path": paths, "n": [4, 5, 6]})
        library.export(tmp_path / "two", format="npy")
    both = [tmp_path / name for name in ("one", "two")]
    rows = np.concatenate([np.load(folder / "vectors.npy") for folder in both])
    lines = "".join((folder / "items.jsonl").read_text() for folder in both).splitlines()
    if order == "by path":
        rows = rows[[0, 3, 1, 4, 2, 5]]
        lines = [lines[row] for row in (0, 3, 1, 4, 2, 5)]
    (tmp_path / "both").mkdir()
    np.save(tmp_path / "both" / "vectors.npy", rows)
    (tmp_path / "both" / "items.jsonl").write_text("\n".join(lines))
    with Collection(tmp_path / "new", create=True) as library:
        report = library.import_files(tmp_path / "both")
        assert (report.added, report.updated, len(library)) == (3, 3, 3)
        assert [item.metadata["meta"]["n"] for item in library.items] == ["4", "5", "6"]
        hits = library.search_vectors(unit(3, 1)[1:2], k=1)[0]
        assert (hits[0].path, round(hits[0].score, 2)) == ("b.jpg", 1.0)


def test_rows_of_one_path_count_however_far_apart_they_are(tmp_path):
    paths = [f"{row % 15_000}.jpg" for row in range(25_000)]
    with Collection(tmp_path / "idx", create=True) as library:
        report = library.add_vectors(unit(25_000), {"path": paths, "n": list(range(25_000))})
        assert (report.added, report.updated, len(library)) == (15_000, 10_000, 15_000)
        found = {item.path: item.metadata["meta"]["n"] for item in library.items}
        assert found == {path: str(row) for row, path in enumerate(paths)}


def imported_column(folder: Path, values: Any) -> list[Any]:
    """What is stored of a parquet file's column called `x`."""
    import pyarrow as pa
    from pyarrow import parquet

    paths = pa.array([str(row) for row in range(len(values))])
    vectors = pa.array(unit(len(values)).tolist(), pa.list_(pa.float32()))
    table = pa.table({"path": paths, "vector": vectors, "x": values})
    parquet.write_table(table, folder / "x.parquet")
    with Collection(folder / "idx", create=True) as library:
        library.import_files(folder / "x.parquet")
        return [item.metadata.get("meta", {}).get("x") for item in library.items]


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        ("timestamp[ns]", "1970-01-01T00:00:00.000001"),
        ("timestamp[ns, tz=UTC]", "1970-01-01T00:00:00.000001+00:00"),
        ("duration[ns]", "1001"),
        ("time64[ns]", "00:00:00.000001001"),
    ],
)
def test_times_finer_than_a_microsecond_are_imported(tmp_path: Path, kind: str, first: str):
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    types = {
        "timestamp[ns]": pa.timestamp("ns"),
        "timestamp[ns, tz=UTC]": pa.timestamp("ns", "UTC"),
        "duration[ns]": pa.duration("ns"),
        "time64[ns]": pa.time64("ns"),
    }
    assert imported_column(tmp_path, pa.array([1001, None], types[kind])) == [first, None]


def test_times_beyond_the_years_of_python_stop_no_import(tmp_path: Path):
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    found = imported_column(tmp_path, pa.array([2**62, 0, None], pa.timestamp("us")))
    assert (len(found), found[2]) == (3, None)


def test_vectors_of_several_lengths_are_refused_though_their_numbers_add_up(
    library: Collection, tmp_path: Path
):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = pa.array([[1.0, 2.0], [1.0, 2.0, 3.0], [1.0]])
    parquet.write_table(pa.table({"vector": rows}), tmp_path / "x.parquet")
    with pytest.raises(InvalidOption, match="differ in length, from 1 to 3"):
        library.import_files(tmp_path / "x.parquet")


def test_vectors_of_whole_numbers_are_taken_from_a_column_of_a_known_name(
    library: Collection, tmp_path: Path
):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = pa.array([[100, 0], [0, -128]], pa.list_(pa.int8()))
    parquet.write_table(pa.table({"embedding": rows, "n": [1, 2]}), tmp_path / "x.parquet")
    library.import_files(tmp_path / "x.parquet")
    assert library.search_vectors(np.float32([[0, -1]]), k=1)[0][0].metadata["meta"] == {"n": "2"}


def test_vectors_of_no_dimensions_are_refused(library: Collection):
    with pytest.raises(InvalidOption, match="0 dimensions"):
        library.add_vectors(np.zeros((3, 0)))
