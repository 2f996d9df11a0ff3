"""What pages, facets and browsing cost beside a plain search.

    python benchmarks/pages.py [--sizes 10000,1000000] [--only search|warm|catalog]
        [--folder FOLDER]

search   an index of 10,000 vectors of `mini`, a third with captions: words searched by `search`, by
         `search_page` at several offsets, by date, and facets of the good matches.
warm     the same index, its captions encoded: two hundred different sentences, each encoded alone
         and searched for a first page, from one thread and from several at once.
catalog  items of each size with dates, folders, cameras and two tags each: facets of all, of what
         passes a filter of half of them and of some, and pages of all by date, the first time after
         a change and later.

Milliseconds of the processor, the best of some runs, whatever else runs.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filters import catalog_of, fastest_ms
from timing import cost, machine, table

import mmsearch
from mmsearch.encoders import runtime_of
from mmsearch.encoders.query_bank import typical_texts
from mmsearch.filters import from_options
from mmsearch.search.searcher import Searcher
from mmsearch.search.settings import Settings
from mmsearch.spaces.open_or_create import open_or_create

ROWS, PAGE = 10_000, 60
WORDS = "a dog on a beach"
WARM_PAGE, SENTENCES, THREADS = 20, 200, (1, 8, 32)


def index_of(folder: Path) -> mmsearch.Collection:
    """An index of vectors like those of photos, and of captions."""
    made = mmsearch.Collection(folder, create=True, model="mini")
    rng = np.random.default_rng(0)
    direction = made.encoder.encode("text", [WORDS])[0]
    noise = rng.standard_normal((ROWS, len(direction))).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    likeness = rng.random((ROWS, 1)).astype(np.float32) ** 8 * 0.5
    metadata = [
        {
            "path": f"/photos/{2010 + row % 12}/{row % 40}/{row}.jpg",
            "taken": f"{2010 + row % 12}-{1 + row % 9:02}-03T10:00:00",
            "camera": f"camera {row % 7}",
            **({"caption": f"photo number {row}"} if row % 3 == 0 else {}),
        }
        for row in range(ROWS)
    ]
    made.add_vectors(noise + likeness * direction, metadata, model="mini")
    return made


def time_search(folder: Path) -> None:
    with index_of(folder) as library:
        page = library.search_page(WORDS, k=PAGE)
        print(f"{page.weak_from} of {page.total} hits of {WORDS!r} are good matches")
        calls: dict[str, Callable[[], Any]] = {
            "encoding the words": lambda: library.encoder.encode("text", [WORDS]),
            "search": lambda: library.search(WORDS, k=PAGE),
            "search_page": lambda: library.search_page(WORDS, k=PAGE),
            "search_page, offset 240": lambda: library.search_page(WORDS, k=PAGE, offset=240),
            "search_page, offset 3000": lambda: library.search_page(WORDS, k=PAGE, offset=3000),
            "search_page, newest": lambda: library.search_page(WORDS, k=PAGE, sort="newest"),
            "facets": lambda: library.facets(WORDS),
            "facets without a query": library.facets,
            "browsing": lambda: library.search_page(None, k=PAGE),
            "browsing, offset 6000": lambda: library.search_page(None, k=PAGE, offset=6000),
        }
        rows = [(name, f"{fastest_ms(call, 15):.2f}") for name, call in calls.items()]
    table(f"{ROWS:,} items", rows, ("", "CPU ms"))


def time_warm(folder: Path) -> None:
    """What a search costs beside the encoding of its words, as a server makes it."""
    sentences = typical_texts()[:SENTENCES]
    with index_of(folder) as library:
        encode = library.encoder.encode
        vectors = np.concatenate([encode("text", [words]) for words in sentences])
        captioned = [{"path": item.path} for item in library.items if item.texts]
        texts = vectors[np.arange(len(captioned)) % len(vectors)]
        library.add_vectors(texts, captioned, model="mini", facet="text")
        calls: dict[str, Callable[[str], Any]] = {
            "encoding the words": lambda words: encode("text", [words]),
            "search_page": lambda words: library.search_page(words, k=WARM_PAGE),
        }
        rows = []
        for name, call in calls.items():
            run_all(call, sentences[:20], max(THREADS))
            runs = [cost(partial(run_all, call, sentences, n), len(sentences)) for n in THREADS]
            rates = [f"{1 / each.wall:.0f}" for each in runs]
            rows.append((name, f"{runs[0].cpu * 1000:.2f}", *rates))
    headings = ("", "CPU ms", *(f"a second, {n} threads" for n in THREADS))
    table(f"{len(sentences)} queries, {ROWS:,} items, a third with captions", rows, headings)


def run_all(call: Callable[[str], Any], sentences: Sequence[str], threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(call, sentences))


def time_catalog(number: int, folder: Path) -> None:
    catalog_of(number, folder / "catalog.db").close()
    catalog, index = open_or_create(folder, [], runtime_of(), create=False, restore=False)
    half, some = from_options(where=["share < 5000"]), from_options(where=["share < 100"])
    with closing(index):
        catalog.filters.passing(half)  # begins a generation of columns
        ids = {name: catalog.filters.passing(one) for name, one in (("half", half), ("some", some))}
        searcher = Searcher(index)
        calls: dict[str, Callable[[], Any]] = {
            "facets of all": catalog.filters.facets,
            "facets of half": lambda: catalog.filters.facets(ids["half"]),
            f"facets of {len(ids['some']):,}": lambda: catalog.filters.facets(ids["some"]),
            "browsing": lambda: searcher.page(None, Settings(k=PAGE)),
            "browsing, the last page": lambda: searcher.page(
                None, Settings(k=PAGE, offset=number - PAGE)
            ),
            "browsing half": lambda: searcher.page(None, Settings(k=PAGE, where=half)),
        }
        rows = []
        for name, call in calls.items():
            first = cost(call).cpu * 1000
            rows.append((name, f"{first:.1f}", f"{fastest_ms(call):.2f}"))
    table(f"{number:,} items", rows, ("", "first, CPU ms", "later, CPU ms"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", default="10000,1000000")
    parser.add_argument("--only", choices=["search", "warm", "catalog"])
    parser.add_argument("--folder")
    given = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        if given.only in (None, "search"):
            time_search(Path(scratch) / "search")
        if given.only in (None, "warm"):
            time_warm(Path(scratch) / "warm")
        for size in given.sizes.split(",") if given.only in (None, "catalog") else ():
            folder = Path(scratch) / size
            folder.mkdir()
            time_catalog(int(size), folder)


if __name__ == "__main__":
    main()
