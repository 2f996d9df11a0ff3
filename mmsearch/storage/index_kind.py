"""The kind of vector index that the user wants, and its least recall: two settings of a store."""

from __future__ import annotations

from mmsearch.errors import InvalidOption
from mmsearch.storage.store import SettingStore
from mmsearch.vectors.index_choice import AUTO, RECALL

KIND, LEAST_RECALL = "kind", "recall"


def wanted_index(settings: SettingStore) -> tuple[str, float]:
    """The kind that is wanted, and the least recall, a share."""
    return settings.get(KIND) or AUTO, float(settings.get(LEAST_RECALL) or RECALL)


def check_recall(recall: float | None) -> None:
    """Check that a recall is one.

    Raises:
        InvalidOption: it is not a share.
    """
    if recall is not None and not 0 < recall <= 1:
        raise InvalidOption(f"the recall is a share above 0, up to 1, not {recall}")


def want_index(settings: SettingStore, kind: str | None, recall: float | None) -> None:
    """Store the kind that is wanted, and the recall, both checked; None leaves one as it was."""
    if kind is not None:
        settings.set(KIND, kind)
    if recall is not None:
        settings.set(LEAST_RECALL, str(recall))
