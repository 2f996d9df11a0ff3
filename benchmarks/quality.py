"""How well a model retrieves, through the public API: recall in both directions, with intervals.

    python benchmarks/quality.py --data FOLDER [--model mini] [--split dev]

FOLDER holds captions.tsv (file, tab, caption), images/ and {split}.txt (file names), as the
Flickr8k folder does. text→image asks every caption for its photo among the split's photos;
image→text asks every photo for any of its captions among all of the split's captions.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

import mmsearch
from mmsearch.media.captions import read_captions
from mmsearch.metrics import bootstrap_interval, per_query, recall_at_k, reciprocal_rank

CUTOFFS = (1, 5, 10)


def text_to_image(photos: dict[str, list[str]], folder: Path, model: str, work: Path) -> np.ndarray:
    """Metric values (photos, metrics); a photo's captions are averaged, being no separate draws."""
    with mmsearch.index(
        [folder / name for name in photos], into=work / "i", model=model
    ) as library:
        queries = [(name, text) for name, texts in photos.items() for text in texts]
        hits = library.search_many([text for _, text in queries], k=CUTOFFS[-1], target="image")
    rankings = [[Path(hit.path).name for hit in found] for found in hits]
    values = measures(rankings, [{name} for name, _ in queries])
    owners = np.array([name for name, _ in queries])
    return np.array([values[owners == name].mean(axis=0) for name in photos])


def image_to_text(photos: dict[str, list[str]], folder: Path, model: str, work: Path) -> np.ndarray:
    """Metric values (photos, metrics)."""
    texts = work / "texts"
    texts.mkdir()
    for name, captions in photos.items():
        for number, caption in enumerate(captions):
            (texts / f"{name}.{number}.txt").write_text(caption, encoding="utf-8")
    with mmsearch.index(texts, into=work / "t", model=model) as library:
        queries = [mmsearch.Query.image(folder / name) for name in photos]
        hits = library.search_many(queries, k=CUTOFFS[-1], target="text")
    rankings = [[Path(hit.path).name for hit in found] for found in hits]
    relevant = [{f"{name}.{n}.txt" for n in range(len(texts))} for name, texts in photos.items()]
    return measures(rankings, relevant)


def measures(rankings: list[list[str]], relevant: list[set[str]]) -> np.ndarray:
    metrics = [partial(recall_at_k, k=k) for k in CUTOFFS] + [reciprocal_rank]
    return np.stack([per_query(metric, rankings, relevant) for metric in metrics], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--split", default="dev")
    options = parser.parse_args()
    chosen = (options.data / f"{options.split}.txt").read_text(encoding="utf-8").split()
    captions = read_captions(options.data / "captions.tsv")
    photos = {name: captions[name] for name in chosen}
    names = [f"R@{k}" for k in CUTOFFS] + [f"MRR@{CUTOFFS[-1]}"]
    print(f"{options.model}, {len(photos)} photos, {sum(map(len, photos.values()))} captions; %")
    print(f"{'':<12}" + "".join(f"{name:>22}" for name in names))
    for title, run in (("text→image", text_to_image), ("image→text", image_to_text)):
        with tempfile.TemporaryDirectory() as work:
            values = 100 * run(photos, options.data / "images", options.model, Path(work))
        cells = [bootstrap_interval(column) for column in values.T]
        shown = (f"{cell.mean:.1f} [{cell.low:.1f}, {cell.high:.1f}]" for cell in cells)
        print(f"{title:<12}" + "".join(f"{cell:>22}" for cell in shown))


if __name__ == "__main__":
    main()
