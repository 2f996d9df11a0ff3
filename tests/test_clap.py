"""CLAP: the same vectors as transformers' own, from files on this machine, with nothing random."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import tuned_and_undone
from hypothesis import given, settings
from hypothesis import strategies as st

import mmsearch
from mmsearch.encoders import Runtime
from mmsearch.encoders.clap import encoder as clap_encoder
from mmsearch.encoders.clap.checkpoint import find
from mmsearch.encoders.clap.encoder import ClapEncoder, load_clap
from mmsearch.errors import (
    InvalidOption,
    MissingExtra,
    ModelDamaged,
    ModelUnavailable,
    UnknownModel,
    UnsupportedModality,
)

RATE, WINDOW = 48_000, 240_000
SAME = 1e-5
LIMIT = 40
"""Tokens that the test's text tower takes."""

needs_torch = pytest.mark.skipif(
    clap_encoder.find_spec("torch") is None or clap_encoder.find_spec("transformers") is None,
    reason="torch and transformers are not installed",
)


def write_tokenizer(folder: Path) -> int:
    """RoBERTa's way of cutting words, with a token for each byte and no other; how many."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters]
    cutter = Tokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, []))
    cutter.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    cutter.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    cutter.add_special_tokens(tokens[:5])
    cutter.save(str(folder / "tokenizer.json"))
    named = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>"}
    named |= {name: f"<{name}>" for name in ("pad", "unk", "mask")}
    config = {"tokenizer_class": "RobertaTokenizer", "model_max_length": 512}
    config |= {f"{name}_token": token for name, token in named.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(tokens)


def write_model(folder: Path, truncation: str) -> Path:
    """A small CLAP model of random weights, saved as transformers saves them."""
    import torch
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    letters = write_tokenizer(folder)
    ClapFeatureExtractor(feature_size=16, hop_length=1920, truncation=truncation).save_pretrained(
        folder
    )
    text = {
        "vocab_size": letters,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": LIMIT + 2,
        "initializer_factor": 20.0,
    }
    audio = {
        "spec_size": 64,
        "num_mel_bins": 16,
        "depths": [1, 1],
        "num_attention_heads": [1, 2],
        "num_hidden_layers": 2,
        "patch_embeds_hidden_size": 8,
        "hidden_size": 16,
        "window_size": 4,
        "enable_fusion": truncation == "fusion",
        "fusion_type": "aff_2d" if truncation == "fusion" else None,
        "initializer_factor": 20.0,
    }
    config = ClapConfig(text_config=text, audio_config=audio, projection_dim=24)
    ClapModel(config).eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["rand_trunc", "fusion"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("clap") / "model", request.param)


@pytest.fixture(scope="module")
def one_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("clap-one") / "model", "rand_trunc")


@pytest.fixture(autouse=True)
def caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("MMSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def encoder_of(folder: Path) -> ClapEncoder:
    return load_clap(f"clap:{folder}", Runtime())


def sound(seed: int, samples: int = WINDOW) -> np.ndarray:
    """A random chord that fades."""
    random = np.random.default_rng(seed)
    seconds = np.arange(samples) / RATE
    tones = sum(np.sin(2 * np.pi * pitch * seconds) for pitch in random.uniform(80, 6000, 4))
    return (tones / 4 * np.exp(-seconds * random.uniform(0, 1))).astype(np.float32)


def put_in_hub(cache: Path, repository: str, source: Path) -> Path:
    """The files as huggingface_hub would have put them."""
    home = cache / f"models--{repository.replace('/', '--')}"
    shutil.copytree(source, home / "snapshots" / "0123abc")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0123abc")
    return home / "snapshots" / "0123abc"


@needs_torch
class TestVectors:
    def test_sounds_have_the_vectors_that_the_model_itself_gives(self, folder: Path) -> None:
        import torch
        from transformers import ClapFeatureExtractor, ClapModel

        sounds = [sound(seed) for seed in range(11)]
        own = ClapFeatureExtractor.from_pretrained(folder)(
            sounds, sampling_rate=RATE, return_tensors="pt"
        )
        with torch.no_grad():
            found = (
                ClapModel.from_pretrained(folder)
                .eval()
                .get_audio_features(
                    own["input_features"],
                    # no window is longer than the model hears; transformers picks one at random
                    # and calls it so
                    is_longer=torch.zeros(len(sounds), 1, dtype=torch.bool),
                )
            )
        rows = getattr(found, "pooler_output", found).numpy()
        expected = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        vectors = encoder_of(folder).encode("audio", sounds)
        np.testing.assert_allclose(vectors, expected, atol=SAME)
        assert np.abs(vectors[0] - vectors[1]).max() > 100 * SAME  # the test could tell

    def test_texts_have_the_vectors_that_the_model_itself_gives(self, folder: Path) -> None:
        import torch
        from transformers import AutoTokenizer, ClapModel

        texts = ["a dog", "", "rain on a tin roof", "ドア", "a crowd in a stadium cheers loudly"]
        tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            found = ClapModel.from_pretrained(folder).eval().get_text_features(**tokens)
        rows = getattr(found, "pooler_output", found).numpy()
        expected = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        vectors = encoder_of(folder).encode("text", texts)
        np.testing.assert_allclose(vectors, expected, atol=SAME)
        assert np.abs(vectors[0] - vectors[2]).max() > 100 * SAME

    def test_rows_have_unit_length_and_the_dimension_of_the_space(self, folder: Path) -> None:
        encoder = encoder_of(folder)
        sounds = encoder.encode("audio", [sound(1), np.zeros(WINDOW, np.float32)])
        texts = encoder.encode("text", ["a dog", ""])
        for vectors in (sounds, texts):
            assert vectors.shape == (2, encoder.dim) == (2, 24)
            assert vectors.dtype == np.float32
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)

    def test_no_things_have_no_rows(self, one_folder: Path) -> None:
        encoder = encoder_of(one_folder)
        assert encoder.encode("audio", []).shape == encoder.encode("text", []).shape == (0, 24)

    def test_a_sound_has_the_same_vector_whatever_the_batch(self, folder: Path) -> None:
        encoder, sounds = encoder_of(folder), [sound(seed) for seed in range(11)]
        together = encoder.encode("audio", sounds)
        alone = np.concatenate([encoder.encode("audio", [one]) for one in sounds])
        np.testing.assert_allclose(together, alone, atol=SAME)

    def test_a_text_has_the_same_vector_whatever_the_batch(self, one_folder: Path) -> None:
        encoder = encoder_of(one_folder)
        texts = ["bell", "", *("drum " * n for n in range(40))]
        together = encoder.encode("text", texts)
        alone = np.concatenate([encoder.encode("text", [text]) for text in texts])
        np.testing.assert_allclose(together, alone, atol=SAME)

    @pytest.mark.parametrize("seconds", [0.001, 0.5, 5, 10, 10.01, 17])
    def test_nothing_is_left_to_chance(self, folder: Path, seconds: float) -> None:
        encoder, one = encoder_of(folder), sound(3, int(seconds * RATE))
        found = []
        for seed in range(3):
            np.random.seed(seed)  # noqa: NPY002 - transformers draws from here
            found.append(encoder.encode("audio", [one, one]))
        for vectors in found:
            np.testing.assert_array_equal(vectors, found[0])
        np.testing.assert_allclose(found[0][0], found[0][1], atol=SAME)

    def test_prepared_things_have_the_same_vectors(self, folder: Path) -> None:
        encoder, one = encoder_of(folder), sound(1)
        ready = encoder.prepare("audio", one)
        assert ready.ndim == 2
        assert ready.dtype == np.float32
        np.testing.assert_array_equal(
            encoder.encode("audio", [ready]), encoder.encode("audio", [one])
        )
        assert encoder.prepare("text", "a dog") == "a dog"

    def test_text_past_the_limit_is_left_out(self, one_folder: Path) -> None:
        at_limit = "x" * (LIMIT - 2)
        vectors = encoder_of(one_folder).encode("text", [at_limit, at_limit + "yz" * 9000])
        np.testing.assert_allclose(vectors[0], vectors[1], atol=SAME)

    @settings(max_examples=25)
    @given(text=st.text(max_size=80))
    def test_any_string_has_a_vector(self, one_folder: Path, text: str) -> None:
        vectors = self.shared(one_folder).encode("text", [text])
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)

    def shared(self, folder: Path, made: dict[Path, ClapEncoder] = {}) -> ClapEncoder:  # noqa: B006
        return made.setdefault(folder, encoder_of(folder))

    def test_threads_share_one_encoder(self, one_folder: Path) -> None:
        encoder = encoder_of(one_folder)
        with ThreadPoolExecutor(4) as threads:
            texts = list(threads.map(lambda n: encoder.encode("text", [f"{n} " * n]), range(12)))
            sounds = list(threads.map(lambda n: encoder.encode("audio", [sound(n)]), range(6)))
        for number, vectors in enumerate(texts):
            again = encoder.encode("text", [f"{number} " * number])
            np.testing.assert_allclose(vectors, again, atol=SAME)
        for number, vectors in enumerate(sounds):
            np.testing.assert_allclose(vectors, encoder.encode("audio", [sound(number)]), atol=SAME)

    def test_nothing_is_printed(self, one_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        encoder = encoder_of(one_folder)
        encoder.encode("text", ["a dog"])
        encoder.encode("audio", [sound(0)])
        assert capfd.readouterr() == ("", "")


@needs_torch
class TestLoading:
    def test_the_sample_rate_is_that_of_the_models_preprocessing(self, one_folder: Path) -> None:
        encoder = encoder_of(one_folder)
        assert encoder.sample_rate == RATE
        assert encoder.image_size == 0
        assert encoder.modalities == {"audio", "text"}
        assert encoder.name == f"clap:{one_folder}"

    def test_a_relative_folder_is_known_by_its_whole_path(
        self, one_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(one_folder.parent)
        assert load_clap("clap:model", Runtime()).name == f"clap:{one_folder}"

    def test_torch_is_imported_when_first_used(self, one_folder: Path) -> None:
        code = (
            "import sys; from mmsearch.encoders.registry import load_encoder;"
            f"encoder = load_encoder({f'clap:{one_folder}'!r});"
            "assert encoder.dim == 24 and encoder.fingerprint;"
            "sys.exit(', '.join({'torch', 'transformers', 'numpy'} & set(sys.modules)) or None)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_a_model_in_the_hubs_cache_is_found(self, one_folder: Path, caches: Path) -> None:
        put_in_hub(caches / "hub", "someone/small-clap", one_folder)
        encoder = load_clap("clap:someone/small-clap", Runtime())
        assert encoder.name == "clap:someone/small-clap"
        assert encoder.fingerprint == encoder_of(one_folder).fingerprint
        np.testing.assert_allclose(
            encoder.encode("text", ["hm"]),
            encoder_of(one_folder).encode("text", ["hm"]),
            atol=SAME,
        )

    def test_a_processor_saved_as_one_file_is_read(self, one_folder: Path, tmp_path: Path) -> None:
        from transformers import AutoTokenizer, ClapFeatureExtractor, ClapProcessor

        copy = Path(shutil.copytree(one_folder, tmp_path / "copy"))
        (copy / "preprocessor_config.json").unlink()
        ClapProcessor(
            ClapFeatureExtractor.from_pretrained(one_folder),
            AutoTokenizer.from_pretrained(one_folder),
        ).save_pretrained(copy)
        one = sound(4)
        np.testing.assert_allclose(
            encoder_of(copy).encode("audio", [one]),
            encoder_of(one_folder).encode("audio", [one]),
            atol=SAME,
        )

    def test_weights_as_a_pickle_give_the_same_vectors(
        self, one_folder: Path, tmp_path: Path
    ) -> None:
        import torch
        from safetensors.torch import load_file

        copy = Path(shutil.copytree(one_folder, tmp_path / "copy"))
        torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
        (copy / "model.safetensors").unlink()
        np.testing.assert_allclose(
            encoder_of(copy).encode("text", ["hm"]),
            encoder_of(one_folder).encode("text", ["hm"]),
            atol=SAME,
        )

    @pytest.mark.parametrize(
        "how",
        [Runtime(runtime="onnx"), Runtime(precision="int8"), Runtime(precision="bf16")],
    )
    def test_only_torch_in_full_precision_is_offered(self, one_folder: Path, how: Runtime) -> None:
        with pytest.raises(InvalidOption, match="torch"):
            load_clap(f"clap:{one_folder}", how)

    def test_what_may_be_asked_for_is_taken(self, one_folder: Path) -> None:
        how = Runtime(runtime="torch", device="cpu", precision="fp32")
        assert load_clap(f"clap:{one_folder}", how).encode("text", ["hm"]).shape == (1, 24)

    def test_a_device_that_is_not_there_is_named(self, one_folder: Path) -> None:
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is one")
        with pytest.raises(InvalidOption, match="cuda"):
            load_clap(f"clap:{one_folder}", Runtime(device="cuda")).encode("text", ["hm"])

    def test_pictures_are_refused_with_what_can_be_encoded(self, one_folder: Path) -> None:
        encoder = encoder_of(one_folder)
        with pytest.raises(UnsupportedModality, match=r"image.*audio and text"):
            encoder.encode("image", [])
        with pytest.raises(UnsupportedModality):
            encoder.prepare("image", None)

    @pytest.mark.parametrize("samples", [np.zeros((2, 100), np.float32)[None], np.zeros(0)])
    def test_what_is_no_row_of_samples_is_refused(
        self, one_folder: Path, samples: np.ndarray
    ) -> None:
        with pytest.raises(InvalidOption, match="samples"):
            encoder_of(one_folder).prepare("audio", samples)

    @pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
    def test_a_damaged_file_is_an_error_that_says_what_to_do(
        self, one_folder: Path, tmp_path: Path, name: str
    ) -> None:
        copy = Path(shutil.copytree(one_folder, tmp_path / "copy"))
        (copy / name).write_bytes((copy / name).read_bytes()[:100])
        with pytest.raises(ModelDamaged, match=r"copy.*again"):
            encoder_of(copy).encode("text", ["hm"])

    def test_a_weight_that_is_missing_is_never_filled_with_random_numbers(
        self, one_folder: Path, tmp_path: Path
    ) -> None:
        from safetensors.torch import load_file, save_file

        copy = Path(shutil.copytree(one_folder, tmp_path / "copy"))
        weights = load_file(copy / "model.safetensors")
        del weights["text_projection.linear1.weight"]
        save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelDamaged, match=r"text_projection\.linear1\.weight"):
            encoder_of(copy).encode("text", ["hm"])


class TestWithoutTorch:
    """What is said before torch is needed; these run where it is not installed, too."""

    def test_packages_that_are_missing_are_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(clap_encoder, "find_spec", lambda _: None)
        with pytest.raises(MissingExtra, match=r"clap:a/b.*mmsearch\[audio\]"):
            load_clap("clap:a/b", Runtime())

    def test_a_model_that_is_not_here_is_an_error_at_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(clap_encoder, "find_spec", lambda _: True)
        monkeypatch.delenv("HF_HUB_OFFLINE")
        start = time.perf_counter()
        with pytest.raises(ModelUnavailable, match=r"mmsearch models pull clap:laion/none$"):
            load_clap("clap:laion/none", Runtime())
        assert time.perf_counter() - start < 1

    @pytest.mark.parametrize("name", ["clap:", "clap"])
    def test_a_name_without_a_model_is_an_error_that_gives_one(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(clap_encoder, "find_spec", lambda _: True)
        with pytest.raises(UnknownModel, match="clap:laion/clap-htsat-unfused"):
            load_clap(name, Runtime())

    def test_a_folder_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ModelUnavailable, match="no folder"):
            find(f"clap:{tmp_path / 'none'}")

    def small(self, folder: Path, **config: object) -> Path:
        """The files of a model, of no use but to be looked at."""
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "clap", **config}))
        (folder / "preprocessor_config.json").write_text("{}")
        (folder / "tokenizer.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")
        return folder

    @pytest.mark.parametrize(
        "name", ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"]
    )
    def test_a_file_that_a_folder_lacks_is_named(self, tmp_path: Path, name: str) -> None:
        folder = self.small(tmp_path / "model")
        (folder / name).unlink()
        with pytest.raises(ModelUnavailable, match=name.replace(".", r"\.")):
            find(f"clap:{folder}")

    def test_a_snapshot_that_is_not_whole_is_to_be_pulled(
        self, tmp_path: Path, caches: Path
    ) -> None:
        found = put_in_hub(caches / "hub", "a/b", self.small(tmp_path / "model"))
        (found / "model.safetensors").unlink()
        (found / "model.safetensors").symlink_to("../../blobs/gone")
        with pytest.raises(ModelUnavailable, match=r"models pull clap:a/b"):
            find("clap:a/b")

    def test_another_kind_of_model_is_told_apart(self, tmp_path: Path) -> None:
        folder = self.small(tmp_path / "model", model_type="bert")
        with pytest.raises(UnknownModel, match="bert"):
            find(f"clap:{folder}")

    @pytest.mark.parametrize("content", ["", "[]", "\xff"])
    def test_a_configuration_that_cannot_be_read_is_named(
        self, tmp_path: Path, content: str
    ) -> None:
        folder = self.small(tmp_path / "model")
        (folder / "config.json").write_text(content, encoding="latin-1")
        with pytest.raises(ModelDamaged, match=r"config\.json"):
            find(f"clap:{folder}")

    @pytest.mark.parametrize(
        "name", ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"]
    )
    def test_the_fingerprint_follows_all_that_a_vector_depends_on(
        self, tmp_path: Path, name: str
    ) -> None:
        folder = self.small(tmp_path / "model")
        before = find(f"clap:{folder}").fingerprint()
        assert before == find(f"clap:{folder}").fingerprint()
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + b" " + content[-1:])
        assert find(f"clap:{folder}").fingerprint() != before

    def test_weights_are_hashed_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        files = find(f"clap:{self.small(tmp_path / 'model')}")
        before = files.fingerprint()
        monkeypatch.delattr(hashlib, "file_digest")
        assert files.fingerprint() == before

    def test_changed_weights_of_the_same_size_are_hashed_again(self, tmp_path: Path) -> None:
        files = find(f"clap:{self.small(tmp_path / 'model')}")
        before, then = files.fingerprint(), files.weights.stat().st_mtime_ns
        files.weights.write_bytes(b"WEIGHTS")
        os.utime(files.weights, ns=(then + 1, then + 1))
        assert files.fingerprint() != before

    @pytest.mark.parametrize("content", ["", "not a hash", "\xff\xfe"])
    def test_a_damaged_note_of_a_hash_is_not_believed(
        self, tmp_path: Path, caches: Path, content: str
    ) -> None:
        files = find(f"clap:{self.small(tmp_path / 'model')}")
        before = files.fingerprint()
        (note,) = (caches / "cache" / "towers" / "hashes").iterdir()
        note.write_text(content, encoding="latin-1")
        assert files.fingerprint() == before

    def test_a_cache_that_cannot_be_written_costs_only_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = find(f"clap:{self.small(tmp_path / 'model')}")
        before = files.fingerprint()
        (tmp_path / "file").touch()
        monkeypatch.setenv("MMSEARCH_CACHE", str(tmp_path / "file"))
        assert files.fingerprint() == before


@needs_torch
def test_a_space_is_tuned_and_the_tuning_undone(one_folder: Path, tmp_path: Path):
    for seed in range(3):
        soundfile.write(tmp_path / f"{seed}.wav", sound(seed, RATE), RATE)
    with mmsearch.Collection(tmp_path / "idx", create=True, model=f"clap:{one_folder}") as library:
        library.add([tmp_path / f"{seed}.wav" for seed in range(3)])
        tuned_and_undone(library, "audio")
