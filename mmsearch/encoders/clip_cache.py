"""What is made of a model for ONNX Runtime, and kept: `…/towers/FINGERPRINT/`.

    facts/       facts.json: sizes, preprocessing, how texts are cut; tokenizer.json
    image-int8/  graph.onnx, weights.bin; check.json: how its vectors compare with torch's
    text-fp32/   the same of another tower and precision

Each folder is made under another name and then renamed: it is whole, or not there.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmsearch.home import cache_folder

FORMAT = 1
"""Counted up when what is made changes, so that older towers are made again."""
SCRATCH = ".making-"
A_DAY = 24 * 3600.0


def towers_folder() -> Path:
    """The folder of all models' towers."""
    return cache_folder() / "towers"


class Towers:
    """What was made of one model."""

    def __init__(self, fingerprint: str) -> None:
        self.folder = towers_folder() / f"{fingerprint}-{FORMAT}"

    def facts(self) -> dict[str, Any] | None:
        """Sizes, preprocessing and so on; None before the model was first loaded."""
        return read_json(self.folder / "facts" / "facts.json")

    @property
    def tokenizer(self) -> Path:
        """Where the tokenizer lies, of a model that has one of its own."""
        return self.folder / "facts" / "tokenizer.json"

    def check(self, tower: str, precision: str) -> dict[str, Any] | None:
        """How a graph compares with torch; None if none was made."""
        return read_json(self.folder / f"{tower}-{precision}" / "check.json")

    def graph(self, tower: str, precision: str) -> Path:
        """Where a graph lies, if it was made."""
        return self.folder / f"{tower}-{precision}" / "graph.onnx"

    @contextmanager
    def making(self, part: str) -> Iterator[Path]:
        """An empty folder to fill, which becomes `part` unless the body raises.

        Of two processes that make the same, the last one's is kept: they are the same.
        """
        with self.scratch() as scratch:
            made = scratch / part
            made.mkdir()
            yield made
            _put_in_place(made, self.folder / part)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder on the same disk, removed afterwards; in a day, if this is killed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.glob(f"{SCRATCH}*"):
            with suppress(OSError):
                if time.time() - old.stat().st_mtime > A_DAY:
                    shutil.rmtree(old)
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=self.folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def forget(self, tower: str, precision: str) -> None:
        """Remove a graph that cannot be used."""
        shutil.rmtree(self.folder / f"{tower}-{precision}", ignore_errors=True)


def _put_in_place(made: Path, place: Path) -> None:
    with suppress(OSError):  # the usual case: nothing is there yet
        made.rename(place)
        return
    old = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=place.parent))
    with suppress(FileNotFoundError):
        place.rename(old / "old")
    with suppress(OSError):  # another process was quicker, with the same
        made.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """An object in a JSON file; None if there is none, or it cannot be read."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else None
    return None


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write an object; it is there whole, or not at all (a cache that cannot be written to)."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        other = path.with_name(f".{path.name}-{os.getpid()}-{threading.get_ident()}")
        other.write_text(json.dumps(value, indent=1, sort_keys=True), encoding="utf-8")
        other.replace(path)
