"""What a filter costs: finding which items pass, and searching among them.

    python benchmarks/filters.py [--sizes 10000,100000,1000000] [--dim 520] [--folder FOLDER]
                                 [--only vectors|catalog]

The first table is why `FaissIndex` copies few rows out and gives FAISS a bitmap for many; the last
column is the search without a filter. It is of the largest size.

The others are of each size and have filters of every kind of key, and how many items pass. All are
milliseconds of the processor, whatever else runs, and all answers are checked to be the same:

SQL        answered by SQL, as the first filter over an index is
first use  in an open process, by columns that have to be built of the filter's keys
later use  in that process, of values that are not remembered
again      the same filter, remembered
new proc.  by columns that an earlier process built, in a process that has not read them yet

Paths, folders, tags and `has` are always answered by SQL, whose answers an open process remembers.
The three conditions come last, when the columns of their keys are there.
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from timing import cost

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
    return min(cost(run).cpu for _ in range(times)) * 1000


# ---------------------------------------------------------------------- vectors


def index_of(number: int, dim: int) -> FaissIndex:
    rng = np.random.default_rng(0)
    index = FaissIndex.empty(dim)
    rows = rng.standard_normal((number, dim), dtype=np.float32)
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
    index, rng = index_of(number, dim), np.random.default_rng(1)
    query = index.sample(1)[0]
    few = vector_index.FEW
    unfiltered = fastest_ms(lambda: index.search(query, 10))
    print(f"{number:,} vectors of {dim}, ms of one processor")
    print("  allowed   copied   bitmap  id array  id batch     all")
    for share in SHARES:
        rows = np.sort(rng.choice(number, int(number * share), replace=False))
        allowed = IdSet.of(rows + 1)
        copied = among(index, query, allowed, 1) if share <= MOST_COPIED else float("nan")
        bitmap = among(index, query, allowed, number + 1)
        batch = by_selector(index, query, faiss.IDSelectorBatch(rows))
        slow = share > SHARES[0]  # it looks through the whole array for each row
        array = float("nan") if slow else by_selector(index, query, faiss.IDSelectorArray(rows))
        cells = f"{copied:8.2f} {bitmap:8.2f} {array:9.2f} {batch:9.2f} {unfiltered:7.2f}"
        print(f"  {share:7.2%} {cells}")
    vector_index.FEW = few
    print(f"a sample of 8,192: {fastest_ms(lambda: index.sample(8192)):.1f}")


# ---------------------------------------------------------------------- catalog


COLUMNS = (
    "source_id, folder, name, kind, size, mtime_ns, hash, width, height, taken_at, camera, "
    "latitude, longitude, seconds"
)
KINDS = ("image", "image", "image", "image", "video")
TAGS = ("beach", "car", "cat", "city", "dog", "tree")


def items_of(number: int, source: int) -> Iterator[tuple[Any, ...]]:
    rng = random.Random(0)
    for id_ in range(1, number + 1):
        year, month, here = rng.randrange(2005, 2025), rng.randrange(1, 13), rng.random() < 0.3
        second = f"{rng.randrange(28) + 1:02}T{rng.randrange(24):02}:{rng.randrange(60):02}:20"
        kind = KINDS[id_ % len(KINDS)]
        yield (
            source,
            f"{year}/{month:02}-{rng.choice(['beach', 'city', 'été'])}",
            f"IMG_{id_:07}.{rng.choice(['jpg', 'JPG', 'png'])}",
            kind,
            rng.randrange(10_000_000),
            rng.randrange(10**18, 2 * 10**18),
            id_.to_bytes(16, "big"),
            rng.choice([640, 1920, 4000]),
            rng.choice([480, 1080, 3000]),
            f"{year}-{month:02}-{second}",
            rng.choice(["Canon EOS 5D", "NIKON D90", "Größe 1", None]),
            rng.uniform(-90, 90) if here else None,
            rng.uniform(-180, 180) if here else None,
            id_ % 600 if kind == "video" else None,
        )


def metadata_of(number: int) -> Iterator[tuple[Any, ...]]:
    rng = random.Random(1)
    for id_ in range(1, number + 1):
        share, score = rng.randrange(10_000), rng.random()
        yield id_, "rating", str(id_ % 5), id_ % 5
        yield id_, "share", str(share), share
        yield id_, "place", f"place {share % 500}", None
        yield id_, "score", repr(score), score


def catalog_of(number: int, path: Path) -> Catalog:
    catalog, rng = Catalog(path), random.Random(2)
    source = catalog.sources.add("/photos")
    rows: dict[str, Iterator[tuple[Any, ...]]] = {
        f"items ({COLUMNS})": items_of(number, source),
        "texts (item_id, position, origin, text)": (
            (id_, 0, "caption", "a dog runs on a beach " * 3) for id_ in range(1, number, 2)
        ),
        "metadata (item_id, key, text, number)": metadata_of(number),
        "tags (item_id, tag, score)": (
            (id_, tag, 0.5) for id_ in range(1, number + 1) for tag in rng.sample(TAGS, 2)
        ),
    }
    with catalog.database.write() as connection:
        driver: Any = connection.connection.dbapi_connection
        for table, values in rows.items():
            marks = ", ".join("?" * (table.count(",") + 1))
            driver.executemany(f"INSERT INTO {table} VALUES ({marks})", values)
    return catalog


FILTERS: dict[str, dict[str, Any]] = {
    "no filter": {},
    "--modality video": {"modality": ["video"]},
    "--after 2020 --before 2021": {"after": "2020", "before": "2021"},
    "--where 'taken = 2019-03'": {"where": ["taken = 2019-03"]},
    "--where 'modified < 2010'": {"where": ["modified < 2010"]},
    "--camera canon": {"camera": "canon"},
    "--where 'camera = NIKON D90'": {"where": ["camera = NIKON D90"]},
    "--path '*.jpg'": {"path": ["*.jpg"]},
    "--path 2019": {"path": ["2019"]},
    "--path '2019/*beach/*'": {"path": ["2019/*beach/*"]},
    "--path '/photos/2019/'": {"path": ["/photos/2019/"]},
    "--path '*[0-4].png'": {"path": ["*[0-4].png"]},
    "--path '*/été'": {"path": ["*/été"]},
    "--where 'folder = 2019/03-city'": {"where": ["folder = 2019/03-city"]},
    "--where 'name ~ 0077'": {"where": ["name ~ 0077"]},
    "--tag dog": {"tag": ["dog"]},
    "--tag dog --tag cat": {"tag": ["dog", "cat"]},
    "--has caption": {"has": ["caption"]},
    "--has gps": {"has": ["gps"]},
    "--has sound": {"has": ["sound"]},
    "--near 48.2,16.37,50": {"near": "48.2,16.37,50"},
    "--near 48.2,16.37,5000": {"near": "48.2,16.37,5000"},
    "--min-size 1920x1080": {"min_size": "1920x1080"},
    "--where 'size > 9MB'": {"where": ["size > 9MB"]},
    "--where 'megapixels > 10'": {"where": ["megapixels > 10"]},
    "--where 'seconds < 60'": {"where": ["seconds < 60"]},
    "--where 'place = place 77', a text": {"where": ["place = place 77"]},
    "--where 'place ~ 77', a text": {"where": ["place ~ 77"]},
    "--where 'rating >= 4', a number": {"where": ["rating >= 4"]},
    "--where '!rating'": {"where": ["!rating"]},
    "--where 'share < 5000' (50 %)": {"where": ["share < 5000"]},
    "--where 'share < 100' (1 %)": {"where": ["share < 100"]},
    "--where 'share = 77' (0.01 %)": {"where": ["share = 77"]},
    "--where 'score < 0.5' (50 %)": {"where": ["score < 0.5"]},
    "--where 'score < 0.01' (1 %)": {"where": ["score < 0.01"]},
    "--where 'score < 0.0001' (0.01 %)": {"where": ["score < 0.0001"]},
    "three conditions": {"min_size": "1920x1080", "camera": "canon", "where": ["rating >= 2"]},
}


def time_filter(catalog: Catalog, filters: Filters, folder: Path, filter_: Filter) -> list[float]:
    """Milliseconds by SQL, of the first use, later, again, in a new process; and how many pass."""

    def later() -> IdSet:
        filters._answers.clear()  # noqa: SLF001 - the answer is not to be remembered
        return filters.passing(filter_)

    by_sql = fastest_ms(lambda: IdSet.of(catalog.filters.matching(filter_)), 2)
    began = time.process_time()
    found = filters.passing(filter_)
    first_use = (time.process_time() - began) * 1000
    if not np.array_equal(found.ids, catalog.filters.matching(filter_)):
        raise SystemExit(f"the columns answer {filter_} otherwise than SQL")
    return [
        by_sql,
        first_use,
        fastest_ms(later),
        fastest_ms(lambda: filters.passing(filter_)),
        fastest_ms(lambda: Filters(catalog.database, folder).passing(filter_), 2),
        len(found),
    ]


def time_catalog(number: int, folder: Path) -> None:
    cache = folder / "cache"
    with closing(catalog_of(number, folder / "catalog.db")) as catalog:
        filters = Filters(catalog.database, cache)
        filters.passing(from_options(where=["share"]))  # the first is answered by SQL
        print(f"\n{number:,} items, ms of one processor")
        print("      SQL  first use  later use    again  new proc.  items pass")
        for name, options in FILTERS.items():
            times = time_filter(catalog, filters, cache, from_options(**options))
            sql, first_use, later, again, new, passing = times
            cells = f"{sql:9.1f} {first_use:10.1f} {later:10.2f} {again:8.2f} {new:10.1f}"
            print(f"{cells} {passing:11,}  {name}", flush=True)
        size = sum(path.stat().st_size for path in cache.glob("*"))
        print(f"{size / 2**20:9.1f}  MiB of columns, {size / number:.0f} bytes an item")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"{peak:9.0f}  MiB, the peak of this process")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="10000,100000,1000000", help="default %(default)s")
    parser.add_argument("--dim", type=int, default=520, help="512 numbers and 8 of the hubs'")
    parser.add_argument("--folder", type=Path, help="where to make the catalogs, which are removed")
    parser.add_argument("--only", choices=["vectors", "catalog"])
    options = parser.parse_args()
    sizes = sorted(int(size) for size in options.sizes.split(","))
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    if options.only != "catalog":
        time_vectors(sizes[-1], options.dim)
    if options.only != "vectors":
        for number in sizes:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                time_catalog(number, Path(folder))


if __name__ == "__main__":
    main()
