"""What a million vectors cost to load, store, open and search, compared with bare FAISS.

    python benchmarks/million.py [--sizes 10000,100000,1000000] [--work FOLDER]

Makes clustered vectors of 512 dimensions with metadata and captions (kept in the work folder for
the next time), loads them through `Collection.add_vectors`, and prints a table with a column for
each size and, extrapolated from these, for 10 and 100 million. FAISS has the same vectors, the same
kind of index and the same number of candidates, in the same process, query by query in turn.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from timing import median, run

import mmsearch
from mmsearch.vectors.index_choice import true_neighbours

DIM = 512
CHUNK = 20_000
QUERIES = 100
"""Of each modality."""
TEXTS = 2_000
"""Captions that have vectors, which makes the index measure its recall for queries in words."""
BUCKETS = 10_000
SHARES = {"50 %": BUCKETS // 2, "1 %": BUCKETS // 100, "0.01 %": 1}
COLD_RUNS = 7
MORE = 1_000
WORDS = """
    red green blue small large old new wooden dog cat bird horse house street river mountain car
    train boat table chair lamp flower tree child woman man runs sits stands sleeps eats near under
    behind beach snow rain night morning market kitchen garden window bridge
""".split()  # noqa: SIM905

# ---------------------------------------------------------------------- data


class World:
    """Clusters of varied size and spread, each of few dimensions, and texts across a gap."""

    def __init__(self, size: int, seed: int = 7) -> None:
        self.rng = np.random.default_rng(seed)
        clusters = max(50, int(2 * math.sqrt(size)))
        themes = self._unit(self.rng.standard_normal((40, DIM)))
        theme = self.rng.integers(0, len(themes), clusters)
        own = self._unit(self.rng.standard_normal((clusters, DIM)))
        self.common = self._unit(self.rng.standard_normal((1, DIM)))
        self.centres = self._unit(0.7 * themes[theme] + 0.7 * own + 0.8 * self.common)
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
        cluster = self.rng.choice(len(self.weights), rows, p=self.weights)
        vectors = self.centres[cluster].copy()
        for axis, basis in enumerate(self.axes):
            mine = np.flatnonzero(self.axis[cluster] == axis)
            inner = self.rng.standard_normal((len(mine), len(basis)), dtype=np.float32)
            inner *= self.spread[cluster[mine], None].astype(np.float32) / math.sqrt(len(basis))
            vectors[mine] += inner @ basis
        noise = self.rng.standard_normal(vectors.shape, dtype=np.float32)
        return self._unit(vectors + noise * (0.25 / math.sqrt(DIM)))

    def texts(self, pictures: Any) -> Any:
        """Unit vectors of texts about pictures: the same point, across the gap, and noise."""
        noise = self.rng.standard_normal(pictures.shape, dtype=np.float32) / math.sqrt(DIM)
        return self._unit(pictures + 1.2 * self.gap + 1.0 * noise)


def make_data(work: Path, size: int) -> Path:
    """The folder of vectors, queries and metadata of a size, made unless it exists."""
    import pyarrow as pa
    from pyarrow import parquet

    folder = work / f"data-{size}"
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
    queries = world.pictures(2 * QUERIES)
    np.save(folder / "queries-pictures.npy", queries[:QUERIES])
    np.save(folder / "queries-texts.npy", world.texts(queries[QUERIES:]))
    np.save(folder / "more.npy", world.pictures(MORE))
    words = world.rng.integers(0, len(WORDS), (size, 8))
    table = {
        "path": [_path(row) for row in range(size)],
        "caption": [" ".join(WORDS[word] for word in row) for row in words.tolist()],
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
    """A progress callback that notes when each stage of a run ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self._last = math.inf

    def __call__(self, done: int, total: int | None) -> None:
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
    stored, indexed = stages.ends
    on_disk = {path: path.stat().st_size for path in index.rglob("*") if path.is_file()}
    catalog = sum(size for path, size in on_disk.items() if path.name.startswith("catalog.db"))
    cache = sum(size for path, size in on_disk.items() if "cache" in path.parts)
    return {
        "load": stored - began,
        "words": indexed - stored,
        "build": ended - indexed,
        "catalog": catalog,
        "cache": cache,
        "bare": bare_load(pictures, index.parent / "bare.db"),
    }


def bare_load(pictures: Any, path: Path) -> float:
    """Seconds that SQLite alone takes for as many rows of a key and a vector."""
    import sqlite3

    began = time.perf_counter()
    with sqlite3.connect(path, isolation_level=None) as bare:
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
        path.with_name(path.name + part).unlink(missing_ok=True)
    return seconds


# ---------------------------------------------------------------------- searching


def resident() -> dict[str, float]:
    """MiB of this process in memory: all, its own (anonymous), of mapped files, and the peak."""
    names = {"VmRSS": "now", "RssAnon": "own", "RssFile": "files", "VmHWM": "peak"}
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    fields = (line.split() for line in lines)
    return {names[f[0][:-1]]: int(f[1]) / 1024 for f in fields if f and f[0][:-1] in names}


def memory(source: Path, index: Path) -> dict[str, float]:
    """The memory of a process that has answered queries, plain and filtered."""
    queries = np.load(source / "queries-pictures.npy")
    library = mmsearch.open(str(index))
    before = resident()
    for number, query in enumerate(queries[:20]):
        library.search_vectors(query[None], target="image")
        library.search_vectors(query[None], target="image", where={"bucket": number})
    return {**resident(), "imports": before["now"]}


def latency(source: Path, index: Path) -> dict[str, Any]:
    """Milliseconds of warm queries, ours and bare FAISS's in turn, and the recall of both."""
    pictures = np.load(source / "pictures.npy", mmap_mode="r")
    library = mmsearch.open(str(index))
    bucket = _buckets(source)
    index_status = next(one for one in library.status()["indexes"] if one["facet"] == "image")
    bare = Bare(pictures, index_status)
    sides = {side: np.load(source / f"queries-{side}.npy") for side in ("pictures", "texts")}
    found: dict[str, Any] = {"kind": index_status, "bare build": bare.seconds}
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
    found["plain"] = _quantiles(plain)
    rng = np.random.default_rng(1)
    queries = np.concatenate(list(sides.values()))
    for share, width in SHARES.items():
        fresh = [_filtered(library, bare, q, bucket, width, rng) for q in queries[::4]]
        found[share] = _quantiles(fresh[1:])
        found[f"{share} again"] = _quantiles(
            [_filtered(library, bare, q, bucket, width, None) for q in queries[::4]][1:]
        )
    found["from disk"] = from_disk(library, index, sides["pictures"][:20])  # last: it drops caches
    return found


def _buckets(source: Path) -> Any:
    from pyarrow import parquet

    return parquet.read_table(source / "metadata.parquet", columns=["bucket"])["bucket"].to_numpy()


def from_disk(library: Any, index: Path, queries: Any) -> float:
    """Median ms of a query whose vectors are not in the page cache; NaN where it stays."""
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

    def __init__(self, rows: Any, index_status: Any) -> None:
        import faiss

        self._faiss: Any = faiss
        began = time.perf_counter()
        half = faiss.ScalarQuantizer.QT_fp16
        exact: Any = faiss.IndexScalarQuantizer(DIM, half, faiss.METRIC_INNER_PRODUCT)
        self._refined = index_status["kind"] != "exact"
        self._index = exact
        if self._refined:
            ann_index = faiss.index_factory(DIM, index_status["kind"], faiss.METRIC_INNER_PRODUCT)
            step = max(1, len(rows) // 100_000)
            ann_index.train(np.ascontiguousarray(rows[::step], np.float32))
            self._ann_index, self._exact = ann_index, exact  # IndexRefine keeps no reference
            exact.is_trained = True
            self._index = faiss.IndexRefine(ann_index, exact)
            self._index.own_fields = False
        for start in range(0, len(rows), CHUNK):
            self._index.add(rows[start : start + CHUNK].astype(np.float32))
        self.seconds = time.perf_counter() - began
        self._factor = max(1, index_status["candidates"] // 10)
        self._effort = index_status["effort"]

    def search(self, query: Any, bitmap: Any = None) -> list[int]:
        """The ten nearest rows."""
        selector = {} if bitmap is None else {"sel": self._faiss.IDSelectorBitmap(bitmap)}
        params = self._params(selector)
        return self._index.search(query[None], 10, params=params)[1][0].tolist()

    def _params(self, selector: dict[str, Any]) -> Any:
        library = self._faiss
        if not self._refined:
            return library.SearchParameters(**selector) if selector else None
        inner = library.SearchParametersIVF(nprobe=self._effort, **selector)
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
    """Bare FAISS has a bitmap that is ready; ours has to find out what passes."""
    low = 0 if rng is None else int(rng.integers(0, BUCKETS - width + 1))
    where = {"bucket": {"$gte": low, "$lt": low + width}}
    bitmap = np.packbits((bucket >= low) & (bucket < low + width), bitorder="little")
    began = time.perf_counter()
    library.search_vectors(query[None], target="image", where=where)
    between = time.perf_counter()
    bare.search(query, bitmap)
    return (between - began) * 1e3, (time.perf_counter() - between) * 1e3


def _recall(truth: Any, found: list[list[int]]) -> float:
    pairs = zip(truth.tolist(), found, strict=True)
    return statistics.mean(len(set(true) & set(rows)) / len(true) for true, rows in pairs)


def _quantiles(pairs: list[tuple[float, float]]) -> dict[str, float]:
    ours, theirs = zip(*[pair[:2] for pair in pairs], strict=True)
    return {
        "median": statistics.median(ours),
        "p99": float(np.quantile(ours, 0.99)),
        "bare": statistics.median(theirs),
        "bare p99": float(np.quantile(theirs, 0.99)),
    }


def cold(source: Path, index: Path) -> float:
    """Median seconds of `mmsearch query --vector` as a whole process."""
    query = source / "one.npy"
    np.save(query, np.load(source / "queries-pictures.npy")[0])
    command = [sys.executable, "-m", "mmsearch", "query", "--vector", query, "-i", index]
    return median(run(command).cost for _ in range(COLD_RUNS)).wall


def adding(source: Path, index: Path) -> float:
    """Seconds to add a thousand more vectors and find the last of them."""
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
"""The measurements, each in a process of its own, in this order."""


def measured(work: Path, size: int) -> dict[str, Any]:
    source = make_data(work, size)
    index = work / f"index-{size}"
    shutil.rmtree(index, ignore_errors=True)
    found: dict[str, Any] = {}
    for part in PARTS:
        print(f"  {size:,}: {part} …", file=sys.stderr)
        done = run([sys.executable, __file__, "--part", part, source, index])
        found[part] = json.loads(done.output.splitlines()[-1])
    return found


def figures(size: int, found: dict[str, Any]) -> Iterator[tuple[str, float, str]]:
    """(what, figure, unit) of one size."""
    loaded, warm, ram = found["load"], found["latency"], found["memory"]
    yield "load", size / loaded["load"], "rows/s"
    yield "SQLite alone: keys and vectors", size / loaded["bare"], "rows/s"
    yield "words", size / loaded["words"], "items/s"
    yield "FAISS index", loaded["build"], "s"
    yield "bare FAISS index", warm["bare build"], "s"
    yield "catalog", loaded["catalog"] / size, "bytes per item"
    yield "cache", loaded["cache"] / size, "bytes per item"
    yield "resident, own memory", ram["own"], "MiB"
    yield "resident, mapped files", ram["files"], "MiB"
    yield "resident, peak", ram["peak"], "MiB"
    yield "of that, before the first query", ram["imports"], "MiB"
    yield "cold query, whole process", found["cold"] * 1e3, "ms"
    for name in ("plain", *(f"{share}{again}" for share in SHARES for again in ("", " again"))):
        kind = "warm, plain" if name == "plain" else f"filtered {name}"
        yield f"{kind}, median", warm[name]["median"], "ms"
        yield f"{kind}, p99", warm[name]["p99"], "ms"
        yield f"{kind}, bare FAISS", warm[name]["bare"], "ms"
    for side in ("pictures", "texts"):
        yield f"recall@10, queries are {side}", warm[f"recall {side}"], ""
        yield f"recall@10, {side}, bare FAISS", warm[f"bare recall {side}"], ""
    yield "plain, vectors only on disk, median", warm["from disk"], "ms"
    yield f"adding {MORE:,} and finding them", found["adding"], "s"


def extrapolate(unit: str, sizes: list[int], values: list[float], wanted: int) -> float:
    """A figure on the straight line through the two largest sizes: cost = a + b · size.

    For rates and bytes per item, the line is that of total seconds or bytes.
    """
    if len(sizes) < 2:
        return math.nan
    totals = {"/s": lambda value, size: size / value, "item": lambda value, size: value * size}
    total = next((to for end, to in totals.items() if unit.endswith(end)), lambda value, _: value)
    (small, large), (low, high) = sizes[-2:], map(total, values[-2:], sizes[-2:])
    slope = max((high - low) / (large - small), 0.0)
    found = high + slope * (wanted - large)
    return wanted / found if unit.endswith("/s") else found / (wanted if "item" in unit else 1)


EXTRAPOLATED = (10_000_000, 100_000_000)


def show(all_found: dict[int, dict[str, Any]]) -> None:
    sizes = sorted(all_found)
    columns = {
        size: {name: (value, unit) for name, value, unit in figures(size, all_found[size])}
        for size in sizes
    }
    head = [f"{size:,}" for size in sizes] + [f"({size:,})" for size in EXTRAPOLATED]
    print(f"| | {' | '.join(head)} | |\n|{' --- |' * (len(head) + 2)}")
    for name, (_, unit) in columns[sizes[-1]].items():
        values = [columns[size][name][0] for size in sizes]
        extrapolated = ["" for _ in EXTRAPOLATED]
        if "recall" not in name and "p99" not in name:
            extrapolated = [_short(extrapolate(unit, sizes, values, size)) for size in EXTRAPOLATED]
        print(f"| {name} | {' | '.join([*map(_short, values), *extrapolated])} | {unit} |")
    print("\nIn brackets, extrapolated: cost = a + b · size through the two largest sizes.")
    print("A search compares the codes of 262,144 rows, and of more only if its recall needs it:")
    print("extrapolated latencies, which grow with the size, are upper bounds.")
    print(f"2 x {QUERIES} queries; each figure of bare FAISS is from the same process, in turn.")
    for size in sizes:
        kind = all_found[size]["latency"]["kind"]
        print(f"{size:,}: {kind['kind']}, {kind['candidates']} candidates: {kind['why']}")


def _short(value: float) -> str:
    if math.isnan(value):
        return ""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="10000,100000,1000000")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--part", nargs=3, metavar=("PART", "SOURCE", "INDEX"))
    options = parser.parse_args()
    if options.part:
        part, source, index = options.part
        print(json.dumps(PARTS[part](Path(source), Path(index).resolve())))
        return
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # or FAISS's threads would spin after a search, while the other one is timed
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with tempfile.TemporaryDirectory() as away:
        work = (options.work or Path(away)).resolve()
        sizes = sorted(int(size) for size in options.sizes.split(","))
        show({size: measured(work, size) for size in sizes})


if __name__ == "__main__":
    main()
