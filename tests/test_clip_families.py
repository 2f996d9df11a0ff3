"""Small, untrained `clip:` models of every family in open_clip have the vectors of open_clip."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("open_clip")
pytest.importorskip("skimage")
pytest.importorskip("transformers")

import open_clip
from test_clip import TEXTS, graphs, photos
from test_sentence_transformers import tokenizer

from mmsearch.encoders import Runtime
from mmsearch.encoders.clip import names
from mmsearch.encoders.registry import check_name, load_encoder

ARCHITECTURES = (
    "RN50",
    "ViT-B-32",
    "roberta-ViT-B-32",
    "convnext_base",
    "convnext_large_d",
    "coca_ViT-B-32",
    "EVA01-g-14",
    "EVA02-B-16",
    "ViT-B-16-SigLIP",
    "ViT-SO400M-16-SigLIP-i18n-256",
    "ViT-B-16-SigLIP2",
    "ViT-H-14-CLIPA",
    "ViT-H-14-worldwide",
    "nllb-clip-base",
    "nllb-clip-base-siglip",
    "MobileCLIP-B",
    "MobileCLIP2-S0",
    "MobileCLIP2-S3",
    "MobileCLIP2-L-14",
    "ViTamin-S",
    "PE-Core-B-16",
)
NAFLEX = "NaFlex"
"""SigLIP 2 with timm's NaFlex tower, which no configuration in open_clip uses yet."""

SIDE = 64
WIDTH = 32


def config_of(architecture: str) -> dict[str, Any]:
    if architecture == NAFLEX:
        config = open_clip.get_model_config("ViT-B-16-SigLIP2")
        config["vision_cfg"]["timm_model_name"] = "naflexvit_base_patch16_siglip"
        return config
    return open_clip.get_model_config(architecture)


def family(config: dict[str, Any]) -> str:
    """A configuration without sizes and the names of files."""
    sizes = {
        *("embed_dim", "image_size", "layers", "width", "heads", "head_width", "patch_size"),
        *("context_length", "vocab_size", "mlp_ratio", "attn_pooler_heads", "timm_drop"),
        *("timm_drop_path", "quick_gelu", "init_logit_bias", "hf_tokenizer_name", "hf_model_name"),
    }
    tower = re.sub(  # of MobileCLIP's towers, 0 to 2 are alike, and 3 and 4
        r"_(tiny|x?small|medium|base|x*large2?|huge|giant(opt)?|gigantic|enormous|so400m"
        r"|patch\d+|\d+)(?=_|$)|(?<=mci)[0-2]$",
        "",
        config["vision_cfg"].get("timm_model_name", ""),
    ).replace("mci4", "mci3")
    kept = {
        part: {key: value for key, value in of.items() if key not in sizes}
        for part, of in config.items()
        if isinstance(of, dict)
    }
    kept["vision_cfg"]["timm_model_name"] = tower
    kept["vision_cfg"]["is_resnet"] = isinstance(config["vision_cfg"].get("layers"), list)
    kept["text_cfg"]["from_transformers"] = "hf_model_name" in config["text_cfg"]
    kept["text_cfg"]["has_tokenizer"] = "hf_tokenizer_name" in config["text_cfg"]
    return json.dumps(kept, sort_keys=True)


def shrunk(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same model with few, narrow layers, and with the tokenizer in a folder."""
    config["embed_dim"] = 32
    vision, text = config["vision_cfg"], config["text_cfg"]
    vision["image_size"] = SIDE
    if isinstance(vision.get("layers"), list):
        vision |= {"layers": [1, 1, 1, 1], "width": 16}
    elif "timm_model_name" not in vision:
        vision |= {"layers": 2, "width": WIDTH, "head_width": 16, "patch_size": 16}
    if "attn_pooler_heads" in vision:
        vision["attn_pooler_heads"] = 2
    if "hf_tokenizer_name" in text:
        text["hf_tokenizer_name"] = str(folder)
        cutter, tokens = tokenizer()
        cutter.sep_token = cutter.eos_token
        cutter.save_pretrained(folder)
        text["vocab_size"] = tokens
    if "hf_model_name" in text:
        write_text_config(text["hf_model_name"], text.pop("vocab_size"), folder)
        text["hf_model_name"] = str(folder)
        text.pop("layers", None)
    else:
        text |= {"width": WIDTH, "heads": 2, "layers": 2}
    if "multimodal_cfg" in config:
        config["multimodal_cfg"] |= {"width": WIDTH, "heads": 2, "layers": 1}
        config["multimodal_cfg"]["attn_pooler_heads"] = 2
    return config


def write_text_config(model: str, tokens: int, folder: Path) -> None:
    """The configuration of a small text tower of the same class."""
    from transformers import M2M100Config, RobertaConfig

    common = {"vocab_size": tokens, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    if "nllb" in model:
        sizes = {"d_model": WIDTH, "encoder_layers": 1, "decoder_layers": 1}
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        feeds = {"encoder_ffn_dim": WIDTH, "decoder_ffn_dim": WIDTH}
        M2M100Config(**common, **sizes, **heads, **feeds).save_pretrained(folder)
    else:
        sizes = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_attention_heads": 2}
        RobertaConfig(**common, **sizes, num_hidden_layers=1).save_pretrained(folder)


def small_tower(name: str) -> dict[str, Any]:
    """Arguments with which timm makes a small tower of the same class."""
    if name.startswith("convnext"):
        return {"depths": (1, 1, 1, 1), "dims": (8, 16, 32, WIDTH)}
    if name.startswith("fastvit_mci"):
        widths = (8, 16, 32, WIDTH, 2 * WIDTH)[: 5 if name[-1] in "34" else 4]
        return {"layers": (1,) * len(widths), "embed_dims": widths}
    if name.startswith("vit_base_mci"):
        return {"depth": 1, "img_size": SIDE}  # its stem is as wide as it is
    sizes = {"depth": 1, "embed_dim": WIDTH, "num_heads": 2}
    if name.startswith("vitamin"):
        from timm.models.vitamin import VitCfg, VitConvCfg

        blocks = VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6)
        stem = VitCfg((8, 16, WIDTH), (1, 1, 1), stem_width=8, conv_cfg=blocks, head_type="1d")
        return {**sizes, "embed_cfg": stem, "img_size": SIDE}
    return sizes if name.startswith("naflexvit") else {**sizes, "img_size": SIDE}


@pytest.fixture(autouse=True)
def small_towers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """timm makes small towers, and ONNX graphs are cached in a temporary folder."""
    timm = pytest.importorskip("timm")
    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, **given: create(name, **given | small_tower(name))
    )
    monkeypatch.setenv("MMSEARCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def pictures() -> list[Any]:
    return photos()


def write_checkpoint(architecture: str, folder: Path) -> Any:
    """An untrained model of an architecture, after writing it as open_clip saves one."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    preprocessing = open_clip.get_pretrained_cfg(architecture, tags[0]) if tags else {}
    known = ("mean", "std", "interpolation", "resize_mode")
    config = {
        "model_cfg": shrunk(config_of(architecture), folder),
        "preprocess_cfg": {key: preprocessing[key] for key in known if preprocessing.get(key)},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", pretrained_text=False)
    with torch.no_grad():
        for weights in model.parameters():  # apart, as trained ones are: zeros hide mistakes
            weights.add_(0.05 * torch.randn(weights.shape))
        norms = [one for one in model.modules() if isinstance(one, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        if norms:  # would scale everything down to nothing before they have seen anything
            model.train().encode_image(torch.randn(8, 3, SIDE, SIDE))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return model.eval()


def by_open_clip(model: Any, address: str, pictures: list[Any]) -> tuple[Any, Any]:
    """The vectors of pictures and texts with open_clip's own preprocessing."""
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2

    transform = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    pixels = torch.stack([transform(picture) for picture in pictures])
    with torch.no_grad():
        seen = model.encode_image(pixels, normalize=True)
        read = model.encode_text(open_clip.get_tokenizer(address)(TEXTS), normalize=True)
    return seen.numpy(), read.numpy()


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, NAFLEX])
def test_a_model_of_any_family_has_open_clips_vectors(
    architecture: str, pictures: list[Any], tmp_path: Path
):
    folder = tmp_path / "model"
    model = write_checkpoint(architecture, folder)
    wanted = by_open_clip(model, f"local-dir:{folder}", pictures)
    encoder = load_encoder(f"clip:@{folder}", Runtime(precision="fp32", device="cpu"))
    found = encoder.encode("image", pictures), encoder.encode("text", TEXTS)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        assert np.abs(theirs - theirs[0]).max() > 1e-3  # it tells things apart
    if architecture == NAFLEX:
        assert graphs(encoder) == {"text-fp32"}
        assert "its image tower has no ONNX graph" in encoder.notes[0]
        assert encoder.notes[0].endswith("it runs on torch")
    else:
        assert graphs(encoder) == {"image-fp32", "text-fp32"}
        assert not encoder.notes


def test_no_listed_architecture_is_of_another_family():
    tested = {family(config_of(architecture)) for architecture in ARCHITECTURES}
    listed = {architecture for architecture, _ in open_clip.list_pretrained()}
    others = {one for one in listed if family(config_of(one)) not in tested}
    assert not others


def test_every_listed_name_is_accepted():
    for architecture, tag in open_clip.list_pretrained():
        name = f"clip:{architecture}/{tag}"
        check_name(name)
        source = names.parse(name)
        names.check(source)
        assert (source.name, source.arch, source.tag) == (name, architecture, tag)
