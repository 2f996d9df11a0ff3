"""Public retrieval benchmarks, from the files as they are published, beside published figures.

A benchmark is the test split of a dataset: pictures or sounds with several captions each. Each
caption searches for its file among all, and each file for its captions among all. Vectors are
compared with one another, as papers do: without hubness correction, words or an approximate index.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shlex
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.encoders.family import KnownModel
from mmsearch.encoders.registry import recommended
from mmsearch.errors import InvalidCaptions, InvalidOption, InvalidQuery, PathNotFound
from mmsearch.evaluation.results import CUTOFFS, Direction, Outcome, direction_of
from mmsearch.types import Modality
from mmsearch.vectors.hubness import EXTRA_DIMS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.collection import Collection
    from mmsearch.evaluation.qrels import Way
    from mmsearch.storage import Space
    from mmsearch.types import Progress, Vectors
    from mmsearch.vectors import FaissIndex

Captions = dict[str, list[str]]
"""By the name of a file."""

QUERIES_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A dataset, and how its test split is read.

    Attributes:
        modality: What its captions describe.
        layouts: The files that a folder may have, each with the function that reads them.
    """

    modality: Modality
    layouts: tuple[tuple[str, Callable[[Path], Captions]], ...]


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """What a model reaches on a benchmark.

    Attributes:
        name: Of the benchmark.
        model: That encoded files and captions.
        files: How many took part.
        missing: Files of the test split that are not in the folder, or cannot be read: with any,
            figures are not those of the benchmark.
        directions: From captions to files, and back; its measures have intervals.
        published: Published recalls of the model for the first direction, by measure, as shares.
        source: Where they were published.
    """

    name: str
    model: str
    files: int
    missing: tuple[str, ...]
    directions: tuple[Direction, ...]
    published: Mapping[str, float] = field(default_factory=dict)
    source: str | None = None

    def rows(self) -> Iterator[tuple[str, str, float, float, float, float | None]]:
        """(direction, measure, value, low, high, published) of each recall, as shares."""
        for number, direction in enumerate(self.directions):
            for cutoff in CUTOFFS:
                measure = f"Recall@{cutoff}"
                figure = direction.measures[measure]
                published = self.published.get(measure) if number == 0 else None
                yield direction.name, measure, figure.value, figure.low, figure.high, published


@dataclass(frozen=True, slots=True)
class BenchmarkVectors:
    """The vectors of a benchmark's files and captions.

    Attributes:
        name: The benchmark.
        model: The model that encoded them.
        modality: What the files are.
        missing: Files that are not in the folder, or cannot be read.
        file_names: The n files.
        file_vectors: (n, dim); for a file with several windows, their mean direction.
        queries: (file name, text) of the m captions that search for files.
        query_vectors: (m, dim).
        query_files: (m,) the file of each query, as a row of `file_vectors`.
        caption_vectors: (c, dim) of the stored captions, which differ within a file.
        caption_files: (c,) the file of each stored caption, as a row of `file_vectors`.
    """

    name: str
    model: str
    modality: Modality
    missing: tuple[str, ...]
    file_names: tuple[str, ...]
    file_vectors: Vectors
    queries: tuple[tuple[str, str], ...]
    query_vectors: Vectors
    query_files: NDArray[np.int64]
    caption_vectors: Vectors
    caption_files: NDArray[np.int64]


def read_benchmark(name: str, folder: str | os.PathLike[str]) -> tuple[Modality, Captions]:
    """The captions of a benchmark's test split, by the names of files, and what these are.

    Raises:
        InvalidOption: no benchmark has this name.
        PathNotFound: the folder is not there, or has none of the files that list the captions.
        InvalidCaptions: such a file cannot be read.
    """
    benchmark = BENCHMARKS.get(name)
    if benchmark is None:
        raise InvalidOption(f"there are the benchmarks {', '.join(BENCHMARKS)}, not {name!r}")
    place = Path(folder)
    if place.is_file():
        raise PathNotFound(f"{place} is a file: name the folder that it is in")
    if not place.is_dir():
        raise PathNotFound(f"there is no folder {str(folder)!r}")
    for listing, read in benchmark.layouts:
        if (path := place / listing).is_file():
            try:
                found = read(path)
                captions = {
                    file: kept for file, some in found.items() if (kept := _without_blanks(some))
                }
            except _FORMAT_ERRORS as error:
                raise InvalidCaptions(f"{path} is not as {name} has it: {_why(error)}") from error
            if captions:
                return benchmark.modality, captions
            raise InvalidCaptions(f"{path} lists nothing of the test split")
    known = [listing for listing, _ in benchmark.layouts]
    above = place.resolve().parent
    hint = f"; name {above}" if any((above / one).is_file() for one in known) else ""
    raise PathNotFound(
        f"{place} has no captions of {name}: expected one of {', '.join(known)}{hint}"
    )


def run_benchmark(
    collection: Collection,
    name: str,
    folder: str | os.PathLike[str],
    progress: Progress | None = None,
) -> BenchmarkResult:
    """Index a benchmark's missing files and captions, and measure both directions.

    Args:
        collection: The index, whose model is measured. It may hold other files, too.
        name: One of BENCHMARKS.
        folder: Of the files, to any depth, and of the captions as they are published.
        progress: Called with (files indexed, files in all).

    Raises:
        InvalidOption, PathNotFound, InvalidCaptions: as `read_benchmark`.
        InvalidQuery: none of its files can be used, or the index has no model for them.
        IndexBusy, StorageFailed: as `Collection.add`.
    """
    return result_of(encode_benchmark(collection, name, folder, progress))


def encode_benchmark(
    collection: Collection,
    name: str,
    folder: str | os.PathLike[str],
    progress: Progress | None = None,
) -> BenchmarkVectors:
    """The vectors of a benchmark's files and captions, after indexing those that are missing.

    Args and errors are those of `run_benchmark`.
    """
    import numpy as np

    modality, captions = read_benchmark(name, folder)
    places = _places(Path(folder), captions)
    if not places:
        raise InvalidQuery(f"none of the {len(captions)} files of {name} is in {folder}")
    with tempfile.TemporaryDirectory() as scratch:
        listed = Path(scratch) / "captions.jsonl"
        with listed.open("w", encoding="utf-8") as file:
            for one, path in places.items():
                row = {"file": path, "captions": captions[one]}
                file.write(json.dumps(row) + "\n")
        collection.add(list(places.values()), captions=listed, progress=progress)
    ids = {item.path: item.id for item in collection.items}
    found = {one: ids[path] for one, path in places.items() if path in ids}
    if not found:
        raise InvalidQuery(
            f"none of the files of {name} can be used: see `mmsearch errors -i "
            f"{_named(collection)}`"
        )
    space = _space_for(collection, modality)
    stored = collection.index.store.vectors
    items, windows, _ = stored.of(space, modality, sorted(found.values()))
    files, rows = np.unique(items, return_inverse=True)
    row_of = {id_: row for row, id_ in enumerate(files.tolist())}
    name_of = {id_: name for name, id_ in found.items()}
    queries = [(one, text) for one, id_ in found.items() if id_ in row_of for text in captions[one]]
    if not queries:
        raise InvalidQuery(
            "the index has no vectors of these files: see `mmsearch status -i "
            f"{_named(collection)}`"
        )
    encoder = collection.index.encoder(space)
    query_vectors = [
        encoder.encode_query("text", [text for _, text in queries[at : at + QUERIES_AT_ONCE]])
        for at in range(0, len(queries), QUERIES_AT_ONCE)
    ]
    owners, caption_vectors, _ = stored.of(space, "text", files.tolist())
    return BenchmarkVectors(
        name,
        space.name,
        modality,
        missing=tuple(one for one in captions if one not in found),
        file_names=tuple(name_of[id_] for id_ in row_of),
        file_vectors=_means(windows, rows, len(files)),
        queries=tuple(queries),
        query_vectors=np.concatenate(query_vectors),
        query_files=np.array([row_of[found[one]] for one, _ in queries]),
        caption_vectors=caption_vectors,
        caption_files=np.array([row_of[id_] for id_ in owners.tolist()], np.int64),
    )


# ---------------------------------------------------------------------- measuring


def _places(folder: Path, captions: Captions) -> dict[str, str]:
    """Where the files lie that are there, by name."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in captions.keys() & set(names):
            found.setdefault(name, os.path.realpath(os.path.join(root, name)))
    return {name: found[name] for name in captions if name in found}


def _named(collection: Collection) -> str:
    return shlex.quote(collection.place.address)


def _space_for(collection: Collection, modality: Modality) -> Space:
    """The space in which files and captions are compared."""
    for space, modalities in collection.index.serving():
        if {modality, "text"} <= set(modalities):
            return space
    raise InvalidQuery(f"the index has no model for texts and {modality}: see mmsearch models")


def result_of(
    encoded: BenchmarkVectors, indexes: tuple[FaissIndex, FaissIndex] | None = None
) -> BenchmarkResult:
    """The ranks of files for captions, and of captions for files.

    Args:
        encoded: The vectors.
        indexes: Indexes of the files and of the stored captions, whose ids are row numbers: ranks
            beyond the ten they find are infinite. None compares all vectors, as papers do.
    """
    import numpy as np

    queries, files, captions = encoded.query_vectors, encoded.file_vectors, encoded.caption_vectors
    file_ranks: Iterator[float]
    caption_ranks: Iterator[float]
    if indexes is None:
        file_ranks = _ranks(queries, files, encoded.query_files)
        caption_ranks = _first_ranks(files, captions, encoded.caption_files)
    else:
        each = np.arange(len(files))
        file_ranks = _ranks_found(indexes[0], queries, encoded.query_files, each)
        caption_ranks = _ranks_found(indexes[1], files, each, encoded.caption_files)
    forward = [
        _outcome(("forward", f"{name}: {text}"), text, name, rank)
        for (name, text), rank in zip(encoded.queries, file_ranks, strict=True)
    ]
    backward = [
        _outcome(("backward", name), name, name, rank)
        for name, rank in zip(encoded.file_names, caption_ranks, strict=True)
    ]
    published, source = _published(encoded.name, encoded.model)
    return BenchmarkResult(
        encoded.name,
        encoded.model,
        len(files),
        encoded.missing,
        (
            direction_of(f"text→{encoded.modality}", "forward", forward),
            direction_of(f"{encoded.modality}→text", "backward", backward),
        ),
        published,
        source,
    )


def _means(rows: Vectors, groups: NDArray[np.int64], number: int) -> Vectors:
    """The mean direction of each file's vectors: a sound may have several windows."""
    import numpy as np

    sums = np.zeros((number, rows.shape[1]), np.float32)
    np.add.at(sums, groups, rows)
    found: Vectors = sums / np.linalg.norm(sums, axis=1, keepdims=True).clip(1e-12)
    return found


def _ranks(queries: Vectors, rows: Vectors, right: NDArray[np.int64]) -> Iterator[int]:
    """The rank, from 1, of the right row for each query; ties count against it."""
    import numpy as np

    for start in range(0, len(queries), QUERIES_AT_ONCE):
        scores = queries[start : start + QUERIES_AT_ONCE] @ rows.T
        own = scores[np.arange(len(scores)), right[start : start + QUERIES_AT_ONCE]]
        yield from (scores >= own[:, None]).sum(axis=1).tolist()


def _first_ranks(queries: Vectors, rows: Vectors, owner: NDArray[np.int64]) -> Iterator[int]:
    """The best rank of the rows that each query owns; ties with others count against it."""
    import numpy as np

    for start in range(0, len(queries), QUERIES_AT_ONCE):
        scores = queries[start : start + QUERIES_AT_ONCE] @ rows.T
        for number, row in enumerate(scores, start=start):
            own = owner == number
            yield 1 + int(np.count_nonzero(row[~own] >= row[own].max(initial=-2.0)))


def _ranks_found(
    index: FaissIndex,
    queries: Vectors,
    groups: NDArray[np.int64],
    row_groups: NDArray[np.int64],
) -> Iterator[float]:
    """The best rank of a row of each query's group among the ten that an index finds.

    It is infinite if none is found; ties with rows of other groups count against it.

    Args:
        index: Its ids are the numbers of its rows.
        queries: (m, dim).
        groups: (m,) the group of each query.
        row_groups: (n,) the group of each row.
    """
    import numpy as np

    for query, group in zip(np.pad(queries, ((0, 0), (0, EXTRA_DIMS))), groups, strict=True):
        ranking = index.search(query, CUTOFFS[-1])
        own = max((score for row, score in ranking if row_groups[row] == group), default=math.inf)
        better = sum(score >= own and row_groups[row] != group for row, score in ranking)
        yield math.inf if own == math.inf else 1 + better


def _outcome(key: tuple[Way, int | str], query: str, name: str, rank: float) -> Outcome:
    """An outcome with a rank only: measures other than recall need the whole ranking."""
    return Outcome(key, query, (name,), rank, 0.0, 0.0, 0.0)


def _published(name: str, model: str) -> tuple[dict[str, float], str | None]:
    known: KnownModel | None = next((one for one in recommended() if one.name == model), None)
    recall = known and known.recall.get(name)
    if known is None or not recall:
        return {}, None
    figures = {"Recall@1": recall.at1, "Recall@5": recall.at5}
    return {key: value / 100 for key, value in figures.items() if value is not None}, known.source


# ---------------------------------------------------------------------- layouts


_FORMAT_ERRORS = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError),
    *(RecursionError, csv.Error),
)
"""What reading a file raises that is not in the format of the publication."""


def _why(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):  # its own message repeats the whole file
        return "it is not UTF-8 text"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    if isinstance(error, (AttributeError, TypeError)):
        return "a value is missing, or of another type"
    return str(error)


def _text(path: Path) -> str:
    """The text of a file without the byte order mark that editors on Windows put before it."""
    return path.read_text(encoding="utf-8-sig")


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a csv file with a header."""
    return csv.DictReader(io.StringIO(_text(path)))


def _without_blanks(captions: Sequence[str]) -> list[str]:
    return [text for caption in captions if (text := " ".join(caption.split()))]


def _karpathy(path: Path) -> Captions:
    """Karpathy's split, dataset_….json: images with filename, split and sentences."""
    found = json.loads(_text(path))
    return {
        image["filename"]: [sentence["raw"] for sentence in image["sentences"]]
        for image in found["images"]
        if image["split"] == "test"
    }


def _coco_captions(path: Path) -> Captions:
    """COCO's own captions_val….json: all photos of the file, as it knows no test split."""
    found = json.loads(_text(path))
    names = {image["id"]: image["file_name"] for image in found["images"]}
    captions: Captions = defaultdict(list)
    for one in found["annotations"]:
        captions[names[one["image_id"]]].append(one["caption"])
    return dict(captions)


_SPLITS = ("Flickr_8k.testImages.txt", "flickr30k_test.txt", "test.txt", "dev.txt")
"""Lists of the files of the split, beside a file of all captions."""


def _tabular(path: Path) -> Captions:
    """file⇥caption, file,caption or file|number|caption, and a list of the split's files."""
    split = next((path.parent / one for one in _SPLITS if (path.parent / one).is_file()), None)
    if split is None:
        raise ValueError(f"the list of test files is missing beside it: {' or '.join(_SPLITS)}")
    wanted = {os.path.basename(line.strip()) for line in _text(split).split("\n")}
    text = _text(path)
    first = text.partition("\n")[0]
    separator = next((one for one in "\t|," if one in first), "\t")
    if separator == ",":
        rows = list(csv.reader(io.StringIO(text)))
    else:
        rows = [line.split(separator) for line in text.split("\n")]
    last = len(rows[0]) - 1
    captions: Captions = defaultdict(list)
    for row in rows:
        name = row[0].partition("#")[0].strip() if len(row) > 1 else ""
        # Flickr30k's lists have no endings
        if name and (name in wanted or os.path.splitext(name)[0] in wanted):
            captions[name].append(separator.join(row[last:]) or row[-1])
    return dict(captions)


def _clotho(path: Path) -> Captions:
    """clotho_captions_….csv: file_name and caption_1 to caption_5."""
    return {
        row["file_name"]: [row[f"caption_{number}"] for number in range(1, 6)]
        for row in _rows(path)
    }


def _audiocaps(path: Path) -> Captions:
    """test.csv: audiocap_id, youtube_id, start_time, caption; sounds are named by the video."""
    captions: Captions = defaultdict(list)
    for row in _rows(path):
        captions[_sound_of(path.parent, row)].append(row["caption"])
    return dict(captions)


def _sound_of(folder: Path, row: Mapping[str, str]) -> str:
    """The name that a clip was saved by: there is no rule."""
    video, start = row["youtube_id"], row["start_time"]
    names = [
        f"{prefix}{stem}{ending}"
        for stem in (video, f"{video}_{start}", row["audiocap_id"])
        for prefix in ("", "Y")
        for ending in (".wav", ".flac", ".mp3", ".m4a", ".ogg")
    ]
    places = (folder, folder / "test", folder / "audio", folder / "test_wav")
    return next((name for name in names for at in places if (at / name).is_file()), names[0])


BENCHMARKS: dict[str, Benchmark] = {
    "flickr30k": Benchmark(
        "image",
        (
            ("dataset_flickr30k.json", _karpathy),
            ("results_20130124.token", _tabular),
            ("results.csv", _tabular),
        ),
    ),
    "coco": Benchmark(
        "image",
        (
            ("dataset_coco.json", _karpathy),
            ("annotations/captions_val2017.json", _coco_captions),
            ("captions_val2017.json", _coco_captions),
        ),
    ),
    "flickr8k": Benchmark(
        "image",
        (
            ("dataset_flickr8k.json", _karpathy),
            ("Flickr8k.token.txt", _tabular),
            ("captions.txt", _tabular),
            ("captions.tsv", _tabular),
        ),
    ),
    "clotho": Benchmark("audio", (("clotho_captions_evaluation.csv", _clotho),)),
    "audiocaps": Benchmark("audio", (("test.csv", _audiocaps),)),
}
"""By name."""
