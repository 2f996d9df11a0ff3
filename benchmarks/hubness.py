"""The effect of hubness correction on recall: forms, banks and weights, with paired intervals.

    python benchmarks/hubness.py --data FLICKR8K [--stamps TUXPAINT] [--model mini]

FLICKR8K holds captions.tsv, images/, train.txt and dev.txt; TUXPAINT captions.tsv and images/.
Weights were chosen on the dev split, so its figures are slightly optimistic; the banks contain
nothing of it. Differences are to the plain cosine, in points, with 95 % bootstrap intervals over
photos.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from datasets import Photos, encode_images, options, photos_of, recalls, show

import mmsearch
from mmsearch.encoders.query_bank import shipped_bank, typical_texts
from mmsearch.media.captions import read_captions
from mmsearch.vectors.hubness import hubs

Run = Callable[[np.ndarray], np.ndarray]
"""Returns recalls, given the penalties (items,) that are subtracted from the scores."""


def text_to_image(photos: Photos) -> Run:
    right = [[row] for row in photos.owner.tolist()]
    return lambda penalty: recalls(photos.texts @ photos.images.T - penalty, right, photos.owner)


def image_to_text(photos: Photos) -> Run:
    right = [np.flatnonzero(photos.owner == row).tolist() for row in range(len(photos.images))]
    groups = np.arange(len(photos.images))
    return lambda penalty: recalls(photos.images @ photos.texts.T - penalty, right, groups)


def text_to_text(photos: Photos) -> Run:
    first = photos.first()
    queries = np.setdiff1d(np.arange(len(photos.texts)), first)
    owner = photos.owner[queries]
    scores = photos.texts[queries] @ photos.texts[first].T
    return lambda penalty: recalls(scores - penalty, [[row] for row in owner.tolist()], owner)


def inverted_softmax(matrix: np.ndarray, bank: np.ndarray, sharpness: float) -> np.ndarray:
    """What querybank normalisation subtracts: log Σ exp(b·cos) / b over the bank.

    Source: Smith et al., ICLR 2017; Bogolin et al., CVPR 2022.
    """
    products = sharpness * (matrix @ bank.T)
    largest = products.max(axis=1, keepdims=True)
    sums = np.exp(products - largest).sum(axis=1)
    return (largest[:, 0] + np.log(sums)) / sharpness


def forms(title: str, run: Run, matrix: np.ndarray, bank: np.ndarray) -> None:
    before = run(np.zeros(len(matrix)))
    show(f"{title}: plain cosine", before)
    for nearest in (5, 20, 50, 300):
        for weight in (0.25, 0.5, 0.75):
            penalty = weight * hubs(matrix, bank, nearest)
            show(f"  {weight} · mean of {nearest} nearest of {len(bank)}", run(penalty), before)
    for sharpness in (10.0, 20.0, 40.0):
        penalty = inverted_softmax(matrix, bank, sharpness)
        show(f"  inverted softmax, sharpness {sharpness:.0f}", run(penalty), before)


def sizes(title: str, run: Run, matrix: np.ndarray, bank: np.ndarray) -> None:
    before = run(np.zeros(len(matrix)))
    print(title)
    for size in (250, 500, 1_000, 2_000, 4_000):
        if size <= len(bank):
            show(f"  0.5 · hub, bank of {size}", run(0.5 * hubs(matrix, bank[:size])), before)


def any_model(dev: Photos, sentences: np.ndarray) -> None:
    """Banks that need no captions: sentences, and half of the index's own images."""
    print("a bank made for any model")
    run = text_to_image(dev)
    before = run(np.zeros(len(dev.images)))
    for weight in (0.25, 0.5):
        penalty = weight * hubs(dev.images, sentences)
        show(f"  text→image, {len(sentences)} sentences, {weight}", run(penalty), before)
    for weight in (0.25, 0.5):
        halves = []
        for turn in (0, 1):  # queried with the other half of the photos
            queries = np.arange(turn, len(dev.images), 2)
            half = dev.images[1 - turn :: 2]
            right = [np.flatnonzero(dev.owner == row).tolist() for row in queries]
            scores = dev.images[queries] @ dev.texts.T
            plain = recalls(scores, right, queries)
            halves.append((recalls(scores - weight * hubs(dev.texts, half), right, queries), plain))
        after, plain = (np.concatenate(part) for part in zip(*halves, strict=True))
        show(f"  image→text, {len(dev.images) // 2} own images, {weight}", after, plain)


def within(dev: Photos, bank: dict[str, np.ndarray]) -> None:
    print("text→text: captions 2-5 find the first")
    run, first = text_to_text(dev), dev.texts[dev.first()]
    before = run(np.zeros(len(first)))
    show("  plain cosine", before)
    for weight in (0.1, 0.25, 0.5):
        show(f"  {weight} · hub", run(weight * hubs(first, bank["text"])), before)
    every = dev.texts @ dev.texts.T
    for weight in (0.25, 0.5):
        top = (every - weight * hubs(dev.texts, bank["text"])).argmax(axis=1)
        lost = int((every[np.arange(len(top)), top] < 0.999).sum())
        print(f"  {weight}: {lost} of {len(top)} captions do not rank first for themselves")


def stamps(folder: Path, model: str, dev: Photos, bank: dict[str, np.ndarray]) -> None:
    """Clip art queried by its captions, alone and mixed with photos."""
    pairs = [(name, texts[0]) for name, texts in read_captions(folder / "captions.tsv").items()]
    encoder = mmsearch.load_encoder(model)
    art = encode_images(encoder, [folder / "images" / name for name, _ in pairs])
    texts = encoder.encode("text", [text for _, text in pairs])
    alone = Photos(art, texts, np.arange(len(art)), [])
    both = np.concatenate([art, dev.images])
    mixed = Photos(both, texts, np.arange(len(art)), [])
    photos_among_art = Photos(both, dev.texts, dev.owner + len(art), [])
    for title, photos in (
        (f"caption→clip art, {len(art)}", alone),
        (f"caption→clip art among {len(both)}", mixed),
        (f"caption→photo among {len(both)}", photos_among_art),
    ):
        run = text_to_image(photos)
        before = run(np.zeros(len(photos.images)))
        show(f"{title}: plain cosine", before)
        show("  0.5 · hub", run(0.5 * hubs(photos.images, bank["text"])), before)


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--stamps", type=Path)
    given = parser.parse_args()
    dev, train = photos_of(given, "dev"), photos_of(given, "train")
    encoder = mmsearch.load_encoder(given.model)
    print(f"{'':<48} {'R@1':>5} {'R@5':>5} {'R@10':>5} {'MRR':>5}   and differences")
    order = np.random.default_rng(0).permutation(len(train.texts))
    captions, photos = train.texts[order], train.images[np.unique(order % len(train.images))]
    sizes(
        "text→image by size of the bank (train captions)", text_to_image(dev), dev.images, captions
    )
    sizes("image→text by size of the bank (train photos)", image_to_text(dev), dev.texts, photos)
    any_model(dev, encoder.encode("text", typical_texts()))
    shipped = shipped_bank(given.model, encoder.fingerprint)
    if shipped is None:
        return
    bank = dict(shipped.rows)
    forms("text→image, shipped bank", text_to_image(dev), dev.images, bank["text"])
    forms("image→text, shipped bank", image_to_text(dev), dev.texts, bank["image"])
    within(dev, bank)
    if given.stamps:
        stamps(given.stamps, given.model, dev, bank)


if __name__ == "__main__":
    main()
