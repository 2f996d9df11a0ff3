"""Teaches the built-in model to look closer: its own photos and texts for `rerank`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mmsearch.encoders.mini_match import REGIONS, RERANK, WORDS
from mmsearch.training.data import CAPTIONS_A_PHOTO, read_split
from mmsearch.training.features import text_states
from mmsearch.training.grids import SHAPE, grids_of
from mmsearch.training.package import add_details
from mmsearch.training.recipe import Recipe
from mmsearch.training.regions import OVERALL, ImageSide, Regions, TextSide, Words, moments_of
from mmsearch.training.rerank import Pairs, Reranking, rows_of_texts
from mmsearch.training.rows_export import export_matcher, export_regions, export_words
from mmsearch.training.trunks import ImageTrunk, TextTrunk

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
