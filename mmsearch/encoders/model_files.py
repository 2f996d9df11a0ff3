"""Files of models: checked by their hashes, hashed once, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from mmsearch.errors import ModelDamaged
from mmsearch.home import cache_folder

Loaded = TypeVar("Loaded")

MANIFEST = "manifest.json"


class ModelFiles:
    """A folder with a manifest.json that gives the SHA-256 of each file. Safe to use from threads.

    Args:
        folder: The folder.
        what: What it holds, for messages.
        cure: What to do if it is damaged.

    Raises:
        ModelDamaged: the manifest is missing or cannot be read.
    """

    def __init__(self, folder: Path, *, what: str, cure: str) -> None:
        self.folder, self._what, self._cure = folder, what, cure
        self._loading = threading.Lock()
        self._loaded: dict[str, Any] = {}
        try:
            self.manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            self.sha256: dict[str, str] = dict(self.manifest["sha256"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self.damaged(MANIFEST, "cannot be read") from error

    def once(self, key: str, load: Callable[[], Loaded]) -> Loaded:
        """What `load` returned for this key, in whatever thread."""
        with self._loading:
            if key not in self._loaded:
                self._loaded[key] = load()
            loaded: Loaded = self._loaded[key]
            return loaded

    def checked(self, name: str) -> Path:
        """The path of a file whose content is what the manifest says.

        Raises:
            ModelDamaged: it is missing, or its content differs.
        """
        path = self.folder / name
        try:
            found = file_sha256(path)
        except OSError as error:
            raise self.damaged(name, "cannot be read") from error
        if found != self.sha256.get(name):
            raise self.damaged(name, "is not the file that was made (its SHA-256 differs)")
        return path

    def joined(self, *names: str) -> Path | bytes:
        """The path of a file; of several, their content, end to end. All are checked as above."""
        paths = [self.checked(name) for name in names]
        return paths[0] if len(paths) == 1 else b"".join(path.read_bytes() for path in paths)

    def damaged(self, name: str, problem: str) -> ModelDamaged:
        """The error for a file that cannot be used, with the cure."""
        return ModelDamaged(
            f"{self._what} is damaged: {self.folder / name} {problem}. {self._cure}"
        )


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if there is none, or it cannot be read."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else None
    return None


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write an object to a cache; one that cannot be written to costs only time."""
    with suppress(OSError):
        replace_file(path, json.dumps(value, indent=1, sort_keys=True))


def replace_file(path: Path, text: str) -> None:
    """Write a text file whole, or leave what was there.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}-{os.getpid()}-{threading.get_ident()}")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, read again only when its size or modification time has changed."""
    real = path.resolve()
    stat = real.stat()
    stamp = {"path": str(real), "size": stat.st_size, "modified": stat.st_mtime_ns}
    record = cache_folder() / "towers" / "hashes" / f"{short_hash(str(real))}.json"
    known = read_json(record)
    if known is not None and {key: known.get(key) for key in stamp} == stamp:
        return str(known["sha256"])
    sha256 = file_sha256(real)
    write_json(record, stamp | {"sha256": sha256})
    return sha256


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short_hash(text: str) -> str:
    """Sixteen hexadecimal digits that identify a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
