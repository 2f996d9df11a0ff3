"""The steps of `tune_reranker`: features, training, graphs, held-out evaluation, files."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmsearch.encoders.clip import names
from mmsearch.encoders.clip.encoder import load_clip
from mmsearch.encoders.clip.onnx_export import simplified, write_graph
from mmsearch.encoders.clip.preprocessing import TokenRecipe, Tokens
from mmsearch.encoders.clip.token_towers import (
    FILES,
    REGIONS_WEIGHTS,
    WORDS_WEIGHTS,
    read_token_towers,
    tuned_folder,
)
from mmsearch.encoders.clip.torch_model import TorchModel
from mmsearch.encoders.clip.towers import TowerCache
from mmsearch.encoders.model_files import MANIFEST, file_sha256
from mmsearch.encoders.token_embeddings import REGIONS, RERANK, WORDS
from mmsearch.errors import InvalidOption
from mmsearch.training.backbones import moments
from mmsearch.training.clip_features import (
    CaptionedPhoto,
    ClipRegions,
    ClipWords,
    GridTower,
    RegionTower,
    SpecialTokens,
    StateTower,
    WordTower,
    pair_features,
    token_states,
)
from mmsearch.training.fit_late_interaction import MOMENTS_OF, Pairs, RerankTraining
from mmsearch.training.late_interaction import GRID, Matcher, RegionHead, WordHead
from mmsearch.training.onnx_graphs import export_matcher
from mmsearch.training.recipe import Recipe
from mmsearch.training.reranker_figures import TuneFigures, measure

if TYPE_CHECKING:
    from mmsearch.encoders.clip.encoder import ClipEncoder
    from mmsearch.types import Modality

FEWEST_PHOTOS = 200
HELD_OUT = 0.2
"""Share of the photos."""
MOST_HELD_OUT = 1_000
STEPS = 600
"""Approximate number of training steps; the number of epochs follows from it."""
EPOCHS = (9, 60)
"""The least and the greatest number."""
BATCHES = (32, 250)
"""The smallest and the largest batch, in photos; those of a batch are each other's negatives."""


class Tuning:
    """The tuning of a model's reranker."""

    def __init__(self, model: str, recipe: Recipe) -> None:
        """Load the model of a `clip:` name.

        Raises:
            InvalidOption: it cannot be tuned.
        """
        self.encoder = load_clip(model)
        self.recipe = recipe
        towers = TowerCache(self.encoder.fingerprint)
        facts = towers.facts() or {}
        if not facts.get("tokens"):
            raise InvalidOption(
                f"{self.encoder.name} cannot be tuned for reranking: its tokenizer does not run "
                f"without torch ({facts.get('why_no_tokens')})"
            )
        tokens = TokenRecipe.read(facts["tokens"])
        self.tokens = Tokens(towers.tokenizer, tokens)
        self.model = TorchModel(names.parse(model))
        self.model.model.requires_grad_(requires_grad=False)
        self.grid, self.states = GridTower(self.model), StateTower(self.model)
        self.special = SpecialTokens.of(tokens, self.model)

    def run(self, pairs: Sequence[CaptionedPhoto]) -> TuneFigures:
        """Train the reranker, and publish it if it helps; returns its figures on held-out photos.

        Raises:
            InvalidOption: there are too few photos.
        """
        if len(pairs) < FEWEST_PHOTOS:
            raise InvalidOption(
                f"{len(pairs)} photos have captions; at least {FEWEST_PHOTOS} are needed, and a "
                "few thousand are better"
            )
        train, held_out = split_pairs(pairs, self.recipe.seed)
        print(f"{self.encoder.name}: {len(train)} photos to learn from, {len(held_out)} held out")
        folder = tuned_folder(self.encoder.fingerprint)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tuning-", dir=folder.parent) as scratch:
            draft = Path(scratch) / "draft"
            draft.mkdir()
            self._train(train, draft)
            print("held-out photos", flush=True)
            write_manifest(draft, self.encoder)
            token_towers = read_token_towers(draft, lambda: self.tokens)
            figures = measure(self.encoder, token_towers, held_out, train)
            if figures.helps:
                write_manifest(draft, self.encoder, figures, len(train))
                _publish(draft, folder)
                print(f"written to {folder}", flush=True)
        return figures

    def _train(self, train: Sequence[CaptionedPhoto], folder: Path) -> None:
        """Train token embeddings and their matcher, and write the three graphs into a folder."""
        torch.manual_seed(self.recipe.seed)
        print("features of each place and of each word")
        with tempfile.TemporaryDirectory(prefix=".features-", dir=folder.parent) as scratch:
            pairs = pair_features(
                self.encoder,
                train,
                self.grid,
                lambda texts: token_states(self.tokens, self.states, self.special, texts),
                Path(scratch),
            )
            recipe = sized(self.recipe, len(pairs))
            print(f"regions and words: in batches of {recipe.rerank_batch}", flush=True)
            regions, words, matcher = learn(pairs, self.states.width, recipe)
        print("graphs", flush=True)
        photos = RegionTower(self.grid, regions)
        texts = WordTower(self.states, words, self.special)
        write_graphs(folder, self.model, photos, texts, matcher)


def split_pairs(
    pairs: Sequence[CaptionedPhoto], seed: int
) -> tuple[list[CaptionedPhoto], list[CaptionedPhoto]]:
    """The photos to train on, and those to hold out."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pairs), generator=generator).tolist()
    held_out = min(int(HELD_OUT * len(pairs)), MOST_HELD_OUT)
    return [pairs[row] for row in order[held_out:]], [pairs[row] for row in order[:held_out]]


def sized(recipe: Recipe, photos: int) -> Recipe:
    """The recipe with batch size and epochs for a number of photos, and frozen towers."""
    batch = min(max(photos // 4, BATCHES[0]), BATCHES[1], recipe.rerank_batch)
    epochs = math.ceil(STEPS / max(1, photos // batch))
    epochs = min(max(epochs, EPOCHS[0]), EPOCHS[1])
    return dataclasses.replace(
        recipe, rerank_batch=batch, rerank_rounds=((epochs, 1.0),), rerank_warm=0
    )


def learn(pairs: Pairs, width: int, recipe: Recipe) -> tuple[ClipRegions, ClipWords, Matcher]:
    """Train region and word embeddings and their matcher on pairs.

    `width` is that of the states of texts.
    """
    grid = torch.from_numpy(pairs.grids[0][:MOMENTS_OF]).float()
    pooled = grid.flatten(2).transpose(1, 2).mean(1)
    regions = ClipRegions(RegionHead(*moments(pooled), GRID, recipe))
    words = ClipWords(WordHead(width, recipe))
    training = RerankTraining(regions, words, pairs, recipe)
    training.run()
    return regions, words, training.matcher


# ---------------------------------------------------------------------- files


def write_graphs(
    folder: Path, model: TorchModel, photos: RegionTower, texts: WordTower, matcher: Matcher
) -> None:
    """Write the three graphs that `read_token_towers` reads into an empty folder.

    The towers are those of `model`; their weights are files of their own.
    """
    towers: tuple[tuple[Modality, Any, str, str], ...] = (
        ("image", photos, REGIONS, REGIONS_WEIGHTS),
        ("text", texts, WORDS, WORDS_WEIGHTS),
    )
    for modality, tower, graph, weights in towers:
        raw = folder / "raw.onnx"
        write_graph(model, modality, tower, raw, {"rows": {0: "n", 1: "rows"}})
        simplified(raw, folder / graph, "EXTENDED", weights)
        for leftover in set(folder.iterdir()) - {folder / name for name in FILES}:
            leftover.unlink()  # the raw graph of a tower over 2 GB comes in many files
    (folder / RERANK).write_bytes(export_matcher(matcher))


def write_manifest(
    folder: Path, encoder: ClipEncoder, figures: TuneFigures | None = None, photos: int = 0
) -> None:
    """Write which model a folder's graphs belong to, their hashes and, once known, their gain.

    Args:
        folder: The folder of the graphs.
        encoder: The model.
        figures: On held-out pairs.
        photos: The number of photos that they were trained on.
    """
    manifest: dict[str, Any] = {
        "name": encoder.name,
        "fingerprint": encoder.fingerprint,
        "match_weight": figures.weight if figures else 0.0,
        "photos": photos,
        "figures": dataclasses.asdict(figures) if figures else None,
        "sha256": {name: file_sha256(folder / name) for name in FILES},
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _publish(draft: Path, folder: Path) -> None:
    """Replace the files of an earlier tuning; the manifest, which makes it count, comes last."""
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in (*FILES, MANIFEST):
        (draft / name).replace(folder / name)
