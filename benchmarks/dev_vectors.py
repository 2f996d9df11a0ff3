"""Vectors of a captioned split, encoded once and kept: what the benchmarks of ranking work on."""

from __future__ import annotations

import argparse
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


def photos_of(asked: argparse.Namespace, split: str) -> Photos:
    """A split's photos; encoded if the cache has not got them (40 photos a second and core)."""
    path = asked.cache / f"{asked.model.replace(':', '-').replace('/', '-')}-{split}.npz"
    if not path.exists():
        names = (asked.data / f"{split}.txt").read_text(encoding="utf-8").split()
        captions = read_captions(asked.data / "captions.tsv")
        pairs = [(row, text) for row, name in enumerate(names) for text in captions[name]]
        encoder = mmsearch.load_encoder(asked.model)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            path,
            images=pictures(encoder, [asked.data / "images" / name for name in names]),
            texts=encoder.encode("text", [text for _, text in pairs]),
            owner=np.array([row for row, _ in pairs]),
            captions=np.array([text for _, text in pairs]),
        )
    with np.load(path) as held:
        return Photos(held["images"], held["texts"], held["owner"], held["captions"].tolist())


def pictures(encoder: Any, paths: list[Path]) -> np.ndarray:
    parts = []
    for start in range(0, len(paths), AT_ONCE):
        opened = [Image.open(path).convert("RGB") for path in paths[start : start + AT_ONCE]]
        parts.append(encoder.encode("image", opened))
    return np.concatenate(parts)


def recalls(scores: np.ndarray, right: list[list[int]], groups: np.ndarray) -> np.ndarray:
    """R@1, R@5, R@10 and MRR in per cent (groups, 4): the queries of one photo are one draw."""
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
    """One line: means, and with `before` the paired differences with their intervals."""
    means = " ".join(f"{mean:5.1f}" for mean in values.mean(axis=0))
    line = f"{name:<48} {means}"
    if before is not None:
        cells = [bootstrap_interval(column) for column in (values - before).T]
        line += " " + " ".join(
            f"{f'{cell.mean:+.1f} [{cell.low:+.1f}, {cell.high:+.1f}]':>20}" for cell in cells
        )
    print(line, flush=True)
