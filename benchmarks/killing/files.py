"""The files that are indexed, before and after they change."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from killing.toy_encoders import COLOURS

LONG_AGO = 1_600_000_000
"""Seconds since 1970: the modification time of the first file."""

NAMES = tuple(COLOURS)
THINGS = ("harbour", "meadow", "bicycle", "lantern", "orchard", "railway", "violin")


@dataclass(frozen=True)
class Site:
    """The folders and files of one operation.

    Attributes:
        root: A folder for all of it.
    """

    root: Path

    @property
    def photos(self) -> Path:
        """The files that are indexed."""
        return self.root / "photos"

    @property
    def index(self) -> Path:
        """The index that is written to."""
        return self.root / "index"

    @property
    def template(self) -> Path:
        """A copy of the index before the operation."""
        return self.root / "template"

    @property
    def after_kill(self) -> Path:
        """A copy of the index after a kill."""
        return self.root / "after-kill"

    @property
    def elsewhere(self) -> Path:
        """Where copies and moved files go."""
        return self.root / "elsewhere"

    @property
    def captions(self) -> Path:
        """A file of captions."""
        return self.root / "captions.tsv"

    @property
    def metadata(self) -> Path:
        """A file of metadata."""
        return self.root / "metadata.csv"


def write_picture(path: Path, number: int) -> None:
    """Write a photo, different for each number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (8, 8), COLOURS[NAMES[number % len(NAMES)]])
    for at in range(8):
        image.putpixel((at, number % 8), (number * 5 % 256, at * 30, 255 - number))
    image.save(path)
    _date(path, number)


def write_text(path: Path, number: int, passages: int = 1) -> None:
    """Write a text, different for each number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [
        f"A {NAMES[(number + part) % len(NAMES)]} {THINGS[(number + part) % len(THINGS)]}, "
        f"number{number} part{part}. " + "More is said of it. " * (30 if passages > 1 else 1)
        for part in range(passages)
    ]
    path.write_text("\n\n".join(parts))
    _date(path, number)


def make_files(site: Site) -> None:
    """Make photos, texts, sidecars, copies, files that cannot be read, unusual names."""
    photos = site.photos
    for number in range(72):
        write_picture(photos / ("", "deep", "deep/deeper")[number % 3] / f"{number:02}.png", number)
    for number in range(6):
        write_text(photos / "texts" / f"note{number}.md", number)
    write_text(photos / "texts" / "long.txt", 7, passages=9)
    for number in (0, 3, 6, 9):
        write_text(photos / f"{number:02}.txt", 40 + number)
    _copy(photos / "deep/01.png", photos / "copy.png", 160)
    _copy(photos / "00.png", photos / "other.png", 161)
    write_picture(Path(os.fsdecode(os.fsencode(photos) + b"/caf\xe9.png")), 162)
    for name in ("bad.png", "deep/bad.png"):
        (photos / name).write_bytes(b"no picture")
        _date(photos / name, 163)
    captions = [("03.png", "a grey lantern"), ("deep/04.png", "two blue violins"), ("04.png", "x")]
    site.captions.write_text("".join(f"{name}\t{text}\n" for name, text in captions))
    rows = [f"{n:02}.png,{n % 5},{THINGS[n % len(THINGS)]} house" for n in range(0, 72, 2)]
    site.metadata.write_text("file,rating,place\n" + "\n".join(rows) + "\n")


def change_files(site: Site) -> None:
    """Change, rename, swap, remove and add files, captions and metadata."""
    photos = site.photos
    for number in (0, 4):
        write_picture(photos / ("", "deep")[number % 3] / f"{number:02}.png", 100 + number)
    write_text(photos / "texts" / "note1.md", 31, passages=3)
    write_text(photos / "texts" / "long.txt", 32, passages=4)
    (photos / "03.png").rename(photos / "moved.png")
    (photos / "deep/deeper").rename(photos / "further")
    _swap(photos / "06.png", photos / "09.png")
    for name in ("12.png", "texts/note2.md", "00.txt", "bad.png"):
        (photos / name).unlink()
    for number in range(80, 86):
        write_picture(photos / "new" / f"{number}.png", number)
    write_text(photos / "new" / "fresh.md", 87, passages=3)
    write_text(photos / "15.txt", 88)
    write_picture(photos / "deep/bad.png", 89)
    (photos / "18.png").write_bytes(b"damaged")
    _date(photos / "18.png", 90)
    os.utime(photos / "21.png", (LONG_AGO + 999, LONG_AGO + 999))
    _copy(photos / "new/80.png", photos / "deep/again.png", 91)
    site.captions.write_text("moved.png\ta green orchard\ndeep/04.png\tone blue violin\n")
    rows = [f"{n:02}.png,{(n + 1) % 5},{THINGS[n % 3]} yard" for n in range(0, 72, 3)]
    site.metadata.write_text("file,rating,place\n" + "\n".join(rows) + "\n85.png,4,pier\n")


def _date(path: Path, number: int) -> None:
    os.utime(path, (LONG_AGO + 86_400 * number, LONG_AGO + 86_400 * number))


def _copy(source: Path, target: Path, number: int) -> None:
    shutil.copyfile(source, target)
    _date(target, number)


def _swap(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)
