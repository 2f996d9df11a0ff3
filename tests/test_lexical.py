from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.storage.lexical import (
    Document,
    best_text,
    date_words,
    name_tokens,
    query_terms,
    split_terms,
    tokens,
)
from mmsearch.storage.lexical.languages import ENGLISH, OTHERS, language_of
from mmsearch.storage.lexical.tokens import MOST_TERMS
from mmsearch.types import Item, TextPart


def item(*texts: str) -> Item:
    return Item(1, "/a.jpg", "image", tuple(TextPart(text, "caption") for text in texts))


# ------------------------------------------------------------------ stems


@pytest.mark.parametrize(
    ("word", "root"),
    [("dogs", "dog"), ("running", "run"), ("ponies", "poni"), ("yes", "ye"), ("as", "as")],
)
def test_english_stems_are_those_of_older_indexes(word: str, root: str):
    assert tokens(word) == [root]


INFLECTED = {
    "german": [("Hund", "Hunden"), ("Haus", "Häuser"), ("Straße", "Strassen"), ("Kind", "Kindern"),
               ("Baum", "Baeume"), ("Mädchen", "Mädchens"), ("Wand", "Wände")],
    "french": [("chien", "chiens"), ("cheval", "chevaux"), ("joué", "jouant"), ("petit", "petites"),
               ("plage", "plages"), ("Forêt", "foret"), ("vélo", "vélos")],
    "czech": [("pláž", "plážích"), ("žena", "ženou"), ("muž", "mužem"), ("malý", "malého"),
              ("hora", "horách"), ("pláž", "plaz"), ("psovi", "psové")],
}  # fmt: skip

SENTENCES = {
    "german": "Das ist {} und der",
    "french": "c'est dans {} avec les",
    "czech": "je v {} na",
}


@pytest.mark.parametrize(
    ("language", "one", "other"),
    [(language, *pair) for language, pairs in INFLECTED.items() for pair in pairs],
)
def test_a_word_finds_its_other_forms_in_a_text_of_its_language(
    language: str, one: str, other: str
):
    for query, said in ((one, other), (other, one), (one.upper(), one)):
        document = f" {' '.join(tokens(SENTENCES[language].format(said)))} "
        assert all(term.within(document) for term in query_terms(query))


@pytest.mark.parametrize(
    ("query", "said"),
    [("number", "a numb hand"), ("wine", "who will win"), ("wins", "der Wein und die Reben")],
)
def test_a_word_is_not_found_by_the_ending_of_another_language(query: str, said: str):
    document = f" {' '.join(tokens(said))} "
    assert not any(term.within(document) for term in query_terms(query))


@pytest.mark.parametrize(
    ("text", "algorithm"),
    [
        ("Two dogs run on the beach", "porter"),
        ("a man in a café", "porter"),
        ("man with hat", "porter"),
        ("Sunset", "porter"),
        ("", "porter"),
        ("海滩上的狗", "porter"),
        ("ein Hund am Strand", "german"),
        ("Zwei Mädchen spielen", "german"),
        ("un chien sur la plage", "french"),
        ("l’homme à vélo", "french"),
        ("Dva psi běží po pláži", "czech"),
        ("pes je na plazi a dite", "czech"),
    ],
)
def test_the_language_of_a_text_is_detected_from_its_words_and_letters(text: str, algorithm: str):
    words = re.findall(r"\w+", text.lower())
    assert language_of(words, text).algorithm == algorithm


# ------------------------------------------------------------------ tokens of texts


def test_case_accents_and_signs_make_no_difference():
    assert tokens("The CAFÉ is naïve!") == tokens("the cafe is naive")


def test_a_letter_with_its_accent_apart_is_the_same_letter():
    assert tokens("le cafe\u0301") == tokens("le caf\u00e9")


def test_an_apostrophe_parts_a_word_from_its_ending():
    assert tokens("the dog's") == ["the", "dog", "s"]


def test_a_number_is_known_without_its_leading_zeros():
    assert tokens("0042 0") == ["42", "0"]


def test_vowel_signs_are_part_of_a_word():
    assert tokens("हिन्दी") == ["हिन्दी"]


def test_characters_without_spaces_become_pairs_and_single_ones():
    assert tokens("東京都 map") == ["東京", "京都", "東", "京", "都", "map"]


def test_a_voiced_kana_stays_one_character():
    assert tokens("が") == ["が"]


@given(st.text())
def test_tokens_hold_letters_marks_and_digits_only(text: str):
    for token in tokens(text):
        assert token
        assert not any(character in token for character in " \0\"'()*:^-+{}¶")


@given(st.text())
def test_the_tokens_of_a_text_are_those_of_its_lower_case(text: str):
    assert tokens(text) == tokens(text.lower())


@given(st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1)))
def test_each_term_of_a_part_is_in_the_whole(words: list[str]):
    whole = f" {' '.join(tokens(' '.join(words)))} "
    assert all(term.within(whole) for word in words for term in query_terms(word))


# ------------------------------------------------------------------ names and dates


@pytest.mark.parametrize(
    "query", ["img", "42", "IMG_0042", "dog", "beach", "dogbeach", "html page", "htmlpage", "jpg"]
)
def test_a_name_is_found_by_its_parts(query: str):
    assert set(tokens(query)) <= set(name_tokens("IMG_0042 DogBeach HTMLPage.jpg"))


@pytest.mark.parametrize("query", ["iphone", "iphone12", "12", "mp4"])
def test_a_name_is_found_by_words_that_case_and_digits_would_part(query: str):
    assert set(tokens(query)) <= set(name_tokens("iPhone12.mp4"))


def test_a_name_that_is_not_utf8_gives_the_words_that_can_be_read():
    assert name_tokens("dog\udcff_beach.jpg") == ("dog", "beach", "jpg")


def test_a_date_becomes_weekday_day_month_and_year():
    assert date_words("2019-03-04T10:20:30") == "monday 4 march mar 2019"


@pytest.mark.parametrize("written", ["", "2019", "0000-00-00T00:00:00", "yesterday at noon"])
def test_what_is_no_date_has_no_words(written: str):
    assert date_words(written) == ""


def test_a_document_keeps_texts_names_and_facts_apart():
    made = Document.of(["A dog", "", "runs"], ["DogBeach"], ["Canon EOS", "march 2019"])
    assert made.texts == "a dog ¶ run"
    assert made.names == "dog beach dogbeach"
    assert made.facts == "canon eo ¶ march 2019"


# ------------------------------------------------------------------ terms of a query


def found(query: str) -> list[tuple[str, ...]]:
    return [term.tokens for term in query_terms(query)]


def test_a_query_has_a_term_for_each_of_its_words():
    assert found("Dogs and a dog's bone") == [("dog",), ("bone",)]


def test_stop_words_alone_make_no_terms():
    assert query_terms("The, and WITH a it's don't") == []


def test_quoted_words_must_follow_one_another_stop_words_too():
    assert found('"dogs on the beach" sun') == [("dog", "on", "the", "beach"), ("sun",)]


@pytest.mark.parametrize("query", ['"dog beach', 'dog" beach', '""dog beach'])
def test_a_quote_that_is_not_closed_means_nothing(query: str):
    assert found(query) == [("dog",), ("beach",)]


@pytest.mark.parametrize("query", ['""', '"the"', "“ ”", '"?!"'])
def test_quotes_with_nothing_to_find_in_them_make_no_terms(query: str):
    assert query_terms(query) == []


def test_signs_of_query_languages_mean_nothing():
    assert found("NEAR(dog* AND ^cat) texts:bird -fish") == [
        ("near",), ("dog",), ("cat",), ("text",), ("bird",), ("fish",),
    ]  # fmt: skip


def test_a_run_of_characters_is_a_phrase_of_its_pairs():
    assert found("東京都") == [("東京", "京都")]
    assert found("東") == [("東",)]


def test_a_run_is_split_into_pairs_unless_it_is_quoted():
    assert [term.tokens for term in split_terms(query_terms("東京都"))] == [("東京",), ("京都",)]
    assert [term.tokens for term in split_terms(query_terms('"東京都"'))] == [("東京", "京都")]


@pytest.mark.parametrize("query", ["2019-03-04", "4 march 2019"])
def test_a_date_in_digits_becomes_words(query: str):
    assert found(query) == [("4",), ("march",), ("2019",)]


def test_digits_that_are_no_date_stay_as_they_are():
    assert found("2019-13-01") == [("2019",), ("13",), ("1",)]


def test_a_long_query_is_cut_short():
    assert len(query_terms(" ".join(f"w{n}" for n in range(1000)))) == MOST_TERMS
    assert len(split_terms(query_terms("東" + "京都" * 1000))) <= MOST_TERMS


@given(st.text() | st.text('" “”*()^:-+\0\ud800東京ก NEARANDORdog', max_size=60))
def test_no_term_contains_a_sign_of_the_query_language(query: str):
    for term in query_terms(query):
        for token in (token for form in term.forms for token in form):
            assert token
            assert not set(token) & set(" \"'()*:^-+{}\0")


def test_stop_words_are_written_as_they_are_compared():
    for language in (ENGLISH, *OTHERS):
        assert all(word.isascii() and word.islower() for word in language.stop_words)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("ein Hund am Strand", ["hund", "strand"]),
        ("un ours sur la plage", ["our", "plage"]),
        ("most přes řeku", ["most", "reku"]),
        ("the man with a hat", ["man", "hat"]),
    ],
)
def test_stop_words_of_the_language_of_a_query_are_ignored(query: str, words: list[str]):
    assert [term.tokens for term in query_terms(query)] == [(word,) for word in words]


def test_a_quoted_phrase_is_found_in_each_language():
    (term,) = query_terms('"Hunde am Strand"')
    for said in ("Zwei Hunde am Strand", "Das sind Hunde am Strand und der Sand"):
        assert term.within(f" {' '.join(tokens(said))} ")
    assert not term.within(f" {' '.join(tokens('Das ist der Strand am Hunde'))} ")


# ------------------------------------------------------------------ the text that matched


def test_the_text_that_contains_most_of_the_words_is_chosen():
    assert best_text(item("a dog", "a dog on a beach", "beach"), "dogs at the beach") == 1


def test_of_texts_with_equally_many_words_the_first_is_chosen():
    assert best_text(item("a cat", "a dog", "two dogs"), "dog") == 1


def test_a_phrase_counts_where_it_stands_as_it_is():
    assert best_text(item("beach dog", "dog beach"), '"dog beach"') == 1


@pytest.mark.parametrize("query", ["zebra", "the", ""])
def test_no_text_is_chosen_where_none_contains_a_word(query: str):
    assert best_text(item("a dog", "the cat"), query) is None


@pytest.mark.parametrize("invisible", ["\u00ad", "\u200b", "\u200d", "\u2060", "\u200e", "\ufeff"])
def test_characters_that_are_not_seen_split_no_word(invisible):
    assert tokens(f"Donau{invisible}dampf{invisible}schiff") == ["donaudampfschiff"]


def test_an_emoji_is_a_word_whatever_its_skin_or_style():
    assert tokens("walk🐕 ❤️👍🏽") == ["walk", "🐕", "❤", "👍"]
    assert [term.tokens for term in query_terms("🐕")] == [("🐕",)]
    assert tokens("© 2020 → a") == ["2020", "a"]


def test_a_flag_is_found_among_flags():
    assert {term.tokens for term in query_terms("🇩🇪")} == {("🇩🇪",)}
    assert "🇩🇪" in tokens("🇫🇷🇩🇪")
