from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.errors import InvalidCaptions, InvalidOption, InvalidQuery, PathNotFound
from mmsearch.evaluation.pairs import Pair, read_pairs
from mmsearch.types import Part, Query


def read(folder, name, text, columns=None):
    """What a file says: a tuple of (modality, content) of each query, and its files."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    pairs = read_pairs(path, columns)
    return {
        tuple((part.modality, part.content) for part in pair.query.parts): dict(pair.relevant)
        for pair in pairs
    }


def words(text):
    return (("text", text),)


def test_without_a_header_the_query_comes_first_and_the_file_second(tmp_path):
    found = read(tmp_path, "p.tsv", "a dog\ta.jpg\na cat\tb.jpg\n")
    assert found == {words("a dog"): {"a.jpg": 1}, words("a cat"): {"b.jpg": 1}}


def test_several_rows_of_one_query_are_several_right_files(tmp_path):
    found = read(tmp_path, "p.tsv", "a dog\ta.jpg\na cat\tb.jpg\n\na  dog \tc.jpg\n")
    assert found == {words("a dog"): {"a.jpg": 1, "c.jpg": 1}, words("a cat"): {"b.jpg": 1}}


@pytest.mark.parametrize(
    ("header", "query", "file"),
    [
        ("file,caption", 1, 0),  # a captions file
        ("image,caption", 1, 0),
        ("Query,File", 0, 1),
        ("relevant,text", 1, 0),
    ],
)
def test_a_header_says_which_is_which(tmp_path, header, query, file):
    cells = ["", ""]
    cells[query], cells[file] = "a dog", "a.jpg"
    found = read(tmp_path, "p.csv", f"{header}\n{','.join(cells)}\n")
    assert found == {words("a dog"): {"a.jpg": 1}}


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_a_header_says_that_queries_are_examples(tmp_path, modality):
    found = read(tmp_path, "p.tsv", f"{modality}\tfile\nq.bin\ta.jpg\n")
    assert found == {((modality, "q.bin"),): {"a.jpg": 1}}


def test_what_looks_like_a_path_is_words_unless_the_header_says_so(tmp_path):
    assert read(tmp_path, "p.tsv", "dog.jpg\ta.jpg\n") == {words("dog.jpg"): {"a.jpg": 1}}


def test_a_column_says_the_modality_of_each_query(tmp_path):
    text = "modality\tquery\tfile\nimage\tq.jpg\ta.jpg\ntext\ta dog\ta.jpg\n\ta cat\tb.jpg\n"
    assert list(read(tmp_path, "p.tsv", text)) == [
        (("image", "q.jpg"),),
        words("a dog"),
        words("a cat"),
    ]


def test_where_several_columns_are_filled_the_parts_are_one_query(tmp_path):
    found = read(tmp_path, "p.tsv", "image\ttext\tfile\nq.jpg\tin red\ta.jpg\n\ta cat\tb.jpg\n")
    assert list(found) == [(("text", "in red"), ("image", "q.jpg")), words("a cat")]


def test_columns_name_those_of_a_file_without_a_header(tmp_path):
    found = read(tmp_path, "c.tsv", "a.jpg\ta dog\na.jpg\ta pup\n", ["file", "query"])
    assert found == {words("a dog"): {"a.jpg": 1}, words("a pup"): {"a.jpg": 1}}


def test_columns_that_name_no_file_are_refused(tmp_path):
    with pytest.raises(InvalidOption, match="name no query or no file"):
        read(tmp_path, "c.tsv", "a\tb\n", ["query", "score"])


def test_a_gain_is_kept_and_the_highest_of_a_file_counts(tmp_path):
    text = "query\tfile\tgain\na dog\ta.jpg\t2\na dog\tb.jpg\t\na dog\ta.jpg\t1\na dog\tc.jpg\t0\n"
    assert read(tmp_path, "p.tsv", text) == {words("a dog"): {"a.jpg": 2, "b.jpg": 1, "c.jpg": 0}}


def test_unquoted_commas_belong_to_the_query(tmp_path):
    assert read(tmp_path, "p.csv", "a dog, a cat,a.jpg\n") == {words("a dog, a cat"): {"a.jpg": 1}}
    assert read(tmp_path, "q.csv", "file,text\na.jpg,a dog, a cat\n") == {
        words("a dog, a cat"): {"a.jpg": 1}
    }


@pytest.mark.parametrize(
    ("row", "right"),
    [
        ({"query": "a dog", "relevant": "a.jpg"}, {"a.jpg": 1}),
        ({"text": "a dog", "relevant": ["a.jpg", "b.jpg"]}, {"a.jpg": 1, "b.jpg": 1}),
        ({"query": "a dog", "relevant": {"a.jpg": 3, "b.jpg": 0.5}}, {"a.jpg": 3, "b.jpg": 0.5}),
        ({"caption": "a dog", "file": "a.jpg"}, {"a.jpg": 1}),
    ],
)
def test_a_json_object_names_one_file_several_or_gains(tmp_path, row, right):
    assert read(tmp_path, "p.jsonl", json.dumps(row)) == {words("a dog"): right}


def test_the_number_of_a_caption_is_no_part_of_the_name(tmp_path):
    text = "a.jpg#0\ta dog\na.jpg#1\ta pup\nb.jpg#0\ta dog\n"
    found = read(tmp_path, "c.tsv", text, ["file", "query"])
    assert found == {words("a dog"): {"a.jpg": 1, "b.jpg": 1}, words("a pup"): {"a.jpg": 1}}
    row = {"query": "a dog", "relevant": {"a.jpg#0": 1, "a.jpg#1": 3, "a.jpg#2": 2}}
    assert read(tmp_path, "p.jsonl", json.dumps(row)) == {words("a dog"): {"a.jpg": 3}}


def test_a_json_object_may_ask_by_example(tmp_path):
    rows = [{"image": "q.jpg", "relevant": "a.jpg"}, {"audio": "q.wav", "relevant": "a.jpg"}]
    found = read(tmp_path, "p.jsonl", "\n".join(map(json.dumps, rows)))
    assert list(found) == [(("image", "q.jpg"),), (("audio", "q.wav"),)]


def test_relative_names_begin_where_the_file_of_pairs_lies(tmp_path):
    path = tmp_path / "p.tsv"
    path.write_text("a dog\ta.jpg\n")
    assert read_pairs(path)[0].folder == str(tmp_path)
    assert read_pairs(os.path.relpath(path))[0].folder == str(tmp_path)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), min_size=1))
def test_every_row_is_kept_once_under_its_query(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("pairs") / "p.tsv"
    path.write_text("".join(f"{query}\t{file}\n" for query, file in rows))
    pairs = read_pairs(path)
    assert [pair.query.parts for pair in pairs] == [
        (Part("text", query),) for query in dict.fromkeys(query for query, _ in rows)
    ]
    kept = {(pair.query.parts[0].content, file) for pair in pairs for file in pair.relevant}
    assert kept == set(rows)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("p.tsv", "a dog\ta.jpg\nalone\n", "line 2: expected 2 columns with a tab between, not 1"),
        ("p.tsv", "a\tb\tc\n", "line 1: 3 columns and no header"),
        ("p.tsv", "query\tfile\n\ta.jpg\n", "line 2: the query is missing"),
        ("p.tsv", "query\tfile\na dog\t \n", "line 2: the file name is missing"),
        ("p.tsv", "query\tfile\tgain\na\tb\tmuch\n", "line 2: a gain is a number.*'much'"),
        ("p.tsv", "query\tfile\tgain\na\tb\t-1\n", "line 2: a gain is a number, 0 or more"),
        ("p.tsv", "modality\tquery\tfile\nsmell\ta\tb\n", "not 'smell'"),
        ("p.csv", 'query,file\n"a dog,b\n', "line 2: a cell that begins with a quote"),
        ("p.jsonl", '{"query": "a"}', 'line 1: expected .*"relevant"'),
        ("p.jsonl", '\n{"query": "", "relevant": "a"}', "line 2: expected"),
        ("p.jsonl", '{"query": "a", "relevant": []}', "line 1: expected"),
        ("p.jsonl", "[1]", "line 1: expected"),
        ("p.jsonl", '{"query": "a", "relevant": {"b": null}}', "line 1: a gain is a number"),
        ("p.jsonl", f'{{"query": "a", "relevant": {{"b": 1{"0" * 400}}}}}', "line 1: a gain is"),
        ("p.jsonl", "{", "line 1: expected"),
        ("p.doc", "a\tb\n", "ends in .tsv"),
    ],
)
def test_what_cannot_be_parsed_is_said_with_its_line(tmp_path, name, text, reason):
    with pytest.raises(InvalidCaptions, match=reason):
        read(tmp_path, name, text)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(PathNotFound, match=r"no pairs file .*p\.tsv"):
        read_pairs(tmp_path / "p.tsv")


def test_a_file_that_is_not_utf8_is_said(tmp_path):
    (tmp_path / "p.tsv").write_bytes(b"caf\xe9\ta.jpg\n")
    with pytest.raises(InvalidCaptions, match="not UTF-8"):
        read_pairs(tmp_path / "p.tsv")


# Pairs made in Python


def test_names_and_gains_may_be_of_any_type_that_stands_for_them(tmp_path):
    pair = Pair(Query.text("a dog"), {tmp_path / "a.jpg": 2, b"b.jpg": "1"}, tmp_path)
    assert pair.relevant == {str(tmp_path / "a.jpg"): 2.0, "b.jpg": 1.0}
    assert pair.folder == str(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("a dog", {"a.jpg": 1}), r"such as Query.text\('a dog'\), not 'a dog'"),
        ((Query(()), {"a.jpg": 1}), "the query is empty"),
        ((Query.text(5), {"a.jpg": 1}), "a text query is a string, not int"),
        ((-Query.text("a"), {"a.jpg": 1}), "all parts of the query are negative"),
        ((Query.text("a"), ["a.jpg"]), r"such as \{'a.jpg': 1\}, not \['a.jpg'\]"),
        ((Query.text("a"), "a.jpg"), "not 'a.jpg'"),
        ((Query.text("a"), {"a.jpg": "much"}), "a gain is a number, 0 or more, not 'much'"),
        ((Query.text("a"), {"a.jpg": None}), "a gain is a number"),
        ((Query.text("a"), {"a.jpg": float("nan")}), "a gain is a number"),
        ((Query.text("a"), {"a.jpg": float("inf")}), "a gain is a number"),
        ((Query.text("a"), {"a.jpg": 10**400}), "a gain is a number"),
        ((Query.text("a"), {3: 1}), "the name of a file or folder is text: .* not int"),
        ((Query.text("a"), {"a.jpg": 1}, 3), "the name of a file or folder is text: .* not int"),
    ],
)
def test_what_is_no_pair_is_a_clear_error(arguments, reason):
    with pytest.raises(InvalidQuery, match=reason):
        Pair(*arguments)


@pytest.mark.parametrize("path", [5, None, ["p.tsv"]])
def test_pairs_are_read_from_a_file_alone(path):
    with pytest.raises(InvalidOption, match="pairs are read from a file, not"):
        read_pairs(path)


@pytest.mark.parametrize("columns", ["file,query", 5, [1, 2]])
def test_columns_that_are_no_list_of_names_are_refused(tmp_path, columns):
    with pytest.raises(InvalidOption, match="columns are a list of names"):
        read(tmp_path, "c.tsv", "a\tb\n", columns)
