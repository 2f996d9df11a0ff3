"""From data to the model's folder, step by step."""

from __future__ import annotations

from pathlib import Path

import torch

from mmsearch.encoders.mini import load_mini
from mmsearch.training.data import read_split
from mmsearch.training.export import export_image, export_text
from mmsearch.training.fit import Tuning, fit_heads
from mmsearch.training.heads import Head, ImageTower, TextTower, moments
from mmsearch.training.hearing import hear
from mmsearch.training.listen import concepts_of, export_audio, fit_audio
from mmsearch.training.package import add_hearing, write_model
from mmsearch.training.quantise import small_image, small_text
from mmsearch.training.recipe import Recipe
from mmsearch.training.sounds import read_esc10, read_stamps
from mmsearch.training.training_data import gather
from mmsearch.training.trunks import ImageTrunk, TextTrunk


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
