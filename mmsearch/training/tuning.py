"""The steps of `tune`: pairs, features, rows and their match, graphs, figures, files.

Writes what `mmsearch.encoders.clip_details` reads.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmsearch.encoders import clip_names
from mmsearch.encoders.clip import load_clip
from mmsearch.encoders.clip_cache import Towers
from mmsearch.encoders.clip_details import (
    FILES,
    MANIFEST,
    REGIONS_WEIGHTS,
    WORDS_WEIGHTS,
    read_details,
    tuned_folder,
)
from mmsearch.encoders.clip_export import simplified, write_graph
from mmsearch.encoders.clip_tokens import TokenRecipe, Tokens
from mmsearch.encoders.clip_torch import TorchModel
from mmsearch.encoders.mini_match import REGIONS, RERANK, WORDS
from mmsearch.errors import InvalidOption, MMSearchError
from mmsearch.training.clip_features import (
    Captioned,
    OwnPairs,
    PhotoSide,
    PhotoTower,
    Places,
    States,
    TokenStates,
    WordSide,
    WordTower,
    features_of,
    marks_of,
    read_pairs,
)
from mmsearch.training.export import export_matcher
from mmsearch.training.recipe import Recipe
from mmsearch.training.rerank import Reranking, rows_of_texts
from mmsearch.training.token_embeddings import OVERALL, SIDE, Regions, Words, moments_of
from mmsearch.training.tune_figures import Figures, figures_of

if TYPE_CHECKING:
    from mmsearch.encoders.clip import ClipEncoder
    from mmsearch.training.token_embeddings import Matcher
    from mmsearch.training.tune_figures import Figures
    from mmsearch.types import Modality

FEWEST_PHOTOS = 200
HELD_OUT = 0.2
"""Of the photos."""
MOST_HELD_OUT = 1_000
MOMENTS_OF = 500
"""Photos whose features say what is usual."""
STEPS = 600
"""Of training, about: photos are gone through as often as that takes."""
EPOCHS = (9, 60)
"""The fewest and the most."""
BATCHES = (32, 250)
"""The smallest and the largest: each photo is told from the others of its batch."""
AT_ONCE = 250


class Tuning:
    """One model's tuning.

    Args:
        model: A `clip:` name.
        recipe: How to learn, and the seed.
    """

    def __init__(self, model: str, recipe: Recipe) -> None:
        """Load the model.

        Raises:
            InvalidOption: it cannot be tuned.
        """
        self.encoder = load_clip(model)
        self.recipe = recipe
        towers = Towers(self.encoder.fingerprint)
        facts = towers.facts() or {}
        if not facts.get("tokens"):
            raise InvalidOption(
                f"{self.encoder.name} cannot be tuned to look closer: its tokens cannot be had "
                f"without torch ({facts.get('why_no_tokens')})"
            )
        tokens = TokenRecipe.read(facts["tokens"])
        self.tokens = Tokens(towers.tokenizer, tokens)
        self.model = TorchModel(clip_names.parse(model))
        self.model.model.requires_grad_(requires_grad=False)
        self.places, self.states = Places(self.model), States(self.model)
        self.marks = marks_of(tokens, self.model)

    def run(self, photos: Path, captions: Path, out: Path | None) -> Figures:
        """What it is worth, once it is written; see `tune`."""
        pairs = read_pairs(photos, captions)
        if len(pairs) < FEWEST_PHOTOS:
            raise InvalidOption(
                f"{len(pairs)} of the photos in {photos} have captions in {captions}; at least "
                f"{FEWEST_PHOTOS} are needed, and a few thousand are better"
            )
        train, held_out = parted(pairs, self.recipe.seed)
        print(f"{self.encoder.name}: {len(train)} photos to learn from, {len(held_out)} held out")
        folder = out or tuned_folder(self.encoder.fingerprint)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tuning-", dir=folder.parent) as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            self._learn(train, made)
            figures = self._measured(made, train, held_out)
            print(figures.table(), flush=True)
            if not figures.helps:
                raise MMSearchError(
                    "looking closer finds no more on the held-out photos, for all that can be "
                    f"told, so nothing was written. {figures.table()}\nMore pairs may help, or "
                    "captions that say more of what is in the photos"
                )
            write_manifest(made, self.encoder, figures, len(train))
            move_details(made, folder)
        print(f"written to {folder}", flush=True)
        return figures

    def _learn(self, train: Sequence[Captioned], made: Path) -> None:
        """Leave the three graphs in a folder."""
        torch.manual_seed(self.recipe.seed)
        print("features of each place and of each word")
        words = TokenStates(self.tokens, self.states, self.marks)
        with tempfile.TemporaryDirectory(prefix=".features-", dir=made.parent) as scratch:
            pairs = features_of(self.encoder, train, self.places, words, Path(scratch))
            recipe = sized(self.recipe, len(pairs))
            print(f"regions and words: in batches of {recipe.row_batch}", flush=True)
            learnt = learn(pairs, self.states.width, recipe)
        print("graphs", flush=True)
        photos = PhotoTower(self.places, learnt.image)
        texts = WordTower(self.states, learnt.text, self.marks)
        write_graphs(made, self.model, photos, texts, learnt.matcher)

    def _measured(
        self, made: Path, train: Sequence[Captioned], held_out: Sequence[Captioned]
    ) -> Figures:
        print("held-out photos", flush=True)
        write_manifest(made, self.encoder)
        details = read_details(made, lambda: self.tokens)
        return figures_of(self.encoder, details, held_out, train)


def parted(pairs: Sequence[Captioned], seed: int) -> tuple[list[Captioned], list[Captioned]]:
    """Pairs to learn from, and pairs to judge by: no photo is in both."""
    dice = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pairs), generator=dice).tolist()
    kept = min(int(HELD_OUT * len(pairs)), MOST_HELD_OUT)
    return [pairs[row] for row in order[kept:]], [pairs[row] for row in order[:kept]]


def sized(recipe: Recipe, photos: int) -> Recipe:
    """A recipe for so many photos, of towers that stay as they are."""
    batch = min(max(photos // 4, BATCHES[0]), BATCHES[1], recipe.row_batch)
    epochs = math.ceil(STEPS / max(1, photos // batch))
    epochs = min(max(epochs, EPOCHS[0]), EPOCHS[1])
    return dataclasses.replace(recipe, row_batch=batch, row_rounds=((epochs, 1.0),), row_warm=0)


def learn(pairs: OwnPairs, width: int, recipe: Recipe) -> Reranking:
    """Rows of photos and of texts, and their match, trained on pairs.

    Args:
        pairs: To learn from.
        width: Of the states of tokens.
        recipe: How.
    """
    first = torch.from_numpy(pairs.grids[0][:MOMENTS_OF]).float()
    moments = moments_of(first.flatten(2).transpose(1, 2))
    image = PhotoSide(Regions(*moments, SIDE, recipe))
    text = WordSide(Words(width, recipe))
    training = Reranking(image, text, pairs, recipe)
    training.run()
    training.matcher.learn_hubs(*_typical(training, pairs))
    return training


def _typical(learnt: Reranking, pairs: OwnPairs) -> tuple[Tensor, Tensor]:
    """Rows of words and of regions to tell hubs by, of different photos."""
    bank = min(learnt.recipe.hub_bank, len(pairs) // 2)
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(learnt.recipe.seed))
    photos, captioned = order[:bank], order[bank : 2 * bank]
    with torch.no_grad():
        texts = rows_of_texts(learnt.text, pairs.captions, pairs.firsts[captioned])
        parts = [
            learnt.image(torch.from_numpy(pairs.grids[0][part.numpy()]).float())
            for part in torch.split(photos, AT_ONCE)
        ]
    return texts[:, OVERALL:], torch.cat(parts)[:, OVERALL:]


def write_graphs(
    folder: Path, model: TorchModel, photos: PhotoTower, texts: WordTower, matcher: Matcher
) -> None:
    """Write three graphs, complete each, and the weights of two beside them.

    Args:
        folder: An empty one.
        model: The one that both towers are parts of.
        photos: Pixels to rows.
        texts: Token ids to rows.
        matcher: Rows to how well they match.
    """
    towers: tuple[tuple[Modality, Any, str, str], ...] = (
        ("image", photos, REGIONS, REGIONS_WEIGHTS),
        ("text", texts, WORDS, WORDS_WEIGHTS),
    )
    for modality, tower, graph, weights in towers:
        raw = folder / "raw.onnx"
        write_graph(model, modality, tower, raw, {"rows": {0: "n", 1: "rows"}})
        simplified(raw, folder / graph, "EXTENDED", weights)
        for left in set(folder.iterdir()) - {folder / name for name in FILES}:
            left.unlink()  # a graph of 2 GB comes in many files
    (folder / RERANK).write_bytes(export_matcher(matcher))


def write_manifest(
    folder: Path, encoder: ClipEncoder, figures: Figures | None = None, photos: int = 0
) -> None:
    """Write what a folder's files are, and what they are worth if it is known.

    Args:
        folder: Where the graphs are.
        encoder: The model they belong to.
        figures: On held-out pairs.
        photos: How many were learnt from.
    """
    manifest: dict[str, Any] = {
        "name": encoder.name,
        "fingerprint": encoder.fingerprint,
        "match_weight": figures.weight if figures else 0.0,
        "photos": photos,
        "figures": dataclasses.asdict(figures) if figures else None,
        "sha256": {name: _sha256(folder / name) for name in FILES},
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def move_details(made: Path, folder: Path) -> None:
    """Put finished files where they are looked for; what was tuned before goes.

    The manifest is last: without one, nothing is there.
    """
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in (*FILES, MANIFEST):
        (made / name).replace(folder / name)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
