"""What a filter costs: answering it from the catalog, and searching among the items that pass.

    python benchmarks/filters.py [--items 1000000] [--dim 520] [--folder FOLDER]

The first table is why `FaissIndex` copies few rows out and gives FAISS a bitmap for many; the last
column is the search without a filter. The second table times `passing` for one filter each. All
are times of one processor, whatever else runs.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from mmsearch import vectors as ours
from mmsearch.catalog import Catalog
from mmsearch.catalog.filtering import FilterTables
from mmsearch.filters import from_options
from mmsearch.schema import attributes, items, texts

SHARES = (0.0001, 0.001, 0.002, 0.004, 0.01, 0.03, 0.1, 0.3, 0.9)
MOST_COPIED = 0.04  # of a million rows of 520 numbers, 40 MB


class World(Catalog, FilterTables):
    """A catalog that filters are asked of."""


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


def filled(number: int, dim: int) -> ours.FaissIndex:
    dice = np.random.default_rng(0)
    index = ours.FaissIndex.empty(dim)
    for start in range(0, number, 50_000):
        rows = dice.standard_normal((min(50_000, number - start), dim), dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        index.add(range(start + 1, start + 1 + len(rows)), rows)
    return index


def by_selector(index: ours.FaissIndex, query: np.ndarray, selector: Any) -> float:
    """FAISS's own search of the index of ids; `selector` is of ids."""
    chosen = faiss.SearchParameters(sel=selector)
    return fastest_ms(lambda: index._index.search(query[None], 26, params=chosen))  # noqa: SLF001


def among(index: ours.FaissIndex, query: np.ndarray, allowed: np.ndarray, few: int) -> float:
    """`search`, copying when at most one row in `few` is allowed."""
    ours.FEW = few
    return fastest_ms(lambda: index.search(query, 10, allowed))


def time_vectors(number: int, dim: int) -> None:
    faiss.omp_set_num_threads(1)
    index, dice = filled(number, dim), np.random.default_rng(1)
    query = index.sample(1)[0]
    few = ours.FEW
    whole = fastest_ms(lambda: index.search(query, 10))
    print(f"{number:,} vectors of {dim}, ms of one processor")
    print("  allowed   copied   bitmap  id array  id batch     all")
    for share in SHARES:
        allowed = np.sort(dice.choice(number, int(number * share), replace=False)) + 1
        copied = among(index, query, allowed, 1) if share <= MOST_COPIED else float("nan")
        bitmap = among(index, query, allowed, number + 1)
        batch = by_selector(index, query, faiss.IDSelectorBatch(allowed))
        slow = share > SHARES[0]  # it looks through the whole array for each row
        array = float("nan") if slow else by_selector(index, query, faiss.IDSelectorArray(allowed))
        cells = f"{copied:8.2f} {bitmap:8.2f} {array:9.2f} {batch:9.2f} {whole:7.2f}"
        print(f"  {share:7.2%} {cells}")
    ours.FEW = few
    sizes = iter(range(8192, 9000))  # a sample is kept, so each is of another size
    print(f"a sample of 8,192: {fastest_ms(lambda: index.sample(next(sizes))):.1f}, once")


# ---------------------------------------------------------------------- catalog


def rows_of(number: int, source: int) -> Iterator[dict[str, Any]]:
    dice = random.Random(0)
    for id_ in range(1, number + 1):
        year, month = dice.randrange(2005, 2025), dice.randrange(1, 13)
        here = dice.random() < 0.3
        yield {
            "id": id_,
            "source_id": source,
            "folder": f"{year}/{month:02}-{dice.choice(['beach', 'city', 'été'])}",
            "name": f"IMG_{id_:07}.{dice.choice(['jpg', 'JPG', 'png'])}",
            "modality": "image",
            "size": dice.randrange(10_000_000),
            "mtime_ns": dice.randrange(10**18, 2 * 10**18),
            "hash": id_.to_bytes(16, "big"),
            "width": dice.choice([640, 1920, 4000]),
            "height": dice.choice([480, 1080, 3000]),
            "taken_at": f"{year}-{month:02}-11T10:20:30",
            "camera": dice.choice(["Canon EOS 5D", "NIKON D90", "Größe 1", None]),
            "latitude": dice.uniform(-90, 90) if here else None,
            "longitude": dice.uniform(-180, 180) if here else None,
        }


def in_parts(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    part: list[dict[str, Any]] = []
    for row in rows:
        part.append(row)
        if len(part) == 20_000:
            yield part
            part = []
    yield part


def catalog_of(number: int, path: Path) -> World:
    made = World(path)
    source = made.add_source("/photos")
    with made._write() as connection:  # noqa: SLF001
        for part in in_parts(rows_of(number, source)):
            if not part:
                continue
            connection.execute(items.insert(), part)
            ids = [row["id"] for row in part]
            caption = {"position": 0, "origin": "caption", "text": "a dog runs on a beach " * 3}
            connection.execute(texts.insert(), [{"item_id": id_, **caption} for id_ in ids[::2]])
            rated = [
                {"item_id": id_, "key": "rating", "text": str(id_ % 5), "number": id_ % 5}
                for id_ in ids
            ]
            connection.execute(attributes.insert(), rated)
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
}


def time_catalog(number: int, folder: Path) -> None:
    made = catalog_of(number, folder / "catalog.db")
    print(f"\n{number:,} items in the catalog, ms of one processor\n       ms    items pass")
    for name, options in FILTERS.items():
        filter_ = from_options(**options)
        taken = fastest_ms(lambda filter_=filter_: made.passing(filter_), 2)
        print(f"{taken:9.1f} {len(made.passing(filter_)):13,}  {name}")
    print(f"{fastest_ms(made.metadata_keys):9.1f}                the keys of the metadata")
    made.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=520, help="512 numbers and 8 of the hubs'")
    parser.add_argument("--folder", type=Path, help="where the catalog is made for the while")
    parser.add_argument("--only", choices=["vectors", "catalog"])
    given = parser.parse_args()
    if given.only != "catalog":
        time_vectors(given.items, given.dim)
    if given.only != "vectors":
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            time_catalog(given.items, Path(folder))


if __name__ == "__main__":
    main()
