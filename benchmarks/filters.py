"""What a filter costs: finding which items pass, and searching among them.

    python benchmarks/filters.py [--items 1000000] [--dim 520] [--folder FOLDER] [--only PART]

The first table is why `FaissIndex` copies few rows out and gives FAISS a bitmap for many; the last
column is the search without a filter. The others time one filter each, over 10,000 items and so on
up to the number given: by SQL; in an open process, by columns that were not asked for these values
before, and again; in a new process, by columns that an earlier one built; and how long it took to
build them. Paths, tags and `has` are always answered by SQL, which an open process remembers. All
are times of one processor, whatever else runs, and all answers are checked to be the same.
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from mmsearch.filters import Filter, from_options
from mmsearch.storage.sqlite import Catalog
from mmsearch.storage.sqlite.filters import Filters
from mmsearch.vectors import FaissIndex
from mmsearch.vectors import index as vector_index
from mmsearch.vectors.id_set import IdSet

SHARES = (0.0001, 0.001, 0.002, 0.004, 0.01, 0.03, 0.1, 0.3, 0.9)
MOST_COPIED = 0.04  # of a million rows of 520 numbers, 40 MB


def fastest_ms(run: Callable[[], Any], times: int = 5) -> float:
    """The processor's time, in which other programs have no part, of the best of some runs."""
    run()
    taken = []
    for _ in range(times):
        began = time.process_time()
        run()
        taken.append(time.process_time() - began)
    return min(taken) * 1000


# ---------------------------------------------------------------------- vectors


def filled(number: int, dim: int) -> FaissIndex:
    dice = np.random.default_rng(0)
    index = FaissIndex.empty(dim)
    rows = dice.standard_normal((number, dim), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index.add(np.arange(1, number + 1), rows)
    return index


def by_selector(index: FaissIndex, query: np.ndarray, selector: Any) -> float:
    """FAISS's own search; `selector` is of rows."""
    chosen = faiss.SearchParameters(sel=selector)
    rows = index._delta.segment.exact_index  # noqa: SLF001
    return fastest_ms(lambda: rows.search(query[None], 26, params=chosen))


def among(index: FaissIndex, query: np.ndarray, allowed: IdSet, few: int) -> float:
    """`search`, copying when at most one row in `few` is allowed."""
    vector_index.FEW = few
    return fastest_ms(lambda: index.search(query, 10, allowed))


def time_vectors(number: int, dim: int) -> None:
    faiss.omp_set_num_threads(1)
    index, dice = filled(number, dim), np.random.default_rng(1)
    query = index.sample(1)[0]
    few = vector_index.FEW
    whole = fastest_ms(lambda: index.search(query, 10))
    print(f"{number:,} vectors of {dim}, ms of one processor")
    print("  allowed   copied   bitmap  id array  id batch     all")
    for share in SHARES:
        rows = np.sort(dice.choice(number, int(number * share), replace=False))
        allowed = IdSet.of(rows + 1)
        copied = among(index, query, allowed, 1) if share <= MOST_COPIED else float("nan")
        bitmap = among(index, query, allowed, number + 1)
        batch = by_selector(index, query, faiss.IDSelectorBatch(rows))
        slow = share > SHARES[0]  # it looks through the whole array for each row
        array = float("nan") if slow else by_selector(index, query, faiss.IDSelectorArray(rows))
        cells = f"{copied:8.2f} {bitmap:8.2f} {array:9.2f} {batch:9.2f} {whole:7.2f}"
        print(f"  {share:7.2%} {cells}")
    vector_index.FEW = few
    print(f"a sample of 8,192: {fastest_ms(lambda: index.sample(8192)):.1f}")


# ---------------------------------------------------------------------- catalog


COLUMNS = (
    "source_id, folder, name, kind, size, mtime_ns, hash, width, height, taken_at, camera, "
    "latitude, longitude"
)
TAGS = ("beach", "car", "cat", "city", "dog", "tree")


def items_of(number: int, source: int) -> Iterator[tuple[Any, ...]]:
    dice = random.Random(0)
    for id_ in range(1, number + 1):
        year, month, here = dice.randrange(2005, 2025), dice.randrange(1, 13), dice.random() < 0.3
        second = f"{dice.randrange(28) + 1:02}T{dice.randrange(24):02}:{dice.randrange(60):02}:20"
        yield (
            source,
            f"{year}/{month:02}-{dice.choice(['beach', 'city', 'été'])}",
            f"IMG_{id_:07}.{dice.choice(['jpg', 'JPG', 'png'])}",
            "image",
            dice.randrange(10_000_000),
            dice.randrange(10**18, 2 * 10**18),
            id_.to_bytes(16, "big"),
            dice.choice([640, 1920, 4000]),
            dice.choice([480, 1080, 3000]),
            f"{year}-{month:02}-{second}",
            dice.choice(["Canon EOS 5D", "NIKON D90", "Größe 1", None]),
            dice.uniform(-90, 90) if here else None,
            dice.uniform(-180, 180) if here else None,
        )


def attributes_of(number: int) -> Iterator[tuple[Any, ...]]:
    dice = random.Random(1)
    for id_ in range(1, number + 1):
        share, score = dice.randrange(10_000), dice.random()
        yield id_, "rating", str(id_ % 5), id_ % 5
        yield id_, "share", str(share), share
        yield id_, "score", repr(score), score


def catalog_of(number: int, path: Path) -> Catalog:
    made, dice = Catalog(path), random.Random(2)
    source = made.sources.add("/photos")
    rows: dict[str, Iterator[tuple[Any, ...]]] = {
        f"items ({COLUMNS})": items_of(number, source),
        "texts (item_id, position, origin, text)": (
            (id_, 0, "caption", "a dog runs on a beach " * 3) for id_ in range(1, number, 2)
        ),
        "metadata (item_id, key, text, number)": attributes_of(number),
        "tags (item_id, tag, score)": (
            (id_, tag, 0.5) for id_ in range(1, number + 1) for tag in dice.sample(TAGS, 2)
        ),
    }
    with made.database.write() as connection:
        driver: Any = connection.connection.dbapi_connection
        for table, some in rows.items():
            marks = ", ".join("?" * (table.count(",") + 1))
            driver.executemany(f"INSERT INTO {table} VALUES ({marks})", some)
    return made


FILTERS: dict[str, dict[str, Any]] = {
    "no filter": {},
    "--path '*.jpg'": {"path": ["*.jpg"]},
    "--path 2019": {"path": ["2019"]},
    "--path '2019/*beach/*'": {"path": ["2019/*beach/*"]},
    "--path '/photos/2019/'": {"path": ["/photos/2019/"]},
    "--path '*[0-4].png'": {"path": ["*[0-4].png"]},
    "--path '*/été'": {"path": ["*/été"]},
    "--after 2020 --before 2021": {"after": "2020", "before": "2021"},
    "--camera canon": {"camera": "canon"},
    "--near 48.2,16.37,50": {"near": "48.2,16.37,50"},
    "--near 48.2,16.37,5000": {"near": "48.2,16.37,5000"},
    "--min-size 1920x1080": {"min_size": "1920x1080"},
    "--has caption": {"has": ["caption"]},
    "--has gps": {"has": ["gps"]},
    "--where 'rating >= 4'": {"where": ["rating >= 4"]},
    "--where '!rating'": {"where": ["!rating"]},
    "--tag dog --tag cat": {"tag": ["dog", "cat"]},
    "--where 'share < 5000' (50 %)": {"where": ["share < 5000"]},
    "--where 'share < 100' (1 %)": {"where": ["share < 100"]},
    "--where 'share = 77' (0.01 %)": {"where": ["share = 77"]},
    "--where 'score < 0.5' (50 %)": {"where": ["score < 0.5"]},
    "--where 'score < 0.01' (1 %)": {"where": ["score < 0.01"]},
    "--where 'score < 0.0001' (0.01 %)": {"where": ["score < 0.0001"]},
    "three conditions": {"min_size": "1920x1080", "camera": "canon", "where": ["rating >= 2"]},
}


def time_filter(made: Catalog, filters: Filters, folder: Path, filter_: Filter, name: str) -> None:
    def unseen() -> IdSet:
        filters._answers.clear()  # noqa: SLF001 - as a filter that was never asked
        return filters.passing(filter_)

    def by_new_process() -> IdSet:
        return Filters(made.database, folder).passing(filter_)

    began = time.process_time()
    first = filters.passing(filter_)
    building = time.process_time() - began
    if not np.array_equal(first.ids, made.filters.matching(filter_)):
        raise SystemExit(f"the columns answer {name} otherwise than SQL")
    by_sql = fastest_ms(lambda: IdSet.of(made.filters.matching(filter_)), 2)
    by_columns = fastest_ms(unseen)
    again = fastest_ms(lambda: filters.passing(filter_))
    new = fastest_ms(by_new_process, 2)
    cells = f"{by_sql:9.1f} {by_columns:9.2f} {again:8.2f} {new:9.1f} {building:9.2f}"
    print(f"{cells} {len(first):11,}  {name}", flush=True)


def time_catalog(number: int, folder: Path) -> None:
    made = catalog_of(number, folder / "catalog.db")
    filters = Filters(made.database, folder / "cache")
    filters.passing(from_options(where=["share"]))  # the first is answered by SQL
    print(f"\n{number:,} items, ms of one processor; seconds of building")
    print("      SQL   columns    again  new proc.  building  items pass")
    for name, options in FILTERS.items():
        time_filter(made, filters, folder / "cache", from_options(**options), name)
    held = sum(path.stat().st_size for path in (folder / "cache").glob("*"))
    print(f"{fastest_ms(made.metadata.keys):9.2f}  the keys of the metadata, by SQL")
    print(f"{held / 2**20:9.1f}  MiB of columns, {held / number:.0f} bytes an item")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:9.0f}  MiB at most, SQL's")
    made.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=520, help="512 numbers and 8 of the hubs'")
    parser.add_argument("--folder", type=Path, help="where the catalog is made for the while")
    parser.add_argument("--only", choices=["vectors", "catalog"])
    given = parser.parse_args()
    if given.folder is not None:
        given.folder.mkdir(parents=True, exist_ok=True)
    if given.only != "catalog":
        time_vectors(given.items, given.dim)
    for number in (10_000, 100_000, 1_000_000):
        if given.only != "vectors" and number <= given.items:
            with tempfile.TemporaryDirectory(dir=given.folder) as folder:
                time_catalog(number, Path(folder))


if __name__ == "__main__":
    main()
