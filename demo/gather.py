"""Gathers something to search: `python demo/gather.py DEST`.

Copies the photos that ship inside the wheels of scikit-image and scikit-learn into DEST/photos,
and writes a few short texts into DEST/texts and captions of three photos into DEST/captions.tsv.
Needs no network. What is already there stays as it is. Where the photos come from: demo/README.md.
"""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

PHOTOS = {
    "skimage/data": (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "chelsea.png",
        "coffee.png",
        "coins.png",
        "grass.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "moon.png",
        "motorcycle_left.png",
        "motorcycle_right.png",
        "page.png",
        "retina.jpg",
        "rocket.jpg",
        "text.png",
    ),
    "sklearn/datasets/images": ("china.jpg", "flower.jpg"),
}
"""Photos by the folder they are in; the test patterns and drawings beside them are left out."""

INSTALL = "pip install scikit-image scikit-learn"

TEXTS = {
    "launch-day.txt": """\
A rocket stands on its launch pad before dawn, white under the floodlights.

The count was held twice for the wind. At six the engines lit, the sound reached us some seconds
later, and we followed the flame until it was one more star.
""",
    "espresso.md": """\
# A good cup of coffee

Grind eighteen grams of coffee just before you brew it. Warm the cup, let the espresso run for
twenty-five to thirty seconds, and drink it while the brown foam still covers it.
""",
    "cat-diary.txt": """\
The cat slept on the windowsill all afternoon, one ear turned towards the kitchen.

At the sound of the tin she was awake, and looked at me as if she had been waiting for hours.
""",
    "museum-coins.txt": """\
Ancient Greek coins of silver and bronze, with the heads of gods and kings.

The label asks visitors to look for wear: the most worn pieces were small change and went through
many hands, while the large ones were saved and hardly used.
""",
    "dahlias.md": """\
# Growing dahlias

Plant the tubers of these flowers in late spring, when the soil is warm, in full sun. Pinch out the
first shoot to get more blooms, cut the faded flowers every few days, and lift the tubers after the
first frost has blackened the leaves.
""",
    "beijing.txt": """\
A Chinese temple tower with painted roofs stands above the lake at the Summer Palace in Beijing.

We climbed the steps in the morning haze. Boats were already out on the water far below, and the
green and golden tiles shone even without the sun.
""",
    "a-week-off.md": """\
# A week off

On Monday I wheeled the old red motorcycle out of the corner of the garage. It had not run for
three winters. I cleaned the carburettor, changed the oil and the spark plugs, and pumped up the
tyres. On the ninth kick the engine caught, coughed out a cloud of blue smoke, and ran. I rode it
once round the block, and came back with cold hands and a wide smile.

Tuesday night was clear, so we carried the telescope up the hill behind the house. The moon was
half full, and along the border of light and shadow every crater stood out as if it had been cut
with a knife. Later, when it had set, we tried for galaxies. They were no more than grey smudges,
though the light of one of them had been on its way to us for two million years.

On Wednesday it rained, and I went to the eye doctor. She widened my pupils with drops and
photographed the back of each eye: an orange disc, a pale spot where the nerve goes in, and the
blood vessels spreading from it like rivers on a map. Everything is as it should be, she said. I
could not read a word until the evening.

Thursday belonged to the garden path. We dug out the mud, laid a bed of gravel, and set the bricks
on it in a running pattern, each row shifted by half a brick. The last metre had to wait, because
bricks that all look alike in the yard are never quite of one length.

On Friday I met a friend who films with a heavy camera on a tripod, out on the grass across the
river from the city. He waited an hour for a single cloud to pass. Patience, he says, is most of
photography; the rest is carrying things.
""",
}
"""Texts by file name. The last is long enough to be searched by passages."""

CAPTIONS = (
    ("chelsea.png", "Chelsea the cat, who would like her breakfast now"),
    ("coins.png", "Greek coins found in Pompeii, laid out in four rows"),
    ("coins.png", "Part of a museum's collection of old money"),
    ("rocket.jpg", "Waiting at Cape Canaveral, with a space weather satellite on board"),
)


def folder_of(place: str) -> Path:
    """The folder inside an installed package, found without importing the package."""
    package, _, inside = place.partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"the package {package} is not installed: {INSTALL}")
    return Path(spec.submodule_search_locations[0]) / inside


def copy_photos(target: Path) -> tuple[int, list[str]]:
    """How many photos were copied, and the names of those that these versions do not ship."""
    copied = 0
    missing = []
    for place, names in PHOTOS.items():
        folder = folder_of(place)
        for name in names:
            source, copy = folder / name, target / name
            if not source.is_file():
                missing.append(name)
            # a copy that was interrupted is shorter
            elif not copy.is_file() or copy.stat().st_size != source.stat().st_size:
                shutil.copyfile(source, copy)
                copied += 1
    return copied, missing


def write_text(path: Path, content: str) -> int:
    """How many files were written: 0 if the content is there already."""
    if path.is_file() and path.read_text(encoding="utf-8") == content:
        return 0
    path.write_text(content, encoding="utf-8")
    return 1


def main() -> None:
    """Fill the folder given on the command line."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise SystemExit("usage: python demo/gather.py DEST")
    destination = Path(sys.argv[1])
    photos, texts = destination / "photos", destination / "texts"
    photos.mkdir(parents=True, exist_ok=True)
    texts.mkdir(exist_ok=True)
    copied, missing = copy_photos(photos)
    written = sum(write_text(texts / name, content) for name, content in TEXTS.items())
    lines = ["file\tcaption", *(f"photos/{name}\t{caption}" for name, caption in CAPTIONS)]
    written += write_text(destination / "captions.tsv", "\n".join(lines) + "\n")
    if copied or written:
        note = f" (not in these versions: {', '.join(missing)})" if missing else ""
        print(f"{destination}: {copied} photos copied, {written} text files written{note}")
    else:
        print(f"{destination}: everything is there already")


if __name__ == "__main__":
    main()
