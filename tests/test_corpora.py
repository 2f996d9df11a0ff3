"""Corpora: tar shards, parquet and jsonl as input of `index`, and their members wherever used."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import COLOURS, ToyEncoder, paint
from PIL import Image
from typer.testing import CliRunner

from mmsearch import Collection, Report, encode
from mmsearch.cli.app import app
from mmsearch.filters import parse_condition
from mmsearch.indexing.scan import Scan
from mmsearch.media import corpora
from mmsearch.storage.item_files import open_item


def jpeg(colour: str, size: int = 20) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (size, size), COLOURS[colour]).save(out, "PNG")
    return out.getvalue()


def shard(path: Path, members: dict[str, bytes], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def indexed(tmp_path: Path, *paths: Path, **options: Any) -> tuple[Collection, Report]:
    library = Collection(tmp_path / "index", create=True)
    return library, library.add([*paths] or None, **options)


def names(library: Collection) -> set[str]:
    return {item.path.rpartition("/")[2] for item in library.items}


COLOURFUL = {
    "0001.png": jpeg("red"),
    "0001.txt": b"a scarlet wall\nsecond caption",
    "0001.json": json.dumps({"source": "web", "stars": 5, "caption": "by json"}).encode(),
    "0002.png": jpeg("green"),
    "deep/0003.png": jpeg("blue"),
}


@pytest.fixture
def colours(tmp_path: Path, toy: ToyEncoder) -> Path:
    return shard(tmp_path / "data" / "shard.tar", COLOURFUL)


# ---------------------------------------------------------------------- tar shards


def test_each_member_of_a_shard_is_an_item_with_its_own_path(colours: Path, tmp_path: Path) -> None:
    library, report = indexed(tmp_path, colours)
    assert report.added == 3
    assert not report.failures
    paths = {item.path for item in library.items}
    assert paths == {f"{colours}::{name}" for name in ("0001.png", "0002.png", "deep/0003.png")}
    assert library.search("red", k=1)[0].path == f"{colours}::0001.png"


def test_captions_and_metadata_beside_a_member_are_its_own(colours: Path, tmp_path: Path) -> None:
    library, _ = indexed(tmp_path, colours)
    [item] = [item for item in library.items if item.path.endswith("0001.png")]
    assert [part.text for part in item.texts] == ["a scarlet wall", "second caption", "by json"]
    assert item.metadata["meta"] == {"source": "web", "stars": "5"}
    [hit] = library.search("scarlet", where=parse_condition("stars >= 5"))
    assert hit.path == f"{colours}::0001.png"


def test_an_unchanged_shard_is_not_read_again(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, _ = indexed(tmp_path, colours)

    def read(path: str) -> corpora.Corpus:
        raise AssertionError(path)

    stats: list[Any] = []
    stat = os.stat

    def counted(path: Any, *args: Any, **options: Any) -> os.stat_result:
        stats.append(path)
        return stat(path, *args, **options)

    monkeypatch.setattr(corpora, "open_corpus", read)
    monkeypatch.setattr(os, "stat", counted)
    assert library.add().unchanged == 3
    assert stats.count(str(colours)) == 1
    monkeypatch.setattr(os, "stat", stat)
    for report in (library.add(), library.add(colours)):
        assert (report.unchanged, report.added, report.removed) == (3, 0, 0)


def test_of_a_rewritten_shard_only_what_changed_is_encoded(
    colours: Path, tmp_path: Path, toy: ToyEncoder
) -> None:
    library, _ = indexed(tmp_path, colours)
    ids = {item.path: item.id for item in library.items}
    before = toy.encoded["image"]
    changed = {**COLOURFUL, "0002.png": jpeg("white"), "0004.png": jpeg("red", 30)}
    del changed["deep/0003.png"]
    shard(colours, changed)
    report = library.add(colours)
    assert (report.unchanged, report.updated, report.added, report.removed) == (1, 1, 1, 1)
    assert toy.encoded["image"] == before + 2
    assert names(library) == {"shard.tar::0001.png", "shard.tar::0002.png", "shard.tar::0004.png"}
    assert ids[f"{colours}::0001.png"] == library.search("red scarlet", k=1)[0].id


def test_other_metadata_alone_are_stored_without_encoding(
    colours: Path, tmp_path: Path, toy: ToyEncoder
) -> None:
    library, _ = indexed(tmp_path, colours)
    before = dict(toy.encoded)
    shard(colours, {**COLOURFUL, "0002.json": b'{"stars": 2}'})
    report = library.add(colours)
    assert (report.unchanged, report.updated) == (2, 1)
    assert toy.encoded == before
    assert [hit.path for hit in library.search("green", where={"stars": 2})] == [
        f"{colours}::0002.png"
    ]


def test_a_shard_that_is_gone_takes_its_items_along(colours: Path, tmp_path: Path) -> None:
    other = shard(colours.with_name("other.tar"), {"a.png": jpeg("white")})
    library, _ = indexed(tmp_path, colours, other)
    colours.unlink()
    report = library.add()
    assert report.removed == 3
    assert names(library) == {"other.tar::a.png"}


def test_a_renamed_shard_keeps_items_and_vectors(
    colours: Path, tmp_path: Path, toy: ToyEncoder
) -> None:
    library, _ = indexed(tmp_path, colours)
    ids = {item.id for item in library.items}
    before = toy.encoded["image"]
    colours.rename(new := colours.with_name("renamed.tar"))
    report = library.add(new)
    assert (report.renamed, report.added, report.removed) == (3, 0, 0)
    assert {item.id for item in library.items} == ids
    assert toy.encoded["image"] == before
    assert library.add().removed == 0


def test_a_member_goes_wherever_a_file_does(colours: Path, tmp_path: Path) -> None:
    library, _ = indexed(tmp_path, colours)
    [item] = [item for item in library.items if item.path.endswith("0003.png")]
    with open_item(library.index.store, item.id) as opened:
        assert opened.file.read() == COLOURFUL["deep/0003.png"]
        assert opened.status.st_size == len(COLOURFUL["deep/0003.png"])
    assert item.path not in {hit.path for hit in library.similar(item.path)}
    assert library.describe(item.path)
    stored_vectors = library.search(library.similar(item.path)[0].path)
    assert stored_vectors
    copy = shard(tmp_path / "data" / "copy.tar", {"again.png": COLOURFUL["deep/0003.png"]})
    library.add(copy)
    [group] = library.duplicates(same=True)
    assert {group.keep.path, group.copies[0].item.path} == {item.path, f"{copy}::again.png"}


def test_a_member_of_a_corpus_that_is_not_indexed_is_a_query_by_example(
    colours: Path, tmp_path: Path
) -> None:
    library, _ = indexed(tmp_path, colours)
    other = shard(tmp_path / "elsewhere" / "q.tar", {"q.png": jpeg("green", 50)})
    assert library.similar(f"{other}::q.png")[0].path == f"{colours}::0002.png"


def test_a_new_model_encodes_the_members_again(
    colours: Path, tmp_path: Path, toy: ToyEncoder
) -> None:
    library, _ = indexed(tmp_path, colours)
    library.close()
    with Collection(tmp_path / "index", model="second") as again:
        report = again.add()
        assert report.filled > 0
        assert not report.warnings
        assert again.status()["model"] == "second"
        assert again.search("blue", k=1)[0].path == f"{colours}::deep/0003.png"


def test_members_and_shards_can_be_removed(colours: Path, tmp_path: Path) -> None:
    library, _ = indexed(tmp_path, colours)
    assert library.remove(f"{colours}::deep/0003.png") == 1
    assert library.add().added == 1  # as a file whose folder is indexed
    assert library.remove(colours) == 3
    assert len(library) == 0
    assert library.add(colours).added == 3
    assert library.remove(colours.parent) == 3
    assert library.add(colours).added == 3


def test_a_caption_by_a_user_stays_with_its_member(colours: Path, tmp_path: Path) -> None:
    table = tmp_path / "captions.tsv"
    table.write_text(f"file\tcaption\n{colours}::deep/0003.png\ta lagoon\n")
    library, _ = indexed(tmp_path, colours, captions=table)
    shard(colours, {**COLOURFUL, "0004.png": jpeg("white")})
    library.add(colours)
    assert library.search("lagoon", k=1)[0].path == f"{colours}::deep/0003.png"


def test_a_folder_passes_archives_over_and_leaves_their_items_alone(
    colours: Path, tmp_path: Path
) -> None:
    paint(colours.with_name("plain.png"), "white")
    library, report = indexed(tmp_path, colours.parent)
    assert names(library) == {"plain.png"}
    assert any("1 tar archive" in one and "mmsearch index" in one for one in report.warnings)
    assert library.status()["passed_over"][0]["files"] == 1
    library.add(colours)
    assert len(library) == 4
    report = library.add(colours.parent)
    assert (report.removed, len(library)) == (0, 4)
    colours.unlink()
    assert library.add().removed == 3  # the folder does not make it forget the shard
    assert names(library) == {"plain.png"}


def test_texts_and_tables_in_folders_are_as_before(tmp_path: Path, toy: ToyEncoder) -> None:
    folder = tmp_path / "data"
    paint(folder / "plain.png", "white")
    (folder / "texts.jsonl").write_text('{"text": "red"}\n')
    library, report = indexed(tmp_path, folder)
    assert names(library) == {"plain.png"}
    assert not report.warnings


def test_a_caption_in_two_places_is_stored_once(tmp_path: Path, toy: ToyEncoder) -> None:
    both = {"a.png": jpeg("red"), "a.txt": b"a wall", "a.json": b'{"caption": "a wall"}'}
    library, _ = indexed(tmp_path, shard(tmp_path / "data" / "s.tar", both))
    assert [part.text for item in library.items for part in item.texts] == ["a wall"]


def test_members_of_excluded_names_are_left_out(colours: Path, tmp_path: Path) -> None:
    library, _ = indexed(tmp_path, colours, exclude=["deep/*", "0002*"])
    assert names(library) == {"shard.tar::0001.png"}


def test_a_shard_without_anything_to_index_is_named(tmp_path: Path, toy: ToyEncoder) -> None:
    path = shard(tmp_path / "data" / "s.tar", {"a.npy": b"x"})
    _, report = indexed(tmp_path, path)
    assert f"{path} has no member that can be indexed" in report.warnings


def test_a_shard_that_changes_is_noticed_while_watching(colours: Path, tmp_path: Path) -> None:
    library, _ = indexed(tmp_path, colours)
    shard(colours, {**COLOURFUL, "0004.png": jpeg("white")})
    assert library.refresh([str(colours)], unsettled=[str(colours)]).added == 0
    assert library.refresh([str(colours)]).added == 1
    colours.unlink()
    assert library.refresh([str(colours)]).removed == 4


def test_a_shard_to_watch_is_taken_in_though_its_folder_is_indexed(
    colours: Path, tmp_path: Path
) -> None:
    library, _ = indexed(tmp_path, colours.parent)
    assert library.ask_for(colours) == {str(colours.parent): False}
    assert library.refresh().added == 3


# ---------------------------------------------------------------------- hostile archives


def test_a_broken_member_fails_alone_and_is_listed(colours: Path, tmp_path: Path) -> None:
    shard(colours, {**COLOURFUL, "bad.png": b"no picture", "0002.json": b"{", "deep/bad.jpg": b"x"})
    library, report = indexed(tmp_path, colours)
    assert report.added == 3
    failed = {failure.path.removeprefix(f"{colours}::") for failure in library.failures}
    assert failed == {"bad.png", "0002.json", "deep/bad.jpg"}
    again = library.add()
    assert (again.unchanged, again.skipped) == (3, 3)
    shard(colours, COLOURFUL)
    library.add()
    assert not library.failures


def test_hostile_members_fail_and_reach_nothing(tmp_path: Path, toy: ToyEncoder) -> None:
    secret = paint(tmp_path / "secret.png", "red")
    path = tmp_path / "data" / "evil.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as archive:

        def add(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            content = jpeg("green") if kind == tarfile.REGTYPE else b""
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))

        add("/etc/absolute.png")
        add("../../up.png")
        add("a/../../b.png")
        add("./here.png")
        add("link.png", tarfile.SYMTYPE, str(secret))
        add("hard.png", tarfile.LNKTYPE, "here.png")
        add("device.png", tarfile.CHRTYPE)
        add("pipe.png", tarfile.FIFOTYPE)
        add("folder.png", tarfile.DIRTYPE)
        add("._here.png")
        add("__MACOSX/here.png")
    library, _ = indexed(tmp_path, path)
    assert names(library) == {"evil.tar::here.png", "absolute.png"}
    assert {item.path for item in library.items} == {
        f"{path}::here.png",
        f"{path}::etc/absolute.png",
    }
    reasons = {
        failure.path.removeprefix(f"{path}::"): failure.reason for failure in library.failures
    }
    assert set(reasons) == {
        "../../up.png", "a/../../b.png", "link.png", "hard.png", "device.png", "pipe.png"
    }  # fmt: skip
    assert "link" in reasons["link.png"]
    assert not Path(tmp_path / "up.png").exists()


def test_of_members_of_one_name_the_last_counts(tmp_path: Path, toy: ToyEncoder) -> None:
    path = tmp_path / "data" / "twice.tar"
    shard(path, {"a.png": jpeg("red")})
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("a.png")
        content = jpeg("blue")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    library, report = indexed(tmp_path, path)
    assert report.added == 1
    [item] = library.items
    with open_item(library.index.store, item.id) as opened:
        assert opened.file.read() == jpeg("blue")


def test_a_truncated_shard_keeps_what_it_held(colours: Path, tmp_path: Path) -> None:
    whole = colours.read_bytes()
    library, _ = indexed(tmp_path, colours)
    os.truncate(colours, whole.rindex(b"deep/0003.png") + 600)
    report = library.add()
    assert report.removed == 0
    reasons = {failure.path: failure.reason for failure in library.failures}
    assert "truncated" in reasons[str(colours)]
    colours.write_bytes(whole)
    library.add()
    assert not library.failures
    assert len(library) == 3


@pytest.mark.parametrize("damage", ["header", "negative", "no tar", "empty", "pax"])
def test_damage_ends_an_archive_not_the_run(damage: str, tmp_path: Path, toy: ToyEncoder) -> None:
    path = shard(tmp_path / "data" / "bad.tar", {"a.png": jpeg("red"), "b.png": jpeg("blue")})
    good = shard(tmp_path / "data" / "good.tar", {"c.png": jpeg("green")})
    data = bytearray(path.read_bytes())
    second = data.rindex(b"b.png\0")
    if damage == "header":
        data[second + 148 : second + 156] = b"garbage!"
    elif damage == "negative":
        header = tarfile.TarInfo("b.png")
        header.size = -(2**40)
        data[second : second + 512] = header.tobuf(tarfile.GNU_FORMAT)
    elif damage == "pax":
        header = tarfile.TarInfo("pax")
        header.type, header.size = tarfile.XHDTYPE, 2**40
        data[second : second + 512] = header.tobuf(tarfile.GNU_FORMAT)
    else:
        data = bytearray(b"" if damage == "empty" else b"hello" * 1000)
    path.write_bytes(data)
    library, _ = indexed(tmp_path, path, good)
    held = {"bad.tar::a.png"} if damage in ("header", "negative", "pax") else set()
    assert names(library) - {"bad.tar::b.png"} == {"good.tar::c.png"} | held
    assert str(path) in {failure.path for failure in library.failures}


def test_a_compressed_shard_says_how_to_unpack_it(tmp_path: Path, toy: ToyEncoder) -> None:
    path = tmp_path / "data" / "shard.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    library, _ = indexed(tmp_path, path)
    [failure] = library.failures
    assert failure.path == str(path)
    assert "gzip -dk shard.tar.gz" in failure.reason


def test_names_that_are_not_utf8_are_kept_byte_for_byte(tmp_path: Path, toy: ToyEncoder) -> None:
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    options: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape"}
    path = shard(
        tmp_path / "data" / "s.tar", {name: jpeg("red")}, format=tarfile.GNU_FORMAT, **options
    )
    library, _ = indexed(tmp_path, path)
    [item] = library.items
    assert item.path == f"{path}::{name}"
    assert library.similar(item.path, k=1) == []
    assert library.remove(item.path) == 1


def test_a_million_members_take_little_memory_and_linear_time(tmp_path: Path) -> None:
    """A hundredth of them here; the bound is on bytes a member, whatever their number."""
    path = shard(tmp_path / "many.tar", {f"{n:08}.png": b"" for n in range(10_000)})
    import tracemalloc

    tracemalloc.start()
    try:
        corpus = corpora.open_corpus(str(path))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(corpus) == 10_000
    assert kept < 10_000 * 100
    assert sum(1 for _ in corpus.members()) == 10_000


# ---------------------------------------------------------------------- jsonl


def test_each_line_of_a_jsonl_is_a_text(tmp_path: Path, toy: ToyEncoder) -> None:
    path = tmp_path / "data" / "texts.jsonl"
    path.parent.mkdir()
    lines = [
        '{"text": "a red house", "year": 1999}',
        "",
        "broken",
        '{"other": 1}',
        '{"text": "green"}',
    ]
    path.write_text("\n".join(lines))
    library, report = indexed(tmp_path, path)
    assert {item.path for item in library.items} == {f"{path}::1", f"{path}::5"}
    reasons = {failure.path: failure.reason for failure in library.failures}
    assert reasons == {f"{path}::3": "the line is not JSON", f"{path}::4": "the row has no text"}
    [hit] = library.search("red", where={"year": 1999})
    assert (hit.path, hit.modality) == (f"{path}::1", "text")
    assert library.similar(f"{path}::1")[0].path == f"{path}::5"
    path.write_text("\n".join([*lines[:4], '{"text": "blue"}']))
    report = library.add()
    assert (report.updated, report.unchanged) == (1, 1)


@pytest.mark.parametrize(
    ("row", "cure"),
    [({"file": "a.jpg", "caption": "x"}, "--captions"), ({"a": 1, "b": "x"}, "(a, b)")],
)
def test_a_jsonl_without_texts_says_what_it_has(
    row: dict[str, Any], cure: str, tmp_path: Path, toy: ToyEncoder
) -> None:
    path = tmp_path / "data" / "rows.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps(row))
    library, _ = indexed(tmp_path, path)
    [failure] = library.failures
    assert failure.path == str(path)
    assert cure in failure.reason


def test_an_empty_jsonl_has_no_texts(tmp_path: Path, toy: ToyEncoder) -> None:
    path = tmp_path / "data" / "texts.jsonl"
    path.parent.mkdir()
    path.write_bytes(b"")
    library, report = indexed(tmp_path, path)
    assert (len(library), report.skipped) == (0, 0)


# ---------------------------------------------------------------------- parquet


def parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_table(pa.table(columns), path, **options)
    return path


def test_a_parquet_of_bytes_is_read_by_row(tmp_path: Path, toy: ToyEncoder) -> None:
    rows = [jpeg(colour, 20 + n) for n in range(40) for colour in ("red", "green")]
    rows[3], captions = b"nonsense", [f"number {n}" for n in range(80)]
    path = parquet(
        tmp_path / "data" / "d.parquet",
        {"jpg": rows, "caption": captions, "n": range(80), "emb": [[0.5]] * 80},
        row_group_size=37,
    )
    library, report = indexed(tmp_path, path)
    assert report.added == 79
    assert [failure.path for failure in library.failures] == [f"{path}::3"]
    by_path = {item.path: item for item in library.items}
    item = by_path[f"{path}::41.png"]
    assert [part.text for part in item.texts] == ["number 41"]
    assert item.metadata["meta"] == {"n": "41"}
    for number in (79, 0, 41, 36, 37, 5):
        with open_item(library.index.store, by_path[f"{path}::{number}.png"].id) as opened:
            assert opened.file.read() == rows[number]
    assert library.add().unchanged == 79


def test_a_parquet_of_hugging_face_holds_bytes_in_a_struct(tmp_path: Path, toy: ToyEncoder) -> None:
    rows = [{"bytes": jpeg("red"), "path": "x.jpg"}, {"bytes": None, "path": "b.png"}, None]
    paint(tmp_path / "data" / "b.png", "blue")
    path = parquet(tmp_path / "data" / "d.parquet", {"picture_x": rows, "text": ["r", "b", "n"]})
    library, _ = indexed(tmp_path, path)
    assert names(library) == {"d.parquet::0.jpg", "d.parquet::1.png"}
    assert library.search("blue", k=1)[0].path == f"{path}::1.png"
    assert [failure.reason for failure in library.failures] == ["the row is empty"]


def test_a_parquet_of_paths_reads_files_below_its_folder_only(
    tmp_path: Path, toy: ToyEncoder
) -> None:
    paint(tmp_path / "secret.png", "red")
    paint(tmp_path / "data" / "in" / "a.png", "blue")
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "secret.png")
    paths = ["in/a.png", "../secret.png", str(tmp_path / "secret.png"), "link.png", "none.png", "x"]
    path = parquet(tmp_path / "data" / "d.parquet", {"path": paths, "text": ["t"] * 6})
    library, _ = indexed(tmp_path, path)
    assert names(library) == {"d.parquet::0.png"}
    reasons = [failure.reason for failure in library.failures]
    assert sum("outside" in reason for reason in reasons) == 3
    assert len(reasons) == 5


def test_a_parquet_of_texts_has_a_text_a_row(tmp_path: Path, toy: ToyEncoder) -> None:
    path = parquet(tmp_path / "data" / "d.parquet", {"text": ["red", "blue", ""], "n": [1, 2, 3]})
    library, _ = indexed(tmp_path, path)
    assert {item.path for item in library.items} == {f"{path}::0", f"{path}::1"}
    assert library.search("blue", k=1)[0].path == f"{path}::1"


def test_a_parquet_without_known_columns_says_which_it_has(tmp_path: Path, toy: ToyEncoder) -> None:
    path = parquet(tmp_path / "data" / "d.parquet", {"a": [1], "blob": [b"not media"]})
    library, _ = indexed(tmp_path, path)
    [failure] = library.failures
    assert "a (int64), blob (binary)" in failure.reason


def test_a_parquet_without_pyarrow_says_how_to_install_it(
    tmp_path: Path, toy: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = parquet(tmp_path / "data" / "d.parquet", {"text": ["red"]})
    with monkeypatch.context() as patch:
        for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
            patch.setitem(sys.modules, name, None)
        library, _ = indexed(tmp_path, path)
        [failure] = library.failures
        assert "mmsearch[parquet]" in failure.reason
    library.add()  # it is tried again
    assert len(library) == 1


def test_a_truncated_parquet_fails_as_a_whole(tmp_path: Path, toy: ToyEncoder) -> None:
    path = parquet(tmp_path / "data" / "d.parquet", {"text": ["red"] * 100})
    os.truncate(path, path.stat().st_size - 10)
    library, _ = indexed(tmp_path, path)
    assert [failure.path for failure in library.failures] == [str(path)]


# ---------------------------------------------------------------------- our own exports


@pytest.mark.parametrize("form", ["parquet", "npy"])
def test_an_export_is_not_indexed_but_imported(form: str, colours: Path, tmp_path: Path) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    (made,) = encode(colours, tmp_path / "a b", format=form).files
    given = made if form == "parquet" else made / "items.jsonl"
    library, report = indexed(tmp_path, given)
    (failure,) = report.failures
    assert (report.added, failure.path) == (0, str(given))
    assert failure.reason.endswith(f"imported: `mmsearch import '{made}'`")
    with library:
        assert library.import_files(made).added == 3


# ---------------------------------------------------------------------- progress


def totals_of(tmp_path: Path, *paths: Path) -> set[tuple[int, int | None]]:
    """What a run reports in the end, once the total is known."""
    said: list[tuple[int, int | None]] = []
    # the count is made in a thread, which may take longer than so short a run
    ready = threading.Event()
    count = Scan.count

    def counted(scan: Scan) -> int | None:
        found = count(scan)
        ready.set()
        return found

    def progress(done: int, total: int | None) -> None:
        ready.wait(5)
        time.sleep(0.01)  # until the thread has stored it
        said.append((done, total))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Scan, "count", counted)
        library, _ = indexed(tmp_path, *paths, progress=progress)
    library.close()
    return {max(said)}


def test_progress_has_a_total_with_corpora(colours: Path, tmp_path: Path) -> None:
    texts = tmp_path / "data" / "texts.jsonl"
    texts.write_text('{"text": "one"}\n{"text": "two"}\n')
    more = shard(tmp_path / "data" / "more.tar", {"a.png": jpeg("red"), "a.mp4": b"no video"})
    paint(tmp_path / "photos" / "red.png", "red")
    given = colours, more, texts, tmp_path / "photos"
    assert totals_of(tmp_path, *given) == {(7, 7)}
    paint(tmp_path / "photos" / "green.png", "green")
    assert totals_of(tmp_path, *given) == {(8, 8)}  # of unchanged corpora, it is stored


def test_corpora_too_large_to_be_read_twice_are_counted_as_they_are_read(
    tmp_path: Path, toy: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmsearch.indexing.corpora.MOST_BYTES_TO_COUNT", 10)
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    for path in (one, two):
        path.write_text('{"text": "a text"}\n')
    assert totals_of(tmp_path, one) == {(1, 1)}  # the run has read it by then
    one.write_text('{"text": "another text"}\n')
    assert totals_of(tmp_path, one, two) == {(2, None)}


# ---------------------------------------------------------------------- commands


def test_commands_take_corpora_and_members(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMSEARCH_INDEX", str(tmp_path / "index"))
    run = CliRunner().invoke
    assert run(app, ["index", str(colours), "--quiet"]).exit_code == 0
    member = f"{colours}::0001.png"
    assert member in run(app, ["list"]).output
    similar = run(app, ["similar", member, "--json"])
    assert similar.exit_code == 0
    assert f"{colours}::0002.png" in similar.output
    assert run(app, ["remove", member]).output.strip() == "removed 1"
    assert run(app, ["remove", str(colours)]).output.strip() == "removed 2"


def test_the_server_shows_members_as_files(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fastapi")
    from conftest import tone
    from server_world import problem, served

    monkeypatch.setenv("MMSEARCH_CACHE", str(tmp_path / "cache"))
    sound = tone(tmp_path / "low.wav", "low", seconds=1.0).read_bytes()
    shard(colours, {**COLOURFUL, "sound.wav": sound})
    texts = tmp_path / "data" / "texts.jsonl"
    texts.write_text('{"text": "all in green"}')
    index = tmp_path / "index"
    with Collection(index, model=["toy", "ear"], create=True) as library:
        library.add([colours, texts])
        ids = {item.path.rpartition("::")[2]: item.id for item in library.items}
    with served(index) as client:
        member = client.get(f"/api/v1/items/{ids['0001.png']}/media")
        assert member.content == COLOURFUL["0001.png"]
        assert member.headers["content-type"] == "image/png"
        assert "shard.tar%3A%3A0001.png" in member.headers["content-disposition"]
        part = client.get(
            f"/api/v1/items/{ids['sound.wav']}/media", headers={"Range": "bytes=4-11"}
        )
        assert (part.status_code, part.content) == (206, sound[4:12])
        small = client.get(f"/api/v1/items/{ids['0001.png']}/thumbnail")
        assert Image.open(io.BytesIO(small.content)).size == (20, 20)
        assert client.get(f"/api/v1/items/{ids['sound.wav']}/waveform").json()["peaks"]
        assert client.get(f"/api/v1/items/{ids['1']}/media").text == "all in green"
        shown = client.get(f"/api/v1/items/{ids['0001.png']}").json()
        assert shown["available"]
        shard(colours, {**COLOURFUL, "0001.png": jpeg("white")})
        assert "has changed" in problem(client.get(f"/api/v1/items/{ids['0001.png']}/media"), 404)
        assert client.get(f"/api/v1/items/{ids['0002.png']}/media").status_code == 200


def test_a_program_is_not_given_a_member_to_open(colours: Path, tmp_path: Path) -> None:
    from mmsearch.cli.preview import open_hit
    from mmsearch.errors import MMSearchError

    library, _ = indexed(tmp_path, colours)
    with pytest.raises(MMSearchError, match="take it out first"):
        open_hit(library.search("red", k=1), 1)


def test_captions_by_hand_of_a_model_stay_with_a_member(colours: Path, tmp_path: Path) -> None:
    from mmsearch.collection.ask import add_caption

    library, _ = indexed(tmp_path, colours)
    [item] = [item for item in library.items if item.path.endswith("deep/0003.png")]
    add_caption(library.index, item.id, "an ultramarine square")
    assert library.search("ultramarine", k=1)[0].id == item.id
    assert len(library) == 3
    assert library.add().unchanged == 3


def test_a_link_to_a_shard_elsewhere_serves_nothing(colours: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (link := tmp_path / "links" / "l.tar").symlink_to(colours)
    library, report = indexed(tmp_path, link)
    assert report.added == 3
    from mmsearch.errors import PathNotFound

    with pytest.raises(PathNotFound, match="leads out"):
        open_item(library.index.store, next(iter(library.items)).id)


def test_an_interrupted_run_goes_on_where_it_stopped(
    colours: Path, tmp_path: Path, toy: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Collection(tmp_path / "index", create=True)

    def stop(done: int, total: int | None) -> None:
        del total
        if done == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr("mmsearch.indexing.pipeline.FIRST_PICTURES", 1)
    with pytest.raises(KeyboardInterrupt):
        library.add(colours, progress=stop)
    stored = len(library)
    assert 1 <= stored < 3
    report = library.add(colours)
    assert (report.unchanged, report.added) == (stored, 3 - stored)
