from __future__ import annotations

import json
import unicodedata
from contextlib import closing
from pathlib import Path

import pytest

from mmsearch.errors import InvalidMetadata, PathNotFound
from mmsearch.filters import parse_condition, parse_where
from mmsearch.indexing.user_metadata import MetadataFile
from mmsearch.indexing.user_metadata import apply_metadata as apply_file
from mmsearch.storage import ItemRecord
from mmsearch.storage.sqlite import Catalog


def read_metadata(path):
    return MetadataFile(path).metadata


def apply_metadata(world, path):
    return apply_file(world, MetadataFile(path))


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# ---------------------------------------------------------------------- reading


@pytest.mark.parametrize(("ending", "mark"), [("csv", ","), ("tsv", "\t"), ("txt", ",")])
def test_a_table_says_of_each_file_what_its_header_names(tmp_path, ending, mark):
    lines = ["file,rating,Shot by", "a.jpg,5,Ann", "", "x/b.jpg,,  Bob  ", "c.jpg"]
    path = written(tmp_path, f"m.{ending}", "\r\n".join(lines).replace(",", mark))
    assert read_metadata(path) == {
        "a.jpg": {"rating": "5", "Shot by": "Ann"},
        "x/b.jpg": {"Shot by": "Bob"},
        "c.jpg": {},
    }


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("photo,rating,n", {"a": {"rating": "b", "n": "c"}}),  # else the first column
        ("rating,File,n", {"b": {"rating": "a", "n": "c"}}),
        ("name,path,n", {"b": {"name": "a", "n": "c"}}),
        ("id,Image_Name,n", {"b": {"id": "a", "n": "c"}}),
    ],
)
def test_the_header_tells_which_column_names_the_file(tmp_path, header, found):
    assert read_metadata(written(tmp_path, "m.csv", f"{header}\na,b,c\n")) == found


def test_a_csv_may_quote_commas_and_line_ends(tmp_path):
    path = written(tmp_path, "m.csv", '\ufefffile,note\n"a, b.jpg","two\nlines, ""said"""\n')
    assert read_metadata(path) == {"a, b.jpg": {"note": 'two\nlines, "said"'}}


def test_json_lines_keep_what_kind_a_value_is(tmp_path):
    rows = [
        {"file": "a.jpg", "rating": 4.5, "good": True, "none": None, "blank": ""},
        {"Path": "b.jpg", "tags": ["dog", "red", 3], "size": {"w": 1}, "note": "é"},
    ]
    path = written(tmp_path, "m.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n")
    assert read_metadata(path) == {
        "a.jpg": {"rating": 4.5, "good": True},
        "b.jpg": {"tags": "dog, red, 3", "size": '{"w": 1}', "note": "é"},
    }


def test_half_a_character_in_json_is_replaced_and_told(tmp_path):
    path = written(tmp_path, "m.jsonl", '\n{"file": "a.jpg", "a\\ud83d": ["x\\ud83d", 1]}')
    file = MetadataFile(path)
    assert file.metadata == {"a.jpg": {"a\ufffd": "x\ufffd, 1"}}
    assert file.warnings == [
        f"{path}: damaged characters and NULs were replaced by U+FFFD in line 2"
    ]


def test_a_damaged_byte_is_replaced_and_told_and_the_rest_stays_utf8(tmp_path):
    lines = ["file,note", "a.jpg,Grüße und Küsse aus München", "b.jpg,f\udcffünf", "c.jpg,öl"]
    path = written(tmp_path, "m.csv", "\n".join(lines).encode("utf-8", "surrogateescape"))
    file = MetadataFile(path)
    assert [own["note"] for own in file.metadata.values()] == [
        "Grüße und Küsse aus München",
        "f\ufffdünf",
        "öl",
    ]
    assert file.warnings == [
        f"{path}: damaged characters and NULs were replaced by U+FFFD in line 3"
    ]


def test_a_table_in_another_encoding_is_read_in_that_and_told(tmp_path):
    path = written(tmp_path, "m.csv", "file;note\ncafé.jpg;Größe\n".encode("cp1252"))
    file = MetadataFile(path)
    assert file.metadata == {"café.jpg": {"note": "Größe"}}
    assert "is not UTF-8 text and was read as cp1252" in file.warnings[0]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("ending", ["csv", "tsv", "txt", "jsonl"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path, encoding, ending):
    text = "file\tnote\nä.jpg\té\n" if ending != "jsonl" else '{"file": "ä.jpg", "note": "é"}\n'
    file = MetadataFile(written(tmp_path, f"m.{ending}", text.encode(encoding)))
    assert (file.metadata, file.warnings) == ({"ä.jpg": {"note": "é"}}, [])


@pytest.mark.parametrize(
    "text",
    [
        "file\tnote\na.jpg\tb, c; d\n",
        "file;note\na.jpg;b, c\td\n",
        "file;note, of mine\na.jpg;b, c\n",
        'sep=;\nfile;note\n"a.jpg";"b, c"\n',
        "sep=\t\nfile\tnote\na.jpg\tb, c\n",
    ],
)
def test_a_csv_may_be_separated_by_semicolons_or_tabs(tmp_path, text):
    ((name, own),) = read_metadata(written(tmp_path, "m.csv", text)).items()
    assert name == "a.jpg"
    assert [value[:4] for value in own.values()] == ["b, c"]


def test_a_line_that_is_wrong_is_named_below_that_of_the_separator(tmp_path):
    path = written(tmp_path, "m.csv", "sep=;\nfile;a\nx.jpg;1;2\n")
    with pytest.raises(InvalidMetadata, match="line 3: 3 cells, but the header has 2 columns"):
        read_metadata(path)


def test_a_name_that_is_not_utf8_is_that_of_its_file(tmp_path):
    with closing(Catalog(tmp_path / "catalog.db")) as catalog:
        source = catalog.sources.add("/photos")
        catalog.put([ItemRecord(source, "", "caf\udce9.jpg", "image", (0, 0), b"x")])
        for name, text in (
            ("m.jsonl", json.dumps({"file": "caf\udce9.jpg", "n": 1})),
            ("n.csv", "file,n,note\ncaf\udce9.jpg,2,Grüße und Küsse\n"),
        ):
            path = written(tmp_path, name, text.encode("utf-8", "surrogateescape"))
            assert apply_metadata(catalog, path) == []
        assert catalog.filters.matching(parse_condition("n = 2")).tolist() == [1]


def test_of_a_file_that_comes_twice_the_later_value_wins(tmp_path):
    path = written(tmp_path, "m.tsv", "file\ta\tb\nx.jpg\t1\t2\nx.jpg\t3\t\n")
    assert read_metadata(path) == {"x.jpg": {"a": "3", "b": "2"}}


def test_an_empty_file_says_nothing(tmp_path):
    assert read_metadata(written(tmp_path, "m.csv", "")) == {}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("m.csv", "file\na.jpg\n", "line 1: expected a header"),
        ("m.csv", "file,,x\n", "line 1: column 2 has no name"),
        ("m.csv", "file,a,a\n", "line 1: two columns are called 'a'"),
        ("m.csv", "file,a\nx.jpg,1,2\n", "line 2: 3 cells, but the header has 2 columns"),
        ("m.csv", "a,file\n1\n", "line 2: the file name is missing"),
        ("m.csv", "file,a\n ,1\n", "line 2: the file name is missing"),
        ("m.csv", 'file,a\n"x,1\n', "line 2: a cell that begins with a quote"),
        ("m.jsonl", '{"a": 1}', "line 1: expected {"),
        ("m.jsonl", '{"file": 1}', "line 1: expected {"),
        ("m.jsonl", "\n[]", "line 2: expected {"),
        ("m.jsonl", "{", "line 1: expected {"),
        ("m.csv", bytes(range(256)), "is not a text file"),
        ("m.xlsx", "x", "a metadata file ends in .tsv, .csv, .jsonl"),
    ],
)
def test_an_error_names_the_file_and_what_is_expected(tmp_path, name, text, says):
    path = written(tmp_path, name, text)
    with pytest.raises(InvalidMetadata) as caught:
        read_metadata(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)


def test_a_missing_file_is_a_path_that_is_not_found(tmp_path):
    with pytest.raises(PathNotFound, match="no metadata file"):
        read_metadata(tmp_path / "m.csv")


# ---------------------------------------------------------------------- applying


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("a.jpg", "deep/b.jpg", "deep/twin.jpg", "other/twin.jpg"):
        written(folder, name, "")
    return folder


@pytest.fixture
def world(tmp_path: Path, photos: Path):
    made = Catalog(tmp_path / "catalog.db")
    source = made.sources.add(str(photos))
    for path in sorted(photos.rglob("*.jpg")):
        folder = str(path.parent.relative_to(photos)).replace(".", "")
        made.put([ItemRecord(source, folder, path.name, "image", (0, 0), b"x")])
    yield made
    made.close()


def notes(world: Catalog) -> dict[int, str]:
    """By item id (a.jpg, deep/b.jpg, deep/twin.jpg, other/twin.jpg), what is noted."""
    own = {item.id: item.metadata.get("meta") for item in world.items.all()}
    return {id_: found["note"] for id_, found in own.items() if found}


def lines(*names: str) -> str:
    return "file\tnote\n" + "".join(f"{name}\tof {name}\n" for name in names)


@pytest.mark.parametrize(
    ("place", "name", "found"),
    [
        ("elsewhere", "{photos}/deep/b.jpg", {2}),
        ("elsewhere", "../photos//deep/b.jpg", {2}),
        ("photos/deep", "b.jpg", {2}),
        ("elsewhere", "deep/b.jpg", {2}),
        ("elsewhere", "b.jpg", {2}),
        ("photos/deep", "twin.jpg", {3}),  # it lies beside the list
        ("elsewhere", "twin.jpg", set()),  # which of two?
        ("elsewhere", "no/b.jpg", set()),
        ("elsewhere", "c.jpg", set()),
    ],
)
def test_a_name_is_a_path_or_that_of_one_file_alone(tmp_path, world, photos, place, name, found):
    name = name.format(photos=photos)
    path = written(tmp_path, f"{place}/m.tsv", lines(name))
    unmatched = apply_metadata(world, path)
    assert set(notes(world)) == found
    assert unmatched == ([] if found else [name])


def test_several_files_get_theirs_and_the_rest_is_told(tmp_path, world):
    names = ["a.jpg", "b.jpg", "deep/twin.jpg", *(f"{n}.jpg" for n in range(9))]
    unmatched = apply_metadata(world, written(tmp_path, "m.tsv", lines(*names)))
    assert notes(world) == {1: "of a.jpg", 2: "of b.jpg", 3: "of deep/twin.jpg"}
    assert unmatched == names[3:]


def test_a_second_file_leaves_alone_what_it_does_not_name(tmp_path, world):
    apply_metadata(world, written(tmp_path, "m.tsv", lines("a.jpg", "b.jpg")))
    apply_metadata(world, written(tmp_path, "n.csv", "file,note\na.jpg,new\n"))
    assert notes(world) == {1: "new", 2: "of b.jpg"}


def test_a_file_that_cannot_be_parsed_changes_nothing(tmp_path, world):
    apply_metadata(world, written(tmp_path, "m.tsv", lines("a.jpg")))
    with pytest.raises(InvalidMetadata):
        apply_metadata(world, written(tmp_path, "n.csv", "file,note\na.jpg,new\nb.jpg,1,2\n"))
    assert notes(world) == {1: "of a.jpg"}


@pytest.mark.parametrize("asked", ["true", "True", "TRUE"])
def test_true_is_found_however_its_source_and_the_filter_spell_it(tmp_path, world, asked):
    rows = [{"file": "a.jpg", "good": True}, {"file": "b.jpg", "good": "TRUE"}]
    apply_metadata(world, written(tmp_path, "m.jsonl", "\n".join(map(json.dumps, rows))))
    apply_metadata(
        world, written(tmp_path, "python.csv", "file,good\ndeep/twin.jpg,True\nother/twin.jpg,no\n")
    )
    assert world.filters.matching(parse_condition(f"good = {asked}")).tolist() == [1, 2, 3]
    assert world.filters.matching(parse_condition(f"good != {asked}")).tolist() == [4]
    assert world.filters.matching(parse_where({"good": True})).tolist() == [1, 2, 3]
    assert world.filters.matching(parse_where({"good": {"$in": [False, "no"]}})).tolist() == [4]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_match_however_they_are_composed(tmp_path, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    made = Catalog(tmp_path / "accents.db")
    name = unicodedata.normalize(form, "café.jpg")
    made.put([ItemRecord(made.sources.add("/p"), "x", name, "image", (0, 0), b"x")])
    path = written(tmp_path, "m.tsv", lines(unicodedata.normalize(other, "café.jpg")))
    assert apply_metadata(made, path) == []
    made.close()


@pytest.mark.parametrize(
    "name", ["2019\\Beach\\a.jpg", "2019/BEACH/A.JPG", "A.Jpg", "2019\\beach\\A.JPG"]
)
def test_a_name_may_be_written_as_on_windows_and_in_another_case(tmp_path, name):
    with closing(Catalog(tmp_path / "catalog.db")) as catalog:
        source = catalog.sources.add("/photos")
        for folder, file in (("2019/Beach", "a.jpg"), ("", "b.jpg")):
            catalog.put([ItemRecord(source, folder, file, "image", (0, 0), b"x")])
        path = written(tmp_path, "m.csv", f"file;rating\n{name};5\n")
        assert apply_metadata(catalog, path) == []
        assert catalog.filters.matching(parse_condition("rating = 5")).tolist() == [1]


def test_of_two_files_that_differ_in_case_each_has_its_own(tmp_path):
    with closing(Catalog(tmp_path / "catalog.db")) as catalog:
        source = catalog.sources.add("/photos")
        for file in ("a.jpg", "A.jpg"):
            catalog.put([ItemRecord(source, "", file, "image", (0, 0), b"x")])
        assert apply_metadata(catalog, written(tmp_path, "m.csv", "file,n\nA.jpg,5\n")) == []
        assert catalog.filters.matching(parse_condition("n = 5")).tolist() == [2]
        assert apply_metadata(catalog, written(tmp_path, "m.csv", "file,n\nA.JPG,7\n")) == ["A.JPG"]
