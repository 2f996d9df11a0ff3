"""Makes a model's towers for ONNX Runtime, and compares their vectors with torch's.

They are compared on photos that the user indexes, and on sentences.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.encoders.clip.preprocessing import TokenRecipe, Tokens
from mmsearch.encoders.clip.towers import Tower, TowerCache

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.encoders.clip.torch_model import TorchModel
    from mmsearch.types import Modality, Vectors

log = logging.getLogger(__name__)

MAKERS = ("torch", "open_clip_torch", "onnx", "onnxruntime")
"""Packages whose other versions may succeed where one has failed."""
FACTS = "facts"
COPIES = 3
"""The space on disk that making a graph takes, at most: so many times that of the weights."""


def makers() -> dict[str, str]:
    """The versions of the packages that make graphs."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in MAKERS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found


def make_facts(model: TorchModel, towers: TowerCache) -> dict[str, Any]:
    """Keep what must be known of a model to use it without torch."""
    facts: dict[str, Any] = {
        "dim": model.dim(),
        "pixels": asdict(model.pixels),
        "notes": model.notes,
        "tokens": None,
        "why_no_tokens": None,
    }
    try:
        with towers.making(FACTS) as folder:
            try:
                recipe, tokenizer = model.recipe()
                tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
                check_tokens(model, Tokens(folder / "tokenizer.json", recipe), recipe)
                facts["tokens"] = asdict(recipe)
            except Exception as error:  # tokenizers fail in all ways
                _raise_if_unwritable(error, model, towers)
                log.info("tokens of %s need torch", towers.folder, exc_info=True)
                facts["why_no_tokens"] = f"{type(error).__name__}: {error}"[:300]
            (folder / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    except OSError as error:
        facts |= {"tokens": None, "why_no_tokens": f"the cache cannot be written: {error}"}
    return facts


def _raise_if_unwritable(error: Exception, model: TorchModel, towers: TowerCache) -> None:
    """Return if making something failed for a reason that will last.

    Raises:
        OSError: the disk is too full, or cannot be written. The libraries that write graphs have
            their own errors for it, so that free space tells.
    """
    if isinstance(error, OSError):
        raise error
    weights = sum(int(one.nbytes) for one in model.model.parameters())
    if shutil.disk_usage(towers.folder).free < COPIES * weights:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(towers.folder)) from error


def check_tokens(model: TorchModel, tokens: Tokens, recipe: TokenRecipe) -> None:
    """Return if the tokens are those of open_clip's tokenizer.

    Raises:
        ValueError: they are not.
    """
    import numpy as np

    texts = [*SENTENCES, *ODD]
    for text, wanted, found in zip(texts, model.tokens(texts), tokens(texts), strict=True):
        padded = np.pad(found, (0, recipe.context_length - len(found))) if recipe.trims else found
        if not np.array_equal(padded, wanted):
            raise ValueError(f"its tokens differ for {text[:60]!r}")


def make_tower(
    model: TorchModel,
    towers: TowerCache,
    modality: Modality,
    things: Sequence[NDArray[Any]],
    precisions: Sequence[str],
) -> None:
    """Export a tower and check it, in each precision until one passes.

    Args:
        model: The reference.
        towers: Keeps the graphs and the results of their checks.
        modality: The tower's.
        things: Pixels or token ids to compare on, at least one.
        precisions: "int8", "fp32", in order of preference.

    Raises:
        OSError: the cache cannot be written. Any other failure is kept as the check's result.
    """
    from mmsearch.encoders.clip.onnx_export import export

    things, distinct = sample(things) if modality == "image" else (list(things[:COUNT]), COUNT)
    with towers.scratch() as folder:
        raw = folder / "raw.onnx"
        wanted = _reference(model, modality, things)
        for precision in precisions:
            try:
                if not raw.exists():
                    export(model, modality, raw)
                    photos_per_run = _photos_per_run(raw) if modality == "image" else 1
                compared = (things, wanted, distinct)
                verdict = _make_and_check(
                    towers, modality, precision, raw, photos_per_run, compared
                )
                if verdict.passed:
                    return
            except Exception as error:  # exporting an unknown network fails in all ways
                _raise_if_unwritable(error, model, towers)
                log.info("no %s graph of the %s tower", precision, modality, exc_info=True)
                raw.unlink(missing_ok=True)
                why = f"{type(error).__name__}: {error}".splitlines()[0][:300]
                with towers.making(f"{modality}-{precision}") as place:
                    _write_check(place, {"passed": False, "error": why})


Compared = tuple[Sequence["NDArray[Any]"], "Vectors", int]
"""Things, their vectors by torch, and the number of distinct ones among them."""


def _make_and_check(
    towers: TowerCache,
    modality: Modality,
    precision: str,
    raw: Path,
    photos_per_run: int,
    compared: Compared,
) -> Verdict:
    from mmsearch.encoders.clip.int8 import measure_ranges, quantise
    from mmsearch.encoders.clip.onnx_export import simplified

    things, wanted, distinct = compared
    with towers.making(f"{modality}-{precision}") as folder:
        graph = folder / "graph.onnx"
        if precision == "int8":
            with towers.scratch() as basic, towers.scratch() as quantised:
                simplified(raw, basic / graph.name, "BASIC")
                ranges = None
                if modality == "image":
                    batches = [*_in_eights(things), extreme_photos(*things[0].shape[:2])]
                    ranges = measure_ranges(basic / graph.name, batches)
                quantise(basic / graph.name, quantised / graph.name, ranges)
                simplified(quantised / graph.name, graph, "EXTENDED")
        else:
            simplified(raw, graph, "EXTENDED")
        found = Tower(graph, modality, photos_per_run).run(things)
        verdict = compare(wanted, found, precision, distinct)
        _write_check(folder, asdict(verdict) | {"photos_per_run": photos_per_run})
    log.info("%s tower in %s: %s", modality, precision, verdict)
    return verdict


PHOTOS_PER_RUN = 8
"""The most photos in a batch."""
TOKENS_PER_RUN = 600
"""The most tokens in a batch: more are no faster, and take more memory."""


def _photos_per_run(graph: Path) -> int:
    """The batch size of an image tower; 1 if it is no transformer, whose convolutions gain nothing
    by batches.
    """
    import onnx

    inferred = onnx.shape_inference.infer_shapes(onnx.load(graph)).graph
    shapes = {one.name: one.type.tensor_type.shape.dim for one in inferred.value_info}
    products = [node for node in inferred.node if node.op_type == "MatMul"]
    inputs = [shapes[node.input[0]] for node in products if node.input[0] in shapes]
    tokens = max((shape[1].dim_value for shape in inputs if len(shape) == 3), default=0)
    return max(min(TOKENS_PER_RUN // tokens, PHOTOS_PER_RUN), 1) if tokens else 1


def _write_check(folder: Path, found: dict[str, Any]) -> None:
    text = json.dumps(found | {"makers": makers()}, indent=1)
    (folder / "check.json").write_text(text, encoding="utf-8")


def _reference(model: TorchModel, modality: Modality, things: Sequence[NDArray[Any]]) -> Vectors:
    """The vectors by torch, of SENTENCES or of photos."""
    import numpy as np

    if modality == "text":
        batch: NDArray[np.int64] = model.tokens(SENTENCES)
        return model.run("text", batch)
    return np.concatenate([model.run("image", some) for some in _in_eights(things)])


def _in_eights(photos: Sequence[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Photos in batches of eight, (n, height, width, 3)."""
    import numpy as np

    return (np.stack(photos[at : at + 8]) for at in range(0, len(photos), 8))


def extreme_photos(height: int, width: int) -> NDArray[np.uint8]:
    """Photos (8, height, width, 3) with activations of a wide range: plain colours, a gradient,
    noise. Without them, a bright photo would be far off in int8 if the first photos were dark.
    """
    import numpy as np

    noise = np.random.default_rng(0)
    photos = np.zeros((8, height, width, 3), np.uint8)
    for photo, colour in zip(
        photos, ("000000", "808080", "ffffff", "ff0000", "0000ff"), strict=False
    ):
        photo[:] = list(bytes.fromhex(colour))
    photos[5] = np.linspace(0, 255, width).astype(np.uint8)[:, None]
    photos[6] = noise.integers(0, 256, (height, width, 3))
    photos[7] = noise.integers(0, 2, (height, width, 1)) * 255
    return photos


# ---------------------------------------------------------------------- comparing

COUNT = 64
"""Photos, or texts, that are compared."""
LEAST_COSINE = 0.999
"""Of centred vectors in fp32. Uncentred, untrained towers give 0.9 between any two photos."""
LEAST_NEIGHBOURS = 0.95
"""Share of things whose nearest neighbour must stay the same in int8."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a graph compares with torch."""

    passed: bool
    cosine: float
    """The lowest between a thing's two vectors, both centred."""
    neighbours: float
    """The share of things whose nearest neighbour is the same."""
    distinct: int
    """Number of different photos or texts; the others up to 64 were crops of these."""


def compare(wanted: Vectors, found: Vectors, precision: str, distinct: int) -> Verdict:
    """Compare two runs' unit vectors (n, dim) of the same n things, in the same order."""
    import numpy as np

    middle = wanted.mean(axis=0)
    one, other = wanted - middle, found - middle
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosine = float(((one * other).sum(axis=1) / np.maximum(lengths, 1e-12)).min())
    same = float((_nearest(wanted) == _nearest(found)).mean())
    good = same >= LEAST_NEIGHBOURS if precision == "int8" else cosine >= LEAST_COSINE
    passed = bool(good and np.isfinite(found).all())
    return Verdict(passed, round(cosine, 6), round(same, 4), distinct)


def _nearest(vectors: Vectors) -> NDArray[np.intp]:
    import numpy as np

    alike = vectors @ vectors.T
    np.fill_diagonal(alike, -2.0)
    nearest: NDArray[np.intp] = alike.argmax(axis=1)
    return nearest


def sample(photos: Sequence[NDArray[np.uint8]]) -> tuple[list[NDArray[np.uint8]], int]:
    """64 photos to compare on, and the number of originals among them; the rest are crops.

    Args:
        photos: Pixels (height, width, 3), at least one.
    """
    distinct = list({photo.tobytes(): photo for photo in photos}.values())[:COUNT]
    chance = random.Random(0)  # noqa: S311 - the same crops every time
    crops = [_crop(distinct[at % len(distinct)], chance) for at in range(COUNT - len(distinct))]
    return distinct + crops, len(distinct)


def _crop(photo: NDArray[np.uint8], chance: random.Random) -> NDArray[np.uint8]:
    import numpy as np
    from PIL import Image

    high, wide = photo.shape[:2]
    share = chance.uniform(0.3, 0.8)
    left, top = chance.uniform(0, wide * (1 - share)), chance.uniform(0, high * (1 - share))
    box = (left, top, left + wide * share, top + high * share)
    picture = Image.fromarray(photo)
    cropped = picture.resize((wide, high), Image.Resampling.BICUBIC, box=box)
    if chance.random() < 0.5:
        cropped = cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(cropped)


# ---------------------------------------------------------------------- texts

SENTENCES = tuple(
    Path(__file__).with_name("sentences.txt").read_text(encoding="utf-8").splitlines()
)
"""As unlike each other as captions are."""

ODD = (
    "",
    "   two  spaces\tand a tab\nand a line  ",
    "ALL CAPITALS, digits 1234567890 and don't, we'll, they've",
    "naïve café über straße İstanbul ﬁne ½ ²",
    "schÃ¶n cafÃ© â€œquotedâ€\x9d",
    "&lt;b&gt; fish &amp;amp; chips &eacute;",
    "🐶 👩‍👩‍👧 🇩🇪 𝒞𝓁𝒾𝓅 𠜎",
    "一只狗在海滩上 собака на пляже كلب على الشاطئ",
    "snake_case kebab-case (brackets) [more] {more} #tag @name",
    "word " * 300,
    "unbreakable" * 60,
)
"""Texts that are hard for tokenizers."""
