"""Photos and texts made ready as open_clip does it, to the bit, without torch or open_clip."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.errors import MissingExtra

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from tokenizers import Encoding, Tokenizer


# ---------------------------------------------------------------------- photos


@dataclass(frozen=True, slots=True)
class Pixels:
    """How a model takes photos; the terms are those of open_clip's `PreprocessCfg`."""

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    """"bilinear"; anything else means bicubic."""
    resize_mode: str
    """"squash": to the exact size. "longest": the whole photo, padded. "shortest": the middle."""
    fill: int

    @classmethod
    def of(cls, config: dict[str, Any]) -> Pixels:
        """From a model's `preprocess_cfg`."""
        size = config["size"]
        height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])
        return cls(
            height=int(height),
            width=int(width),
            mean=_three(config["mean"]),
            std=_three(config["std"]),
            interpolation=config.get("interpolation") or "bicubic",
            resize_mode=config.get("resize_mode") or "shortest",
            fill=int(config.get("fill_color") or 0),
        )

    @classmethod
    def read(cls, facts: dict[str, Any]) -> Pixels:
        """From facts.json, which holds its fields."""
        return cls(**facts | {"mean": tuple(facts["mean"]), "std": tuple(facts["std"])})

    def __call__(self, photo: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Pixels (height, width, 3) uint8 of a photo, or of what this returned."""
        import numpy as np
        from PIL import Image

        if isinstance(photo, np.ndarray):
            if photo.shape == (self.height, self.width, 3) and photo.dtype == np.uint8:
                return photo
            photo = Image.fromarray(photo)
        fitted = self._resized(photo)
        if self.resize_mode != "squash":
            fitted = self._centre(fitted, 0 if self.resize_mode == "shortest" else self.fill)
        return np.asarray(fitted if fitted.mode == "RGB" else fitted.convert("RGB"))

    def _resized(self, photo: Image.Image) -> Image.Image:
        from PIL.Image import Resampling

        bilinear = self.interpolation == "bilinear"
        how = Resampling.BILINEAR if bilinear else Resampling.BICUBIC
        wide, high = photo.size
        if self.resize_mode == "squash":
            size = (self.width, self.height)
        elif self.resize_mode == "shortest" and self.width == self.height:
            shorter = min(wide, high)  # rounded down, as torchvision's Resize does
            size = (int(self.width * wide / shorter), int(self.width * high / shorter))
        else:
            ratios = (high / self.height, wide / self.width)
            ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
            size = (max(round(wide / ratio), 1), max(round(high / ratio), 1))
            if self.resize_mode == "shortest":
                how = Resampling.BICUBIC  # as open_clip does, whatever the model says
        return photo if size == photo.size else photo.resize(size, how)

    def _centre(self, photo: Image.Image, fill: int) -> Image.Image:
        from PIL import ImageOps

        more_wide, more_high = max(self.width - photo.width, 0), max(self.height - photo.height, 0)
        if more_wide or more_high:
            left, top = more_wide // 2, more_high // 2
            bands = len(photo.getbands())
            border = (left, top, more_wide - left, more_high - top)
            photo = ImageOps.expand(photo, border, fill if bands == 1 else (fill,) * bands)
        left = round((photo.width - self.width) / 2)
        top = round((photo.height - self.height) / 2)
        if (left, top) == (0, 0) and photo.size == (self.width, self.height):
            return photo
        return photo.crop((left, top, left + self.width, top + self.height))


def _three(value: float | list[float] | tuple[float, ...]) -> tuple[float, ...]:
    return (float(value),) * 3 if isinstance(value, int | float) else tuple(map(float, value))


# ---------------------------------------------------------------------- texts

MARKS = "<start_of_text>", "<end_of_text>"
WORDS = (
    r"(?i:<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d)"
    r"|\p{L}+|\p{N}|[^\s\p{L}\p{N}\u0345]+"
)
"""What CLIP takes for a word, before cutting it into pieces (Radford et al., 2021).

U+0345 is part of no word: ignoring case, it is a letter (an iota) to open_clip's negated class, and
is none to the class of letters.
"""


FEW_LETTERS = 1_000
"""Of more letters, finding the pieces that they need takes longer than reading all."""


@dataclass(frozen=True, slots=True)
class TokenRecipe:
    """What a model's tokenizer does before and after cutting a text into pieces."""

    kind: str
    """"clip": CLIP's own pieces between two marks. "padded": pieces of a tokenizer that truncates
    and pads by itself. "clips": as OpenVision does, with the class token at the very end."""
    clean: str
    """"lower", "whitespace" or "canonicalize"."""
    context_length: int
    """Tokens that a text is truncated to."""
    trims: bool = False
    """Whether padding can be left out without changing the vector."""
    blanked: int | None = None
    """A token that is replaced by 0."""
    marks: tuple[int, ...] = ()
    """clip: (start, end). clips: (start, end, padding, class)."""

    @classmethod
    def read(cls, facts: dict[str, Any]) -> TokenRecipe:
        """From facts.json, which holds its fields."""
        return cls(**facts | {"marks": tuple(facts["marks"])})


class Tokens:
    """Token ids of texts; safe to use from several threads.

    Args:
        file: A tokenizer.json.
        recipe: What is done besides.
        pieces: The same pieces as `write_pieces` wrote them: of these, only what the first texts
            need is read, and `file` if there are other texts.
    """

    def __init__(self, file: Path, recipe: TokenRecipe, pieces: Path | None = None) -> None:
        self._file, self._recipe, self._pieces = file, recipe, pieces
        self._few: tuple[frozenset[str], Tokenizer] | None = None
        self._whole = self._read() if pieces is None else None

    def _read(self) -> Tokenizer:
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self._file))

    def _tokenizer(self, cleaned: Sequence[str]) -> Tokenizer:
        """One that has the pieces of some texts at least."""
        texts = frozenset(cleaned)
        short = sum(map(len, texts)) <= FEW_LETTERS
        if self._few is None and self._pieces is not None and short:
            self._few = texts, clip_pieces(*read_pieces(self._pieces, texts))
        if self._few is not None and texts <= self._few[0]:
            return self._few[1]
        if self._whole is None:
            self._whole = self._read()
        return self._whole

    def __call__(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """The ids of each text, (tokens,): all of `context_length`, unless the model trims."""
        import numpy as np

        cleaned = [clean(text, self._recipe.clean) for text in texts]
        bare = self._recipe.kind == "clips"
        found = self._tokenizer(cleaned).encode_batch(cleaned, add_special_tokens=not bare)
        rows = (self._ids(*one) for one in zip(found, cleaned, strict=True))
        return [np.array(row, np.int64) for row in rows]

    def _ids(self, encoding: Encoding, text: str) -> list[int]:
        if self._recipe.kind == "clip":
            return self._marked(self._with_specials(encoding, text))
        if self._recipe.kind == "clips":
            return self._class_last(encoding.ids)
        blanked = self._recipe.blanked
        return [0 if piece == blanked else piece for piece in encoding.ids]

    def _marked(self, pieces: list[int]) -> list[int]:
        start, end = self._recipe.marks
        longest = self._recipe.context_length
        row = [start, *pieces, end]
        if len(row) > longest:
            row = [*row[: longest - 1], end]
        return row if self._recipe.trims else row + [0] * (longest - len(row))

    def _with_specials(self, encoding: Encoding, text: str) -> list[int]:
        """The pieces; a mark that was typed in the text is that mark."""
        if not any(mark in text.lower() for mark in MARKS):
            return encoding.ids
        pieces: list[int] = []
        last: int | None = None
        for piece, word in zip(encoding.ids, encoding.word_ids, strict=True):
            span = None if word is None else encoding.word_to_chars(word)
            typed = text[slice(*span)] if span else ""
            if typed not in MARKS:
                pieces.append(piece)
            elif word != last:
                pieces.append(self._recipe.marks[MARKS.index(typed)])
            last = word
        return pieces

    def _class_last(self, pieces: list[int]) -> list[int]:
        start, end, padding, last = self._recipe.marks
        longest = self._recipe.context_length
        row = [start, *pieces[: longest - 3], end]
        return [*row, *[padding] * (longest - 1 - len(row)), last]


def clean(text: str, how: str) -> str:
    """A text as open_clip cleans it before cutting it into pieces."""
    import html

    text = text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate has no bytes
    if not _PLAIN.fullmatch(text):
        text = html.unescape(html.unescape(_fixed(text)))
    if how == "canonicalize":
        text = text.strip().replace("_", " ").translate(_NO_PUNCTUATION).lower()
    text = " ".join(text.split())
    return text.lower() if how == "lower" else text


_PLAIN = re.compile(r"[ !-%'-~]*")
"""Printable ASCII without an ampersand, which ftfy and `html.unescape` do not change."""
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _fixed(text: str) -> str:
    """The text with its encoding fixed, by a package that is slow to import."""
    try:
        fix_text = import_module("ftfy").fix_text
    except ImportError as error:
        raise MissingExtra("Reading this text as the clip model does", "clip") from error
    fixed: str = fix_text(text)
    return fixed


def write_pieces(tokenizer: Path, out: Path) -> None:
    """Write the pieces of a tokenizer.json for `read_pieces`.

    Each is a line, in order of their ids; one that is merged of two is these, with a space.

    Raises:
        ValueError: ids have gaps, or merges are in another order.
    """
    model = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]
    merged = {"".join(parts): " ".join(parts) for parts in model["merges"]}
    by_id = {number: merged.get(piece, piece) for piece, number in model["vocab"].items()}
    lines = [by_id.get(number, "") for number in range(len(by_id))]
    if [line for line in lines if " " in line] != list(map(" ".join, model["merges"])):
        raise ValueError(f"the pieces of {tokenizer} are not in the order of their merges")
    out.write_text("\n".join(lines), encoding="utf-8", newline="\n")


def read_pieces(file: Path, texts: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The pieces that can be part of some texts, with their ids, and their merges: a few of 49,408.

    Reading all takes 80 ms, a sixth of a query from the shell, and these 20.
    """
    cut = clip_pieces({}, []).pre_tokenizer.pre_tokenize_str
    words = "".join(f"{word}</w> " for text in texts for word, _ in cut(text))
    vocabulary, merges = {}, []
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n")):
        piece = line.replace(" ", "")
        if piece in words:
            vocabulary[piece] = number
            if piece != line:
                first, _, second = line.partition(" ")
                merges.append((first, second))
    return vocabulary, merges


def clip_pieces(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """CLIP's byte-pair encoding, of the vocabulary and merges of open_clip's `SimpleTokenizer`."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer
