"""The models whose own code the user lets run, by name and by the hash of their files."""

from __future__ import annotations

from mmsearch.encoders.model_settings import store, stored

KEY = "trusted"


def is_trusted(name: str, fingerprint: str) -> bool:
    """Whether the user trusts the code of a model, as its files are."""
    return _trusted().get(name) == fingerprint


def trust(name: str, fingerprint: str) -> None:
    """Let the code of a model run, until one of its files changes.

    Raises:
        InvalidOption: the settings cannot be written.
    """
    store(KEY, {**_trusted(), name: fingerprint})


def _trusted() -> dict[str, object]:
    found = stored().get(KEY)
    return found if isinstance(found, dict) else {}
