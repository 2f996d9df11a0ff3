"""How well a model's folder retrieves, measured through the encoder that searches use."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmsearch.encoders.mini.encoder import MiniEncoder, load_mini
from mmsearch.encoders.onnx import import_onnxruntime
from mmsearch.encoders.query_bank import shipped_bank
from mmsearch.metrics import Interval, bootstrap_interval, ranks_from_scores
from mmsearch.search.rerank import rerank
from mmsearch.training.backbones import Classifier, ImageTrunk
from mmsearch.training.data import (
    PLAIN,
    LabelledSet,
    Split,
    class_prompts,
    load_view,
    photo_pixels,
    read_labelled,
    read_split,
    read_unsplit,
)
from mmsearch.training.languages import Sources
from mmsearch.training.onnx_graphs import export_image
from mmsearch.vectors.hubness import hub_weight, hubs

if TYPE_CHECKING:
    from mmsearch.encoders.clip.token_towers import TokenTowers
    from mmsearch.types import Modality, Vectors

    TokenRows = Sequence[NDArray[np.int8]]

CUTOFFS = (1, 5, 10)
CERTAIN = 0.5
"""A photo counts as showing a class if the classifier's probability exceeds this."""
CANDIDATES = 100
"""The number of best items of the first stage that are reranked."""

Recalls = dict[int, Interval]
"""Recall at each cutoff, in per cent, with its interval."""


def hit_rates(hits: NDArray[np.bool_], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share of hits in each group, in per cent: a photo's captions are not independent."""
    sizes = np.bincount(groups)
    rates: NDArray[np.float64] = np.bincount(groups, weights=hits)[sizes > 0] / sizes[sizes > 0]
    return 100 * rates


def recalls(
    scores: NDArray[np.float32], positives: Sequence[Collection[int]], groups: Sequence[int]
) -> Recalls:
    """Recall@1/5/10 of queries against items.

    Args:
        scores: (queries, items).
        positives: For each query, the relevant items.
        groups: For each query, its group; intervals treat the queries of a group as one.
    """
    ranks = ranks_from_scores(scores, positives)
    of_query = np.asarray(groups)
    return {k: bootstrap_interval(hit_rates(ranks <= k, of_query)) for k in CUTOFFS}


def dev_recalls(photos: Vectors, texts: Vectors, split: Split) -> dict[str, Recalls]:
    """Both directions on a split of captioned photos."""
    owners = split.owners
    return {
        "text→image": recalls(texts @ photos.T, [[owner] for owner in owners], owners),
        "image→text": recalls(photos @ texts.T, split.text_rows, range(len(photos))),
    }


def class_recalls(
    photos: Vectors, names: Vectors, posteriors: NDArray[np.float32]
) -> dict[str, Recalls]:
    """Class names against photos whose class the frozen ImageNet classifier is certain of.

    The classifier is not part of the model, so this measures how much of its knowledge of real
    photos the space retains, beyond that from captions.
    """
    top = posteriors.argmax(1)
    certain = np.flatnonzero(posteriors.max(1) > CERTAIN)
    classes = sorted(set(top[certain].tolist()))
    of_class = [[int(row) for row in certain if top[row] == name] for name in classes]
    return {
        "photo→class name": recalls(
            photos[certain] @ names.T, [[int(top[row])] for row in certain], range(len(certain))
        ),
        "class name→photo": recalls(names[classes] @ photos.T, of_class, range(len(classes))),
    }


def picture_recalls(encoder: MiniEncoder, folder: Path) -> dict[str, Recalls]:
    """Captions against pictures of a kind never trained on (a folder with `captions.tsv`)."""
    lines = (folder / "captions.tsv").read_text(encoding="utf-8").splitlines()
    names, captions = zip(*(line.split("\t")[:2] for line in lines), strict=True)
    pixels = photo_pixels(encoder, [folder / "images" / name for name in names])
    scores = encoder.encode("text", captions) @ encoder.encode("image", pixels).T
    same = [[row for row, other in enumerate(captions) if other == text] for text in captions]
    return {"caption→picture": recalls(scores, same, range(len(captions)))}


def class_posteriors(split: Split) -> NDArray[np.float32]:
    """The ImageNet classifier's probabilities (photos, 1000)."""
    session = import_onnxruntime().InferenceSession(export_image(Classifier(ImageTrunk())))
    found = []
    for start in range(0, len(split.files), 20):
        pixels = np.stack([load_view(path, PLAIN, 0) for path in split.paths[start : start + 20]])
        found.append(session.run(None, {"pixels": pixels})[0])
    return np.concatenate(found)


def label_accuracy(encoder: MiniEncoder, labelled: LabelledSet) -> Interval:
    """The share of photos, in per cent, whose label is the first of all of their set."""
    photos = encoder.encode("image", photo_pixels(encoder, labelled.paths))
    names = encoder.encode("text", [f"a photo of {label}" for label in labelled.labels])
    hits = (photos @ names.T).argmax(1) == np.array(labelled.of_photo)
    return bootstrap_interval(100.0 * hits)


def evaluate(
    model: Path,
    data: Path,
    pictures: Path | None = None,
    coco: Path | None = None,
    labelled: Path | None = None,
) -> None:
    """Print the recalls of a model's folder on the dev splits, a row each.

    Args:
        model: The folder.
        data: Captioned photos with a dev split.
        pictures: A folder of other captioned pictures, to evaluate on as well.
        coco: Captioned photos without splits of their own.
        labelled: Sets of labelled photos.
    """
    encoder = load_mini(model)
    split = read_split(data, "dev")
    found, photos = _split_recalls(encoder, split)
    names = encoder.encode("text", class_prompts(0)[0])
    found |= class_recalls(photos, names, class_posteriors(split))
    if pictures is not None:
        found |= picture_recalls(encoder, pictures)
    if coco is not None:
        of_coco, _ = _split_recalls(encoder, read_unsplit(coco, "dev"))
        found |= {f"COCO {direction}": at for direction, at in of_coco.items()}
    for name, at in found.items():
        print(f"{name:18}", _text_of(at))
    for one in read_labelled(labelled, "dev") if labelled else ():
        right = label_accuracy(encoder, one)
        print(f"{one.name:18} accuracy {right.mean:.1f} [{right.low:.1f}, {right.high:.1f}]")


def _split_recalls(encoder: MiniEncoder, split: Split) -> tuple[dict[str, Recalls], Vectors]:
    """Both directions on a split, and the vectors of its photos."""
    photos = encoder.encode("image", photo_pixels(encoder, split.paths))
    return dev_recalls(photos, encoder.encode("text", split.texts), split), photos


def _text_of(at: Recalls) -> str:
    return " ".join(f"R@{k} {r.mean:.1f} [{r.low:.1f}, {r.high:.1f}]" for k, r in at.items())


def evaluate_languages(model: Path, sources: Sources) -> None:
    """Print the recalls of captions in each language on the dev photos.

    Args:
        model: The folder of the model.
        sources: Whose photos and captions are measured; nothing was trained on the dev split.
    """
    encoder, split = load_mini(model), read_split(sources.data, "dev")
    photos = encoder.encode("image", photo_pixels(encoder, split.paths))
    row_of = {file: row for row, file in enumerate(split.files)}
    for language, by_photo in sources.captions().items():
        pairs = [
            (text, row_of[file])
            for file, texts in by_photo.items()
            if file in row_of
            for text in texts
        ]
        texts, owners = map(list, zip(*pairs, strict=True))
        scores = encoder.encode("text", texts) @ photos.T
        found = recalls(scores, [[owner] for owner in owners], owners)
        print(f"{language + ' text→image':18}", _text_of(found))


# ---------------------------------------------------------------------- reranking


def evaluate_rerank(model: Path, data: Path) -> None:
    """Print the recalls of a model's folder on the dev split at each stage, and the last's gain."""
    encoder, split = load_mini(model), read_split(data, "dev")
    if not encoder.token_modalities:
        return
    photos = encoder.encode_with_tokens("image", photo_pixels(encoder, split.paths))
    texts = encoder.encode_with_tokens("text", split.texts)
    owners = [[owner] for owner in split.owners]
    by_text = stage_ranks(encoder, "text", texts, photos, owners)
    by_photo = stage_ranks(encoder, "image", photos, texts, split.text_rows)
    _print_stages("text→image", by_text, np.asarray(split.owners))
    _print_stages("image→text", by_photo, np.arange(len(split.files)))


def stage_ranks(
    encoder: MiniEncoder,
    query_modality: Modality,
    queries: tuple[Vectors, TokenRows],
    items: tuple[Vectors, TokenRows],
    positives: Sequence[Sequence[int]],
) -> dict[str, NDArray[np.int64]]:
    """The rank of each query's first relevant item, (queries,), at each stage."""
    cosines = queries[0] @ items[0].T
    bank = shipped_bank(encoder.name, encoder.fingerprint)
    corrected = without_hubs(cosines, query_modality, items[0], bank.rows if bank else {})
    reranked = corrected - 100.0  # items that are not candidates come last
    best_of_each = candidates(encoder, query_modality, corrected, queries[1], items[1])
    for row, (best, match) in enumerate(best_of_each):
        reranked[row, best] = rerank(corrected[row, best], match, encoder.match_weight)
    stages = {"cosine": cosines, "less hubs": corrected, "reranked": reranked}
    return {stage: ranks_from_scores(scores, positives) for stage, scores in stages.items()}


def without_hubs(
    cosines: NDArray[np.float32],
    query_modality: Modality,
    items: Vectors,
    bank: Mapping[Modality, Vectors],
    *,
    shipped: bool = True,
) -> NDArray[np.float32]:
    """Cosines (queries, items) less the items' hubs, as far as the bank has queries like these."""
    if query_modality not in bank:
        return cosines
    modality: Modality = "image" if query_modality == "text" else "text"
    weight = hub_weight(query_modality, modality, shipped=shipped)
    return cosines - weight * hubs(items, bank[query_modality])


def candidates(
    encoder: MiniEncoder | TokenTowers,
    query_modality: Modality,
    scores: NDArray[np.float32],
    queries: TokenRows,
    items: TokenRows,
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """For each query, its best items by `scores` (queries, items), and how well they match it."""
    for row, tokens in zip(scores, queries, strict=True):
        best = np.argsort(-row, kind="stable")[:CANDIDATES]
        yield best, encoder.match(query_modality, tokens, [items[item] for item in best])


def _print_stages(
    direction: str, ranks: Mapping[str, NDArray[np.int64]], groups: NDArray[np.int64]
) -> None:
    """A row per stage, and one of the last stage's gain, with paired 95 % bootstrap intervals."""
    rates = {stage: {k: hit_rates(at <= k, groups) for k in CUTOFFS} for stage, at in ranks.items()}
    rates["gain"] = {k: rates["reranked"][k] - rates["less hubs"][k] for k in CUTOFFS}
    for stage, rates_at in rates.items():
        row = _text_of({k: bootstrap_interval(values) for k, values in rates_at.items()})
        print(f"{direction} {stage:10}", row)
