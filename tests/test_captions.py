import json
import unicodedata

import pytest

from mmsearch.errors import InvalidCaptions, PathNotFound
from mmsearch.media.captions import CaptionFile, read_captions


def written(folder, name, text):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# ---------------------------------------------------------------------- formats


def test_a_tsv_gives_several_captions_a_file_in_order(tmp_path):
    path = written(tmp_path, "c.tsv", "a.jpg\ttwo\nb.jpg\tx\na.jpg\tone\n")
    assert read_captions(path) == {"a.jpg": ["two", "one"], "b.jpg": ["x"]}


def test_blank_and_repeated_captions_and_blank_lines_are_left_out(tmp_path):
    path = written(tmp_path, "c.tsv", "a.jpg\tone\n\na.jpg\t \na.jpg\t one \n\n")
    assert read_captions(path) == {"a.jpg": ["one"]}


def test_quotes_mean_nothing_in_a_tsv(tmp_path):
    path = written(tmp_path, "c.tsv", 'a.jpg\t"Stop" sign\nb.jpg\t"open\nc.jpg\tx\n')
    assert read_captions(path) == {"a.jpg": ['"Stop" sign'], "b.jpg": ['"open'], "c.jpg": ["x"]}


def test_a_csv_may_quote_commas_quotes_and_line_ends(tmp_path):
    path = written(tmp_path, "c.csv", 'a.jpg,"a dog, ""Rex"",\nruns"\n')
    assert read_captions(path) == {"a.jpg": ['a dog, "Rex", runs']}


@pytest.mark.parametrize("header", ["image,caption", "Filename,Text", ""])
def test_unquoted_commas_belong_to_the_caption_when_there_are_two_columns(tmp_path, header):
    path = written(tmp_path, "captions.txt", f"{header}\na.jpg,A dog , a cat .\nb.jpg,x\n")
    assert read_captions(path) == {"a.jpg": ["A dog , a cat ."], "b.jpg": ["x"]}


def test_they_do_so_too_when_the_caption_comes_first(tmp_path):
    path = written(tmp_path, "c.csv", "caption,file\nA dog, a cat,a.jpg\n")
    assert read_captions(path) == {"a.jpg": ["A dog, a cat"]}


def test_a_header_says_which_columns_count(tmp_path):
    path = written(tmp_path, "c.csv", "id,Comment,Image_Name,split\n1,a dog,a.jpg,train\n")
    assert read_captions(path) == {"a.jpg": ["a dog"]}


def test_a_txt_is_told_by_its_first_line(tmp_path):
    path = written(tmp_path, "t.txt", "a.jpg\tA dog, a cat\n")
    assert read_captions(path) == {"a.jpg": ["A dog, a cat"]}


def test_the_numbers_of_flickr8k_are_no_part_of_the_name(tmp_path):
    path = written(tmp_path, "t.txt", "a.jpg#0\tone\na.jpg#1\ttwo\n")
    assert read_captions(path) == {"a.jpg": ["one", "two"]}


@pytest.mark.parametrize("ending", ["jsonl", "ndjson"])
def test_json_lines_have_one_caption_or_a_list(tmp_path, ending):
    rows = [
        {"file": "a.jpg", "caption": "one"},
        {"file_name": "b.jpg", "captions": ["two", "three"]},
        {"Image": "c.jpg", "TEXT": "four", "id": 4},
    ]
    path = written(tmp_path, f"c.{ending}", "\n".join(map(json.dumps, rows)) + "\n\n")
    found = {"a.jpg": ["one"], "b.jpg": ["two", "three"], "c.jpg": ["four"]}
    assert read_captions(path) == found


def test_half_a_character_in_json_is_replaced_and_told(tmp_path):
    path = written(tmp_path, "c.jsonl", r'{"file": "a.jpg", "caption": "dog \ud83d"}')
    assert read_captions(path) == {"a.jpg": ["dog \ufffd"]}
    assert "replaced by U+FFFD in line 1" in CaptionFile(path).warnings[0]


def test_a_byte_order_mark_and_windows_line_ends_are_no_trouble(tmp_path):
    path = written(tmp_path, "c.tsv", "\ufefffile\tcaption\r\na.jpg\tone\r\n")
    assert read_captions(path) == {"a.jpg": ["one"]}


def test_an_empty_file_has_no_captions(tmp_path):
    assert read_captions(written(tmp_path, "c.csv", "")) == {}


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("c.tsv", "a.jpg\tx\nb.jpg\n", "line 2: expected a file name and a caption with a tab"),
        ("c.csv", "a.jpg,x\n\nb.jpg\n", "line 3: expected a file name and a caption with a comma"),
        ("c.csv", 'a.jpg,x\nb.jpg,"open\nc.jpg,y\n', "line 2: a cell that begins with a quote"),
        ("c.csv", "image,label\na.jpg,x\n", "line 1: no column is called one of caption, text"),
        ("c.csv", ",x\n", "line 1: the file name is missing"),
        ("c.jsonl", '{"file": "a.jpg", "caption": "x"}\n{"file":\n', "line 2: expected {"),
        ("c.jsonl", "[]", "line 1: expected {"),
        ("c.jsonl", '{"file": "a.jpg"}', "line 1: expected {"),
        ("c.jsonl", '{"caption": "x"}', "line 1: expected {"),
        ("c.jsonl", '{"file": "a.jpg", "captions": [1]}', "line 1: expected {"),
        ("c.jsonl", "[" * 100_000, "line 1: expected {"),
        ("c.tsv", bytes(range(256)), "is not a text file"),
        ("c.xml", "<a/>", ".tsv, .csv, .jsonl"),
    ],
)
def test_an_error_names_the_file_and_what_is_expected(tmp_path, name, text, says):
    path = written(tmp_path, name, text)
    with pytest.raises(InvalidCaptions) as caught:
        read_captions(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)


def test_a_missing_captions_file_is_a_path_that_is_not_found(tmp_path):
    with pytest.raises(PathNotFound, match="no captions file"):
        CaptionFile(tmp_path / "c.tsv")


def test_a_folder_is_no_captions_file(tmp_path):
    (tmp_path / "c.tsv").mkdir()
    with pytest.raises(InvalidCaptions, match="directory"):
        read_captions(tmp_path / "c.tsv")


# ---------------------------------------------------------------------- finding


def book(folder, *names):
    rows = "".join(f"{name}\tcaption of {name}\n" for name in names)
    return CaptionFile(written(folder, "c.tsv", rows))


def test_a_bare_name_is_found_in_any_folder(tmp_path):
    assert book(tmp_path, "a.jpg").find("/p/deep/a.jpg", "deep/a.jpg") == ["caption of a.jpg"]


def test_a_name_with_a_folder_is_not_found_by_its_last_part(tmp_path):
    assert book(tmp_path, "x/a.jpg").find("/p/y/a.jpg", "y/a.jpg") is None


def test_the_nearest_meaning_of_a_name_wins(tmp_path):
    absolute = str(tmp_path / "x/a.jpg")
    names = ["a.jpg", "p/a.jpg", "x/a.jpg", str(tmp_path / "y/a.jpg")]
    full = book(tmp_path, *names)
    assert full.find(absolute, "p/a.jpg") == ["caption of x/a.jpg"]
    assert full.find(str(tmp_path / "y/a.jpg"), "p/a.jpg") == [f"caption of {names[3]}"]
    assert full.find("/elsewhere/p/a.jpg", "p/a.jpg") == ["caption of p/a.jpg"]
    assert full.find("/elsewhere/q/a.jpg", "q/a.jpg") == ["caption of a.jpg"]


def test_a_name_may_go_up_from_the_folder_of_the_captions_file(tmp_path):
    (tmp_path / "meta").mkdir()
    found = book(tmp_path / "meta", "../photos//a.jpg").find(f"{tmp_path}/photos/a.jpg", "a.jpg")
    assert found == ["caption of ../photos//a.jpg"]


def test_a_photo_is_found_whether_its_links_are_resolved_or_not(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real/c.tsv").write_text("x/a.jpg\tone\n")
    linked = CaptionFile(tmp_path / "link/c.tsv")
    for folder in ("link", "real"):
        assert linked.find(str(tmp_path / folder / "x/a.jpg"), "elsewhere/a.jpg") == ["one"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_match_however_they_are_composed(tmp_path, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    full = book(tmp_path, unicodedata.normalize(form, "café.jpg"))
    assert full.find("/p/" + unicodedata.normalize(other, "café.jpg"), "x") is not None


def test_a_file_name_that_is_not_utf8_is_simply_not_found(tmp_path):
    assert book(tmp_path, "a.jpg").find("/p/caf\udce9.jpg", "caf\udce9.jpg") is None


def test_a_row_without_captions_is_found_empty(tmp_path):
    blank = CaptionFile(written(tmp_path, "c.tsv", "a.jpg\t\n"))
    assert blank.find("/p/a.jpg", "a.jpg") == []


def test_names_that_no_photo_was_found_for_are_told(tmp_path):
    full = book(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    full.find("/p/b.jpg", "b.jpg")
    full.find("/p/z.jpg", "z.jpg")
    assert full.unused == ["a.jpg", "c.jpg"]


def test_a_bare_name_that_lies_beside_the_book_is_that_file_alone(tmp_path):
    (tmp_path / "100").mkdir()
    (tmp_path / "100" / "I1.jpg").touch()
    (tmp_path / "100" / "c.tsv").write_text("I1.jpg\ta dog\n")
    book = CaptionFile(tmp_path / "100" / "c.tsv")
    assert book.find(str(tmp_path / "100" / "I1.jpg"), "100/I1.jpg") == ["a dog"]
    assert book.find(str(tmp_path / "101" / "I1.jpg"), "101/I1.jpg") is None


def test_a_csv_with_semicolons_is_read(tmp_path):
    (tmp_path / "c.csv").write_text("a.jpg;a room, with a television\nb.jpg;a dog\n")
    assert read_captions(tmp_path / "c.csv") == {
        "a.jpg": ["a room, with a television"],
        "b.jpg": ["a dog"],
    }


def test_semicolons_in_captions_are_no_separators(tmp_path):
    (tmp_path / "c.csv").write_text("a.jpg,a room; with a television\nb.jpg,a dog\n")
    assert read_captions(tmp_path / "c.csv")["a.jpg"] == ["a room; with a television"]


def test_a_cell_may_be_as_long_as_a_book(tmp_path):
    (tmp_path / "c.csv").write_text(f'a.jpg,"{"word " * 30_000}"\n')
    assert len(read_captions(tmp_path / "c.csv")["a.jpg"][0]) == 149_999
