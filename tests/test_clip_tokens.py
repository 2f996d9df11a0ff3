"""Texts for `clip:` models: the very tokens of open_clip's tokenizers, without them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from unicodedata import category

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mmsearch.encoders.clip.make_towers import ODD, SENTENCES
from mmsearch.encoders.clip.preprocessing import Tokens, clean, clip_pieces, write_pieces
from mmsearch.encoders.clip.torch_model import TorchModel

open_clip = pytest.importorskip("open_clip")

KNOWN = st.characters(exclude_categories=["Cn", "Cs"])
"""Characters Python knows: the newest are letters to one regular-expression library only."""
TRICKY = st.sampled_from(
    "abcS'tTrevmMlLdD ſßKÅ'’&;lt#1²½٣é\u0301\u0345ιΙ\u200d\x1c\x85\xa0<>_of end.start"
)


def ours(tokenizer, folder: Path) -> Tokens:
    """What `TorchModel.recipe` keeps of a tokenizer of open_clip's."""
    model = SimpleNamespace(tokenizer=tokenizer, model=None)
    recipe, backend = TorchModel.recipe(model)
    backend.save(str(folder / "tokenizer.json"))
    return Tokens(folder / "tokenizer.json", recipe)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    return tokenizer, ours(tokenizer, tmp_path_factory.mktemp("tokens"))


def assert_same(both, texts) -> None:
    wanted, found = both[0](texts).numpy(), both[1](texts)
    for text, one, other in zip(texts, wanted, found, strict=True):
        assert np.array_equal(one, other), repr(text)


@pytest.mark.parametrize("text", [*ODD, *SENTENCES[:3]])
def test_odd_texts_have_the_tokens_of_open_clip(both, text):
    assert_same(both, [text])


@settings(max_examples=500)
@given(st.text(KNOWN, max_size=60) | st.text(TRICKY, max_size=40))
@example("Í\x85")  # which ftfy takes for U+0345, badly decoded
@example("a\u0345b !\u0345!")
def test_any_text_has_the_tokens_of_open_clip(both, text):
    assume(all(category(letter) != "Cn" for letter in clean(text, "lower")))
    assert_same(both, [text])


@pytest.mark.parametrize("text", ["a <start_of_text> b", "!!<end_of_text>c", "x<END_OF_TEXT>y"])
def test_a_mark_that_somebody_types_is_that_mark(both, text):
    assert_same(both, [text])


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A recipe, the tokenizer that it is for, and its pieces in lines."""
    folder = tmp_path_factory.mktemp("pieces")
    model = SimpleNamespace(tokenizer=open_clip.get_tokenizer("ViT-B-32"), model=None)
    recipe, backend = TorchModel.recipe(model)
    backend.save(str(folder / "tokenizer.json"))
    write_pieces(folder / "tokenizer.json", folder / "pieces.txt")
    return folder / "tokenizer.json", recipe, folder / "pieces.txt"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(KNOWN, max_size=60) | st.text(TRICKY, max_size=40), min_size=1, max_size=3))
@example([*ODD])
@example(["x<END_OF_TEXT>y </w> <"])
@example(["a" * 5000])
def test_the_few_pieces_that_texts_need_give_the_same_tokens(both, pieces, texts):
    for one, other in zip(both[1](texts), Tokens(*pieces)(texts), strict=True):
        assert np.array_equal(one, other)


def test_texts_that_need_other_pieces_get_them(both, pieces):
    tokens = Tokens(*pieces)
    for texts in (["a dog"], ["a zebra", "a dog"], ["a dog"]):
        assert_same((both[0], tokens), texts)


def test_a_tokenizer_whose_merges_are_in_another_order_has_no_lines(tmp_path):
    clip_pieces({"a": 0, "b": 1, "bb": 2, "ab": 3}, [("a", "b"), ("b", "b")]).save(
        str(tmp_path / "tokenizer.json")
    )
    with pytest.raises(ValueError, match="order of their merges"):
        write_pieces(tmp_path / "tokenizer.json", tmp_path / "pieces.txt")


def test_a_long_text_is_cut_and_still_ends_with_the_end_mark(both):
    (found,) = both[1](["word " * 1000])
    assert len(found) == 77
    assert found[-1] == both[0].eot_token_id


def test_half_of_a_character_is_no_crash(both):
    assert np.array_equal(both[1](["caf\udce9"])[0], both[1](["caf?"])[0])


def hugging_face(folder: Path, **special: str) -> Path:
    """A tokenizer as transformers keeps one, that knows the words of our sentences."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = sorted({word for text in SENTENCES for word in text.replace(",", " ,").split()})
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "</s>", "[UNK]", "[BOS]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        eos_token="</s>",
        unk_token="[UNK]",
        **special,
    )
    fast.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("clean", ["canonicalize", "whitespace", "lower"])
def test_a_tokenizer_of_transformers_needs_no_transformers(tmp_path, clean):
    folder = hugging_face(tmp_path)
    tokenizer = open_clip.tokenizer.HFTokenizer(str(folder), context_length=12, clean=clean)
    assert_same((tokenizer, ours(tokenizer, tmp_path)), [*ODD, *SENTENCES])


def test_a_separator_that_is_blanked_is_blanked(tmp_path):
    folder = hugging_face(tmp_path, sep_token="</s>")
    tokenizer = open_clip.tokenizer.HFTokenizer(
        str(folder), context_length=16, strip_sep_token=True
    )
    tokens = ours(tokenizer, tmp_path)
    assert_same((tokenizer, tokens), list(SENTENCES))
    assert 1 not in tokens(["a dog"])[0]


def test_a_class_token_at_the_end_stands_there(tmp_path):
    folder = hugging_face(tmp_path, bos_token="[BOS]", cls_token="[UNK]")
    tokenizer = open_clip.tokenizer.HFTokenizer(
        str(folder), context_length=16, tokenizer_mode="clips"
    )
    assert_same((tokenizer, ours(tokenizer, tmp_path)), [*ODD, *SENTENCES])


def test_pieces_need_only_a_vocabulary_and_merges():
    tokenizer = clip_pieces({"a</w>": 0, "b": 1, "a": 2, "ba</w>": 3}, [("b", "a</w>")])
    assert tokenizer.encode("a ba").ids == [0, 3]
