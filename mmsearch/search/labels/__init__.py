"""Zero-shot labels: what an item shows or sounds like, told from words alone."""

from mmsearch.search.labels.describing import Description, Said, describe
from mmsearch.search.labels.everyday import EVERYDAY
from mmsearch.search.labels.scoring import MIN_CONFIDENCE, Labeller, checked_labels, confidence_of
from mmsearch.search.labels.tagging import (
    FACETS,
    Wanted,
    facet_of,
    forget_labels,
    labels_of,
    remembered,
    tag_items,
    tag_new,
)

__all__ = [
    "EVERYDAY",
    "FACETS",
    "MIN_CONFIDENCE",
    "Description",
    "Labeller",
    "Said",
    "Wanted",
    "checked_labels",
    "confidence_of",
    "describe",
    "facet_of",
    "forget_labels",
    "labels_of",
    "remembered",
    "tag_items",
    "tag_new",
]
