"""Whether two versions of the code answer alike, to queries of every kind on the same index.

    python benchmarks/compare_answers.py A B --flickr8k FOLDER --esc10 FOLDER [--rows N]

A and B are folders, the older first: a clone, or what `git worktree add --detach FOLDER COMMIT`
makes. Three pairs of indexes are compared:

migrated  A's, of photos with captions and metadata, copies of one, texts, sounds, names with spaces
          and brackets, a file that cannot be read, and with tags; a copy is opened by each
made      A's and B's own of the same files; scores may lie 1e-5 apart, since the size of a batch
          depends on what is decoded by then, and changes the last bits of vectors
vectors   A's of --rows vectors with metadata, so many that an approximate index and columns answer,
          with some added and removed after that; a copy is opened by each

All hits are compared, with scores, confidences and signals to six decimals; items, failures,
status, near-duplicates, descriptions; and what commands print, with their exit codes. Of an error,
only its type counts. Prints the number of comparisons and the first differences of each pair; the
exit code is 1 if there is any.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from timing import table
from trees import Tree, metadata, parser_of_trees, run_part, trees_of, vectors

PHOTOS = 200
DIM = 256
TOLERANCE = {"migrated": 0.0, "made": 1e-5, "vectors": 0.0}
SHOWN = 10
"""Differences that are printed of one pair of indexes."""

WORDS = (
    "a dog on a beach",
    "two children playing",
    "a man on a bicycle",
    "rain",
    '"sleeps on the sofa"',
    "rome",
    "bread",
    "a rooster crowing",
)
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"k": 1},
    {"k": 1000},
    {"target": "image"},
    {"target": "text"},
    {"target": "audio"},
    {"target": ["image", "audio"]},
    {"spans": True},
    {"rerank": "fusion", "target": "image"},
    {"rerank": "diverse", "diversity": 0.7},
    {"duplicates": "collapse"},
    {"fusion": "rrf"},
    {"fusion": "combmnz"},
    {"weights": {"text": 0.3, "words": 0}},
    {"hubness": False},
    {"lexical": False},
    {"lexical": True, "target": "image"},
    {"min_confidence": 0.5},
    {"like": [3, 5], "unlike": [7]},
)
FILTERS: tuple[Any, ...] = (
    {"modality": "image"},
    {"modality": ["text", "audio"]},
    {"path": {"$glob": "*a b*"}},
    {"path": {"$glob": "[2020] Rome"}},
    {"folder": {"$glob": "*a b"}},
    {"name": {"$contains": "copy"}},
    {"size": {"$lt": "20kB"}},
    {"modified": {"$gte": "2000"}},
    {"date": {"$gte": "2000", "$lt": "2100"}},
    {"taken": None},
    {"camera": {"$exists": False}},
    {"width": {"$gte": 200}, "height": {"$lt": 200}},
    {"megapixels": {"$lt": 0.04}},
    {"seconds": {"$gt": 4}},
    {"near": "48.2,16.37,10"},
    {"has": "caption"},
    {"has": ["text", "sound"]},
    {"$not": {"has": "caption"}},
    {"tag": "dog"},
    {"tag": ["beach", "child"]},
    {"rating": {"$gte": 3}},
    {"rating": 0},
    {"place": "Rome", "modality": "image"},
    {"place": {"$contains": "O"}},
    {"good": True},
    {"$or": [{"rating": 5}, {"$not": {"place": ["Rome", "Oslo"]}}]},
    {"none has this": 1},
)
VECTOR_FILTERS: tuple[dict[str, Any], ...] = (
    {"rating": {"$gte": 7}},
    {"rating": 3, "taken": "2012"},
    {"width": {"$lt": 200}, "taken": {"$gte": "2019"}},
    {"place": "Oslo"},
    {"path": {"$glob": "/x/1*"}},
    {"modality": "text"},
)
TEXTS = {
    "dog.md": "A dog sleeps on the sofa.\n\nThen it runs to the beach and swims.",
    "coins.txt": "Ancient Greek coins of silver.",
    "bread.md": "Bake bread with rye flour, salt, water.\n\nLet it rise overnight.",
}
LABELS = ["dog", "beach", "child", "car"]

Answers = list[tuple[str, Any]]
"""The name of each query, and what was answered, as JSON has it."""


# ---------------------------------------------------------------------- indexes


def gather(files: Path, flickr8k: Path, esc10: Path) -> None:
    """Copy files into `photos`, `sounds` and `texts`, and write `captions.tsv`, `metadata.csv`."""
    captions: dict[str, list[str]] = {}
    for line in (flickr8k / "captions.tsv").read_text(encoding="utf-8").splitlines():
        name, caption = line.split("\t")
        captions.setdefault(name, []).append(caption)
    names = sorted(captions)
    names = names[:: max(1, len(names) // PHOTOS)][:PHOTOS]
    places = ("photos", "photos/a b", "photos/[2020] Rome")
    for folder in (*places, "sounds", "texts"):
        (files / folder).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        shutil.copy(flickr8k / "images" / name, files / places[number % 3] / name)
    shutil.copy(files / "photos" / names[0], files / "photos" / "copy.jpg")
    (files / "photos" / "broken.jpg").write_bytes(b"no picture")
    for name in sorted(path.name for path in (esc10 / "audio").iterdir())[::12]:
        shutil.copy(esc10 / "audio" / name, files / "sounds" / name)
    for name, text in TEXTS.items():
        (files / "texts" / name).write_text(text, encoding="utf-8")
    lines = [f"{name}\t{text}\n" for name in names[1::2] for text in captions[name][:2]]
    (files / "captions.tsv").write_text("".join(lines), encoding="utf-8")
    with (files / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "rating", "place", "good"))
        for number, name in enumerate(names):
            place = ("Rome", "Oslo", "Bern")[number % 3]
            writer.writerow((name, number % 6, place, str(number % 2 == 0).lower()))


def make(index: str, files: str) -> None:
    import mmsearch

    of = Path(files)
    with mmsearch.index(
        [of / "photos", of / "sounds", of / "texts"],
        into=Path(index),
        captions=of / "captions.tsv",
        metadata=of / "metadata.csv",
        model="mini",
    ) as library:
        library.tag(LABELS)


def make_of_vectors(index: str, rows: str) -> None:
    import mmsearch

    with mmsearch.Collection(Path(index), create=True) as library:
        library.add_vectors(vectors(int(rows), DIM), metadata(int(rows)))
        more = [{"path": f"/y/{row}.jpg"} for row in range(500)]
        library.add_vectors(vectors(500, DIM, seed=2), more)
        library.remove("/x/3")


# ---------------------------------------------------------------------- queries


def answers(index: str, files: str, to: str) -> int:
    """Write what an index answers to a file; returns how many answers there are."""
    import mmsearch

    with mmsearch.open(Path(index)) as library:
        queries = all_queries(library, Path(files)) if files else vector_queries(library)
        found = [(name, answer(work)) for name, work in queries]
        found += [
            ("items", plain(list(library.items))),
            ("failures", plain([(one.path, one.reason) for one in library.failures])),
            ("status", plain(status(library))),
        ]
    Path(to).write_text(json.dumps(found), encoding="utf-8")
    return len(found)


Queries = Iterator[tuple[str, Callable[[], Any]]]


def all_queries(library: Any, files: Path) -> Queries:
    from mmsearch import Query

    search = library.search
    for words, settings in product(WORDS, SETTINGS):
        yield f"{words}, {settings}", partial(search, words, **settings)
    for words, where in product(WORDS[:2], FILTERS):
        yield f"{words}, where {where}", partial(search, words, where=where)
    for words in ("", "   ", "zxqv", "ein Hund am Strand", "3" * 500, "IMG.jpg", "the of a"):
        yield f"{words[:20]!r}", partial(search, words)
    for settings in ({"k": 0}, {"k": 1.5}, {"target": "smell"}, {"fusion": "none"}, {"like": [0]}):
        yield f"invalid setting, {settings}", partial(search, "a dog", **settings)
    photo = files / "photos" / "copy.jpg"
    sound = min((files / "sounds").iterdir())
    text = files / "texts" / "dog.md"
    dog, snow = Query.text("a dog", 1.5), Query.text("snow", 0.5)
    queries = {
        "photo": Query.image(photo),
        "sound": Query.audio(sound),
        "photo + words": Query.image(photo) + dog,
        "photo + words - words": Query.image(photo) + dog - snow,
        "words - words": dog - snow,
        "sound + words": Query.audio(sound) + dog,
        "no photo": Query.image(text),
        "no file": Query.image(files / "nowhere.jpg"),
    }
    some: tuple[dict[str, Any], ...] = (
        {},
        {"target": "text"},
        {"target": "audio"},
        {"combine": "late"},
        {"rerank": "fusion"},
        {"spans": True},
        {"where": {"place": "Rome"}},
    )
    for (name, query), settings in product(queries.items(), some):
        yield f"{name}, {settings}", partial(search, query, **settings)
    for path in (photo, sound, text, files / "nowhere.jpg"):
        for settings in ({}, {"target": "text"}, {"duplicates": "collapse"}):
            yield f"similar {path.name}, {settings}", partial(library.similar, path, **settings)
        yield f"describe {path.name}", partial(library.describe, path)
        yield f"describe {path.name} by labels", partial(library.describe, path, labels=LABELS)
    yield "many", partial(library.search_many, [*WORDS, Query.image(photo)], k=5)
    yield "copies", library.duplicates
    yield "copies of the same content", partial(library.duplicates, same=True)
    for where in FILTERS:
        yield f"listed, where {where}", lambda where=where: list(library.listed(where=where))


def vector_queries(library: Any) -> Queries:
    queries = vectors(40, DIM, seed=3)
    where: tuple[dict[str, Any], ...] = tuple({"where": each} for each in VECTOR_FILTERS)
    for settings in ({}, {"k": 50}, {"hubness": False}, *where):
        for turn in ("first", "again"):  # columns and remembered filters answer the second time
            search = partial(library.search_vectors, queries, target="image", **settings)
            yield f"vectors, {settings}, {turn}", search
    for words in ("red dog", "blue bird 77", '"number 12345"', "grey"):
        for settings in ({}, *where):
            yield f"{words}, {settings}", partial(library.search, words, **settings)


def answer(work: Callable[[], Any]) -> Any:
    try:
        return plain(work())
    except Exception as error:  # also a defect, if only one of the two has it
        return type(error).__name__


def plain(value: Any) -> Any:
    """A value as JSON has it, floats to six decimals."""
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    if value is None or isinstance(value, (str, int)):
        return value
    if is_dataclass(value):
        return [plain(getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return plain(value.item()) if hasattr(value, "item") else str(value)


def status(library: Any) -> dict[str, Any]:
    """All but where the index is, and how many bytes and writes it took."""
    found = library.status()
    kept = {key: value for key, value in found.items() if key not in ("index", "bytes")}
    drop = ("bytes", "revision")
    kept["indexes"] = [
        {key: value for key, value in one.items() if key not in drop} for one in found["indexes"]
    ]
    return kept


def printed(tree: Tree, index: Path, files: Path) -> Answers:
    """What commands print, and their exit codes."""
    photo, text = files / "photos" / "copy.jpg", files / "texts" / "dog.md"
    commands = (
        ("query", "a dog on a beach"),
        ("query", "a dog on a beach", "--json", "--explain"),
        ("query", "a dog on a beach", "--jsonl", "-k", "3"),
        ("query", "a dog", "--where", "rating >= 3", "--min-confidence", "1"),
        ("query", "--image", photo, "--not", "snow", "--in", "image"),
        ("query", "a dog", "--where", "nothing"),
        ("similar", photo, "--json"),
        ("describe", text),
        ("duplicates", "--json"),
        ("list", "--where", "has = caption"),
        ("list", "--json"),
        ("errors",),
        ("eval", files / "captions.tsv"),
    )
    found: Answers = []
    for command in commands:
        process = tree.command(*command, "-i", f"{index}/", check=False)
        lines = process.output.splitlines()
        if command[0] == "errors":  # the last column is the time of the run
            lines = [line.rpartition("\t")[0] for line in lines]
        found.append((" ".join(map(str, command)), [process.code, *lines]))
    return found


# ---------------------------------------------------------------------- comparison


def differences(a: Answers, b: Answers, tolerance: float) -> list[str]:
    """In what two lists of answers differ, each in up to three lines."""
    if [name for name, _ in a] != [name for name, _ in b]:
        return ["A and B were not given the same queries"]
    return [
        f"{name}\n    {found}"
        for (name, one), (_, other) in zip(a, b, strict=True)
        if (found := first_difference(one, other, tolerance))
    ]


def first_difference(a: Any, b: Any, tolerance: float) -> str:
    """Where two values differ, and how; empty if they do not."""
    if isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            return f"{len(a)} in A, {len(b)} in B"
        keys: Any = range(len(a))
    elif isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        keys = a
    elif isinstance(a, float) and isinstance(b, float):
        return "" if abs(a - b) <= tolerance else f"A: {a}\n    B: {b}"
    else:
        return "" if a == b else f"A: {str(a)[:300]}\n    B: {str(b)[:300]}"
    found = ((key, first_difference(a[key], b[key], tolerance)) for key in keys)
    return next((f"[{key}] {difference}" for key, difference in found if difference), "")


def answers_of(tree: Tree, index: Path, files: Path | str) -> Answers:
    """All answers of a tree about one index, which may be changed by that."""
    to = index.with_name(f"{index.name}.json")
    tree.part("answers", index, files, to)
    found = [(name, value) for name, value in json.loads(to.read_text(encoding="utf-8"))]
    return found + (printed(tree, index, Path(files)) if files else [])


def answer_all(a: Tree, b: Tree, work: Path, rows: int) -> Iterator[tuple[str, Answers, Answers]]:
    """(name, A's answers, B's) of each pair of indexes; `work` has the files."""
    files = work / "files"
    made = {tree.name: work / f"made-{tree.name}" for tree in (a, b)}
    for tree in (a, b):
        tree.part("make", made[tree.name], files)
    migrated = shutil.copytree(made["A"], work / "migrated")
    of_a = answers_of(a, made["A"], files)
    yield "migrated", of_a, answers_of(b, migrated, files)
    yield "made", of_a, answers_of(b, made["B"], files)
    if rows:
        a.part("make of vectors", work / "vectors-A", rows)
        of_b = shutil.copytree(work / "vectors-A", work / "vectors-B")
        yield "vectors", answers_of(a, work / "vectors-A", ""), answers_of(b, of_b, "")


PARTS = {"make": make, "make of vectors": make_of_vectors, "answers": answers}


def main() -> None:
    if run_part(PARTS):
        return
    parser = parser_of_trees(__doc__)
    parser.add_argument("--flickr8k", type=Path, required=True, help="captions.tsv, images/")
    parser.add_argument("--esc10", type=Path, required=True, help="audio/")
    parser.add_argument("--rows", type=int, default=220_000, help="0: none; default %(default)s")
    given = parser.parse_args()
    a, b = trees_of(given.trees)
    rows, failed = [], False
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        gather(work / "files", given.flickr8k, given.esc10)
        for name, of_a, of_b in answer_all(a, b, work, given.rows):
            found = differences(of_a, of_b, TOLERANCE[name])
            failed |= bool(found)
            rows.append((name, f"{len(of_a):,}", f"{len(found):,}"))
            for difference in found[:SHOWN]:
                print(f"{name}: {difference}", flush=True)
    table("Compared", rows, ("indexes", "comparisons", "differences"))
    sys.exit(failed)


if __name__ == "__main__":
    main()
