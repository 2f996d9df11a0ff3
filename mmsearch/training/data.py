"""The pairs to learn from: captioned photos, and class names set into prompts."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

CAPTIONS_A_PHOTO = 5


@dataclass(frozen=True)
class Split:
    """Photos of one split, each with its captions."""

    folder: Path
    files: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]

    @property
    def texts(self) -> list[str]:
        """All captions in photo order."""
        return [text for captions in self.captions for text in captions]

    @property
    def owners(self) -> list[int]:
        """For each of `texts`, the position of its photo."""
        return [row for row, captions in enumerate(self.captions) for _ in captions]

    def path(self, row: int) -> Path:
        """Where the photo of a row lies."""
        return self.folder / self.files[row]


def read_split(data: Path, name: str) -> Split:
    """The photos named in `<name>.txt` with their captions from `captions.tsv`.

    Raises:
        FileNotFoundError: the folder lacks one of the two files.
    """
    captions = defaultdict(list)
    for line in (data / "captions.tsv").read_text(encoding="utf-8").splitlines():
        file, _, text = line.partition("\t")
        captions[file].append(text.strip())
    files = tuple((data / f"{name}.txt").read_text(encoding="utf-8").split())
    return Split(data / "images", files, tuple(tuple(captions[file]) for file in files))


def class_prompts(templates: int) -> list[list[str]]:
    """ImageNet's 1,000 class names, each set into the published prompt templates.

    Args:
        templates: How many of those, evenly spread.

    Returns:
        Lists of 1,000 prompts: "a photo of a X", the bare name, then one for each template.
    """
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

    every = len(OPENAI_IMAGENET_TEMPLATES) // max(1, templates)
    chosen = list(OPENAI_IMAGENET_TEMPLATES)[::every][:templates]
    plain = [f"a photo of a {name}" for name in IMAGENET_CLASSNAMES]
    bare = list(IMAGENET_CLASSNAMES)
    return [plain, bare, *([fill(name) for name in IMAGENET_CLASSNAMES] for fill in chosen)]
