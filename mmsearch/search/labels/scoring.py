"""How surely an item shows what a label says: compared with what else it might show."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmsearch.encoders import Encoder
from mmsearch.errors import InvalidOption
from mmsearch.search.labels.everyday import EVERYDAY
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
"""What a label is set into; its vector is the mean of them. benchmarks/labels.py says what each
is worth."""

PLAIN: dict[Modality, str] = {"image": "a photo of a {}", "audio": "the sound of {}"}
"""What everyday words are set into, with which a label is compared: one does as well as seven."""

SLOPE, MIDDLE = 0.96, 3.67
"""Of the curve from standardised scores to confidence, fitted on half of Flickr8k dev."""

MIN_CONFIDENCE = 0.6
"""From where an item is given a label unless told otherwise: there three of four are right, by the
captions of Flickr8k, which do not name everything that is to be seen."""

COMMON = 0.06
"""How many items have a label, as the curve takes it: the share in that half of Flickr8k dev."""

HELD, HELD_SHARE = 50, 0.4
"""Items, and share of all, for which a label's frequency in an index is taken to be `COMMON`: what
is estimated from the scores alone is not to be trusted wholly."""

BINS = 1000
"""Of the histogram of confidences that a label's frequency is estimated from."""

LONGEST = 100
"""Characters of a label."""

_ARTICLE = re.compile(r"^(an?|the)\s+", re.IGNORECASE)


def checked_labels(labels: str | Sequence[str]) -> list[str]:
    """Labels as they are kept: spaces tidied, each once; a string is one label.

    Raises:
        InvalidOption: there are none, or one is empty or longer than a label can be.
    """
    several = [labels] if isinstance(labels, str) else labels
    tidy = list(dict.fromkeys(" ".join(label.split()) for label in several))
    if not tidy or not all(tidy):
        raise InvalidOption("a label is a word or a few: mmsearch tag dog 'birthday cake' beach")
    for label in tidy:
        if any("\ud800" <= char <= "\udfff" for char in label):
            raise InvalidOption(f"the label {label!r} is no text: it holds half a character")
        if len(label) > LONGEST:
            raise InvalidOption(f"a label has up to {LONGEST} characters, not {len(label)}")
    return tidy


class Labeller:
    """Scores vectors of one facet for some labels.

    An item's cosine to a label says little by itself: some pictures are near all words. So it is
    standardised against the same item's cosines to a few hundred everyday words; that needs
    neither other items nor a scale of the model's. Against the other items of the index instead,
    rare labels would get too much and common ones too little (benchmarks/labels.py has both).

    Args:
        encoder: Makes vectors of the labels.
        facet: "image" or "audio": decides what labels are set into.
        labels: Whose scores are wanted.
    """

    def __init__(self, encoder: Encoder, facet: Modality, labels: Sequence[str]) -> None:
        self.labels = list(labels)
        self._vectors = label_vectors(encoder, facet, self.labels)
        written = [PLAIN[facet].format(word) for word in EVERYDAY[facet]]
        self._everyday = encoder.encode("text", written)

    def standardised(self, matrix: Vectors) -> NDArray[np.float32]:
        """(n, labels): how many standard deviations each label is above everyday words.

        Args:
            matrix: (n, dim) unit rows.
        """
        others = matrix @ self._everyday.T
        spread = others.std(axis=1, keepdims=True).clip(1e-6)
        found: NDArray[np.float32] = (
            matrix @ self._vectors.T - others.mean(axis=1, keepdims=True)
        ) / spread
        return found

    def confidence(self, matrix: Vectors) -> NDArray[np.float32]:
        """(n, labels) in [0, 1]: how surely each item shows each label."""
        return confidence_of(self.standardised(matrix))


def confidence_of(standardised: Any) -> NDArray[np.float32]:
    """Standardised scores as confidence in [0, 1]."""
    import numpy as np

    steps = np.clip(SLOPE * (np.asarray(standardised, np.float32) - MIDDLE), -50, 50)
    found: NDArray[np.float32] = 1 / (1 + np.exp(-steps))
    return found


def frequency_odds(counts: NDArray[np.int64]) -> float:
    """By what the odds of a label are to be multiplied, as it is more or less common in an index.

    Its frequency is what makes the mean of the confidences agree with it, found by expectation
    maximisation and held back towards `COMMON`. On the half of Flickr8k dev that nothing was fitted
    on, a quarter of true labels are given in place of a fifth, at the same precision.

    Args:
        counts: (BINS,) how many items have a confidence in each of equal stretches of [0, 1].

    Source: Saerens, Latinne & Decaestecker, Neural Computation 2002, section 2.2.
    """
    import numpy as np

    middles = (np.arange(BINS) + 0.5) / BINS
    total = int(counts.sum())
    held = HELD + HELD_SHARE * total
    odds = 1.0
    for _ in range(50):
        expected = float(counts @ shifted(middles, odds))
        share = (expected + held * COMMON) / (total + held)
        odds = share / (1 - share) / (COMMON / (1 - COMMON))
    return odds


def shifted(confidence: Any, odds: float) -> Any:
    """Confidences in [0, 1] when the odds are so many times as high."""
    import numpy as np

    sure = np.asarray(confidence, dtype=np.float64)
    return sure * odds / (sure * odds + 1 - sure)


def label_vectors(encoder: Encoder, facet: Modality, labels: Sequence[str]) -> Vectors:
    """A unit vector (labels, dim) each: the mean of the label in several phrases.

    Source of the idea: Radford et al., ICML 2021, section 3.1.4.
    """
    import numpy as np

    templates = TEMPLATES[facet]
    names = [_ARTICLE.sub("", label) for label in labels]
    written = [template.format(name) for name in names for template in templates]
    rows = encoder.encode("text", written).reshape(len(labels), len(templates), -1)
    mean = rows.mean(axis=1)
    found: Vectors = (mean / np.linalg.norm(mean, axis=1, keepdims=True).clip(1e-9)).astype(
        np.float32
    )
    return found
