"""From data to the model's folder, step by step.

Writes the model's folder: graphs, weights, the tokenizer, and a manifest of their hashes.

The bank of typical queries that ships with the built-in model, and what is measured on it.

Teaches the built-in model to look closer: its own photos and texts for `rerank`.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from torch import Tensor

from mmsearch.encoders.banks import save_bank, typical_texts
from mmsearch.encoders.mini import APPENDICES, AUDIO, MiniEncoder, load_mini
from mmsearch.encoders.mini_match import REGIONS, RERANK, WORDS
from mmsearch.spaces.query_banks import calibrated_bank
from mmsearch.training.audio import concepts_of, export_audio, fit_audio, hear
from mmsearch.training.data import CAPTIONS_A_PHOTO, Split, read_split
from mmsearch.training.export import (
    export_image,
    export_matcher,
    export_regions,
    export_text,
    export_words,
    small_image,
    small_text,
)
from mmsearch.training.features import SHAPE, gather, grids_of, text_states
from mmsearch.training.fit import Tuning, fit_heads
from mmsearch.training.recipe import Recipe
from mmsearch.training.rerank import Pairs, Reranking, rows_of_texts
from mmsearch.training.sounds import read_esc10, read_stamps
from mmsearch.training.token_embeddings import (
    OVERALL,
    ImageSide,
    Regions,
    TextSide,
    Words,
    moments_of,
)
from mmsearch.training.towers import (
    DIM,
    IMAGE_SIZE,
    MAX_TOKENS,
    Head,
    ImageTower,
    ImageTrunk,
    TextTower,
    TextTrunk,
    minilm_folder,
    moments,
)
from mmsearch.types import Modality

if TYPE_CHECKING:
    from mmsearch.types import Vectors


def build_hearing(esc10: Path, stamps: Path, out: Path, *, cache: Path, recipe: Recipe) -> None:
    """Train the audio head of the model in `out` and put it there; nothing else changes.

    Args:
        esc10: Holds `audio/` and `labels.tsv`.
        stamps: The same, of tuxpaint.
        out: The model's folder.
        cache: Keeps features between runs.
        recipe: What to do, and the seed.
    """
    print("sounds")
    sounds = [*read_esc10(esc10), *read_stamps(stamps)]
    heard = hear(
        sounds, out / "image.onnx", views=recipe.sound_views, seed=recipe.seed, cache=cache
    )
    concepts = concepts_of(sounds, load_mini(out))
    print("audio head")
    head = fit_audio(heard, concepts, torch.arange(len(sounds)), recipe)
    add_hearing(out, export_audio(head))


def build(data: Path, out: Path, *, cache: Path, recipe: Recipe) -> None:
    """Train `mini` on the train split in `data` and write its folder.

    Args:
        data: Holds `images/`, `captions.tsv` and `train.txt`.
        out: Where the four files go; what is there is replaced.
        cache: Keeps features between runs; several GiB.
        recipe: What to do, and the seed.
    """
    torch.manual_seed(recipe.seed)
    image_trunk, text_trunk = ImageTrunk().eval(), TextTrunk().eval()
    print("features of the frozen layers")
    lessons = gather(
        read_split(data, "train"),
        image_trunk,
        text_trunk,
        views=recipe.views,
        seed=recipe.seed,
        cache=cache,
    )
    image = ImageTower(image_trunk, Head(*moments(lessons.features), dropout=recipe.image_dropout))
    text = TextTower(
        text_trunk, Head(*moments(lessons.caption_features), dropout=recipe.text_dropout)
    )
    print("heads")
    fit_heads(image.head, text.head, lessons, recipe)
    print("upper layers and heads")
    Tuning(image, text, lessons, recipe).run()
    print("graphs")
    exact_image, exact_text = export_image(image), export_text(text)
    write_model(cache / "exact", exact_image, exact_text, most_bytes=None)
    write_model(out, small_image(exact_image), small_text(exact_text))


MOST_BYTES = 46_500_000
"""Of the model's files; the bank of typical queries lies beside them."""


def tokenizer_json() -> bytes:
    """MiniLM's tokenizer, cut at 128 tokens and not padded (the encoder pads each batch)."""
    given = json.loads((minilm_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    given["padding"] = None
    given["truncation"]["max_length"] = MAX_TOKENS
    return json.dumps(given, ensure_ascii=False, separators=(",", ":")).encode()


def apart(model: bytes) -> tuple[bytes, bytes]:
    """A graph and its weights as two files: weights are then mapped, not parsed and copied.

    That halves the time to load the text tower, which is most of what a first query waits for.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.onnx"
        onnx.save(
            onnx.load_from_string(model),
            path,
            save_as_external_data=True,
            location="text.bin",
            size_threshold=1024,
        )
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def write_model(
    folder: Path, image: bytes, text: bytes, *, most_bytes: int | None = MOST_BYTES
) -> None:
    """Write the folder that `load_mini` reads.

    Raises:
        ValueError: the files together are over `most_bytes`.
    """
    graph, weights = apart(text)
    files = {
        "image.onnx": image,
        "text.onnx": graph,
        "text.bin": weights,
        "tokenizer.json": tokenizer_json(),
    }
    total = sum(map(len, files.values()))
    if most_bytes is not None and total > most_bytes:
        raise ValueError(f"the model is {total / 1e6:.1f} MB; it may be {most_bytes / 1e6:.0f}")
    manifest = {
        "name": "mini",
        "dim": DIM,
        "image_size": IMAGE_SIZE,
        "max_tokens": MAX_TOKENS,
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name in APPENDICES:  # they belonged to the towers that were here
        (folder / name).unlink(missing_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    print(f"  {folder}: {total / 1e6:.1f} MB")


def add_hearing(folder: Path, audio: bytes, *, most_bytes: int = MOST_BYTES) -> None:
    """Put an audio head beside the towers of a model's folder, which stay as they are.

    Raises:
        ValueError: the files together are then over `most_bytes`.
    """
    _add(folder, {AUDIO: audio}, {}, most_bytes)


def add_details(
    folder: Path, files: Mapping[str, bytes], match_weight: float, *, most_bytes: int = MOST_BYTES
) -> None:
    """Put what looks closer beside the towers of a model's folder, which stay as they are.

    Args:
        folder: The model's.
        files: `mini_match.DETAILS` with their contents.
        match_weight: What a match counts beside a cosine of the vectors.
        most_bytes: All files together may have.

    Raises:
        ValueError: they are over `most_bytes`.
    """
    _add(folder, files, {"match_weight": match_weight}, most_bytes)


def _add(
    folder: Path, files: Mapping[str, bytes], entries: Mapping[str, Any], most_bytes: int
) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    others = [folder / name for name in manifest["sha256"] if name not in files]
    total = sum(map(len, files.values())) + sum(path.stat().st_size for path in others)
    if total > most_bytes:
        raise ValueError(f"the model is {total / 1e6:.1f} MB; it may be {most_bytes / 1e6:.1f}")
    manifest |= entries
    for name, content in files.items():
        manifest["sha256"][name] = hashlib.sha256(content).hexdigest()
        (folder / name).write_bytes(content)
        print(f"  {name}: {len(content) / 1e6:.2f} MB")
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


CAPTIONS = 1_800
"""And half of the sentences: captions alone stand for searches among photos of people."""
PHOTOS = 2_000
"""As many again are the items that references are measured on."""
PHOTOS_AT_ONCE = 64


def make_bank(data: Path, out: Path, *, seed: int) -> None:
    """Write `bank.npz` into a model's folder, from the train split.

    Args:
        data: Holds `images/`, `captions.tsv` and `train.txt`.
        out: The model's folder; its towers encode.
        seed: Of the draw.
    """
    split, encoder = read_split(data, "train"), load_mini(out)
    drawn = np.random.default_rng(seed).permutation(len(split.files)).tolist()
    photos, others, captioned = drawn[:PHOTOS], drawn[PHOTOS : 2 * PHOTOS], drawn[2 * PHOTOS :]
    sentences = typical_texts()
    captions = [split.captions[row][0] for row in captioned[:CAPTIONS]]
    rows: dict[Modality, Vectors] = {
        "text": encoder.encode("text", captions + sentences[::2]),
        "image": _photos(encoder, split, photos),
    }
    others_of: dict[Modality, Vectors] = {
        "text": encoder.encode("text", sentences[1::2]),
        "image": _photos(encoder, split, others),
    }
    save_bank(out / "bank.npz", encoder.fingerprint, calibrated_bank(rows, others_of))


def _photos(encoder: MiniEncoder, split: Split, chosen: Sequence[int]) -> Vectors:
    parts = (encoder.encode("image", part) for part in _opened(split, chosen))
    return np.concatenate(list(parts))


def _opened(split: Split, chosen: Sequence[int]) -> Iterator[list[Any]]:
    from PIL import Image

    for start in range(0, len(chosen), PHOTOS_AT_ONCE):
        part = chosen[start : start + PHOTOS_AT_ONCE]
        yield [Image.open(split.path(row)).convert("RGB") for row in part]


MOMENTS_OF = 500
"""Photos whose features say what is usual."""
AT_ONCE = 250


def build_rerank(data: Path, out: Path, *, cache: Path, recipe: Recipe) -> None:
    """Train what looks closer for the model in `out` and put it there; nothing else changes.

    Args:
        data: Holds `images/`, `captions.tsv` and `train.txt`.
        out: The model's folder.
        cache: Keeps features between runs; 34 kB a photo and view.
        recipe: What to do, and the seed.
    """
    torch.manual_seed(recipe.seed)
    split = read_split(data, "train")
    text_trunk = TextTrunk().eval()
    print("features of each place and of each word")
    pairs = Pairs(
        [
            grids_of(
                out / "image.onnx",
                split,
                view,
                blocks=recipe.row_cut,
                seed=recipe.seed,
                cache=cache,
            )
            for view in range(recipe.row_views)
        ],
        text_states(text_trunk, split.texts, cache=cache),
        CAPTIONS_A_PHOTO,
    )
    image = image_side(pairs, recipe)
    layers = text_trunk.layers[text_trunk.cut : text_trunk.cut + recipe.row_layers]
    text = TextSide(layers, Words(384, recipe))
    print("regions and words")
    training = Reranking(image, text, pairs, recipe)
    training.run()
    training.matcher.learn_hubs(*typical(image, text, pairs, recipe))
    graphs = {
        REGIONS: export_regions(image, recipe.row_cut),
        WORDS: export_words(text),
        RERANK: export_matcher(training.matcher),
    }
    add_details(out, graphs, recipe.match_weight)


def image_side(pairs: Pairs, recipe: Recipe) -> ImageSide:
    """The published last block and convolution, and rows that are still to be learnt."""
    trunk = ImageTrunk(recipe.row_cut).eval()
    maps = torch.from_numpy(pairs.grids[0][:MOMENTS_OF]).float()
    with torch.no_grad():
        grid = trunk.above(maps).flatten(2).transpose(1, 2)
    side = ImageSide(trunk, Regions(*moments_of(grid), SHAPE[1], recipe))
    return side.to(memory_format=torch.channels_last)


def typical(
    image: ImageSide, text: TextSide, pairs: Pairs, recipe: Recipe
) -> tuple[Tensor, Tensor]:
    """Rows of words and of regions of the training split, of different photos."""
    dice = torch.Generator().manual_seed(recipe.seed)
    size = min(recipe.hub_bank, len(pairs) // 2)
    drawn = torch.randperm(len(pairs), generator=dice)
    photos, captioned = drawn[:size], drawn[size : 2 * size]
    with torch.no_grad():
        texts = rows_of_texts(text, pairs.captions, captioned * pairs.captions_a_photo)
        parts = [
            image(torch.from_numpy(pairs.grids[0][part.numpy()]).float())
            for part in torch.split(photos, AT_ONCE)
        ]
    return texts[:, OVERALL:], torch.cat(parts)[:, OVERALL:]
