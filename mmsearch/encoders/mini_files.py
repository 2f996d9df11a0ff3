"""The files of the built-in model: read when first needed, if they are what was shipped."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mmsearch.errors import ModelDamaged

Loaded = TypeVar("Loaded")


class ModelFiles:
    """The files of a model's folder, and what was loaded from them. Safe to use from threads."""

    def __init__(self, folder: Path, sha256: dict[str, str]) -> None:
        self.folder, self.sha256 = folder, sha256
        self._loading = threading.Lock()
        self._loaded: dict[str, Any] = {}

    @property
    def names(self) -> set[str]:
        """Of the files that belong to the model."""
        return set(self.sha256)

    def once(self, name: str, load: Callable[[], Loaded]) -> Loaded:
        """What `load` gives, unless it was loaded before or by another thread meanwhile."""
        with self._loading:
            if name not in self._loaded:
                self._loaded[name] = load()
            loaded: Loaded = self._loaded[name]
            return loaded

    def checked(self, name: str) -> Path:
        """Where one of the files lies, once it is known to be what was shipped.

        Raises:
            ModelDamaged: it is missing, or another.
        """
        path = self.folder / name
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise damaged(path, "cannot be read") from error
        if found != self.sha256[name]:
            raise damaged(path, "is not the file that was shipped (its SHA-256 differs)")
        return path

    def joined(self, *names: str) -> bytes:
        """Files that are read as one, end to end.

        Raises:
            ModelDamaged: one is missing, or another.
        """
        return b"".join(self.checked(name).read_bytes() for name in names)


def damaged(path: Path, what: str) -> ModelDamaged:
    """The error that says how to get the model back."""
    return ModelDamaged(
        f"the built-in model is damaged: {path} {what}. "
        "Reinstall it: pip install --force-reinstall --no-deps mmsearch"
    )
