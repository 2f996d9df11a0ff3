"""A model's towers for ONNX Runtime: where they are kept, `…/towers/FINGERPRINT/`, and run.

    facts/       facts.json: sizes, preprocessing, how texts become tokens; tokenizer.json
    image-int8/  graph.onnx, weights.bin; check.json: how its vectors compare with torch's
    text-fp32/   the same of another tower and precision
    pieces/      pieces.txt: the tokenizer again, in lines, of which a query needs few
    sentences-1/ vectors.npy: of texts that each index needs

Each folder is made under another name and then renamed, so it is complete or absent.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.encoders.model_files import read_json
from mmsearch.encoders.onnx import in_threads, padded_batches, session
from mmsearch.home import cache_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

    from mmsearch.types import Modality, Vectors

FORMAT = 1
"""Raised when what is made changes, so that older towers are made again."""
SCRATCH = ".making-"
A_DAY = 24 * 3600.0


def towers_folder() -> Path:
    """The folder of all models' towers."""
    return cache_folder() / "towers"


class TowerCache:
    """What was made of one model."""

    def __init__(self, fingerprint: str) -> None:
        self.folder = towers_folder() / f"{fingerprint}-{FORMAT}"

    def facts(self) -> dict[str, Any] | None:
        """Sizes, preprocessing and so on; None before the model was first loaded."""
        return read_json(self.folder / "facts" / "facts.json")

    @property
    def tokenizer(self) -> Path:
        """The path of the tokenizer, of a model that has one of its own."""
        return self.folder / "facts" / "tokenizer.json"

    @property
    def pieces(self) -> Path:
        """The path of the tokenizer's pieces, as `write_pieces` wrote them; it may not exist."""
        return self.folder / "pieces" / "pieces.txt"

    def check(self, tower: str, precision: str) -> dict[str, Any] | None:
        """How a graph compares with torch; None if none was made."""
        return read_json(self.folder / f"{tower}-{precision}" / "check.json")

    def graph(self, tower: str, precision: str) -> Path:
        """The path of a graph, which may not have been made."""
        return self.folder / f"{tower}-{precision}" / "graph.onnx"

    @contextmanager
    def making(self, part: str) -> Iterator[Path]:
        """An empty folder to fill, which becomes `part` unless the body raises."""
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
    with suppress(OSError):  # the usual case: `place` does not exist yet
        made.rename(place)
        return
    old = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=place.parent))
    with suppress(FileNotFoundError):
        place.rename(old / "old")
    with suppress(OSError):  # another process was quicker, with the same
        made.rename(place)
    shutil.rmtree(old, ignore_errors=True)


TEXTS_PER_RUN = 16


class Tower:
    """Unit vectors of pixels or of token ids; safe to use from several threads.

    Each core runs batches of its own. A batch holds several photos or texts, since one alone takes
    about as long to read the weights from memory as to compute; its vector does not depend on the
    others. The graph of a text tower is so simple that ONNX Runtime need not optimise it.

    Args:
        graph: An ONNX file with one input and one output, read at the first use.
        modality: "image" or "text".
        photos_per_run: The largest batch of photos.
        packs: Whether weights are packed; see `session`.
    """

    def __init__(
        self, graph: Path, modality: Modality, photos_per_run: int = 1, *, packs: bool = True
    ) -> None:
        self._graph = graph
        self._packs = packs
        self._is_image = modality == "image"
        self._batch_size = photos_per_run if self._is_image else TEXTS_PER_RUN
        self._loading = threading.Lock()
        self._sessions: dict[str, InferenceSession] = {}

    def load(self, count: int) -> None:
        """Read the graph, which is to encode `count` things first."""
        self._session(count)

    def run(self, things: Sequence[NDArray[Any]]) -> Vectors:
        """Vectors (len(things), dim) of at least one thing: pixels, or token ids of any length."""
        import numpy as np

        session = self._session(len(things))
        name = session.get_inputs()[0].name

        def run(batch: tuple[Sequence[int], NDArray[Any]]) -> Vectors:
            found: Vectors = session.run(None, {name: batch[1]})[0]
            return found

        batches: list[tuple[Sequence[int], NDArray[Any]]]
        if self._is_image:
            batches = [
                (rows, np.stack([things[row] for row in rows]))
                for rows in self._equal_batches(len(things))
            ]
        else:
            batches = list(padded_batches(things, self._batch_size))
        parts = list(in_threads(run, batches))
        vectors = np.empty((len(things), parts[0].shape[1]), np.float32)
        for (rows, _), found in zip(batches, parts, strict=True):
            vectors[rows] = found
        return vectors

    def _equal_batches(self, count: int) -> list[range]:
        """The rows of each batch; batches are of equal size, and every core gets as many."""
        cores = os.cpu_count() or 1
        rounds = -(-count // (cores * self._batch_size))
        batches = min(rounds * cores, count)
        edges = [count * number // batches for number in range(batches + 1)]
        return list(itertools.starmap(range, itertools.pairwise(edges)))

    def _session(self, count: int) -> InferenceSession:
        """A session that runs a batch on one core; on all cores, if there is only one batch."""
        with self._loading:
            if "one core" in self._sessions:
                return self._sessions["one core"]
            alone = count == 1 if self._is_image else count <= self._batch_size
            wanted = "all cores" if alone else "one core"
            if wanted not in self._sessions:
                self._sessions[wanted] = session(
                    self._graph,
                    optimise=self._is_image,
                    threads=0 if alone else 1,
                    packs=self._packs,
                )
            return self._sessions[wanted]
