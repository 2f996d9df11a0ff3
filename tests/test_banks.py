from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from mmsearch.encoders import query_bank
from mmsearch.encoders.mini.encoder import load_mini
from mmsearch.encoders.query_bank import (
    SENTENCES,
    QueryBank,
    load_bank,
    pack_bank,
    shipped_bank,
    typical_texts,
    word_lists,
)
from mmsearch.errors import ModelDamaged
from mmsearch.spaces.calibration import Reference
from mmsearch.vectors.hubness import WEIGHTS, hubs


def unit(rows: int, dim: int = 32, seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def bank() -> QueryBank:
    found = shipped_bank("mini", load_mini().fingerprint)
    assert found is not None
    return found


def test_typical_texts_are_many_and_different():
    texts = typical_texts()
    assert len(texts) == len(set(texts)) == SENTENCES


def test_typical_texts_are_those_of_their_version():
    """If you changed a sentence, change VERSION too: vectors kept in indexes depend on it."""
    said = hashlib.blake2b("\n".join(typical_texts()).encode(), digest_size=8).hexdigest()
    assert (query_bank.VERSION, said) == ("sentences-1", "acf38d5499414027")


def test_typical_texts_have_no_slot_left_open():
    assert not [text for text in typical_texts() if re.search(r"[{}|]", text)]


def test_typical_texts_say_an_before_a_vowel():
    assert not [text for text in typical_texts() if re.search(r"\ba [aeio]", text)]


def test_every_list_of_words_is_used():
    words, patterns = word_lists()
    assert set(re.findall(r"\{(\w+)\}", " ".join(patterns))) == words.keys()


def test_the_built_in_model_ships_a_bank_of_unit_rows(bank):
    assert bank.rows.keys() == {"text", "image"}
    for rows in bank.rows.values():
        assert rows.shape[1] == load_mini().dim
        assert len(rows) >= 1_000
        assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(len(rows)), abs=1e-5)


def test_its_file_is_small():
    assert query_bank.SHIPPED["mini"].stat().st_size <= 2_500_000


def test_its_sentences_are_what_the_model_makes_of_them_now(bank):
    encoded = load_mini().encode("text", typical_texts()[:40:2])
    nearest = (encoded @ bank.rows["text"].T).max(axis=1)
    assert nearest.min() > 0.995


def test_it_holds_the_hubs_of_its_rows_by_each_pair_that_has_a_weight(bank):
    assert bank.hubs.keys() == WEIGHTS.keys()
    for (asked, facet), kept in bank.hubs.items():
        assert kept == pytest.approx(hubs(bank.rows[facet], bank.rows[asked]), abs=4e-3)


def test_it_holds_a_reference_for_each_pair_of_its_modalities(bank):
    assert len(bank.references) == 4
    for numbers in bank.references.values():
        reference = Reference(*numbers.tolist())
        assert reference.spread > 0
        assert reference.growth > 0


def test_other_weights_have_no_bank():
    assert shipped_bank("mini", "0123456789abcdef") is None


def test_another_model_has_no_bank():
    assert shipped_bank("clip:ViT-B-32/openai", load_mini().fingerprint) is None


def test_a_model_may_come_without_its_bank(monkeypatch, tmp_path):
    monkeypatch.setattr(query_bank, "SHIPPED", {"mini": tmp_path / "bank.npz"})
    shipped_bank.cache_clear()
    assert shipped_bank("mini", load_mini().fingerprint) is None
    shipped_bank.cache_clear()


def test_a_bank_comes_back_as_it_was_saved_but_for_its_eight_bits(tmp_path):
    rows = {"text": unit(20), "image": unit(10, seed=1)}
    numbers = np.array([0.1, 0.02, 0.05], np.float32)
    kept = np.linspace(0.1, 0.6, 10, dtype=np.float32)
    before = QueryBank(rows, {("text", "image"): kept}, {("text", "image"): numbers})
    (tmp_path / "bank.npz").write_bytes(pack_bank("weights", before))
    after = load_bank(tmp_path / "bank.npz", "weights")
    assert after is not None
    for modality, matrix in rows.items():
        assert (after.rows[modality] * matrix).sum(axis=1) == pytest.approx(1, abs=1e-3)
    assert after.hubs["text", "image"] == pytest.approx(kept, abs=1e-3)
    assert (after.references["text", "image"] == numbers).all()


@pytest.mark.parametrize("size", [0, 10, 1_000])
def test_a_bank_that_was_cut_off_says_so_and_what_to_do(tmp_path: Path, size: int):
    path = tmp_path / "bank.npz"
    path.write_bytes(pack_bank("weights", QueryBank({"text": unit(200)})))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelDamaged, match="Reinstall"):
        load_bank(path, "weights")


def test_a_bank_with_a_changed_byte_is_not_taken(tmp_path: Path):
    path = tmp_path / "bank.npz"
    path.write_bytes(pack_bank("weights", QueryBank({"text": unit(200)})))
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 0xFF
    path.write_bytes(held)
    with pytest.raises(ModelDamaged):
        load_bank(path, "weights")


def test_a_bank_is_measured_for_every_pair_of_its_modalities():
    from mmsearch.spaces.query_banks import calibrated_bank

    rows = {"text": unit(120), "image": unit(110, seed=1)}
    others = {"text": unit(200, seed=2), "image": unit(160, seed=3)}
    found = calibrated_bank(rows, others)
    assert found.hubs.keys() == WEIGHTS.keys()
    assert {len(found.hubs[pair]) for pair in found.hubs if pair[1] == "image"} == {110}
    assert found.references.keys() == {(a, b) for a in rows for b in rows}
    assert all(numbers.shape == (3,) for numbers in found.references.values())
