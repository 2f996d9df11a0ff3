"""Flickr8k, ESC-10 and folders laid out like them: the data of the benchmarks of ranking."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import mmsearch
from mmsearch.media.captions import read_captions
from mmsearch.metrics import bootstrap_interval, ranks_from_scores

AT_ONCE = 64


@dataclass(frozen=True)
class Photos:
    """Photos with their captions, as unit rows."""

    images: np.ndarray
    texts: np.ndarray
    owner: np.ndarray
    """Of each text, the row of its photo."""
    captions: list[str]

    def first(self) -> np.ndarray:
        """The row of each photo's first caption."""
        return np.unique(self.owner, return_index=True)[1]


def options(summary: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--data", type=Path, required=True, help="captions.tsv, images/, dev.txt")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--cache", type=Path, default=Path(".cache/dev"))
    return parser


def photos_of(given: argparse.Namespace, split: str) -> Photos:
    """A split's photos, encoded if they are not cached (40 photos per second and core)."""
    path = given.cache / f"{given.model.replace(':', '-').replace('/', '-')}-{split}.npz"
    if not path.exists():
        paths = split_of(given.data, split)
        captions = read_captions(given.data / "captions.tsv")
        pairs = [(row, text) for row, file in enumerate(paths) for text in captions[file.name]]
        encoder = mmsearch.load_encoder(given.model)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            path,
            images=encode_images(encoder, paths),
            texts=encoder.encode("text", [text for _, text in pairs]),
            owner=np.array([row for row, _ in pairs]),
            captions=np.array([text for _, text in pairs]),
        )
    with np.load(path) as saved:
        captions = saved["captions"].tolist()
        return Photos(saved["images"], saved["texts"], saved["owner"], captions)


def split_of(folder: Path, split: str) -> list[Path]:
    """The photos that `{split}.txt` names."""
    names = (folder / f"{split}.txt").read_text(encoding="utf-8").split()
    return [folder / "images" / name for name in names]


def opened(photo: Path | Image.Image) -> Image.Image:
    return Image.open(photo).convert("RGB") if isinstance(photo, Path) else photo


def encode_images(encoder: Any, photos: Sequence[Path | Image.Image]) -> np.ndarray:
    starts = range(0, len(photos), AT_ONCE)
    batches = ([opened(photo) for photo in photos[start : start + AT_ONCE]] for start in starts)
    return np.concatenate([encoder.encode("image", batch) for batch in batches])


def labelled_sounds(folder: Path) -> list[tuple[Path, str]]:
    """The sounds of `labels.tsv` that there are, and their classes."""
    lines = (folder / "labels.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t")[:2] for line in lines if "\t" in line]
    sounds = [(folder / "audio" / name, label) for name, label in pairs]
    return [(path, label) for path, label in sounds if path.is_file()]


def recalls(scores: np.ndarray, right: list[list[int]], groups: np.ndarray) -> np.ndarray:
    """R@1, R@5, R@10 and MRR in per cent (groups, 4); the queries of one photo are one group."""
    ranks = ranks_from_scores(scores, right)
    values = 100 * np.stack([ranks <= 1, ranks <= 5, ranks <= 10, 1 / ranks], axis=1)
    return by_group(values, groups)


def by_group(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The mean of the rows (n, m) of each group."""
    names, row = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, row, values)
    return sums / np.bincount(row)[:, None]


def show(name: str, values: np.ndarray, before: np.ndarray | None = None) -> None:
    """Print one line: means, and with `before` the paired differences with their intervals."""
    means = " ".join(f"{mean:5.1f}" for mean in values.mean(axis=0))
    line = f"{name:<48} {means}"
    if before is not None:
        cells = [bootstrap_interval(column) for column in (values - before).T]
        line += " " + " ".join(
            f"{f'{cell.mean:+.1f} [{cell.low:+.1f}, {cell.high:+.1f}]':>20}" for cell in cells
        )
    print(line, flush=True)
