"""`st:` models: the vectors of sentence-transformers' own, from files on this machine."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import paint, tone
from PIL import ExifTags, Image
from test_media import film
from typer.testing import CliRunner

import mmsearch
from mmsearch.cli.app import app
from mmsearch.encoders import Runtime, hub, registry, video_encoder
from mmsearch.encoders.query_bank import typical_texts
from mmsearch.encoders.st import checkpoint
from mmsearch.encoders.tuned import Head, TunedEncoder
from mmsearch.errors import (
    InvalidOption,
    MissingExtra,
    ModelDamaged,
    ModelUnavailable,
    UnknownModel,
    UnsupportedModality,
)
from mmsearch.evaluation import evaluate
from mmsearch.evaluation.pairs import Pair
from mmsearch.media.video import frames_at_rate
from mmsearch.search.planning import plan
from mmsearch.spaces import query_banks
from mmsearch.training import undo_tuning
from mmsearch.training.switching import switch_on

SAME = 1e-5
DIM = 24
RATE = 48_000
TEXTS = ["a dog on a beach", "http://example.org/cat.jpg", "", "snow " * 30]

needs_library = pytest.mark.skipif(
    find_spec("sentence_transformers") is None, reason="sentence-transformers is not installed"
)


def tokenizer() -> tuple[Any, int]:
    """Cuts texts into bytes; and how many tokens it has."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    cutter = Tokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, []))
    cutter.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    ends = [("<s>", 0), ("</s>", 2)]
    cutter.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=ends)
    cutter.add_special_tokens(special)
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), special, strict=True))
    made = PreTrainedTokenizerFast(tokenizer_object=cutter, model_max_length=64, **names)
    return made, len(tokens)


SMALL = {
    "hidden_size": DIM,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
TOKENS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
SIDE = 32


def write_clip(folder: Path) -> None:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    cutter, tokens = tokenizer()
    text = {**SMALL, **TOKENS, "vocab_size": tokens, "max_position_embeddings": 64}
    vision = {**SMALL, "image_size": SIDE, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=DIM)
    CLIPModel(config).eval().save_pretrained(folder)
    sides = {"height": SIDE, "width": SIDE}
    pixels = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=sides)
    CLIPProcessor(pixels, cutter).save_pretrained(folder)


def write_siglip(folder: Path) -> None:
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipProcessor

    cutter, tokens = tokenizer()
    text = {**SMALL, **TOKENS, "vocab_size": tokens, "max_position_embeddings": 64}
    vision = {**SMALL, "image_size": SIDE, "patch_size": 8}
    config = SiglipConfig(text_config=text, vision_config=vision)
    SiglipModel(config).eval().save_pretrained(folder)
    pixels = SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    SiglipProcessor(pixels, cutter).save_pretrained(folder)


def write_clap(folder: Path) -> None:
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, ClapProcessor

    cutter, tokens = tokenizer()
    text = {**SMALL, "vocab_size": tokens, "max_position_embeddings": 66}
    audio = {
        "spec_size": 64,
        "num_mel_bins": 16,
        "depths": [1, 1],
        "num_attention_heads": [1, 2],
        "num_hidden_layers": 2,
        "patch_embeds_hidden_size": 8,
        "hidden_size": 16,
        "window_size": 4,
    }
    config = ClapConfig(
        text_config=text | {"initializer_factor": 20.0},
        audio_config=audio | {"initializer_factor": 20.0},
        projection_dim=DIM,
    )
    ClapModel(config).eval().save_pretrained(folder)
    extractor = ClapFeatureExtractor(feature_size=16, hop_length=1920, truncation="rand_trunc")
    ClapProcessor(extractor, cutter).save_pretrained(folder)


def write_one_space(folder: Path) -> None:
    """Texts, pictures and sounds in one space, with prompts for queries and documents."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Router

    sees, hears = (
        SentenceTransformer(str(folder.parent / name), local_files_only=True)[0]
        for name in ("clip", "clap")
    )
    router = Router({"text": [sees], "image": [sees], "audio": [hears]})
    prompts = {"query": "find: ", "document": "this is: "}
    SentenceTransformer(modules=[router, Normalize()], prompts=prompts).save(str(folder))


TEMPLATE = """{% for message in messages %}{% if message.content is string %}{{ message.content }}
{%- else %}{% for part in message.content %}{{ part.text if part.type == 'text' else
{'image': '<image>', 'audio': '<audio>', 'video': '<|video|>'}[part.type] }}{% endfor %}
{%- endif %}{% endfor %}"""


def write_gemma(folder: Path) -> None:
    """EmbeddingGemma 2's classes: texts, pictures, sounds and videos through one network."""
    from transformers import (
        EmbeddingGemma2Config,
        EmbeddingGemma2Model,
        EmbeddingGemma2Processor,
        EmbeddingGemma2VideoProcessor,
        Gemma4AudioConfig,
        Gemma4AudioFeatureExtractor,
        Gemma4ImageProcessor,
        Gemma4VisionConfig,
    )

    cutter, _ = tokenizer()
    cutter.model_max_length = 4096
    marks = {name: f"<{name}>" for name in ("image", "boi", "eoi", "audio", "boa", "eoa")}
    named = {f"{name}_token": mark for name, mark in marks.items()}
    cutter.add_special_tokens({"extra_special_tokens": list(marks.values())})
    cutter._set_model_specific_special_tokens(named)
    processor = EmbeddingGemma2Processor(
        Gemma4AudioFeatureExtractor(),
        Gemma4ImageProcessor(max_soft_tokens=70),
        cutter,
        EmbeddingGemma2VideoProcessor(),
        chat_template=TEMPLATE,
    )
    width = {"hidden_size": 32, "intermediate_size": 32, "head_dim": 16, "initializer_range": 0.2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    text = {"vocab_size": len(cutter), "num_hidden_layers": 2, "hidden_size_per_layer_input": 8}
    text |= {"global_head_dim": 16, "sliding_window_pattern": 2, "embedding_dim": DIM}
    vision = Gemma4VisionConfig(**width, **heads, num_hidden_layers=1)
    audio = Gemma4AudioConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        subsampling_conv_channels=(128, 4),
        output_proj_dims=32,
    )
    ids = {
        "image_token_id": processor.image_token_id,
        "video_token_id": processor.video_token_id,
        "audio_token_id": processor.audio_token_id,
    }
    config = EmbeddingGemma2Config(
        text_config={**width, **heads, **text, **TOKENS},
        vision_config=vision,
        audio_config=audio,
        **ids,
    )
    EmbeddingGemma2Model(config).eval().save_pretrained(folder)
    processor.save_pretrained(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model of random weights of each kind."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("models")
    for write in (write_clip, write_siglip, write_clap, write_one_space, write_gemma):
        torch.manual_seed(0)
        with suppress(ImportError):  # an older release of transformers
            write(folder / write.__name__.removeprefix("write_"))
    return folder


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("MMSEARCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MMSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def name_of(folder: Path) -> str:
    """What `--model` takes for a tiny model."""
    if not folder.exists():
        pytest.skip(f"this release of transformers has no {folder.name}")
    return f"st:{folder}"


def encoder_of(folder: Path, cut: str = "") -> Any:
    return registry.load_encoder(f"{name_of(folder)}{cut}")


def own(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), local_files_only=True)


def unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def picture(seed: int) -> Any:
    pixels = np.random.default_rng(seed).integers(0, 256, (50, 70, 3), np.uint8)
    return Image.fromarray(pixels)


def sound(seed: int) -> Any:
    return np.random.default_rng(seed).uniform(-0.3, 0.3, 5 * RATE).astype(np.float32)


def padded_texts(folder: Path) -> Any:
    """What transformers makes of TEXTS with the padding that SigLIP was trained with."""
    import torch
    from transformers import AutoModel, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    given = processor(text=TEXTS, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        rows = AutoModel.from_pretrained(folder).eval().get_text_features(**given)
    return getattr(rows, "pooler_output", rows).numpy()


@needs_library
class TestVectors:
    @pytest.mark.parametrize("name", ["clip", "clap", "one_space", "gemma"])
    def test_texts_have_the_vectors_that_the_model_itself_gives(self, models: Path, name: str):
        encoder, model = encoder_of(models / name), own(models / name)
        given = [{"text": text} for text in TEXTS]
        for ours, theirs in (
            (encoder.encode, model.encode_document),
            (encoder.encode_query, model.encode_query),
        ):
            wanted = unit(theirs(given, show_progress_bar=False))
            assert np.abs(ours("text", TEXTS) - wanted).max() < SAME

    @pytest.mark.parametrize("name", ["clip", "siglip", "one_space", "gemma"])
    def test_pictures_have_the_vectors_that_the_model_itself_gives(self, models: Path, name: str):
        encoder, pictures = encoder_of(models / name), [picture(seed) for seed in range(3)]
        wanted = unit(own(models / name).encode_document(pictures, show_progress_bar=False))
        prepared = [encoder.prepare("image", one) for one in pictures]
        assert np.abs(encoder.encode("image", prepared) - wanted).max() < SAME
        assert np.abs(encoder.encode("image", pictures) - wanted).max() < SAME

    @pytest.mark.parametrize(
        ("name", "rate"), [("clap", RATE), ("one_space", RATE), ("gemma", 16_000)]
    )
    def test_sounds_have_the_vectors_that_the_model_itself_gives(
        self, models: Path, name: str, rate: int
    ):
        encoder, sounds = encoder_of(models / name), [sound(seed)[:rate] for seed in range(3)]
        given = [{"audio": {"array": one, "sampling_rate": rate}} for one in sounds]
        wanted = unit(own(models / name).encode_document(given, show_progress_bar=False))
        assert encoder.sample_rate == rate
        assert np.abs(encoder.encode("audio", sounds) - wanted).max() < SAME

    def test_texts_of_siglip_are_padded_as_it_was_trained(self, models: Path):
        wanted = unit(padded_texts(models / "siglip"))
        encoder = encoder_of(models / "siglip")
        assert np.abs(encoder.encode("text", TEXTS) - wanted).max() < SAME
        alone = np.concatenate([encoder.encode("text", [text]) for text in TEXTS])
        assert np.abs(alone - wanted).max() < SAME

    @pytest.mark.parametrize("name", ["one_space", "gemma"])
    def test_a_text_is_not_taken_for_the_file_that_it_names(
        self, models: Path, tmp_path: Path, name: str
    ):
        encoder = encoder_of(models / name)
        texts = [str(tmp_path / "red.png"), "https://youtu.be/red", "http://example.org/red.mp4"]
        before = encoder.encode("text", texts), encoder.encode_query("text", texts)
        paint(tmp_path / "red.png", "red")
        after = encoder.encode("text", texts), encoder.encode_query("text", texts)
        assert np.array_equal(before, after)

    def test_a_query_has_another_prompt_than_a_document(self, models: Path):
        encoder = encoder_of(models / "one_space")
        query, document = (
            make("text", ["a dog"]) for make in (encoder.encode_query, encoder.encode)
        )
        assert np.abs(query - document).max() > 1e-3

    def test_vectors_that_are_cut_have_unit_length_and_another_fingerprint(self, models: Path):
        whole, cut = encoder_of(models / "clip"), encoder_of(models / "clip", "#8")
        wanted = unit(whole.encode("text", TEXTS)[:, :8])
        assert (whole.dim, cut.dim) == (DIM, 8)
        assert np.abs(cut.encode("text", TEXTS) - wanted).max() < SAME
        assert whole.fingerprint != cut.fingerprint

    def test_half_precision_is_not_used(self, models: Path, tmp_path: Path):
        import torch
        from transformers import CLIPModel

        shutil.copytree(models / "clip", tmp_path / "half")
        CLIPModel.from_pretrained(models / "clip").half().save_pretrained(tmp_path / "half")
        encoder = encoder_of(tmp_path / "half")
        assert {one.dtype for one in encoder._model.parameters()} == {torch.float32}
        close = encoder.encode("text", TEXTS) - encoder_of(models / "clip").encode("text", TEXTS)
        assert np.abs(close).max() < 1e-2

    def test_a_model_encodes_what_it_says(self, models: Path):
        kinds = {name: encoder_of(models / name).modalities for name in ("clip", "clap")}
        assert kinds == {"clip": {"text", "image"}, "clap": {"text", "audio"}}
        one = encoder_of(models / "one_space")
        assert one.modalities == {"text", "image", "audio"}
        with pytest.raises(UnsupportedModality, match="audio"):
            encoder_of(models / "clip").encode("audio", [sound(0)])

    def test_no_things_have_no_vectors(self, models: Path):
        assert encoder_of(models / "clip").encode("text", []).shape == (0, DIM)


@needs_library
class TestVideos:
    def test_a_video_has_the_vector_that_the_model_itself_gives(self, models: Path):
        encoder, model = encoder_of(models / "gemma"), own(models / "gemma")
        frames = np.stack([np.asarray(picture(seed)) for seed in range(6)])
        facts = {"fps": 1.0, "total_num_frames": 6, "duration": 6.0}
        given = [{"video": {"array": frames, "video_metadata": facts}}]
        wanted = unit(model.encode_document(given, show_progress_bar=False))
        assert np.abs(encoder.encode_video(frames, 1.0) - wanted).max() < SAME
        assert np.abs(encoder.encode_video(frames[::-1].copy(), 1.0) - wanted).max() > 1e-3

    def test_frames_are_as_many_as_the_model_says(self, models: Path):
        encoder = encoder_of(models / "gemma")
        taken = {seconds: encoder.frame_rate(seconds) * seconds for seconds in (0.5, 6, 32, 3600)}
        assert taken == {0.5: 1, 6: 6, 32: 32, 3600: 32}

    def test_a_model_of_pictures_takes_no_videos(self, models: Path):
        assert video_encoder(encoder_of(models / "gemma")) is not None
        assert video_encoder(encoder_of(models / "one_space")) is None


@needs_library
class TestFiles:
    def test_changed_weights_have_another_fingerprint(self, models: Path, tmp_path: Path):
        shutil.copytree(models / "clip", tmp_path / "copy")
        before = checkpoint.fingerprint(tmp_path / "copy", None)
        assert before == checkpoint.fingerprint(models / "clip", None)
        with (tmp_path / "copy" / "model.safetensors").open("ab") as file:
            file.write(b" ")
        assert checkpoint.fingerprint(tmp_path / "copy", None) != before

    def test_a_larger_budget_of_tokens_is_another_model(self, models: Path, tmp_path: Path):
        small = encoder_of(models / "gemma")
        shutil.copytree(models / "gemma", tmp_path / "copy")
        file = tmp_path / "copy" / "processor_config.json"
        config = json.loads(file.read_text())
        config["image_processor"]["max_soft_tokens"] = 140
        config["image_processor"]["size"] = {"shortest_edge": 56 * 56, "longest_edge": 2**22}
        file.write_text(json.dumps(config))
        large = encoder_of(tmp_path / "copy")
        assert small.fingerprint != large.fingerprint
        wanted = unit(own(tmp_path / "copy").encode_document([picture(0)]))
        assert small.image_size == large.image_size == 448
        assert np.abs(large.encode("image", [picture(0)]) - wanted).max() < SAME
        assert np.abs(small.encode("image", [picture(0)]) - wanted).max() > 1e-3

    def test_a_model_is_found_in_the_cache_of_the_hub_at_its_revision(
        self, models: Path, home: Path
    ):
        place = hub.cache() / "models--some--model"
        shutil.copytree(models / "clip", place / "snapshots" / "abc")
        (place / "refs").mkdir()
        (place / "refs" / "v2").write_text("abc")
        assert registry.is_here("st:some/model@v2")
        assert not registry.is_here("st:some/model")
        assert registry.load_encoder("st:some/model@v2#8").name == "st:some/model@v2#8"
        with pytest.raises(ModelUnavailable, match="mmsearch models pull st:some/model"):
            registry.load_encoder("st:some/model")

    @pytest.mark.parametrize("name", ["st:a b", "st:some/model@..", "st:some/model#0", "st:x#many"])
    def test_a_name_that_no_model_can_have_is_refused(self, name: str):
        with pytest.raises(UnknownModel):
            registry.load_encoder(name)

    def test_more_dimensions_than_there_are_are_refused(self, models: Path):
        with pytest.raises(InvalidOption, match="24 dimensions"):
            encoder_of(models / "clip", "#256")

    def test_a_folder_without_weights_is_said(self, models: Path, tmp_path: Path):
        shutil.copytree(models / "clip", tmp_path / "copy")
        (tmp_path / "copy" / "model.safetensors").unlink()
        with pytest.raises(ModelUnavailable, match="no weights"):
            encoder_of(tmp_path / "copy")

    def test_damaged_weights_are_said(self, models: Path, tmp_path: Path):
        shutil.copytree(models / "clip", tmp_path / "copy")
        (tmp_path / "copy" / "model.safetensors").write_bytes(b"no weights")
        with pytest.raises(ModelDamaged, match="fetch or copy the model again"):
            encoder_of(tmp_path / "copy")

    def test_another_runtime_is_refused(self, models: Path):
        with pytest.raises(InvalidOption, match="leave out --runtime"):
            registry.load_encoder(f"st:{models / 'clip'}", Runtime("onnx"))


CODE = "raise SystemExit('the code of the model ran')"


@needs_library
class TestCodeOfModels:
    @pytest.fixture
    def bold(self, models: Path, tmp_path: Path) -> Path:
        """A model that brings code."""
        folder = tmp_path / "bold"
        shutil.copytree(models / "clip", folder)
        config = json.loads((folder / "config.json").read_text())
        config["auto_map"] = {"AutoModel": "own.Model"}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "own.py").write_text(CODE)
        return folder

    def test_code_runs_only_once_it_is_trusted(self, bold: Path):
        with pytest.raises(ModelUnavailable, match="--trust-remote-code"):
            encoder_of(bold)
        result = CliRunner().invoke(app, ["models", "pull", f"st:{bold}", "--trust-remote-code"])
        assert result.exit_code == 0, result.output
        with pytest.raises((SystemExit, ModelDamaged)):  # the library ran it, or tried to
            encoder_of(bold)

    def test_code_that_changed_is_not_trusted_any_more(self, bold: Path):
        registry.family_of("st:x").trust(f"st:{bold}")
        (bold / "own.py").write_text(f"{CODE} # otherwise")
        with pytest.raises(ModelUnavailable, match="--trust-remote-code"):
            encoder_of(bold)

    def test_a_module_of_another_package_counts_as_code(self, models: Path, tmp_path: Path):
        shutil.copytree(models / "one_space", tmp_path / "copy")
        modules = json.loads((tmp_path / "copy" / "modules.json").read_text())
        modules[0]["type"] = "os.system"
        (tmp_path / "copy" / "modules.json").write_text(json.dumps(modules))
        with pytest.raises(ModelUnavailable, match="Python code"):
            encoder_of(tmp_path / "copy")

    def test_other_families_bring_no_code(self):
        result = CliRunner().invoke(app, ["models", "pull", "mini", "--trust-remote-code"])
        assert result.exit_code == 2
        assert "brings no code" in result.stderr


@needs_library
class TestEngine:
    @pytest.fixture
    def files(self, tmp_path: Path) -> Path:
        folder = tmp_path / "files"
        for name, colour in (("red", "red"), ("blue", "blue"), ("green", "green")):
            paint(folder / f"{name}.png", colour)
        tone(folder / "beep.wav", "low")
        (folder / "note.txt").write_text("a note about the sea")
        return folder

    def test_one_model_answers_for_texts_pictures_and_sounds(self, models: Path, files: Path):
        name = f"st:{models / 'one_space'}"
        with mmsearch.index(files, into=files.parent / "idx", model=name) as library:
            (model,) = library.status()["models"]
            assert model["answers"] == ["audio", "image", "text"]
            assert model["vectors"] == {"audio": 1, "image": 3, "text": 1}
            encoder = library.encoder
            query = encoder.encode_query("text", ["a red wall"])[0]
            for target, count in (("image", 3), ("audio", 1), ("text", 1)):
                hits = library.search("a red wall", target=target, lexical=False)
                assert len(hits) == count
            heard = library.search(mmsearch.Query.audio(files / "beep.wav"), target="image")
            assert len(heard) == 3  # with no text to bridge them
            (similar, *_) = library.similar(files / "red.png", target="image")
            assert similar.path != str(files / "red.png")
        with mmsearch.open(files.parent / "idx") as library:
            hits = library.search("a red wall", target="image", lexical=False)
            stored = library.store.vectors.of(library.index.serving()[0][0], "image")
            cosines = dict(zip(stored[0].tolist(), (stored[1] @ query).tolist(), strict=True))
            found = {hit.id: hit.score for hit in hits}
            assert {id_: pytest.approx(cosines[id_], abs=2e-3) for id_ in found} == found

    def test_one_space_is_tuned_in_all_its_modalities_and_taken_back(
        self, models: Path, files: Path
    ):
        name = f"st:{models / 'one_space'}"
        with mmsearch.index(files, into=files.parent / "idx", model=name) as library:
            base, (space, *_) = library.encoder, library.store.spaces.all()
            draw = np.random.default_rng(0).normal
            heads: Any = {}
            for modality in sorted(base.modalities):
                sizes = ((base.dim, 2), (2, base.dim), (base.dim,))
                heads[modality] = Head(*(draw(size=one).astype(np.float32) for one in sizes))
            switch_on(library, space, TunedEncoder(base, heads), None)
            (tuned, _) = library.index.serving()[0]
            query = heads["text"](base.encode_query("text", ["a red wall"]))[0]
            for target in ("image", "audio", "text"):
                stored = library.store.vectors.of(space, target)[1]
                expected = sorted((heads[target](stored) @ query).tolist(), reverse=True)
                hits = library.search("a red wall", target=target, lexical=False)
                assert [hit.score for hit in hits] == pytest.approx(expected, abs=5e-3)
                assert len(library.store.vectors.of(tuned, target)[0]) == len(stored)
            assert undo_tuning(library).filled == 0
            assert [one.name for one in library.store.spaces.all()] == [name]

    def test_tags_and_duplicates_work(self, models: Path, files: Path):
        shutil.copy(files / "red.png", files / "red again.png")
        name = f"st:{models / 'clip'}#16"
        with mmsearch.index(files, into=files.parent / "idx", model=name) as library:
            assert set(library.tag(["red", "blue"], min_confidence=0.0)) == {"red", "blue"}
            assert [len(group.copies) for group in library.duplicates(same=True)] == [1]

    def test_what_one_model_takes_needs_no_bridge_beside_another_model(
        self, models: Path, files: Path
    ):
        names = [f"st:{models / name}" for name in ("one_space", "clap")]
        with mmsearch.index(files, into=files.parent / "idx", model=names) as library:
            serving = library.index.serving()
        beep, red = str(files / "beep.wav"), str(files / "red.png")
        queries = {
            "text": [mmsearch.Query.text("a red wall")],
            "image": [mmsearch.Query.audio(beep), mmsearch.Query.text("a red wall")],
            "audio": [mmsearch.Query.text("a red wall")],
        }
        queries["text"] += [mmsearch.Query.audio(beep), mmsearch.Query.image(red)]
        for target, asked in queries.items():
            for query in asked:
                (planned,) = plan(query, [target], "early", serving)
                assert planned.bridged_from is None, (query, target)

    def test_photos_are_turned_upright_before_the_library_sees_them(
        self, models: Path, tmp_path: Path
    ):
        (tmp_path / "files").mkdir()
        picture(0).save(tmp_path / "files" / "upright.png")
        orientation = Image.Exif()
        orientation[ExifTags.Base.Orientation] = 6
        turned = picture(0).transpose(Image.Transpose.ROTATE_90)
        turned.save(tmp_path / "files" / "turned.png", exif=orientation)
        with mmsearch.index(
            tmp_path / "files", into=tmp_path / "idx", model=name_of(models / "gemma")
        ) as library:
            _, rows, _ = library.store.vectors.of(library.index.serving()[0][0], "image")
        assert len(rows) == 2
        assert np.abs(rows[0] - rows[1]).max() < 1e-3

    def test_hubs_confidence_and_evaluation_work(
        self, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(query_banks, "FEWEST_PICTURES", 80)
        (tmp_path / "files").mkdir()
        for seed in range(80):
            picture(seed).save(tmp_path / "files" / f"{seed}.png")
        name = f"st:{models / 'one_space'}"
        with mmsearch.index(tmp_path / "files", into=tmp_path / "idx", model=name) as library:
            bank = library.index.query_banks.bank(library.index.serving()[0][0])
            typical = library.encoder.encode_query("text", typical_texts()[:10:2])
            assert np.abs(bank.rows["text"][:5] - typical).max() < 0.02  # kept in eight bits
            hits = library.search("a red wall", target="image")
            assert all(hit.confidence is not None for hit in hits)
            pairs = [Pair(mmsearch.Query.text("a red wall"), {Path(hits[2].path).name: 1})]
            measured = evaluate(library, pairs, settings={"target": "image"})
            assert measured["text→image"].outcomes[0].rank == 3

    def test_a_video_is_found_whole_beside_its_shots(self, models: Path, tmp_path: Path):
        path = film(tmp_path / "files" / "a.mp4", ("red", 4), ("blue", 5))
        (tmp_path / "files" / "note.txt").write_text("a note about the sea")
        name = name_of(models / "gemma")
        with mmsearch.index(path.parent, into=tmp_path / "idx", model=name, video=True) as library:
            (space, _), *_ = library.index.serving()
            (item,) = [item for item in library.items if item.modality == "video"]
            _, rows, _ = library.store.vectors.of(space, "image", [item.id])
            spans = library.store.vectors.spans(space, "image", [item.id]).values()
            ends = [span and span.end for span in spans]
            encoder = library.encoder
            frames = frames_at_rate(path, 1.0, seconds=9.0, side=encoder.image_size)
            whole = encoder.encode_video(frames, encoder.frame_rate(9.0))
            assert np.abs(rows[-1] - whole[0]).max() < 1e-3
            ranked = library.search("a film", target="image", spans=True, lexical=False)
            assert {hit.span for hit in ranked} == set(spans)
            (note,) = library.similar(path, target="text")  # with no text to bridge them
            assert Path(note.path).name == "note.txt"
        assert ends == [4.0, 9.0, None]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from mmsearch.encoders.st import encoder

    monkeypatch.setattr(encoder, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"mmsearch\[st\]"):
        registry.load_encoder(f"st:{tmp_path}")


def test_only_one_form_of_the_weights_is_fetched():
    names = [
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "onnx/model.onnx",
        "README.md",
    ]
    names += ["1_Pooling/config.json", "openvino/openvino_model.bin", "tokenizer.json"]
    wanted = ["config.json", "model.safetensors", "1_Pooling/config.json", "tokenizer.json"]
    assert sorted(checkpoint.wanted(names)) == sorted(wanted)
    old = ["config.json", "pytorch_model.bin", "training_args.bin", "vocab.txt"]
    assert checkpoint.wanted(old) == ["config.json", "pytorch_model.bin", "vocab.txt"]


def test_a_licence_that_forbids_commercial_use_is_said_before_fetching(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(hub, "licence", lambda _: "cc-by-nc-4.0")
    result = CliRunner().invoke(app, ["models", "pull", "st:some/model"])
    assert result.exit_code == 2  # there is no network
    assert "cc-by-nc-4.0, forbids commercial use" in result.stderr.splitlines()[0]
