"""How well `mini` understands German, French, Czech and Chinese, beside English.

    python benchmarks/languages.py --data FLICKR8K [--photos FOLDER [--index FOLDER]]

recalls      captions of the 1,000 photos of Flickr8k dev (five a photo in Chinese, German and
             English, one in French and Czech): R@1, R@5 and R@10 through each of the text towers,
             as the model is, and with hubs subtracted, as in a search. Intervals: 95 %, bootstrap
             over photos.
confidence   AUROC of a caption's best score with its photo and without it, as in confidence.py, and
             the share of captions whose best hit passes for a match, with and without their photo.
which tower  the share of captions and of single words that only the tower for other languages
             encodes, and the share that both encode; and how well single words find photos (mean
             average precision; a photo is relevant if a caption in that language has the word).
names        precision@10 of words of languages without sentences in training, beside that of the
             English word and of chance.
--photos     of the first ten photos that an English query finds, the share that its translation
             finds, too.
time         milliseconds of processor time to encode a query.
"""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
from confidence import auroc, best, resamples, with_bank
from datasets import Photos, options, photos_of, recalls, split_of
from timing import cost

import mmsearch
from mmsearch.encoders.mini import FOLDER
from mmsearch.encoders.mini.encoder import DETECTOR, load_mini
from mmsearch.encoders.mini.languages import LanguageDetector
from mmsearch.encoders.query_bank import shipped_bank
from mmsearch.metrics import bootstrap_interval
from mmsearch.spaces.calibration import NO_GOOD_MATCH, expected
from mmsearch.vectors.hubness import augmented_query

FIRST = 10
LANGUAGES = ("zh", "de", "fr", "cs")
FEWEST_PHOTOS = 3
"""Photos that have a single word in their captions, at least."""
WORD = re.compile(r"[^\W\d_]{4,}")

TRANSLATIONS = """
a dog on a beach | 海滩上的狗 | ein Hund am Strand | un chien sur la plage | pes na pláži
a man riding a bicycle | 骑自行车的男人 | ein Mann auf einem Fahrrad | un homme à vélo | muž na kole
children playing in the snow | 在雪地里玩耍的孩子 | Kinder spielen im Schnee |\
 des enfants jouent dans la neige | děti si hrají ve sněhu
a cat on a bed | 床上的猫 | eine Katze auf einem Bett | un chat sur un lit | kočka na posteli
people in a boat on the water | 水上小船里的人 | Menschen in einem Boot auf dem Wasser |\
 des gens dans un bateau sur l'eau | lidé v lodi na vodě
a plate of food on a table | 桌上的一盘食物 | ein Teller mit Essen auf einem Tisch |\
 une assiette de nourriture sur une table | talíř s jídlem na stole
a man playing tennis | 打网球的男人 | ein Mann spielt Tennis | un homme joue au tennis |\
 muž hraje tenis
a red bus in the street | 街上的红色公共汽车 | ein roter Bus auf der Straße |\
 un bus rouge dans la rue | červený autobus na ulici
a surfer on a wave | 冲浪者在海浪上 | ein Surfer auf einer Welle | un surfeur sur une vague |\
 surfař na vlně
horses in a field | 田野里的马 | Pferde auf einer Wiese | des chevaux dans un champ | koně na louce
a woman with an umbrella | 打伞的女人 | eine Frau mit einem Regenschirm |\
 une femme avec un parapluie | žena s deštníkem
"""

NAMES = {
    r"dogs?|pupp(y|ies)": (
        "dog",
        "Hund",
        "chien",
        "pes",
        "狗",
        "犬",
        "perro",
        "cane",
        "cão",
        "собака",
    ),
    r"soccer|football": ("soccer ball", "Fußball", "サッカーボール", "pallone da calcio"),
    r"bicycles?|bikes?": ("mountain bike", "Mountainbike", "山地自行车", "マウンテンバイク"),
}
"""Things in many languages, by the English words for them in captions."""


@dataclass(frozen=True)
class Captions:
    """Texts in one language, and the row of the photo of each."""

    texts: list[str]
    owner: np.ndarray


def captions_of(data: Path, english: Photos) -> dict[str, Captions]:
    """The captions of the dev photos by language."""
    row_of = {path.name: row for row, path in enumerate(split_of(data, "dev"))}
    pairs = defaultdict(list)
    for line in (data / "captions.multilingual.tsv").read_text(encoding="utf-8").splitlines():
        file, language, text = line.split("\t", 2)
        if file in row_of:
            pairs[language].append((text, row_of[file]))
    others = {
        language: Captions([text for text, _ in some], np.array([row for _, row in some]))
        for language, some in pairs.items()
    }
    return {"en": Captions(english.captions, english.owner), **others}


def detector_says(answer: bool | None) -> AbstractContextManager[object]:
    """Encodes every text with the English tower (True), the other one (False), or both (None)."""
    return patch.object(LanguageDetector, "is_english", lambda *_: answer)


def vectors_through_each(texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Unit rows of texts through each tower, through both, and as the model chooses."""
    encoder, found = load_mini(), {}
    for name, answer in (("English tower", True), ("other tower", False), ("both", None)):
        with detector_says(answer):
            found[name] = encoder.encode("text", texts)
    return found | {"as it is": encoder.encode("text", texts)}


def show_recalls(photos: np.ndarray, captions: dict[str, Captions]) -> None:
    encoder = load_mini()
    space = with_bank(photos, shipped_bank(encoder.name, encoder.fingerprint))
    print("Flickr8k dev, text→image: R@1, R@5, R@10")
    for language, some in captions.items():
        vectors = vectors_through_each(some.texts)
        scores = {name: rows @ photos.T for name, rows in vectors.items()}
        scores["less hubs"] = space.scores(vectors["as it is"])
        for name, rows in scores.items():
            found = recalls(rows, [[row] for row in some.owner], some.owner)[:, :3]
            cells = [bootstrap_interval(column) for column in found.T]
            shown = "  ".join(f"{one.mean:4.1f} [{one.low:.1f}, {one.high:.1f}]" for one in cells)
            print(f"  {language} {name:16} {shown}", flush=True)


def show_confidence(photos: np.ndarray, captions: dict[str, Captions]) -> None:
    encoder = load_mini()
    space = with_bank(photos, shipped_bank(encoder.name, encoder.fingerprint))
    print(
        f"\nconfidence: AUROC; % of best hits at {NO_GOOD_MATCH} or more with their photo, without"
    )
    for language, some in captions.items():
        vectors = encoder.encode("text", some.texts)
        queries = np.stack([augmented_query(one, "text", space.weight) for one in vectors])
        by_chance = np.array([expected(row) for row in queries @ space.bank.T])
        with_and_without = np.stack(best(space.scores(vectors), some.owner)) - by_chance
        areas = auroc(with_and_without, resamples(some.owner))
        low, high = np.quantile(areas[1:], [0.025, 0.975])
        passing = [
            100
            * np.mean([share >= NO_GOOD_MATCH for share in space.reference.shares_below(row, n)])
            for row, n in zip(with_and_without, (len(photos), len(photos) - 1), strict=True)
        ]
        shown = ", ".join(f"{share:.1f}" for share in passing)
        print(f"  {language} {areas[0]:.1f} [{low:.1f}, {high:.1f}]; {shown}", flush=True)


def average_precision(scores: np.ndarray, relevant: set[int]) -> float:
    ranks = 1 + np.flatnonzero(np.isin(np.argsort(-scores), list(relevant)))
    return float((np.arange(1, len(ranks) + 1) / ranks).mean())


def words_of(captions: Captions) -> dict[str, set[int]]:
    """Words of four letters or more, and the photos with each, if FEWEST_PHOTOS or more."""
    rows = defaultdict(set)
    for text, row in zip(captions.texts, captions.owner.tolist(), strict=True):
        for word in WORD.findall(text.lower()):
            rows[word].add(row)
    return {word: some for word, some in rows.items() if len(some) >= FEWEST_PHOTOS}


def show_towers(photos: np.ndarray, captions: dict[str, Captions]) -> None:
    detector = LanguageDetector(np.fromfile(FOLDER / DETECTOR, "<f2").astype(np.float32))
    print("\n% encoded as another language, by both; mAP of single words through", end=" ")
    print("each tower, both, and as it is")
    for language, some in captions.items():
        if language == "zh":  # has no words between spaces
            continue
        words = words_of(some)
        shares = []
        for texts in (some.texts, list(words)):
            english = [detector.is_english(text) for text in texts]
            shares += [100 * english.count(answer) / len(english) for answer in (False, None)]
        means = []
        for rows in vectors_through_each(list(words)).values():
            pairs = zip(words.values(), rows @ photos.T, strict=True)
            means.append(100 * np.mean([average_precision(scores, own) for own, scores in pairs]))
        print(
            f"  {language} {len(some.texts):,} captions {shares[0]:6.2f} {shares[1]:5.2f}; "
            f"{len(words):,} words {shares[2]:5.1f} {shares[3]:5.1f}; "
            f"mAP {' '.join(f'{mean:5.1f}' for mean in means)}",
            flush=True,
        )


def show_names(photos: np.ndarray, english: Captions) -> None:
    encoder = load_mini()
    for pattern, names in NAMES.items():
        said = re.compile(rf"\b({pattern})\b", re.IGNORECASE)
        rows = [
            row for text, row in zip(english.texts, english.owner, strict=True) if said.search(text)
        ]
        shown = np.bincount(rows, minlength=len(photos)) > 1
        print(
            f"\nphotos with {names[0]!r}: {100 * shown.mean():.1f} % of all; of the first ten, %:"
        )
        for name, scores in zip(names, encoder.encode("text", names) @ photos.T, strict=True):
            print(f"  {name:20} {100 * shown[np.argsort(-scores)[:FIRST]].mean():4.0f}")


def translations() -> list[list[str]]:
    """Each query in English, then in LANGUAGES."""
    lines = TRANSLATIONS.strip().splitlines()
    return [[text.strip() for text in line.split("|")] for line in lines]


def shared(found: list[str], others: list[str]) -> float:
    return len(set(found) & set(others)) / len(found)


def show_agreement(photos: Path, folder: Path) -> None:
    with mmsearch.index(photos, into=folder) as library:

        def first(query: str) -> list[str]:
            return [hit.path for hit in library.search(query, k=FIRST)]

        shares = []
        print(f"\n{'% of the first ten':32}", *(f"{language:>4}" for language in LANGUAGES))
        for english, *others in translations():
            shares.append([shared(first(english), first(other)) for other in others])
            print(f"{english:32}", *(f"{100 * share:4.0f}" for share in shares[-1]))
        print(f"{'mean':32}", *(f"{100 * share:4.0f}" for share in np.mean(shares, axis=0)))


def show_times() -> None:
    encoder = load_mini()
    by_language = list(zip(*translations(), strict=True))
    print("\nms of processor time to encode a query, least of 9 rounds")
    for language, texts in zip(("en", *LANGUAGES), by_language, strict=True):

        def run(texts: tuple[str, ...] = texts) -> None:
            for text in texts:
                encoder.encode_query("text", [text])

        run()
        print(f"  {language} {1000 * min(cost(run).cpu for _ in range(9)) / len(texts):.2f}")


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="a folder of photos to search")
    parser.add_argument("--index", type=Path, help="where their index is kept")
    given = parser.parse_args()
    dev = photos_of(given, "dev")
    captions = captions_of(given.data, dev)
    show_recalls(dev.images, captions)
    show_confidence(dev.images, captions)
    show_towers(dev.images, captions)
    show_names(dev.images, captions["en"])
    if given.photos:
        with tempfile.TemporaryDirectory() as folder:
            show_agreement(given.photos, given.index or Path(folder) / "index")
    show_times()


if __name__ == "__main__":
    main()
