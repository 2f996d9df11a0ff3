"""The steps that make the built-in model, and its folder: graphs, weights, bank, manifest.

Each takes the captioned photos in `data` (`images/`, `captions.tsv`, `train.txt`), the model's
folder `out`, and a folder `cache` that keeps features between runs (several GiB).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch

from mmsearch.encoders.mini.encoder import (
    AUDIO,
    DETECTOR,
    EXTENSIONS,
    LANGUAGE_TOKENIZER,
    LANGUAGE_TOWER,
    load_mini,
)
from mmsearch.encoders.previous import PREVIOUS, PreviousWeights
from mmsearch.encoders.query_bank import QueryBank, load_bank, pack_bank, typical_texts
from mmsearch.encoders.token_embeddings import REGIONS, RERANK, WORDS
from mmsearch.spaces.query_banks import calibrated_bank, projected_bank
from mmsearch.training.audio_head import concepts_of, export_audio, fit_audio, sound_features
from mmsearch.training.backbones import (
    DIM,
    IMAGE_SIZE,
    MAP_SHAPE,
    MAX_TOKENS,
    VOCABULARY,
    Head,
    ImageTower,
    ImageTrunk,
    TextTower,
    TextTrunk,
    moments,
    tokenizer_json,
)
from mmsearch.training.data import PLAIN, TrainingSets, photo_pixels, read_split
from mmsearch.training.features import Captions, gather, photo_maps, text_states
from mmsearch.training.fit import fine_tune, fit_heads
from mmsearch.training.fit_late_interaction import MOMENTS_OF, Pairs, RerankTraining
from mmsearch.training.languages import (
    LanguageTraining,
    Sources,
    fit_detector,
    read_examples,
    train_tokenizer,
)
from mmsearch.training.late_interaction import MiniRegions, MiniWords, RegionHead, WordHead
from mmsearch.training.onnx_graphs import (
    export_image,
    export_matcher,
    export_regions,
    export_text,
    export_words,
    small_image,
    small_text,
)
from mmsearch.training.previous import fit_previous, print_cost
from mmsearch.training.recipe import Recipe
from mmsearch.training.sounds import Sound, SoundSources

if TYPE_CHECKING:
    from mmsearch.types import Modality, Vectors

BANK_CAPTIONS = 1_800
"""Captions in the query bank, besides half of the typical sentences: captions alone resemble only
searches among photos of people."""
BANK_PHOTOS = 2_000
"""Photos in the query bank; as many others are the items on which it is calibrated."""

MOST_BYTES = 65_000_000
"""Of all the model's files but the query bank."""


def build(sets: TrainingSets, out: Path, *, cache: Path, recipe: Recipe) -> None:
    """Train the towers of `mini`, and write its folder."""
    torch.manual_seed(recipe.seed)
    image_trunk, text_trunk = ImageTrunk().eval(), TextTrunk().eval()
    print("features of the frozen layers")
    train = gather(sets, image_trunk, text_trunk, views=recipe.views, seed=recipe.seed, cache=cache)
    whole = train.features[PLAIN].float()
    image = ImageTower(image_trunk, Head(*moments(whole), dropout=recipe.image_dropout))
    text = TextTower(text_trunk, Head(*moments(train.pooled.captions), dropout=recipe.text_dropout))
    print("heads")
    fit_heads(image.head, text.head, train, recipe)
    print("upper layers and heads")
    fine_tune(image, text, train, recipe)
    print("graphs")
    exact_image, exact_text = export_image(image), export_text(text)
    write_model(cache / "exact", exact_image, exact_text, most_bytes=None)
    write_model(out, small_image(exact_image), small_text(exact_text, VOCABULARY))


def build_audio(sources: SoundSources, out: Path, *, cache: Path, recipe: Recipe) -> None:
    """Train the audio head of the model in `out` and add it; nothing else changes.

    Args:
        sources: The folders of the labelled sets.
        out: The model's folder.
        cache: Of features.
        recipe: The hyperparameters and the seed.
    """
    print("sounds")
    sounds = sources.read()
    features = sound_features(sounds, out / "image.onnx", recipe, cache=cache)
    concepts = concepts_of(sounds, load_mini(out))
    print("audio head")
    head = fit_audio(features, concepts, torch.arange(len(sounds)), recipe)
    add_files(out, {AUDIO: export_audio(head)})


def build_bank(data: Path, out: Path, *, seed: int) -> None:
    """Write the query bank `bank.npz`: a draw from the train split, encoded by the model."""
    split, encoder = read_split(data, "train"), load_mini(out)
    drawn = np.random.default_rng(seed).permutation(len(split.files)).tolist()
    photos, others = drawn[:BANK_PHOTOS], drawn[BANK_PHOTOS : 2 * BANK_PHOTOS]
    captioned = drawn[2 * BANK_PHOTOS :][:BANK_CAPTIONS]
    captions, sentences = [split.captions[row][0] for row in captioned], typical_texts()

    def vectors(texts: list[str], rows: list[int]) -> dict[Modality, Vectors]:
        pixels = photo_pixels(encoder, [split.paths[row] for row in rows])
        return {"text": encoder.encode("text", texts), "image": encoder.encode("image", pixels)}

    bank = vectors(captions + sentences[::2], photos)
    references = vectors(sentences[1::2], others)
    packed = pack_bank(encoder.fingerprint, calibrated_bank(bank, references))
    (out / "bank.npz").write_bytes(packed)


def build_rerank(data: Path, out: Path, *, cache: Path, recipe: Recipe) -> None:
    """Train the reranking of the model in `out` and add it; nothing else changes."""
    torch.manual_seed(recipe.seed)
    split = read_split(data, "train")
    image_trunk, text_trunk = ImageTrunk(recipe.rerank_cut).eval(), TextTrunk().eval()
    print("features of each place and of each word")
    pairs = Pairs(
        [
            photo_maps(image_trunk, split.paths, view, seed=recipe.seed, cache=cache).numpy()
            for view in range(recipe.rerank_views)
        ],
        Captions.of(split.captions, text_states(text_trunk, split.texts, cache=cache)),
    )
    regions = _regions(image_trunk, pairs, recipe)
    layers = text_trunk.layers[text_trunk.cut : text_trunk.cut + recipe.rerank_layers]
    words = MiniWords(layers, WordHead(384, recipe))
    print("regions and words")
    training = RerankTraining(regions, words, pairs, recipe)
    training.run()
    files = {
        REGIONS: export_regions(regions, recipe.rerank_cut),
        WORDS: export_words(words),
        RERANK: export_matcher(training.matcher),
    }
    add_files(out, files, entries={"match_weight": recipe.match_weight})


def build_languages(sources: Sources, out: Path, *, cache: Path, recipe: Recipe) -> None:
    """Train the text tower for other languages and add it to the model in `out`.

    The vectors of photos, sounds and English texts stay as they are.
    """
    print("texts in other languages")
    examples, photos = read_examples(sources, load_mini(out), cache=cache)
    tokenizer = train_tokenizer(examples, recipe)
    tower = LanguageTraining(examples, photos, tokenizer, recipe).run()
    files = {
        LANGUAGE_TOWER: small_text(export_text(tower), tokenizer.get_vocab_size()),
        LANGUAGE_TOKENIZER: tokenizer.to_str().encode(),
        DETECTOR: fit_detector(examples, recipe).astype("<f2").tobytes(),
    }
    add_files(out, files)


def build_previous(
    old: Path,
    data: Path,
    out: Path,
    *,
    photos: Sequence[Path],
    sounds: Sequence[Sound],
    cache: Path,
) -> None:
    """Write `previous.npz`, by which the model in `out` searches indexes of the one in `old`.

    What that costs on the dev split is printed.

    Raises:
        ValueError: `out` has no query bank; both models hear, and there are no sounds.
    """
    before, after = load_mini(old), load_mini(out)
    bank = load_bank(out / "bank.npz", after.fingerprint)
    if bank is None:
        raise ValueError(f"the query bank in {out} is of other weights: make it first (banks)")
    maps = fit_previous(before, after, data, photos=photos, sounds=sounds, cache=cache)
    exact = PreviousWeights(
        before.fingerprint, after.fingerprint, before.languages_version, maps, QueryBank({})
    )
    shipped = PreviousWeights.unpack(exact.pack())  # in 8 bits, as they are when searching
    own_bank = replace(projected_bank(bank, shipped.maps), rows={})
    packed = replace(shipped, bank=own_bank).pack()
    (out / PREVIOUS).write_bytes(packed)
    print(f"  {PREVIOUS}: {len(packed) / 1e6:.2f} MB")
    print_cost(before, after, shipped.maps, data, cache=cache)


def _regions(trunk: ImageTrunk, pairs: Pairs, recipe: Recipe) -> MiniRegions:
    """Region embeddings by the published last blocks and convolution, with a new head."""
    maps = torch.from_numpy(pairs.grids[0][:MOMENTS_OF]).float()
    with torch.no_grad():
        grid = trunk.above(maps).flatten(2).transpose(1, 2)
    regions = MiniRegions(trunk, RegionHead(*moments(grid.mean(1)), MAP_SHAPE[1], recipe))
    return regions.to(memory_format=torch.channels_last)


# ---------------------------------------------------------------------- the model's folder


def split_weights(model: bytes) -> tuple[bytes, bytes]:
    """A graph and its weights as two files, so that the weights are memory-mapped when loaded.

    That halves the time to load the text tower, most of the time of a first query.
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
        ValueError: the files together are larger than `most_bytes`.
    """
    graph, weights = split_weights(text)
    files = {
        "image.onnx": image,
        "text.onnx": graph,
        "text.bin": weights,
        "tokenizer.json": tokenizer_json(),
    }
    total = sum(map(len, files.values()))
    if most_bytes is not None:
        _check_size(total, most_bytes)
    manifest: dict[str, Any] = {
        "name": "mini",
        "dim": DIM,
        "image_size": IMAGE_SIZE,
        "max_tokens": MAX_TOKENS,
        "sha256": {},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*EXTENSIONS, PREVIOUS):  # those of earlier towers
        (folder / name).unlink(missing_ok=True)
    _write(folder, files, manifest)
    print(f"  {folder}: {total / 1e6:.1f} MB")


def add_files(
    folder: Path,
    files: Mapping[str, bytes],
    *,
    entries: Mapping[str, Any] | None = None,
    most_bytes: int = MOST_BYTES,
) -> None:
    """Add files to a model's folder, and entries to its manifest; all others stay as they are.

    Raises:
        ValueError: the files of the folder together are larger than `most_bytes`.
    """
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    others = [folder / name for name in manifest["sha256"] if name not in files]
    total = sum(map(len, files.values())) + sum(path.stat().st_size for path in others)
    _check_size(total, most_bytes)
    _write(folder, files, manifest | (entries or {}))
    for name, content in files.items():
        print(f"  {name}: {len(content) / 1e6:.2f} MB")


def _check_size(total: int, most: int) -> None:
    if total > most:
        raise ValueError(f"the model is {total / 1e6:.1f} MB; it may be {most / 1e6:.1f}")


def _write(folder: Path, files: Mapping[str, bytes], manifest: dict[str, Any]) -> None:
    """Write files, and the manifest with their hashes."""
    for name, content in files.items():
        manifest["sha256"][name] = hashlib.sha256(content).hexdigest()
        (folder / name).write_bytes(content)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
