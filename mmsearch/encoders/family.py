"""Families of models: what can be done with a model's name before the model is loaded.

A new family is a subclass of `Family` in a file of its own, and a line in
`mmsearch.encoders.registry.REGISTRY`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from mmsearch.errors import InvalidOption, UnknownModel

if TYPE_CHECKING:
    from mmsearch.encoders import Encoder, Runtime
    from mmsearch.types import Progress


class Recall(NamedTuple):
    """Captions of 100 whose photo is found first, or among the first five."""

    at1: float
    at5: float | None


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A recommended model, with the figures that were published for it."""

    name: str
    """What `--model` takes."""
    repository: str
    """Of the Hugging Face hub."""
    about: str
    megabytes: int
    """Of the weights, 10^6 bytes: as the repository lists them, else ("~" in the table) by the
    number of its parameters, at 4 bytes, or 2 for models in half precision."""
    dim: int
    modalities: tuple[str, ...]
    """What it takes; all in one space."""
    licence: str
    """As the repository states it; `apple-amlr` allows research only."""
    source: str
    """Where the recalls were published."""
    recall: Mapping[str, Recall]
    """By "flickr30k" and "coco": zero-shot, in percent, of finding a photo by its caption among
    Flickr30k's 1,000 test photos and COCO's 5,000 (the Karpathy splits). Empty for sounds."""
    reads: str | None
    """A second repository, whose tokenizer it reads."""
    weights_in_listing: bool
    """Whether `megabytes` is what the repository lists."""

    @property
    def family(self) -> str:
        """What stands before the colon."""
        return self.name.partition(":")[0]


SOURCES = {
    "open_clip": "https://github.com/mlfoundations/open_clip/blob/main/docs/"
    "openclip_retrieval_results.csv",
    "siglip2": "https://github.com/google-research/big_vision/blob/main/big_vision/configs/proj/"
    "image_text/README_siglip2.md",
    "pe": "https://github.com/facebookresearch/perception_models",
    "mobileclip": "https://github.com/apple/ml-mobileclip/tree/main/results",
    "clap": "https://github.com/LAION-AI/CLAP",
    "embeddinggemma": "https://huggingface.co/google/embeddinggemma-2",
    "qwen3-vl": "https://huggingface.co/Qwen/Qwen3-VL-Embedding-2B",
}
"""By their names in the table."""


@cache
def known_models() -> tuple[KnownModel, ...]:
    """The table of recommended models; those that see are in order of recall at 1 on COCO."""
    table = Path(__file__).with_name("recommended.tsv").read_text(encoding="utf-8")
    heads, *lines = (line.split("\t") for line in table.splitlines())
    return tuple(_known(dict(zip(heads, line, strict=True))) for line in lines)


def _known(row: Mapping[str, str]) -> KnownModel:
    at1 = {name: row[f"{name}_at1"] for name in ("flickr30k", "coco")}
    at5 = {name: row[f"{name}_at5"] for name in at1}
    return KnownModel(
        row["name"],
        repository=row["repository"],
        about=row["about"],
        megabytes=int(row["megabytes"].removeprefix("~")),
        dim=int(row["dim"]),
        modalities=tuple(row["modalities"].split()),
        licence=row["licence"],
        source=SOURCES[row["source"]],
        recall={
            name: Recall(float(first), float(at5[name]) if at5[name] else None)
            for name, first in at1.items()
            if first
        },
        reads=row["reads"] or None,
        weights_in_listing=not row["megabytes"].startswith("~"),
    )


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One line of `mmsearch models`."""

    name: str
    state: Literal["built in", "here", "downloadable"]
    megabytes: int | None
    """Of the weights, 10^6 bytes."""
    licence: str | None
    about: str
    recall: Mapping[str, Recall] = field(default_factory=dict)
    """As published; empty if nothing was."""
    modalities: tuple[str, ...] = ()
    """What it takes, where that is known without loading it."""
    source: str | None = None
    """Where its recalls were published; if none were, the page that describes it."""
    is_default: bool = False
    """Whether `auto` stands for it just now."""


class Family(ABC):
    """The models whose names begin alike: how one is loaded, listed and fetched."""

    forms: tuple[str, ...]
    """How names of its models are written, for messages: "clip:ARCH/TAG", say."""
    has_runtimes = False
    """Whether its models run on torch and on ONNX Runtime, in several precisions."""
    companion: str | None = None
    """The model that makes vectors of sounds in a new index whose model does not, where that one
    was chosen by `auto` and is of this family."""

    @abstractmethod
    def load(self, name: str, how: Runtime) -> Encoder:
        """A model, ready to encode; nothing is downloaded.

        Raises:
            UnknownModel, ModelUnavailable, MissingExtra, ModelDamaged, InvalidOption: as
                `mmsearch.encoders.registry.load_encoder` raises them.
        """

    @abstractmethod
    def is_here(self, name: str) -> bool:
        """Whether a model can be used without a network; takes milliseconds."""

    @abstractmethod
    def pull(self, name: str, progress: Progress | None) -> Path:
        """Where a model lies, after downloading what was missing; `models.pull` says the rest."""

    def licence(self, name: str) -> str | None:
        """The licence of a model's weights, if it is known; may ask the hub."""
        return next((one.licence for one in self.recommended() if one.name == name), None)

    def trust(self, name: str) -> None:
        """Let Python code that a model brings run on this machine, until its files change.

        Raises:
            InvalidOption: models of this family bring none; or the choice cannot be stored.
        """
        raise InvalidOption(f"{name} brings no code: leave out --trust-remote-code")

    def accepts(self, name: str) -> bool:
        """Whether this can be the name of one of its models."""
        return bool(name.partition(":")[2])

    def absolute(self, name: str) -> str:
        """The name that means the same model from every folder.

        Raises:
            UnknownModel: the name does not say which model.
        """
        return name

    def recommended(self) -> Sequence[KnownModel]:
        """Models worth having, the best first."""
        family = self.forms[0].partition(":")[0]
        return [model for model in known_models() if model.family == family]

    def rows(self) -> Iterator[ModelRow]:
        """Its lines of `mmsearch models`."""
        for one in self.recommended():
            state: Literal["here", "downloadable"] = (
                "here" if self.is_here(one.name) else "downloadable"
            )
            yield ModelRow(
                one.name,
                state,
                one.megabytes,
                one.licence,
                one.about,
                one.recall,
                one.modalities,
                one.source,
            )

    def recognise(self, repository: str, folder: Path) -> ModelRow | None:
        """The line of a repository in the hub's cache, if it plainly holds a model of this family.

        Args:
            repository: ORG/NAME.
            folder: Its files on this machine.
        """
        del repository, folder
        return None

    def best_here(self) -> str | None:
        """The model that `auto` should stand for, if one is here and its packages are installed."""
        return None


class SingleModel(Family):
    """A family of one model that needs no download: its name is the family's.

    Args:
        name: Of the model and of the family.
        make: Returns the encoder.
        about: What `mmsearch models` says of it.
        licence: Of its weights.
        folder: Of its weights, if it has any.
        modalities: What it takes.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Encoder],
        *,
        about: str = "",
        licence: str | None = None,
        folder: Path | None = None,
        modalities: tuple[str, ...] = (),
    ) -> None:
        self.forms = (name,)
        self._modalities = modalities
        self._name, self._make = name, make
        self._about, self._licence, self._folder = about, licence, folder

    def load(self, name: str, how: Runtime) -> Encoder:
        """The model, whatever it is to run on."""
        del how
        if not self.accepts(name):
            raise UnknownModel(f"no model is called {name!r}; did you mean {self._name!r}?")
        return self._make()

    def accepts(self, name: str) -> bool:
        """Whether it is the one name."""
        return name == self._name

    def is_here(self, name: str) -> bool:
        """Always, if it is the one name."""
        return self.accepts(name)

    def pull(self, name: str, progress: Progress | None) -> Path:
        """The folder of its weights; else that of the program."""
        del name, progress
        return self._folder or Path(__file__).parent

    def rows(self) -> Iterator[ModelRow]:
        """One, "built in"."""
        megabytes = None
        if self._folder is not None and self._folder.is_dir():
            megabytes = round(sum(path.stat().st_size for path in self._folder.iterdir()) / 1e6)
        yield ModelRow(
            self._name,
            "built in",
            megabytes,
            self._licence,
            self._about,
            modalities=self._modalities,
        )


def similar_names(name: str, names: Sequence[str]) -> list[str]:
    """Up to three of the names that are most like one that was mistyped."""
    from difflib import get_close_matches

    known = {one.casefold(): one for one in names}
    wanted = name.casefold()
    near = get_close_matches(wanted, known, n=3, cutoff=0.7)
    return [known[one] for one in near or [one for one in known if wanted in one][:3]]
