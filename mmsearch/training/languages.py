"""The text tower for languages other than English: training texts, tokenizer, network, training.

It learns to encode a text as the English tower encodes its translation (distillation, Reimers &
Gurevych, EMNLP 2020), and close to the photo that it describes (InfoNCE). The vectors of photos and
of English texts do not change.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mmsearch.encoders.mini.languages import BUCKETS, buckets_of, is_latin
from mmsearch.encoders.projected import unit_rows
from mmsearch.encoders.query_bank import typical_texts
from mmsearch.search.everyday_words import EVERYDAY
from mmsearch.training.backbones import DIM, Layer, run_layers, token_mean
from mmsearch.training.data import Split, captions_alone, photo_pixels, read_split
from mmsearch.training.features import cached
from mmsearch.training.fit import info_nce
from mmsearch.training.recipe import LanguageRound, Recipe

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from mmsearch.encoders.mini.encoder import MiniEncoder
    from mmsearch.types import Vectors

LANGUAGES = ("de", "fr", "cs", "zh")
"""Those with captions or sentences to train on; all others have only class names."""
ACCENTED = ("de", "fr", "cs")
MOST_TOKENS = 128
PAD, UNKNOWN = 0, 1
FEW_TOKENS = 3
"""No token of a text with so few is masked."""
_NO_PHOTO = -1
_CODES = {"cn": "zh", "jp": "ja", "ar": "ar", "it": "it"}
"""Complete lists of ImageNet's class names: prefix of the file's name → language."""

ENGLISH = "en"

_IMAGENET = "imagenet1k"
"""The key of ImageNet's class names, beside those of other data sets."""

CAPTIONS_ALONE, NAMES, OTHER_NAMES = "captions alone", "names", "names of other languages"
"""Kinds of texts besides captions of photos and translations: captions of photos that are not
available, ImageNet's class names, and those in languages for which there are no sentences."""

CAPTIONS = 5
"""English captions per photo."""

SINGLE_WORDS = 0.35
"""The share of excerpts that are single words on purpose."""


@dataclass
class LanguageExamples:
    """Texts in many languages, each with its target vector."""

    texts: list[str] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)
    owners: list[str] = field(default_factory=list)
    """What each text describes: texts with the same owner are never each other's negatives."""
    photos: list[int] = field(default_factory=list)
    """The row of each text's photo, or -1."""
    kinds: list[str] = field(default_factory=list)
    """CAPTIONS_ALONE, NAMES or OTHER_NAMES; "" for captions of photos and for translations."""
    targets: list[NDArray[np.float32]] = field(default_factory=list)
    """(512,) each."""
    english: Vectors = field(default_factory=lambda: np.zeros((0, CAPTIONS, DIM), np.float32))
    """(photos, CAPTIONS, 512) of the English captions of each photo."""

    def add(
        self,
        text: str,
        language: str,
        target: NDArray[np.float32],
        owner: str,
        *,
        photo: int = _NO_PHOTO,
        kind: str = "",
    ) -> None:
        """Add a text."""
        self.texts.append(text)
        self.languages.append(language)
        self.targets.append(target)
        self.owners.append(owner)
        self.photos.append(photo)
        self.kinds.append(kind)


@dataclass(frozen=True)
class Sources:
    """The folders that the training texts are read from.

    Attributes:
        data: Captioned photos, with `captions.multilingual.tsv`: file, language, caption.
        parallel: `multi30k.tsv`, rows of translations; `captions.en.tsv.gz` and
            `captions.de.tsv.gz`, captions of photos that are not available.
        names: `babel_imagenet.json` and `*_classnames.json`, ImageNet's class names by language.
    """

    data: Path
    parallel: Path
    names: Path

    def captions(self) -> dict[str, dict[str, list[str]]]:
        """The captions by language and photo."""
        found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        path = self.data / "captions.multilingual.tsv"
        for line in path.read_text(encoding="utf-8").splitlines():
            photo, language, text = line.split("\t", 2)
            found[language][photo].append(text)
        return found

    def translations(self) -> list[dict[str, str]]:
        """Parallel sentences: for each, its text by language."""
        lines = (self.parallel / "multi30k.tsv").read_text(encoding="utf-8").splitlines()
        header = lines[0].split("\t")
        return [dict(zip(header, line.split("\t"), strict=True)) for line in lines[1:]]

    def class_names(self) -> tuple[list[str], dict[str, list[tuple[int, str]]]]:
        """ImageNet's English class names, and by language the (class, name) pairs that exist."""
        english = _json(self.names / "en_classnames.json")[_IMAGENET]
        found = {
            language.lower(): list(zip(classes, names, strict=True))
            for language, (classes, names) in _json(self.names / "babel_imagenet.json").items()
        }
        for code, language in _CODES.items():
            found[language] = list(
                enumerate(_json(self.names / f"{code}_classnames.json")[_IMAGENET])
            )
        found[ENGLISH] = list(enumerate(english))
        return english, found


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_examples(
    sources: Sources, encoder: MiniEncoder, *, cache: Path
) -> tuple[LanguageExamples, Vectors]:
    """The training texts, and the vectors (photos, 512) of the photos of the training split."""
    split = read_split(sources.data, "train")
    row_of = {file: row for row, file in enumerate(split.files)}
    english = text_vectors(encoder, split.texts, cache)
    own = {file: english[rows] for file, rows in zip(split.files, split.text_rows, strict=True)}
    found = LanguageExamples()
    for language, by_photo in sources.captions().items():
        for file in (file for file in by_photo if file in row_of):
            for text in by_photo[file]:
                target = _mean(own[file])
                found.add(text, language, target, file, photo=row_of[file])
    for file, captions in zip(split.files, split.captions, strict=True):
        for text, vector in zip(captions, own[file], strict=True):
            found.add(text, ENGLISH, vector, file, photo=row_of[file])
    translations = sources.translations()
    vectors = text_vectors(encoder, [row[ENGLISH] for row in translations], cache)
    for number, (row, vector) in enumerate(zip(translations, vectors, strict=True)):
        for language, text in row.items():
            found.add(text, language, vector, f"sentence {number}")
    _add_captions_alone(found, sources, encoder, cache)
    _add_names(found, sources, encoder, cache)
    found.english = np.stack([np.resize(own[file], (CAPTIONS, DIM)) for file in split.files])
    return found, photo_vectors(encoder, split, cache)


def _add_captions_alone(
    found: LanguageExamples, sources: Sources, encoder: MiniEncoder, cache: Path
) -> None:
    english = captions_alone(sources.parallel, ENGLISH)
    texts = [text for captions in english.values() for text in captions]
    vectors = iter(text_vectors(encoder, texts, cache))
    means = {
        photo: _mean(np.stack([next(vectors) for _ in captions]))
        for photo, captions in english.items()
    }
    for photo, captions in captions_alone(sources.parallel, "de").items():
        for text in captions if photo in means else ():
            found.add(text, "de", means[photo], f"captions of {photo}", kind=CAPTIONS_ALONE)


def _add_names(
    found: LanguageExamples, sources: Sources, encoder: MiniEncoder, cache: Path
) -> None:
    english, names = sources.class_names()
    prompts = [f"a photo of a {name}" for name in english]
    vectors = np.stack([text_vectors(encoder, texts, cache) for texts in (prompts, english)])
    for language, pairs in names.items():
        kind = NAMES if language in (*LANGUAGES, ENGLISH) else OTHER_NAMES
        for number, name in pairs:
            found.add(name, language, _mean(vectors[:, number]), f"class {number}", kind=kind)


def text_vectors(encoder: MiniEncoder, texts: Sequence[str], cache: Path) -> Vectors:
    """The vectors of texts, from `cache` or computed and stored there."""

    def compute() -> Mapping[str, NDArray[Any]]:
        return {"vectors": encoder.encode("text", texts).astype(np.float16)}

    key = encoder.fingerprint, encoder.languages_version, list(texts)
    return unit_rows(cached(cache, "texts", key, compute)["vectors"].astype(np.float32))


def photo_vectors(encoder: MiniEncoder, split: Split, cache: Path) -> Vectors:
    """The vectors of a split's photos."""

    def compute() -> Mapping[str, NDArray[Any]]:
        found = [
            encoder.encode("image", photo_pixels(encoder, split.paths[start : start + 200]))
            for start in range(0, len(split.files), 200)
        ]
        return {"vectors": np.concatenate(found).astype(np.float16)}

    vectors = cached(cache, "photos", (encoder.fingerprint, split.files), compute)["vectors"]
    return unit_rows(vectors.astype(np.float32))


def _mean(vectors: Vectors) -> NDArray[np.float32]:
    return unit_rows(vectors.mean(axis=0, keepdims=True))[0]


# ---------------------------------------------------------------------- tokens


def without_accents(text: str) -> str:
    """A text as it is typed on a keyboard without accents: "pláž" → "plaz"."""
    apart = unicodedata.normalize("NFD", text.replace("ß", "ss"))
    return "".join(sign for sign in apart if not unicodedata.combining(sign))


def train_tokenizer(examples: LanguageExamples, recipe: Recipe) -> Tokenizer:
    """A Unigram vocabulary (Kudo, ACL 2018) of lower-case NFKC text; the same on every machine."""
    plain = [
        without_accents(text)
        for text, language in zip(examples.texts, examples.languages, strict=True)
        if language in ACCENTED
    ]
    texts = examples.texts + plain[::4]
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation("isolated"), pre_tokenizers.Metaspace()]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=["<pad>", "<unk>"],
        unk_token="<unk>",  # noqa: S106 - a token of text
        max_piece_length=12,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.model = models.Unigram(_in_order(tokenizer.to_str()), UNKNOWN)
    tokenizer.enable_truncation(MOST_TOKENS)
    return tokenizer


def _in_order(trained: str) -> list[tuple[str, float]]:
    """Pieces and scores of a trained tokenizer, in an order that is the same for every training.

    The trainer iterates over hash tables, so the last digits of scores differ between runs. So do
    the scores of characters that are kept only so that any text can be split into pieces: from the
    lowest score upwards in steps of 0.0001, in random order. Here, all of these get the lowest.
    """
    vocabulary = json.loads(trained)["model"]["vocab"]
    special, pieces = vocabulary[: UNKNOWN + 1], vocabulary[UNKNOWN + 1 :]
    lowest = min(score for _, score in pieces)
    characters = sum(len(piece) == 1 for piece, _ in pieces)

    def canonical(piece: str, score: float) -> float:
        rare = len(piece) == 1 and score <= lowest + 0.0001 * characters
        return round(lowest if rare else score, 5)

    found = [(piece, canonical(piece, score)) for piece, score in pieces]
    return [*map(tuple, special), *sorted(found, key=lambda pair: (-pair[1], pair[0]))]


def token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of each text, at least one."""
    return [found.ids or [UNKNOWN] for found in tokenizer.encode_batch(list(texts))]


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Ids (n, longest), filled up with PAD."""
    ids = torch.full((len(rows), max(map(len, rows))), PAD)
    for row, found in zip(ids, rows, strict=True):
        row[: len(found)] = torch.tensor(found)
    return ids


# ---------------------------------------------------------------------- the network


class LanguageTower(nn.Module):
    """Token ids to unit vectors: a word table, a few transformer layers, the mean over tokens."""

    def __init__(self, vocabulary: int, recipe: Recipe) -> None:
        super().__init__()
        width = recipe.language_width
        self.words = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(MOST_TOKENS, width)
        nn.init.normal_(self.words.weight, std=0.05)
        nn.init.normal_(self.places.weight, std=0.01)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(recipe.language_dropout)
        inner = recipe.language_inner
        self.layers = nn.ModuleList(Layer(width, inner, 4) for _ in range(recipe.language_layers))
        self.out = nn.Linear(width, DIM)

    def forward(self, ids: Tensor) -> Tensor:
        """Unit rows (n, 512) of ids (n, tokens); PAD is ignored."""
        x = self.dropout(self.norm(self.words(ids) + self.places.weight[: ids.shape[1]]))
        states = self.dropout(run_layers(self.layers, x, ids))
        return F.normalize(self.out(token_mean(states, ids)).float(), dim=-1)


class LanguageTraining:
    """The training of a `LanguageTower`.

    Args:
        examples: The training texts.
        photos: (n, 512) the vectors of their photos.
        tokenizer: From `train_tokenizer`.
        recipe: The hyperparameters and the seed.
    """

    def __init__(
        self, examples: LanguageExamples, photos: Vectors, tokenizer: Tokenizer, recipe: Recipe
    ) -> None:
        torch.manual_seed(recipe.seed)
        self._recipe = recipe
        self._random = np.random.default_rng(recipe.seed)
        self._ids = token_ids(tokenizer, examples.texts)
        self._plain_ids = token_ids(tokenizer, list(map(without_accents, examples.texts)))
        self._targets = torch.from_numpy(np.stack(examples.targets))
        self._photos, self._photo_of = torch.from_numpy(photos), np.array(examples.photos)
        numbers = {owner: number for number, owner in enumerate(dict.fromkeys(examples.owners))}
        self._owners = torch.tensor([numbers[owner] for owner in examples.owners])
        self._examples = examples
        self.tower = LanguageTower(tokenizer.get_vocab_size(), recipe)

    def run(self) -> LanguageTower:
        """Train the tower; its weights are moving averages over the steps."""
        for number, one in enumerate(self._recipe.language_rounds):
            if number:
                torch.manual_seed(self._recipe.seed + number)
                self._random = np.random.default_rng(self._recipe.seed + number)
            if one.alignment:
                self._align(one.alignment)
            print(f"  round {number + 1}", flush=True)
            self._run(one)
        return self.tower.eval()

    def _run(self, one: LanguageRound) -> None:
        tower = self.tower.train()
        before = {name: weights.clone() for name, weights in tower.state_dict().items()}
        optimiser = torch.optim.AdamW(tower.parameters(), one.rate, weight_decay=0.01)
        epochs = [self._batches(one.shares) for _ in range(one.epochs)]
        steps = sum(map(len, epochs))
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, one.rate, total_steps=steps, pct_start=one.rising
        )
        average = AveragedModel(tower, multi_avg_fn=get_ema_multi_avg_fn(one.average))
        for number, batches in enumerate(epochs, start=1):
            losses = []
            for rows in batches:
                loss = self._loss(rows, one)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
                optimiser.step()
                schedule.step()
                average.update_parameters(tower)
                losses.append(loss.item())
            print(f"  epoch {number}: loss {np.mean(losses):.3f}", flush=True)
        trained = average.module.state_dict().items()
        tower.load_state_dict(
            {name: before[name].lerp(weights, one.trained_share) for name, weights in trained}
        )

    def _batches(self, shares: Mapping[str, float]) -> list[NDArray[np.int64]]:
        """The rows of an epoch: batches of texts of similar length, in random order."""
        size, examples = self._recipe.language_batch, self._examples
        pairs = zip(examples.kinds, examples.languages, strict=True)
        share = np.array([shares.get(kind, shares.get(language, 1.0)) for kind, language in pairs])
        chosen = np.flatnonzero(self._random.random(len(share)) < share)
        self._random.shuffle(chosen)
        batches = []
        for start in range(0, len(chosen), 16 * size):
            some = sorted(chosen[start : start + 16 * size], key=lambda row: len(self._ids[row]))
            batches += [np.array(some[at : at + size]) for at in range(0, len(some), size)]
        order = self._random.permutation(len(batches))
        return [batches[at] for at in order]

    def _align(self, temperature: float) -> None:
        """Set the targets of captions as `LanguageRound.alignment` describes."""
        languages = np.array(self._examples.languages)
        rows = np.flatnonzero((self._photo_of != _NO_PHOTO) & (languages != ENGLISH))
        rows = np.array(sorted(rows, key=lambda row: len(self._ids[row])), np.int64)
        own, tower = torch.from_numpy(self._examples.english), self.tower.eval()
        with torch.no_grad():
            for start in range(0, len(rows), 512):
                some = rows[start : start + 512]
                vectors = tower(padded([self._ids[row] for row in some]))
                captions = own[self._photo_of[some]]
                likeness = (captions @ vectors[:, :, None])[:, :, 0]
                weights = torch.softmax(likeness / temperature, 1)[:, :, None]
                self._targets[some] = F.normalize((weights * captions).sum(1), dim=-1)

    def _loss(self, rows: NDArray[np.int64], one: LanguageRound) -> Tensor:
        """InfoNCE against the targets, the distance to them, and InfoNCE against photos."""
        recipe = self._recipe
        with torch.autocast("cpu", torch.bfloat16):
            vectors = self.tower(self._read(rows, one))
        owners, targets = self._owners[rows], self._targets[rows]
        scale = 1 / recipe.language_temperature
        distance = (1 - (vectors * targets).sum(1)).mean()
        loss = info_nce(targets, vectors, scale, owners) + recipe.distance_weight * distance
        with_photo = np.flatnonzero(self._photo_of[rows] != _NO_PHOTO)
        photo_of, described = self._photo_of[rows[with_photo]], vectors[with_photo]
        if len(with_photo) and one.all_photos:
            scores = scale * described @ self._photos.T
            loss += one.photo_weight * F.cross_entropy(scores, torch.from_numpy(photo_of))
        elif len(with_photo) > 1:
            found = info_nce(self._photos[photo_of], described, scale, owners[with_photo])
            loss += one.photo_weight * found
        return loss

    def _read(self, rows: NDArray[np.int64], one: LanguageRound) -> Tensor:
        """The token ids of some texts: some texts without accents, and some tokens masked."""
        plain = self._random.random(len(rows)) < self._recipe.accents_dropped
        ids = padded(
            [
                (self._plain_ids if bare else self._ids)[row]
                for row, bare in zip(rows, plain, strict=True)
            ]
        )
        if one.words_masked:
            drawn = torch.from_numpy(self._random.random(ids.shape) < one.words_masked)
            there = ids != PAD
            masked = drawn & there & (there.sum(1, keepdim=True) > FEW_TOKENS)
            masked[:, 0] = False
            ids = ids.masked_fill(masked, UNKNOWN)
        return ids


# ---------------------------------------------------------------------- which language


def fit_detector(examples: LanguageExamples, recipe: Recipe) -> NDArray[np.float16]:
    """The weights (BUCKETS,) by which a `LanguageDetector` tells English from other languages.

    A logistic regression on the n-grams of whole texts and of random excerpts of one to six words.
    Single words are over-represented, as many queries are single words. Texts in other scripts are
    left out: the detector recognises those by their script.
    """
    torch.manual_seed(recipe.seed)
    random = np.random.default_rng(recipe.seed)
    english, others = _detector_texts(examples, recipe)
    rows = [
        (found, label)
        for label, texts in ((0.0, english), (1.0, others))
        for text in _drawn(texts, random)
        if (found := buckets_of(text))
    ]
    weights = nn.EmbeddingBag(BUCKETS, 1, mode="sum")
    nn.init.zeros_(weights.weight)
    optimiser = torch.optim.Adam(weights.parameters(), 0.02)
    for _ in range(5):
        order = random.permutation(len(rows))
        for start in range(0, len(order), 1024):
            some = [rows[at] for at in order[start : start + 1024]]
            lengths = torch.tensor([len(found) for found, _ in some])
            labels = torch.tensor([label for _, label in some])
            flat = torch.tensor([bucket for found, _ in some for bucket in found])
            scores = weights(flat, lengths.cumsum(0) - lengths)[:, 0] / lengths.sqrt()
            loss = F.binary_cross_entropy_with_logits(scores, labels, reduction="none")
            # to take an English text for another language costs more than the reverse
            loss = (loss * (3 - 2 * labels)).mean() + 2e-6 * (weights.weight**2).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    fitted: NDArray[np.float16] = weights.weight.detach().numpy()[:, 0].astype(np.float16)
    return fitted


def _detector_texts(examples: LanguageExamples, recipe: Recipe) -> tuple[list[str], list[str]]:
    """English texts, and those in other languages of Latin script; query-like ones repeated."""
    pairs = list(zip(examples.texts, examples.languages, strict=True))
    everyday = [word for words in EVERYDAY.values() for word in words]
    english = [text for text, language in pairs if language == ENGLISH]
    english += typical_texts() * recipe.typical_repeats + everyday * recipe.everyday_repeats
    others = [text for text, language in pairs if language != ENGLISH and is_latin(text)]
    others += [
        text
        for (text, language), kind in zip(pairs, examples.kinds, strict=True)
        if language != ENGLISH and is_latin(text) and kind in (NAMES, OTHER_NAMES)
    ] * (recipe.names_repeats - 1)
    return english, others


def _drawn(
    texts: Sequence[str], random: np.random.Generator, whole: int = 30_000, parts: int = 80_000
) -> list[str]:
    """Random texts, and random excerpts of one to six words."""
    found = [texts[row] for row in random.integers(0, len(texts), whole)]
    for row in random.integers(0, len(texts), parts):
        words = texts[row].split()
        most = 2 if random.random() < SINGLE_WORDS else 7
        number = min(int(random.integers(1, most)), len(words))
        start = int(random.integers(0, len(words) - number + 1))
        found.append(" ".join(words[start : start + number]).strip(".,"))
    return found
