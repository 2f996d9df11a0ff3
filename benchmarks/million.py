"""What a million vectors cost: to load, to keep, to open, to search, beside bare FAISS.

    python benchmarks/million.py [--sizes 10000,100000,1000000] [--work FOLDER]

Makes clustered vectors of 512 dimensions with metadata and captions (kept in the work folder for
the next time), loads them through `Collection.add_vectors`, and prints a table of each size beside
the others, and from these, on paper, 10 and 100 million. FAISS is given the same vectors, the same
kind of index and the same number of candidates, in the same process, query by query in turn.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import mmsearch
from mmsearch.vectors.index_choice import true_neighbours

DIM = 512
CHUNK = 20_000
QUERIES = 100
"""Of each side."""
TEXTS = 2_000
"""Captions that have vectors: what the recall of queries in words is measured by."""
BUCKETS = 10_000
SHARES = {"50 %": BUCKETS // 2, "1 %": BUCKETS // 100, "0.01 %": 1}
COLD_RUNS = 7
MORE = 1_000
WORDS = """
    red green blue small large old new wooden dog cat bird horse house street river mountain car
    train boat table chair lamp flower tree child woman man runs sits stands sleeps eats near under
    behind beach snow rain night morning market kitchen garden window bridge
""".split()  # noqa: SIM905

# ---------------------------------------------------------------------- what is searched


class World:
    """Clusters of varied size and spread, each of few dimensions, and texts across a gap."""

    def __init__(self, size: int, seed: int = 7) -> None:
        self.rng = np.random.default_rng(seed)
        clusters = max(50, int(2 * math.sqrt(size)))
        themes = self._unit(self.rng.standard_normal((40, DIM)))
        of = self.rng.integers(0, len(themes), clusters)
        own = self._unit(self.rng.standard_normal((clusters, DIM)))
        self.common = self._unit(self.rng.standard_normal((1, DIM)))
        self.centres = self._unit(0.7 * themes[of] + 0.7 * own + 0.8 * self.common)
        weights = self.rng.pareto(1.5, clusters) + 0.2
        self.weights = weights / weights.sum()
        self.spread = self.rng.uniform(0.4, 1.0, clusters)
        self.axes = [
            np.linalg.qr(self.rng.standard_normal((DIM, 24)))[0].T.astype(np.float32)
            for _ in range(64)
        ]
        self.axis = self.rng.integers(0, len(self.axes), clusters)
        gap = self.rng.standard_normal((1, DIM))
        self.gap = self._unit(gap - (gap @ self.common.T) * self.common)

    @staticmethod
    def _unit(rows: Any) -> Any:
        rows = np.asarray(rows, np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def pictures(self, rows: int) -> Any:
        """Unit vectors of pictures."""
        of = self.rng.choice(len(self.weights), rows, p=self.weights)
        found = self.centres[of].copy()
        for axis, basis in enumerate(self.axes):
            mine = np.flatnonzero(self.axis[of] == axis)
            inner = self.rng.standard_normal((len(mine), len(basis)), dtype=np.float32)
            inner *= self.spread[of[mine], None].astype(np.float32) / math.sqrt(len(basis))
            found[mine] += inner @ basis
        found += self.rng.standard_normal(found.shape, dtype=np.float32) * (0.25 / math.sqrt(DIM))
        return self._unit(found)

    def texts(self, pictures: Any) -> Any:
        """Unit vectors of texts about pictures: the same point, across the gap, and noise."""
        noise = self.rng.standard_normal(pictures.shape, dtype=np.float32) / math.sqrt(DIM)
        return self._unit(pictures + 1.2 * self.gap + 1.0 * noise)


def made(work: Path, size: int) -> Path:
    """The folder of vectors, queries and metadata of a size, made if need be."""
    import pyarrow as pa
    from pyarrow import parquet

    folder = work / f"vectors-{size}"
    if (folder / "metadata.parquet").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    world = World(size)
    rows = np.lib.format.open_memmap(
        folder / "pictures.npy", "w+", dtype=np.float16, shape=(size, DIM)
    )
    for start in range(0, size, CHUNK):
        rows[start : start + CHUNK] = world.pictures(min(CHUNK, size - start))
    rows.flush()
    np.save(folder / "texts.npy", world.texts(rows[:TEXTS].astype(np.float32)))
    asked = world.pictures(2 * QUERIES)
    np.save(folder / "asked-pictures.npy", asked[:QUERIES])
    np.save(folder / "asked-texts.npy", world.texts(asked[QUERIES:]))
    np.save(folder / "more.npy", world.pictures(MORE))
    said = world.rng.integers(0, len(WORDS), (size, 8))
    table = {
        "path": [_path(row) for row in range(size)],
        "caption": [" ".join(WORDS[word] for word in some) for some in said.tolist()],
        "bucket": world.rng.integers(0, BUCKETS, size),
        "licence": [("by", "by-sa", "cc0")[one] for one in world.rng.integers(0, 3, size)],
        "aesthetic": world.rng.uniform(0, 10, size).round(4),
    }
    parquet.write_table(pa.table(table), folder / "metadata.parquet")
    return folder


def _path(row: int) -> str:
    return f"https://example.org/{row // 1000:06d}/{row:09d}.jpg"


def _row(path: str) -> int:
    return int(path.rpartition("/")[2].partition(".")[0])


# ---------------------------------------------------------------------- loading


class Stages:
    """When each stage of a run was told to be through."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self._last = math.inf

    def __call__(self, done: int, total: int | None) -> None:
        """Note how far it is."""
        del total
        if done < self._last:  # a new stage counts from the beginning
            self.ends.append(0.0)
        self._last = done
        self.ends[-1] = time.perf_counter()


def load(source: Path, index: Path) -> dict[str, float]:
    """Seconds of each stage of loading, and bytes on disk; in a process of its own."""
    from pyarrow import parquet

    pictures = np.load(source / "pictures.npy", mmap_mode="r")
    metadata = parquet.read_table(source / "metadata.parquet")
    library = mmsearch.Collection(index, create=True)
    texts = np.load(source / "texts.npy")
    names = {"path": [_path(row) for row in range(len(texts))]}
    library.add_vectors(texts, names, facet="text")
    stages = Stages()
    began = time.perf_counter()
    library.add_vectors(pictures, metadata, progress=stages)
    ended = time.perf_counter()
    library.close()
    loaded, worded = stages.ends
    on_disk = {path: path.stat().st_size for path in index.rglob("*") if path.is_file()}
    catalog = sum(size for path, size in on_disk.items() if path.name.startswith("catalog.db"))
    cache = sum(size for path, size in on_disk.items() if "cache" in path.parts)
    return {
        "load": loaded - began,
        "words": worded - loaded,
        "build": ended - worded,
        "catalog": catalog,
        "cache": cache,
        "bare": bare_load(pictures, index.parent / "bare.db"),
    }


def bare_load(pictures: Any, place: Path) -> float:
    """Seconds that SQLite alone needs for as many rows of a key and a vector."""
    import sqlite3

    began = time.perf_counter()
    with sqlite3.connect(place, isolation_level=None) as bare:
        for pragma in ("page_size=16384", "journal_mode=WAL", "synchronous=NORMAL"):
            bare.execute(f"PRAGMA {pragma}")
        bare.execute("CREATE TABLE vectors (id INTEGER PRIMARY KEY, vector BLOB)")
        for start in range(0, len(pictures), CHUNK):
            bare.execute("BEGIN")
            rows = enumerate(pictures[start : start + CHUNK], start)
            keyed = ((key, vector.tobytes()) for key, vector in rows)
            bare.executemany("INSERT INTO vectors VALUES (?, ?)", keyed)
            bare.execute("COMMIT")
    bare.close()
    seconds = time.perf_counter() - began
    for part in ("", "-wal", "-shm"):
        place.with_name(place.name + part).unlink(missing_ok=True)
    return seconds


# ---------------------------------------------------------------------- searching


def resident() -> dict[str, float]:
    """MiB of this process in memory: all, its own (anonymous), of files, and the most there was."""
    names = {"VmRSS": "now", "RssAnon": "own", "RssFile": "files", "VmHWM": "most"}
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    fields = (line.split() for line in lines)
    return {names[f[0][:-1]]: int(f[1]) / 1024 for f in fields if f and f[0][:-1] in names}


def memory(source: Path, index: Path) -> dict[str, float]:
    """What a process that has answered queries, plain and filtered, has in memory."""
    queries = np.load(source / "asked-pictures.npy")
    library = mmsearch.open(str(index))
    before = resident()
    for number, query in enumerate(queries[:20]):
        library.search_vectors(query[None], target="image")
        library.search_vectors(query[None], target="image", where={"bucket": number})
    return {**resident(), "imports": before["now"]}


def latency(source: Path, index: Path) -> dict[str, Any]:
    """Milliseconds warm, ours and bare in turn, and the share of the ten nearest that is found."""
    pictures = np.load(source / "pictures.npy", mmap_mode="r")
    library = mmsearch.open(str(index))
    bucket = _buckets(source)
    told = next(one for one in library.status()["indexes"] if one["facet"] == "image")
    bare = Bare(pictures, told)
    sides = {side: np.load(source / f"asked-{side}.npy") for side in ("pictures", "texts")}
    found: dict[str, Any] = {"kind": told, "bare build": bare.seconds}
    plain: list[tuple[float, float]] = []
    for side, queries in sides.items():
        truth = true_neighbours(pictures, queries)
        ours, theirs, times = [], [], []
        for query in [queries[0], *queries]:
            times.append(_both(library, bare, query))
            ours.append([_row(hit.path) for hit in times[-1][2]])
            theirs.append(times[-1][3])
        plain += [(own, other) for own, other, *_ in times[1:]]
        found[f"recall {side}"] = _recall(truth, ours[1:])
        found[f"bare recall {side}"] = _recall(truth, theirs[1:])
    found["plain"] = _summed(plain)
    rng = np.random.default_rng(1)
    queries = np.concatenate(list(sides.values()))
    for share, width in SHARES.items():
        fresh = [_filtered(library, bare, q, bucket, width, rng) for q in queries[::4]]
        found[share] = _summed(fresh[1:])
        found[f"{share} again"] = _summed(
            [_filtered(library, bare, q, bucket, width, None) for q in queries[::4]][1:]
        )
    found["from disk"] = from_disk(library, index, sides["pictures"][:20])  # forgotten from here on
    return found


def _buckets(source: Path) -> Any:
    from pyarrow import parquet

    return parquet.read_table(source / "metadata.parquet", columns=["bucket"])["bucket"].to_numpy()


def from_disk(library: Any, index: Path, queries: Any) -> float:
    """Median ms of a query when the system has forgotten the vectors; NaN where it cannot."""
    if not hasattr(os, "posix_fadvise"):
        return math.nan
    times = []
    for query in queries:
        for file in index.glob("cache/image-*/rows.f16"):
            with file.open("rb") as rows:
                os.posix_fadvise(rows.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        library.search_vectors(query[None], target="image")
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times)


class Bare:
    """FAISS alone: the same vectors, kind of index and number of candidates, exact at the end."""

    def __init__(self, rows: Any, told: Any) -> None:
        import faiss

        self._faiss: Any = faiss
        began = time.perf_counter()
        half = faiss.ScalarQuantizer.QT_fp16
        whole: Any = faiss.IndexScalarQuantizer(DIM, half, faiss.METRIC_INNER_PRODUCT)
        self._refined = told["kind"] != "exact"
        self._index = whole
        if self._refined:
            coarse = faiss.index_factory(DIM, told["kind"], faiss.METRIC_INNER_PRODUCT)
            step = max(1, len(rows) // 100_000)
            coarse.train(np.ascontiguousarray(rows[::step], np.float32))
            self._coarse, self._whole = coarse, whole  # IndexRefine does not keep them
            whole.is_trained = True
            self._index = faiss.IndexRefine(coarse, whole)
            self._index.own_fields = False
        for start in range(0, len(rows), CHUNK):
            self._index.add(rows[start : start + CHUNK].astype(np.float32))
        self.seconds = time.perf_counter() - began
        self._factor = max(1, told["candidates"] // 10)
        self._effort = told["effort"]

    def search(self, query: Any, marks: Any = None) -> list[int]:
        """The ten nearest rows."""
        how = {} if marks is None else {"sel": self._faiss.IDSelectorBitmap(marks)}
        params = self._params(how)
        return self._index.search(query[None], 10, params=params)[1][0].tolist()

    def _params(self, how: dict[str, Any]) -> Any:
        library = self._faiss
        if not self._refined:
            return library.SearchParameters(**how) if how else None
        inner = library.SearchParametersIVF(nprobe=self._effort, **how)
        return library.IndexRefineSearchParameters(
            k_factor=float(self._factor), base_index_params=inner
        )


def _both(library: Any, bare: Bare, query: Any) -> tuple[float, float, Any, list[int]]:
    began = time.perf_counter()
    hits = library.search_vectors(query[None], target="image")[0]
    between = time.perf_counter()
    theirs = bare.search(query)
    ended = time.perf_counter()
    return (between - began) * 1e3, (ended - between) * 1e3, hits, theirs


def _filtered(
    library: Any, bare: Bare, query: Any, bucket: Any, width: int, rng: Any
) -> tuple[float, float]:
    """Bare FAISS is given a bitmap that is ready; ours has to find out what passes."""
    low = 0 if rng is None else int(rng.integers(0, BUCKETS - width + 1))
    where = {"bucket": {"$gte": low, "$lt": low + width}}
    marks = np.packbits((bucket >= low) & (bucket < low + width), bitorder="little")
    began = time.perf_counter()
    library.search_vectors(query[None], target="image", where=where)
    between = time.perf_counter()
    bare.search(query, marks)
    return (between - began) * 1e3, (time.perf_counter() - between) * 1e3


def _recall(truth: Any, found: list[list[int]]) -> float:
    pairs = zip(truth.tolist(), found, strict=True)
    return statistics.mean(len(set(true) & set(got)) / len(true) for true, got in pairs)


def _summed(pairs: list[tuple[float, float]]) -> dict[str, float]:
    ours, theirs = zip(*[pair[:2] for pair in pairs], strict=True)
    return {
        "median": statistics.median(ours),
        "p99": float(np.quantile(ours, 0.99)),
        "bare": statistics.median(theirs),
        "bare p99": float(np.quantile(theirs, 0.99)),
    }


def cold(source: Path, index: Path) -> float:
    """Median seconds of `mmsearch query --vector` as a whole process."""
    asked = source / "one.npy"
    np.save(asked, np.load(source / "asked-pictures.npy")[0])
    times = []
    for _ in range(COLD_RUNS):
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "mmsearch.cli.app", "query", "--vector", asked, "-i", index],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def adding(source: Path, index: Path) -> float:
    """Seconds to add a thousand more until they are found."""
    more = np.load(source / "more.npy")
    names = {"path": [f"https://example.org/more/{row}.jpg" for row in range(MORE)]}
    library = mmsearch.open(str(index))
    library.search_vectors(more[:1], target="image")
    began = time.perf_counter()
    library.add_vectors(more, names)
    hit = library.search_vectors(more[-1:], k=1, target="image")[0][0]
    seconds = time.perf_counter() - began
    assert hit.path == names["path"][-1], hit
    return seconds


# ---------------------------------------------------------------------- tables

PARTS: dict[str, Callable[[Path, Path], Any]] = {
    "load": load,
    "memory": memory,
    "latency": latency,
    "cold": cold,
    "adding": adding,
}
"""What is measured, each in a process of its own, in this order."""


def measured(work: Path, size: int) -> dict[str, Any]:
    source = made(work, size)
    index = work / f"index-{size}"
    shutil.rmtree(index, ignore_errors=True)
    found: dict[str, Any] = {}
    for part in PARTS:
        print(f"  {size:,}: {part} …", file=sys.stderr)
        done = subprocess.run(
            [sys.executable, __file__, "--part", part, str(source), str(index)],
            check=True,
            capture_output=True,
            text=True,
        )
        found[part] = json.loads(done.stdout.splitlines()[-1])
    return found


def figures(size: int, found: dict[str, Any]) -> Iterator[tuple[str, float, str]]:
    """(what, figure, unit) of one size."""
    loaded, warm, ram = found["load"], found["latency"], found["memory"]
    yield "load", size / loaded["load"], "rows/s"
    yield "SQLite alone: keys and vectors", size / loaded["bare"], "rows/s"
    yield "words", size / loaded["words"], "items/s"
    yield "FAISS index", loaded["build"], "s"
    yield "bare FAISS index", warm["bare build"], "s"
    yield "catalog", loaded["catalog"] / size, "bytes an item"
    yield "cache", loaded["cache"] / size, "bytes an item"
    yield "resident, own memory", ram["own"], "MiB"
    yield "resident, mapped files", ram["files"], "MiB"
    yield "resident, most", ram["most"], "MiB"
    yield "of that, before the first query", ram["imports"], "MiB"
    yield "cold query, whole process", found["cold"] * 1e3, "ms"
    for name in ("plain", *(f"{share}{again}" for share in SHARES for again in ("", " again"))):
        kind = "warm, plain" if name == "plain" else f"filtered {name}"
        yield f"{kind}, median", warm[name]["median"], "ms"
        yield f"{kind}, p99", warm[name]["p99"], "ms"
        yield f"{kind}, bare FAISS", warm[name]["bare"], "ms"
    for side in ("pictures", "texts"):
        yield f"recall@10, asked by {side}", warm[f"recall {side}"], ""
        yield f"recall@10, {side}, bare FAISS", warm[f"bare recall {side}"], ""
    yield "plain, vectors on the disk alone, median", warm["from disk"], "ms"
    yield f"adding {MORE:,} until found", found["adding"], "s"


def paper(unit: str, sizes: list[int], values: list[float], wanted: int) -> float:
    """What a straight line through the two largest sizes gives: cost = a + b · size.

    Of rates and of bytes an item, the line is that of the seconds, or bytes, of all together.
    """
    if len(sizes) < 2:
        return math.nan
    whole = {"/s": lambda value, size: size / value, "item": lambda value, size: value * size}
    turn = next((how for end, how in whole.items() if unit.endswith(end)), lambda value, _: value)
    (small, large), (low, high) = sizes[-2:], map(turn, values[-2:], sizes[-2:])
    slope = max((high - low) / (large - small), 0.0)
    found = high + slope * (wanted - large)
    return wanted / found if unit.endswith("/s") else found / (wanted if "item" in unit else 1)


ON_PAPER = (10_000_000, 100_000_000)


def show(all_found: dict[int, dict[str, Any]]) -> None:
    sizes = sorted(all_found)
    columns = {
        size: {name: (value, unit) for name, value, unit in figures(size, all_found[size])}
        for size in sizes
    }
    head = [f"{size:,}" for size in sizes] + [f"({size:,})" for size in ON_PAPER]
    print(f"| | {' | '.join(head)} | |\n|{' --- |' * (len(head) + 2)}")
    for name, (_, unit) in columns[sizes[-1]].items():
        values = [columns[size][name][0] for size in sizes]
        guessed = ["" for _ in ON_PAPER]
        if "recall" not in name and "p99" not in name:
            guessed = [_short(paper(unit, sizes, values, size)) for size in ON_PAPER]
        print(f"| {name} | {' | '.join([*map(_short, values), *guessed])} | {unit} |")
    print("\nIn brackets, on paper: cost = a + b · size through the two largest sizes measured.")
    print("A search goes through the codes of 262,144 rows, of more only if its recall takes more:")
    print("latencies on paper, in which these grow with the size, are upper bounds.")
    print(f"2 x {QUERIES} queries; each figure of bare FAISS is from the same process, in turn.")
    for size in sizes:
        told = all_found[size]["latency"]["kind"]
        print(f"{size:,}: {told['kind']}, {told['candidates']} candidates: {told['why']}")


def _short(value: float) -> str:
    if math.isnan(value):
        return ""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="10000,100000,1000000")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--part", nargs=3, metavar=("PART", "SOURCE", "INDEX"))
    given = parser.parse_args()
    if given.part:
        part, source, index = given.part
        print(json.dumps(PARTS[part](Path(source), Path(index).resolve())))
        return
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # else FAISS's threads spin after a search, in the turn of the other
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with tempfile.TemporaryDirectory() as away:
        work = (given.work or Path(away)).resolve()
        sizes = sorted(int(size) for size in given.sizes.split(","))
        show({size: measured(work, size) for size in sizes})


if __name__ == "__main__":
    main()
