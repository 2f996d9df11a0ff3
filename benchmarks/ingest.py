"""How fast photos are indexed, and how fast an unchanged folder is scanned again.

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
import statistics
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from photos import LARGE, SMALL, crops
from PIL import Image
from timing import Cost, cost, machine, median, table

import mmsearch
from mmsearch.media.image import load_image
from mmsearch.storage import ItemRecord, ItemVectors

BATCH = 32
FILES_A_FOLDER = 100
FOLDERS_A_FOLDER = 50
CONTENTS = 8
"""Files that all others are hard links to."""

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
    """A lower bound for any reader of JPEGs: the files, decoded to an eighth of each side."""
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
        spent = cost(lambda: library.add(folder, details=details), count)
        report: Any = library.report
        assert report.added == count
        return spent, {name: busy / report.seconds for name, busy in report.stages.items()}


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
                spent, share = whole_run(folder, pixels, details=details)
                costs.setdefault((name, details), []).append(spent)
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
    table(f"Indexing photos, median of {rounds}, alternating", rows, head)
    decoding = median(eighths).cpu
    floor = 1 + decoding / median(costs["encoder alone, decoded pixels", True]).cpu
    print(f"  12-MP JPEGs decoded to an eighth alone: {decoding * 1000:.1f} CPU ms")
    print(f"  which makes {floor:.2f} x encoder a lower bound")
    names = ("scan", "read", "decode", "encode", "store")
    busy = []
    for (name, details), some in shares.items():
        medians = [statistics.median(one.get(stage, 0) for one in some) for stage in names]
        title = name if details else f"{name}, --no-details"
        busy.append((title, *(f"{share:.0%}" for share in medians)))
    table("Share of the run that each stage was busy", busy, ("", *names))


# ---------------------------------------------------------------------- re-scan


def many_files(folder: Path, number: int) -> Path:
    """Nested folders of links to a few small files, made by the first run."""
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


def make_index(tree: Path, place: Path) -> None:
    """Make an index of the tree with invented vectors, since no photo is read again."""
    seed = crops(place.parent / "one", 1, SMALL)
    with mmsearch.Collection(place, model="mini", create=True) as library:
        library.add(seed, details=False)
        catalog = library.store
        place_of_vectors = catalog.spaces.all()[0].id, "image"
        rows = np.random.default_rng(0).standard_normal((FILES_A_FOLDER, 512)).astype(np.float16)
        source = catalog.sources.add(os.path.realpath(tree), os.stat(tree).st_dev)
        for folder, _, names in os.walk(tree):
            records = []
            for name, row in zip(sorted(names), rows, strict=False):
                status = os.stat(os.path.join(folder, name))
                stat = status.st_size, status.st_mtime_ns
                below = os.path.relpath(folder, tree)
                record = ItemRecord(source, below, name, "image", stat, os.urandom(16))
                record.vectors[place_of_vectors] = ItemVectors(row[None])
                records.append(record)
            if records:
                catalog.put(records)
        library.add(tree)


def scan_alone(folder: str) -> int:
    """The number of files; the size of each is read, which is a lower bound for any re-scan."""
    number = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                number += scan_alone(entry.path)
            else:
                entry.stat()
                number += 1
    return number


def rescan(work: Path, number: int, rounds: int) -> None:
    tree = many_files(work / f"many-{number}", number)
    index = work / f"many-{number}" / "index"
    if not (index / "catalog.db").exists():
        make_index(tree, index)
    costs: dict[str, list[Cost]] = {"scandir and stat alone": [], "mmsearch": []}
    with mmsearch.open(index) as library:
        library.add(tree)
        for _ in range(rounds):
            costs["scandir and stat alone"].append(cost(lambda: scan_alone(str(tree)), number))
            costs["mmsearch"].append(cost(lambda: library.add(tree), number))
            assert library.report is not None
            assert library.report.unchanged == number
    rows = [
        (name, f"{1 / median(some).wall:,.0f}", f"{1 / median(some).cpu:,.0f}")
        for name, some in costs.items()
    ]
    head = ("", "files/s", "files per CPU second")
    table(f"{number:,} unchanged files, warm, median of {rounds}", rows, head)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--work", type=Path, default=Path(".cache/benchmarks"), help="files to keep"
    )
    parser.add_argument("--rounds", type=int, default=3, help="default %(default)s")
    parser.add_argument(
        "--files", type=int, default=100_000, help="to re-scan, default %(default)s"
    )
    parser.add_argument("--only", choices=["photos", "rescan"], help="one of the parts")
    options = parser.parse_args()
    work = options.work.absolute()
    print(machine())
    if options.only != "rescan":
        photos(work, options.rounds)
    if options.only != "photos":
        rescan(work, options.files, options.rounds + 2)


if __name__ == "__main__":
    main()
