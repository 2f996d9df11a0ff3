import marshal
import os
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.errors import UnreadableFile
from mmsearch.media import text as text_module
from mmsearch.media.text import Passage, count_words, passages, read_text

# ---------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    "data",
    [
        "naïve – “café” 日本".encode(),
        "naïve – “café” 日本".encode("utf-8-sig"),
        b"\xef\xbb\xbf" + "naïve – “café” 日本".encode("utf-8-sig"),
        "naïve – “café” 日本".encode("utf-16"),
        b"\xfe\xff" + "naïve – “café” 日本".encode("utf-16-be"),
        "naïve – “café” 日本".encode("utf-32"),
    ],
)
def test_unicode_is_told_by_its_mark_or_is_utf8(data):
    assert read_text(data) == "naïve – “café” 日本"


def test_other_bytes_are_windows_1252(tmp_path):
    assert read_text("“café” – 5 €".encode("cp1252")) == "“café” – 5 €"


def test_bytes_that_windows_1252_leaves_out_are_latin_1():
    assert read_text(b"caf\xe9 \x81\x93x\x94") == "café \x81“x”"


LETTERS = {
    "gbk": "昨天我们去了北京的长城，天气非常好，山上的风很大。",
    "gb18030": "一只狗在海滩上奔跑",
    "big5": "昨天我們去了臺北的陽明山，山上開滿了櫻花。",
    "shift_jis": "昨日は京都の金閣寺へ行きました。Tシャツを買った。",
    "euc_jp": "昨日は京都の金閣寺へ行きました。",
    "iso2022_jp": "昨日は京都の金閣寺へ行きました。",
    "iso2022_kr": "해변의 개",
    "euc_kr": "어제 우리 가족은 비행기를 타고 제주도에 갔다.",
    "koi8-r": "Собака на пляже",
    "cp1251": "Прошлым летом мы ездили на озеро Байкал (Nikon D90).",
    "cp866": "Собака бежит по пляжу",
    "iso8859-5": "Кошка на диване",
    "cp1250": "Żółta łódź płynie przez rzekę, a ja jestem głodny i zmęczony",
    "cp1253": "Ο σκύλος τρέχει στην παραλία",
    "cp1254": "Köpek sahilde koşuyor ve kedi güneşte uyuyor, çok güzel bir gün",
    "cp1255": "הכלב רץ על החוף והחתול ישן בשמש",
    "cp1256": "الكلب يجري على الشاطئ والقط ينام",
    "cp874": "สุนัขวิ่งบนชายหาดและแมวนอนกลางแดด",
    "cp1257": "Šuo bėga paplūdimiu, o katė miega saulėje, šiandien labai graži diena",
}


@pytest.mark.parametrize(("encoding", "text"), LETTERS.items(), ids=LETTERS)
def test_texts_in_older_encodings_are_read_in_their_own_letters(encoding, text):
    assert read_text(text.encode(encoding)) == text
    assert read_text(b"photo taken in the morning\n" * 9000 + text.encode(encoding)).endswith(text)


@pytest.mark.parametrize(
    "text",
    [
        "Café",
        "résumé, naïve, façade",
        "It’s a “quoted” – dash, 5 €",
        "© 2020 Müller, 20 °C, ½ cup, ±5 %",
        "Der Hund läuft über die Straße und frißt Äpfel.",
        "FRÄULEIN MÜLLER",
        "AÇÃO E CORAÇÃO",
        "L’été à la plage",
        "På en ö i Östersjön",
        "¿Dónde está el niño?",
    ],
)
def test_texts_of_western_europe_are_not_taken_for_those_of_others(text):
    assert read_text(text.encode("cp1252")) == text


@pytest.mark.parametrize(
    "text", ["naïve café, déjà vu", "Привет, мир", "昨天我们去了北京", "Grüße aus Zürich"]
)
def test_utf_8_with_a_bad_byte_loses_that_byte_only(text):
    data = text.encode()
    for place in (0, len(data) // 2, len(data)):
        start, end = data[:place], data[place:]
        mended = (start + b"\xff" + end).decode(errors="replace")
        assert read_text(start + b"\xff" + end) == mended
        assert mended.count("\ufffd") <= 4


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_text_cut_inside_a_character_loses_that_character_only(encoding):
    assert read_text("昨天我们去了北京".encode(encoding)[:-1]).rstrip("\ufffd") == "昨天我们去了北"
    assert read_text("naïve and a dog é".encode()[:-1]) == "naïve and a dog \ufffd"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize(
    "text",
    ["a dog on a beach", "Café", "Собака", "ein Foto: 犬 🐕", "海辺の犬\n", "הכלב רץ על החוף"],
)
def test_unicode_without_a_mark_is_told_by_its_zeros(text, encoding):
    assert read_text(text.encode(encoding)) == text


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_damage_in_unicode_without_a_mark_costs_one_character(encoding):
    text = "Ein Hund läuft am Strand.\n"
    lone = "\ud800".encode(encoding, "surrogatepass")
    data = text.encode(encoding) + lone + text.encode(encoding)
    assert read_text(data) == f"{text}\ufffd{text}"


@pytest.mark.parametrize("text", ["a dog", "hello world", "naïve café", "Собака на пляже"])
def test_an_end_that_was_never_written_is_no_part_of_a_text(text):
    for zeros in (1, 2, 3, 4000):
        assert read_text(text.encode() + bytes(zeros)) == text


def test_a_module_in_bytes_is_no_text_though_most_of_it_is_its_help():
    help_text = "Runs on the beach, with a dog, and says how far it came. " * 100
    module = marshal.dumps(compile(f"{help_text!r}\nx = 1\n", "beach.py", "exec"))
    with pytest.raises(UnreadableFile, match="not a text file"):
        read_text(module)


def test_a_binary_file_with_some_text_is_none_in_any_encoding():
    page = b"%PDF-1.4\n%\xac\xdc \xab\xba\n<< /Type /Page /Length 12 >>\nstream\n" * 8
    with pytest.raises(UnreadableFile, match="not a text file"):
        read_text(page + b"x\x9c\xad\0\x92\x81\x03\x1f\x8b\xb3\0\xd6\x05\xe1" * 3)


def test_a_zero_inside_is_a_blank():
    text = "a dog runs on the beach; "
    assert read_text(f"{text}\0{text}".encode()) == f"{text} {text}"


@pytest.mark.parametrize(
    "text", ["he\bello wor\bld!", "\x01page one, even", "\x1b[31mred dog\x1b[0m"]
)
def test_a_text_with_control_characters_stays_as_it_is(text):
    assert read_text(text.encode()) == text
    assert read_text(text.encode() + b" ") == text + " "


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (b" \r\n\t ", "no text in it"),
        (b"\xef\xbb\xbf", "no text in it"),
        (b"PK\x03\x04\0\0", "not a text file"),
        (b"\0\1\2", "not a text file"),
        (b"ab\0\1\2" * 50, "not a text file"),
        (bytes(range(256)), "not a text file"),
        (bytes(500), "no text in it"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "not a text file"),
        (bytes(range(1, 256)) * 3, "not a text file"),
        (b"\xff\xfe" + b"\0\xd8" * 99, "damaged UTF-16 text"),
        (b"\0\0\xfe\xff" + b"\xff" * 99, "damaged UTF-32 text"),
    ],
)
def test_what_is_no_text_is_refused_with_its_reason(tmp_path, data, reason):
    (tmp_path / "a.txt").write_bytes(data)
    for source in (data, tmp_path / "a.txt", str(tmp_path / "a.txt")):
        with pytest.raises(UnreadableFile, match=f"^{reason}$"):
            read_text(source)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "a.txt").open("wb") as file:
        os.truncate(file.fileno(), 65 * 2**20)
    with pytest.raises(UnreadableFile, match=r"too large: 65 MiB of text \(limit 64\)"):
        read_text(tmp_path / "a.txt")


def test_bytes_that_are_too_many_are_refused(monkeypatch):
    monkeypatch.setattr(text_module, "MAX_MEBIBYTES", 0)
    with pytest.raises(UnreadableFile, match="too large"):
        read_text(b"abc")


def test_a_file_that_cannot_be_opened_is_refused_with_its_reason(tmp_path):
    with pytest.raises(UnreadableFile, match="no such file"):
        read_text(tmp_path / "a.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    for path in (tmp_path, tmp_path / "pipe.txt"):
        with pytest.raises(UnreadableFile, match="not a regular file"):
            read_text(path)


@given(st.binary(max_size=300))
def test_any_bytes_give_text_or_a_reason(data):
    with suppress(UnreadableFile):
        assert read_text(data).strip()


# ---------------------------------------------------------------------- passages


def words(count: int, word: str = "word") -> str:
    return " ".join([word] * count)


def test_a_short_text_is_one_passage():
    assert passages("\n\n  A dog.\n\nA cat.\n") == [Passage("A dog.\n\nA cat.", 3, 5)]


def test_no_text_is_no_passage():
    assert passages("") == passages(" \n\t\r\n ") == []


def test_paragraphs_that_do_not_fit_together_are_apart():
    one, two = words(60, "one"), words(60, "two")
    assert passages(f"{one}\n\n\n{two}\n") == [Passage(one, 1, 1), Passage(two, 4, 4)]


def test_neighbours_share_a_passage_while_they_fit():
    one, two, three = (words(40, word) for word in ("one", "two", "three"))
    found = passages(f"{one}\n \n{two}\n\n{three}")
    assert found == [Passage(f"{one}\n \n{two}", 1, 3), Passage(three, 5, 5)]


@pytest.mark.parametrize("heading", ["# Dogs", "Dogs\n====", "# Animals\n\n## Dogs"])
def test_a_heading_stays_with_what_follows_it(heading):
    before, after = words(85, "before"), words(85, "after")
    found = passages(f"{before}\n\n{heading}\n\n{after}")
    assert [p.text for p in found] == [before, f"{heading}\n\n{after}"]


def test_a_long_paragraph_is_cut_at_sentence_ends():
    sentences = [words(39, name) + " end." for name in ("One", "Two", "Three")]
    found = [p.text for p in passages("  ".join(sentences))]
    assert found == ["  ".join(sentences[:2]), sentences[2]]


def test_a_sentence_does_not_end_at_an_abbreviation():
    first, rest = words(50, "a") + " e.g. " + words(30, "b") + ".", words(20, "Then")
    assert [p.text for p in passages(f"{first} {rest}")] == [first, rest]


def test_a_long_sentence_is_cut_at_line_ends():
    lines = [words(40, name) for name in ("one", "two", "three")]
    found = passages("\n".join(lines))
    assert found == [Passage("\n".join(lines[:2]), 1, 2), Passage(lines[2], 3, 3)]


def test_a_long_line_is_cut_between_words():
    found = passages(words(100))
    assert found == [Passage(words(90), 1, 1), Passage(words(10), 1, 1)]


def test_text_without_spaces_is_cut_at_its_own_full_stops_and_stays_bounded():
    sentence = "犬は海辺を走る。"
    found = passages(sentence * 60, max_words=20)
    assert all(p.text == sentence * 5 for p in found)
    assert "".join(p.text for p in found) == sentence * 60
    assert len(passages("海" * 1000)) == 6  # 90 words of two characters each


def test_a_run_without_spaces_is_cut_where_it_must_be():
    found = passages("x" * 3000)
    assert [len(p.text) for p in found] == [1800, 1200]


def test_line_ends_of_all_systems_count_alike():
    one, two = words(60, "one"), words(60, "two")
    unix = passages(f"{one}\n\n{two}\n{two}")
    for end in ("\r\n", "\r"):
        assert passages(f"{one}\n\n{two}\n{two}".replace("\n", end)) == unix


bits = st.one_of(
    st.sampled_from(
        ["a dog", "Cats! ", "e.g. ", "# H", "\n", "\n\n", "\r\n", "\r", " ", "海。", "海辺", "="]
    ),
    st.text(max_size=30),
    st.integers(1, 60).map(lambda n: "x" * n),
)


@given(bits=st.lists(bits, max_size=60), max_words=st.integers(1, 12))
def test_passages_lose_nothing_stay_in_order_and_within_bounds(bits, max_words):
    text = "".join(bits)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    found = passages(text, max_words=max_words)
    assert "".join("".join(p.text for p in found).split()) == "".join(text.split())
    assert all(count_words(p.text) <= max_words for p in found)
    assert all(p.text == p.text.strip() for p in found)
    assert all(p.text in "\n".join(lines[p.start - 1 : p.end]) for p in found)
    assert all(p.text.count("\n") == p.end - p.start for p in found)
    assert [p.start for p in found] == sorted(p.start for p in found)
    if count_words(text) <= max_words:
        assert len(found) == (1 if text.strip() else 0)


def test_a_large_text_takes_time_in_proportion():
    paragraph = " ".join(f"Sentence {n} is here." for n in range(40))
    found = passages("\n\n".join([paragraph] * 2000))
    assert len(found) == 4000
    assert found[-1].end == 3999
