"""Zero-shot labels: how likely a label fits a picture or a sound."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mmsearch.encoders import Encoder, multilingual_encoder
from mmsearch.errors import InvalidOption
from mmsearch.search.everyday_words import EVERYDAY
from mmsearch.search.setting_formats import one_or_several
from mmsearch.types import Modality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Vectors

TEMPLATES: dict[Modality, tuple[str, ...]] = {
    "image": (
        "a {}",
        "the {}",
        "a photo of a {}",
        "{} in the picture",
        "someone with a {}",
        "a person and a {}",
        "a {} outdoors",
    ),
    "audio": (
        "{}",
        "the sound of {}",
        "a recording of {}",
        "{} can be heard",
        "{} in the background",
    ),
}
"""A label's vector is the mean over these templates; benchmarks/labels.py compares them."""

PLAIN: dict[Modality, str] = {"image": "a photo of a {}", "audio": "the sound of {}"}
"""The only template of everyday words: seven do no better there."""

SLOPE, MIDPOINT = 0.96, 3.67
"""Of the logistic curve from standardised scores to confidence, fitted on half of Flickr8k dev."""

MIN_CONFIDENCE = 0.6
"""The default confidence from which an item is given a label: three of four such labels are right,
judged by the captions of Flickr8k, which do not name everything that a photo shows."""

PRIOR_SHARE = 0.06
"""The share of items that a label applies to, on average, in that half of Flickr8k dev."""

PRIOR_ITEMS, PRIOR_WEIGHT = 50, 0.4
"""Pseudo-counts, absolute and as a share of all items, that pull a label's estimated frequency
towards `PRIOR_SHARE`: what is estimated from scores alone is not fully trusted."""

BINS = 1000
"""Bins of the histogram of confidences that a label's frequency is estimated from."""

MAX_LENGTH = 100
"""Characters that a label can have."""

_ARTICLE = re.compile(r"^(an?|the)\s+", re.IGNORECASE)


def checked_labels(labels: str | Iterable[str]) -> list[str]:
    """Labels in canonical form: spaces collapsed, each once; a string is one label.

    Raises:
        InvalidOption: there is no label, or one is not text, empty or too long.
    """
    listed = one_or_several(labels)
    for label in listed:
        if not isinstance(label, str):
            raise InvalidOption(f"a label is text, not {label!r}")
    tidy = list(dict.fromkeys(" ".join(label.split()) for label in listed))
    if not tidy or not all(tidy):
        raise InvalidOption("a label is a word or a few: mmsearch tag dog 'birthday cake' beach")
    for label in tidy:
        if any("\ud800" <= char <= "\udfff" for char in label):
            raise InvalidOption(f"the label {label!r} is not text: it contains half a character")
        if len(label) > MAX_LENGTH:
            raise InvalidOption(f"a label has up to {MAX_LENGTH} characters, not {len(label)}")
    return tidy


class Labeller:
    """Scores vectors of one modality for some labels.

    An item's cosine to a label says little by itself, since some pictures are close to all words.
    So it is standardised by the same item's cosines to a few hundred everyday words. This needs
    neither other items nor a temperature of the model. If scores were standardised over the items
    of the index instead, rare labels would score too high and common ones too low
    (benchmarks/labels.py compares both).

    The modality, "image" or "audio", decides the templates.
    """

    def __init__(self, encoder: Encoder, modality: Modality, labels: Sequence[str]) -> None:
        self._vectors = label_vectors(encoder, modality, labels)
        written = [PLAIN[modality].format(word) for word in EVERYDAY[modality]]
        self._everyday = encoder.encode_query("text", written)

    def standardised(self, matrix: Vectors) -> NDArray[np.float32]:
        """(n, labels): for unit rows (n, dim), how far each label scores above everyday words.

        In standard deviations of the latter.
        """
        others = matrix @ self._everyday.T
        spread = others.std(axis=1, keepdims=True).clip(1e-6)
        found: NDArray[np.float32] = (
            matrix @ self._vectors.T - others.mean(axis=1, keepdims=True)
        ) / spread
        return found

    def confidence(self, matrix: Vectors) -> NDArray[np.float32]:
        """(n, labels) in [0, 1]: the confidence that each label fits each item."""
        return confidence_of(self.standardised(matrix))


def confidence_of(standardised: Any) -> NDArray[np.float32]:
    """Standardised scores as confidence in [0, 1]."""
    import numpy as np

    steps = np.clip(SLOPE * (np.asarray(standardised, np.float32) - MIDPOINT), -50, 50)
    found: NDArray[np.float32] = 1 / (1 + np.exp(-steps))
    return found


def frequency_odds(counts: NDArray[np.int64]) -> float:
    """The factor for the odds of a label, depending on how common it is in this index.

    The frequency of a label is estimated by expectation maximisation, so that it agrees with the
    mean of the adjusted confidences, and is pulled towards `PRIOR_SHARE`. On the half of Flickr8k
    dev that nothing was fitted on, this raises recall from a fifth to a quarter at the same
    precision.

    Args:
        counts: (BINS,) histogram of the items' confidences over [0, 1].

    Source: Saerens, Latinne & Decaestecker, Neural Computation 2002, section 2.2.
    """
    import numpy as np

    middles = (np.arange(BINS) + 0.5) / BINS
    total = int(counts.sum())
    prior = PRIOR_ITEMS + PRIOR_WEIGHT * total
    odds = 1.0
    for _ in range(50):
        expected = float(counts @ scale_odds(middles, odds))
        share = (expected + prior * PRIOR_SHARE) / (total + prior)
        odds = share / (1 - share) / (PRIOR_SHARE / (1 - PRIOR_SHARE))
    return odds


def scale_odds(confidence: Any, odds: float) -> Any:
    """Confidences in [0, 1], their odds multiplied by a factor."""
    import numpy as np

    share = np.asarray(confidence, dtype=np.float64)
    return share * odds / (share * odds + 1 - share)


def label_vectors(encoder: Encoder, modality: Modality, labels: Sequence[str]) -> Vectors:
    """Unit vectors (labels, dim): of each label, the mean over the templates.

    A label in another language stands alone: English words around it would be misleading.
    Source of the idea: Radford et al., ICML 2021, section 3.1.4.
    """
    import numpy as np

    templates = TEMPLATES[modality]
    multilingual = multilingual_encoder(encoder)
    written: list[str] = []
    for label in labels:
        if multilingual is not None and not multilingual.is_english(label):
            written += [label] * len(templates)
        else:
            name = _ARTICLE.sub("", label)
            written += [template.format(name) for template in templates]
    rows = encoder.encode_query("text", written).reshape(len(labels), len(templates), -1)
    mean = rows.mean(axis=1)
    found: Vectors = (mean / np.linalg.norm(mean, axis=1, keepdims=True).clip(1e-9)).astype(
        np.float32
    )
    return found


def best_labels(
    vectors: Vectors, encoder: Encoder, modality: Modality, labels: Sequence[str] | None, k: int
) -> list[tuple[str, float]]:
    """The k labels that fit one item with the highest confidences, and these.

    They are chosen from `labels`, or from everyday words if None. Of the item's vectors (n, dim),
    which the encoder made, the one that a label fits best counts.
    """
    choice = list(EVERYDAY[modality]) if labels is None else checked_labels(labels)
    confidence = Labeller(encoder, modality, choice).confidence(vectors).max(axis=0)
    best = sorted(zip(choice, confidence.tolist(), strict=True), key=lambda pair: -pair[1])
    return best[:k]
