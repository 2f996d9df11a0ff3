"""How fast words are looked up among a million captions, and how large their tables are.

    python benchmarks/lexical.py [--items N] [--work FOLDER]

Makes an index of captions of invented words, as unevenly common as those of a language are (the
frequency of the n-th is proportional to 1/n), in a folder that is removed at the end; then prints
how many items per second are written, bytes per item, and milliseconds per query. Those are of
processor time, which other programs disturb least; nothing here waits for disks.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from timing import cost, machine

from mmsearch.storage.lexical import tokens
from mmsearch.storage.sqlite import Catalog
from mmsearch.vectors.id_set import IdSet

FUNCTION_WORDS = ["a", "in", "the", "on", "is", "and", "of", "with", "are", "to", "at", "an"]
INVENTED = 40_000
LONGEST, SHORTEST = 15, 6  # words of a caption
HAN = [chr(0x4E00 + 7 * n) for n in range(2000)]
HAN_SHARE = 50  # one caption in so many is of these
CAMERAS = ["Canon EOS 5D", "NIKON D90", "Apple iPhone 12", "FUJIFILM X100", None]
BATCH = 20_000
QUERIES = 100
K = 100


def invented(number: int) -> str:
    """A word of its own for each number."""
    syllables = ""
    number += 100
    while number:
        number, rest = divmod(number, 100)
        syllables += "bdfgklmnprtvzcjhswxq"[rest // 5] + "aeiou"[rest % 5]
    return f"{syllables}k"


class Language:
    """Words with the frequencies of a natural language."""

    def __init__(self, seed: int = 0) -> None:
        self.words = np.array([*FUNCTION_WORDS, *map(invented, range(INVENTED))])
        shares = 1 / np.arange(1, len(self.words) + 1)
        self._cumulative = np.cumsum(shares / shares.sum())
        self._rng = np.random.default_rng(seed)

    def captions(self, count: int) -> list[str]:
        lengths = self._rng.integers(SHORTEST, LONGEST + 1, count)
        ends = np.cumsum(lengths)
        words = self.words[np.searchsorted(self._cumulative, self._rng.random(ends[-1]))].tolist()
        starts = ends - lengths
        return [" ".join(words[a:b]) for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]

    def han(self, length: int) -> str:
        return "".join(HAN[n] for n in (len(HAN) * self._rng.random(length) ** 2).astype(int))


def items(count: int, language: Language) -> Iterator[tuple[list[tuple], list[tuple]]]:
    """Rows of items and of texts, a batch at a time."""
    began = datetime(2005, 1, 1)  # noqa: DTZ001
    for start in range(0, count, BATCH):
        ids = range(start + 1, min(start + BATCH, count) + 1)
        captions = language.captions(len(ids))
        rows = []
        texts = []
        for id_, caption in zip(ids, captions, strict=True):
            taken = began + timedelta(minutes=8 * id_)
            folder = f"Photos/{taken:%Y}/{taken:%Y-%m}"
            row = (id_, folder, f"IMG_{id_:07}.jpg", id_.to_bytes(16, "little"), taken.isoformat())
            rows.append((*row, CAMERAS[id_ % len(CAMERAS)]))
            texts.append((id_, language.han(12) if id_ % HAN_SHARE == 0 else caption))
        yield rows, texts


def fill(catalog: Catalog, count: int, language: Language) -> None:
    source = catalog.sources.add("/photos")
    item = (
        "INSERT INTO items(id, source_id, folder, name, hash, taken_at, camera, kind, size, "
        f"mtime_ns) VALUES (?, {source}, ?, ?, ?, ?, ?, 'image', 1, 1)"
    )
    text = "INSERT INTO texts(item_id, position, origin, text) VALUES (?, 0, 'caption', ?)"
    for rows, texts in items(count, language):
        with catalog.database.write() as connection:
            connection.exec_driver_sql(item, rows)
            connection.exec_driver_sql(text, texts)


def size(catalog: Catalog) -> int:
    """Bytes of the catalog's pages."""
    with catalog.database.read() as connection:
        pages, page, free = (
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("page_count", "page_size", "freelist_count")
        )
    return (pages - free) * page


def query_makers(language: Language) -> dict[str, Callable[[], str]]:
    """By kind of query, a function that makes another one at each call."""
    rng = random.Random(1)
    first = len(FUNCTION_WORDS)

    def word(low: int, high: int) -> str:
        return str(language.words[first + rng.randrange(low, high)])

    return {
        "a rare word": lambda: word(5000, 30_000),
        "a word in some thousand items": lambda: word(50, 500),
        "one of the ten commonest words": lambda: word(0, 10),
        "a word of every item": lambda: "jpg",
        "two words": lambda: f"{word(20, 2000)} {word(20, 2000)}",
        "two of the ten commonest": lambda: f"{word(0, 10)} {word(0, 10)}",
        "a whole caption": lambda: language.captions(1)[0],
        "32 words": lambda: " ".join(word(0, 1000) for _ in range(32)),
        "a quoted phrase": lambda: f'"{word(0, 100)} {word(0, 100)}"',
        "a quoted phrase with a stop word": lambda: f'"the {word(0, 30)}"',
        "a month and a year": lambda: rng.choice(["march 2019", "july 2012", "2010-05"]),
        "one character": lambda: language.han(1),
        "two characters": lambda: language.han(2),
        "eight characters": lambda: language.han(8),
        "stop words alone": lambda: "who is this with the",
        "nonsense": lambda: "".join(map(chr, rng.choices(range(33, 0x3000), k=40))),
    }


def milliseconds(
    call: Callable[[str], object], make_query: Callable[[], str], queries: int = QUERIES
) -> list[float]:
    times = []
    for _ in range(queries):
        query = make_query()
        times.append(1000 * cost(lambda query=query: call(query)).cpu)
    return sorted(times)


def look_up(catalog: Catalog, count: int, language: Language) -> None:
    half = IdSet.of(np.arange(1, count + 1, 2))
    kinds = {
        "": lambda query: catalog.words.search(query, K),
        ", of half of the items": lambda query: catalog.words.search(query, K, half),
        ", of 300 items": lambda query: catalog.words.search(query, K, IdSet.of(half.ids[-300:])),
    }
    for kind, call in kinds.items():
        print(f"\nMilliseconds per query, k={K}{kind}: median, 99th percentile, longest")
        for name, make_query in query_makers(language).items():
            row(name, milliseconds(call, make_query))
    print("\nThe same by SQLite's own ranking of all items with any of the words")
    makers = query_makers(language)
    for name in ("a rare word", "one of the ten commonest words", "a whole caption"):
        row(name, milliseconds(lambda query: sqlite_alone(catalog, query), makers[name], 10))


def row(name: str, times: list[float]) -> None:
    p99 = times[math.ceil(0.99 * len(times)) - 1]
    print(f"  {name:<34}{statistics.median(times):7.2f}{p99:8.2f}{times[-1]:8.2f}")


def sqlite_alone(catalog: Catalog, query: str) -> None:
    """SQLite's own ranking of all items with any of the words."""
    words = " OR ".join(f'"{token}"' for token in tokens(query))
    statement = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rank LIMIT ?"
    with catalog.database.read() as connection:
        connection.exec_driver_sql(statement, (words, K)).all()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--work", type=Path, default=None, help="where to make the index")
    options = parser.parse_args()
    print(machine())
    language = Language()
    with (
        tempfile.TemporaryDirectory(dir=options.work) as folder,
        closing(Catalog(Path(folder) / "catalog.db")) as catalog,
    ):
        fill(catalog, options.items, language)
        before = size(catalog)
        spent = cost(catalog.words.refresh)
        times = f"{spent.wall:.0f} s, {spent.cpu:.0f} of the processor"
        print(f"\n{options.items:,} items: their words written in {times}")
        print(f"  items per CPU second {options.items / spent.cpu:,.0f}")
        print(f"  bytes per item       {(size(catalog) - before) / options.items:.0f}")
        look_up(catalog, options.items, language)


if __name__ == "__main__":
    main()
