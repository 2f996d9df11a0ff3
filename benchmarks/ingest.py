"""How fast photos are taken in, and an unchanged folder looked through.

    python benchmarks/ingest.py [--work FOLDER] [--rounds N] [--files N]

Three tables: photos/s of whole index runs beside the encoder alone on pixels that are decoded and
resized already (A B A B, so that what else the machine does falls on both), the share of the time
that each stage was busy, and files/s of a re-scan beside a bare scandir and stat of the same files.
CPU time of the process is given as well: other programs disturb it less. The model is loaded before
the clock starts.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from photos import LARGE, SMALL, crops
from PIL import Image

import mmsearch
from mmsearch.media.image import load_image
from mmsearch.storage import ItemRecord, ItemVectors

BATCH = 32
FILES_A_FOLDER = 100
FOLDERS_A_FOLDER = 50
CONTENTS = 8
"""Files that all others are hard links to."""


@dataclass(frozen=True)
class Cost:
    """Of one photo or file, in seconds."""

    wall: float
    cpu: float


def cost(work: Callable[[], Any], count: int) -> Cost:
    began, used = time.perf_counter(), time.process_time()
    work()
    return Cost((time.perf_counter() - began) / count, (time.process_time() - used) / count)


def median(costs: list[Cost]) -> Cost:
    return Cost(*(statistics.median(column) for column in zip(*map(_pair, costs), strict=True)))


def _pair(cost: Cost) -> tuple[float, float]:
    return cost.wall, cost.cpu


def table(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    print(f"\n{title}")
    for row in (head, *rows):
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("  " + "  ".join([row[0].ljust(widths[0]), *cells[1:]]))


# ---------------------------------------------------------------------- photos


def prepared(folder: Path) -> list[Any]:
    encoder = mmsearch.load_encoder("mini")
    return [
        encoder.prepare("image", load_image(path, at_least=encoder.image_size)[0])
        for path in sorted(folder.glob("*.jpg"))
    ]


def encoder_alone(encoder: Any, pixels: list[Any], *, details: bool) -> Cost:
    encode = encoder.encode_with_tokens if details else encoder.encode
    encode("image", pixels[:4])
    parts = [pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH)]
    return cost(lambda: [encode("image", part) for part in parts], len(pixels))


def eighths_alone(folder: Path) -> Cost:
    """What no reader of JPEGs can do without: the files, decoded to an eighth of each side."""
    files = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]

    def decode() -> None:
        for content in files:
            picture = Image.open(BytesIO(content), formats=["JPEG"])
            picture.draft(None, (picture.width // 8, picture.height // 8))
            picture.load()

    return cost(decode, len(files))


def whole_run(folder: Path, warm: list[Any], *, details: bool) -> tuple[Cost, dict[str, float]]:
    """What a photo costs in a new index, and each stage's share of the run."""
    count = len(list(folder.glob("*.jpg")))
    with (
        tempfile.TemporaryDirectory() as place,
        mmsearch.Collection(Path(place) / "i", model="mini", create=True) as library,
    ):
        encoder: Any = library.encoder
        (encoder.encode_with_tokens if details else encoder.encode)("image", warm[:4])
        found = cost(lambda: library.add(folder, details=details), count)
        report: Any = library.report
        assert report.added == count
        return found, {name: spent / report.seconds for name, spent in report.stages.items()}


def photos(work: Path, rounds: int) -> None:
    small = crops(work / "small-512", 512, SMALL, seed=9)
    large = crops(work / "large-128", 128, LARGE, seed=1)
    pixels = prepared(small)
    encoder = mmsearch.load_encoder("mini")
    costs: dict[tuple[str, bool], list[Cost]] = {}
    eighths: list[Cost] = []
    shares: dict[tuple[str, bool], list[dict[str, float]]] = {}
    for _ in range(rounds):
        eighths.append(eighths_alone(large))
        for details in (True, False):
            alone = encoder_alone(encoder, pixels, details=details)
            costs.setdefault(("encoder alone, decoded pixels", details), []).append(alone)
            for name, folder in (("224-px JPEGs, all of it", small), ("12-MP JPEGs", large)):
                found, share = whole_run(folder, pixels, details=details)
                costs.setdefault((name, details), []).append(found)
                shares.setdefault((name, details), []).append(share)
    rows = []
    for (name, details), several in costs.items():
        each = median(several)
        pairs = list(zip(several, costs["encoder alone, decoded pixels", details], strict=True))
        wall = statistics.median(one.wall / alone.wall for one, alone in pairs)
        cpu = statistics.median(one.cpu / alone.cpu for one, alone in pairs)
        figures = f"{1 / each.wall:.0f}", f"{wall:.2f}", f"{each.cpu * 1000:.1f}", f"{cpu:.2f}"
        rows.append((name if details else f"{name}, --no-details", *figures))
    head = ("", "photos/s", "x encoder", "CPU ms", "x encoder")
    table(f"Taking in photos, median of {rounds}, alternating", head, rows)
    decoding = median(eighths).cpu
    floor = 1 + decoding / median(costs["encoder alone, decoded pixels", True]).cpu
    print(f"  12-MP JPEGs decoded to an eighth alone: {decoding * 1000:.1f} CPU ms")
    print(f"  so no fewer than {floor:.2f} x encoder, whatever else is done")
    names = ("scan", "read", "decode", "encode", "store")
    busy = []
    for (name, details), some in shares.items():
        medians = [statistics.median(one.get(stage, 0) for one in some) for stage in names]
        title = name if details else f"{name}, --no-details"
        busy.append((title, *(f"{share:.0%}" for share in medians)))
    table("Share of the run that each stage was busy", ("", *names), busy)


# ---------------------------------------------------------------------- re-scan


def many_files(folder: Path, number: int) -> Path:
    """Nested folders of links to a few small files; made once and kept."""
    if (folder / "made").exists():
        return folder / "tree"
    seeds = folder / "seeds"
    seeds.mkdir(parents=True, exist_ok=True)
    for seed in range(CONTENTS):
        (seeds / str(seed)).write_bytes(b"\xff\xd8\xff" + bytes([seed]))
    for start in range(0, number, FILES_A_FOLDER):
        upper, lower = divmod(start // FILES_A_FOLDER, FOLDERS_A_FOLDER)
        place = folder / "tree" / f"{upper:03}" / f"{lower:02}"
        place.mkdir(parents=True, exist_ok=True)
        for photo in range(min(FILES_A_FOLDER, number - start)):
            os.link(seeds / str(photo % CONTENTS), place / f"IMG_{start + photo:07}.jpg")
    (folder / "made").touch()
    return folder / "tree"


def indexed(tree: Path, place: Path) -> None:
    """An index that knows the tree; its vectors are made up, for no photo is looked at."""
    seed = crops(place.parent / "one", 1, SMALL)
    with mmsearch.Collection(place, model="mini", create=True) as library:
        library.add(seed, details=False)
        catalog = library.catalog
        filed = catalog.spaces.all()[0].id, "image"
        rows = np.random.default_rng(0).standard_normal((FILES_A_FOLDER, 512)).astype(np.float16)
        source = catalog.sources.add(os.path.realpath(tree), os.stat(tree).st_dev)
        for folder, _, names in os.walk(tree):
            entries = []
            for name, row in zip(sorted(names), rows, strict=False):
                status = os.stat(os.path.join(folder, name))
                stat = status.st_size, status.st_mtime_ns
                below = os.path.relpath(folder, tree)
                entry = ItemRecord(source, below, name, "image", stat, os.urandom(16))
                entry.vectors[filed] = ItemVectors(row[None])
                entries.append(entry)
            if entries:
                catalog.put(entries)
        library.add(tree)


def bare(folder: str) -> int:
    """How many files there are, each asked for its size: what no re-scan can do without."""
    number = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                number += bare(entry.path)
            else:
                entry.stat()
                number += 1
    return number


def rescan(work: Path, number: int, rounds: int) -> None:
    tree = many_files(work / f"many-{number}", number)
    index = work / f"many-{number}" / "index"
    if not (index / "catalog.db").exists():
        indexed(tree, index)
    costs: dict[str, list[Cost]] = {"scandir and stat alone": [], "mmsearch": []}
    with mmsearch.open(index) as library:
        library.add(tree)
        for _ in range(rounds):
            costs["scandir and stat alone"].append(cost(lambda: bare(str(tree)), number))
            costs["mmsearch"].append(cost(lambda: library.add(tree), number))
            assert library.report is not None
            assert library.report.unchanged == number
    rows = [
        (name, f"{1 / median(some).wall:,.0f}", f"{1 / median(some).cpu:,.0f}")
        for name, some in costs.items()
    ]
    head = ("", "files/s", "files per CPU second")
    table(f"{number:,} unchanged files, warm, median of {rounds}", head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path(".cache/benchmarks"), help="kept files")
    parser.add_argument("--rounds", type=int, default=3, help="default %(default)s")
    parser.add_argument("--files", type=int, default=100_000, help="to scan, default %(default)s")
    parser.add_argument("--only", choices=["photos", "rescan"], help="one of the parts")
    asked = parser.parse_args()
    work = asked.work.absolute()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    if asked.only != "rescan":
        photos(work, asked.rounds)
    if asked.only != "photos":
        rescan(work, asked.files, asked.rounds + 2)


if __name__ == "__main__":
    main()
