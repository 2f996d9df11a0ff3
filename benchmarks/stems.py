"""How well captions in several languages are found by their words alone.

    python benchmarks/stems.py --data FLICKR8K [--photos N]

FLICKR8K has captions.tsv, captions.multilingual.tsv (file, language, caption) and dev.txt. Prints,
for BM25 without vectors, on indexes of one language or of all five:

* the same photo: one caption of a photo is the query, its others are in the index; the share of
  queries that find the photo among the first ten (English, German, Chinese: five captions a photo);
* similar photos: the caption of a photo is the query, and those of the other photos are in the
  index; the share of the ten photos with the most similar English captions (also by BM25) that are
  among the first ten (French and Czech: one caption a photo);
* the language that is detected for the captions of each language.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from mmsearch.media.captions import read_captions
from mmsearch.metrics import bootstrap_interval
from mmsearch.storage import ItemRecord
from mmsearch.storage.lexical.languages import language_of
from mmsearch.storage.lexical.tokens import runs_of
from mmsearch.storage.sqlite import Catalog
from mmsearch.types import TextPart

FIRST = 10
SEVERAL, ONE = ("en", "de", "zh"), ("fr", "cs")


def captions_of(data: Path, photos: list[str]) -> dict[str, dict[str, list[str]]]:
    """The captions by language and photo."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    english = read_captions(data / "captions.tsv")
    wanted = set(photos)
    for photo in photos:
        found["en"][photo] = list(english[photo])
    with (data / "captions.multilingual.tsv").open(encoding="utf-8", newline="") as file:
        for photo, language, text in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            if photo in wanted:
                found[language][photo].append(text)
    return found


@contextmanager
def index_of(texts: Iterable[list[str]]) -> Iterator[Catalog]:
    """An index whose item n, counted from 1, has the n-th list of texts."""
    with tempfile.TemporaryDirectory() as folder, closing(Catalog(Path(folder) / "c.db")) as made:
        source = made.sources.add("/p")
        for number, some in enumerate(texts, 1):
            parts = [TextPart(text, "caption") for text in some]
            key = f"{number}".encode()
            made.put([ItemRecord(source, "", f"{number}", "image", (1, 0), key, texts=parts)])
        made.words.refresh()
        yield made


def found_by(index: Catalog, query: str, own: int | None = None) -> list[int]:
    ids = [item_id for item_id, _ in index.words.search(query, FIRST + 1)]
    return [item_id for item_id in ids if item_id != own][:FIRST]


def show(name: str, shares: list[float]) -> None:
    found = bootstrap_interval(shares)
    mean, low, high = (100 * one for one in (found.mean, found.low, found.high))
    print(f"  {name:<34}{mean:5.1f} [{low:.1f}, {high:.1f}]")


def of_all_languages(captions: dict[str, dict[str, list[str]]], photo: str) -> list[str]:
    return [text for by_photo in captions.values() for text in by_photo[photo]]


def same_photo(captions: dict[str, dict[str, list[str]]], photos: list[str], language: str) -> None:
    own = captions[language]
    queries = [own[photo][0] for photo in photos]
    alone = [own[photo][1:] for photo in photos]
    of_all = [
        [text for text in of_all_languages(captions, photo) if text != query]
        for photo, query in zip(photos, queries, strict=True)
    ]
    for name, texts in ((language, alone), (f"{language} among all languages", of_all)):
        with index_of(texts) as index:
            hits = [float(n in found_by(index, query)) for n, query in enumerate(queries, 1)]
            show(name, hits)


def similar_photos(
    captions: dict[str, dict[str, list[str]]], photos: list[str], languages: Iterable[str]
) -> None:
    with index_of([captions["en"][photo] for photo in photos]) as index:
        similar = [
            set(found_by(index, " ".join(captions["en"][photo]), n))
            for n, photo in enumerate(photos, 1)
        ]
    for language in languages:
        queries = [captions[language][photo][0] for photo in photos]
        with index_of([query] for query in queries) as index:
            shares = [
                len(like & set(found_by(index, query, n))) / FIRST
                for n, (query, like) in enumerate(zip(queries, similar, strict=True), 1)
            ]
            show(language, shares)


def detected(captions: dict[str, dict[str, list[str]]]) -> None:

    for language, by_photo in captions.items():
        texts = [text for some in by_photo.values() for text in some]
        found = Counter(language_of(runs_of(text), text).algorithm for text in texts)
        print(f"  {language}: {dict(found.most_common())}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=1000, help="those of dev.txt with captions")
    options = parser.parse_args()
    names = [Path(line).name for line in (options.data / "dev.txt").read_text().split()]
    captions = captions_of(options.data, names)
    photos = [photo for photo in names if all(captions[one][photo] for one in (*SEVERAL, *ONE))]
    photos = [photo for photo in photos if len(captions["de"][photo]) > 1][: options.photos]
    print(f"{len(photos):,} photos\nThe same photo among the first {FIRST}, %")
    for language in SEVERAL:
        same_photo(captions, photos, language)
    print(f"Of the {FIRST} most similar photos, among the first {FIRST}, %")
    similar_photos(captions, photos, ("en", "de", *ONE))
    print("Detected languages of captions")
    detected(captions)


if __name__ == "__main__":
    main()
