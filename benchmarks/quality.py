"""How well a model retrieves, through the public API: recall and more, with intervals.

    python benchmarks/quality.py --data FOLDER [--model mini] [--split dev] [--task NAME]...
    python benchmarks/quality.py --data FOLDER --compare hubness=off hubness=on

FOLDER holds captions.tsv (file, tab, caption), images/ and {split}.txt (file names), as the
Flickr8k folder does. Each task is an index of its own and queries whose answers are known:

text→image      every caption asks for its photo, among the photos without captions
image→text      every photo asks for any of its captions, among all captions, a text file each
text→captioned  each photo's last caption asks for it, the photos being indexed with the others:
                pixels, captions and words together

Settings (--with, --compare) are those of `mmsearch eval`; --work keeps the indexes for next time.
--json FILE also writes each measure with its interval to six decimals, and the rank of each query's
answer: two runs agree exactly if their files are the same.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmsearch
from mmsearch.evaluation import Evaluation, compare, evaluate, parse_settings
from mmsearch.evaluation.pairs import Pair
from mmsearch.evaluation.report import as_table
from mmsearch.media.captions import read_captions

Photos = dict[Path, list[str]]
Task = tuple[Path, list[Pair], dict[str, Any]]
"""(index, pairs, settings of its own)"""


def text_to_image(photos: Photos, work: Path, model: str) -> Task:
    index = work / "photos"
    if not index.exists():
        mmsearch.index(list(photos), into=index, model=model).close()
    pairs = [
        Pair(mmsearch.Query.text(caption), {str(photo): 1.0})
        for photo, captions in photos.items()
        for caption in captions
    ]
    return index, pairs, {"target": "image"}


def image_to_text(photos: Photos, work: Path, model: str) -> Task:
    index, texts = work / "captions", work / "texts"
    texts.mkdir(exist_ok=True)
    pairs = []
    for photo, captions in photos.items():
        files = {texts / f"{photo.name}.{number}.txt": text for number, text in enumerate(captions)}
        for file, text in files.items():
            file.write_text(text, encoding="utf-8")
        pairs.append(Pair(mmsearch.Query.image(photo), {str(file): 1.0 for file in files}))
    if not index.exists():
        mmsearch.index(texts, into=index, model=model).close()
    return index, pairs, {"target": "text"}


def text_to_captioned(photos: Photos, work: Path, model: str) -> Task:
    index, known = work / "captioned", work / "known.tsv"
    rows = [f"{photo}\t{text}\n" for photo, texts in photos.items() for text in texts[:-1]]
    known.write_text("".join(rows), encoding="utf-8")
    if not index.exists():
        mmsearch.index(list(photos), into=index, model=model, captions=known).close()
    pairs = [Pair(mmsearch.Query.text(of[-1]), {str(one): 1.0}) for one, of in photos.items()]
    return index, pairs, {}


TASKS: dict[str, Callable[[Photos, Path, str], Task]] = {
    "text→image": text_to_image,
    "image→text": image_to_text,
    "text→captioned": text_to_captioned,
}


def measured(task: Task, written: str, depth: int) -> Evaluation:
    index, pairs, own = task
    with mmsearch.open(index) as library:
        return evaluate(library, pairs, depth=depth, settings=own | parse_settings(written))


def exact(found: Evaluation) -> dict[str, Any]:
    """By direction: measures with the bounds of their intervals, and ranks; infinite ones None."""

    def rounded(value: float) -> float | None:
        return round(value, 6) if math.isfinite(value) else None

    return {
        direction.name: {
            "measures": {
                name: [rounded(value) for value in (figure.value, figure.low, figure.high)]
                for name, figure in direction.measures.items()
            },
            "ranks": [rounded(outcome.rank) for outcome in direction.outcomes],
        }
        for direction in found.directions
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--photos", type=int, help="only the first so many of the split")
    parser.add_argument("--task", action="append", choices=sorted(TASKS), help="default all")
    parser.add_argument("--depth", type=int, default=100, help="ranks, default %(default)s")
    parser.add_argument("--with", dest="settings", default="default", metavar="S")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"))
    parser.add_argument("--work", type=Path, help="folder to keep the indexes in")
    parser.add_argument("--json", type=Path, metavar="FILE", help="exact figures, to be compared")
    options = parser.parse_args()
    chosen = (options.data / f"{options.split}.txt").read_text(encoding="utf-8").split()
    captions = read_captions(options.data / "captions.tsv")
    folder = options.data.absolute() / "images"
    photos = {folder / name: captions[name] for name in chosen[: options.photos]}
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        figures: dict[str, dict[str, Any]] = {}
        for name in options.task or TASKS:
            task = TASKS[name](photos, work.absolute(), options.model)
            settings = options.compare or [options.settings]
            found = [measured(task, one, options.depth) for one in settings]
            figures[name] = dict(zip(settings, map(exact, found), strict=True))
            if options.compare:
                print(f"{name}, {options.model}: A {settings[0]}, B {settings[1]}")
                print(as_table(compare(*found)))
            else:
                print(f"{name}, {options.model}, {settings[0]}")
                print(as_table(found[0]))
        if options.json:
            written = json.dumps(figures, ensure_ascii=False, indent=1)
            options.json.write_text(written + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
