"""Makes a model's towers for ONNX Runtime, and checks them against torch."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.encoders.clip_check import COUNT, Verdict, compare, sample
from mmsearch.encoders.clip_onnx import tower_of
from mmsearch.encoders.clip_texts import ODD, SENTENCES
from mmsearch.encoders.clip_tokens import TokenRecipe, Tokens

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.encoders.clip_cache import Towers
    from mmsearch.encoders.clip_torch import TorchModel
    from mmsearch.types import Modality, Vectors

log = logging.getLogger(__name__)

MAKERS = ("torch", "open_clip_torch", "onnx", "onnxruntime")
"""Packages of which another version may succeed where one has failed."""
FACTS = "facts"


def makers() -> dict[str, str]:
    """The versions of the packages that make graphs."""
    found = {}
    for package in MAKERS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found


def make_facts(model: TorchModel, towers: Towers) -> dict[str, Any]:
    """Write down what must be known of a model to use it without torch."""
    facts: dict[str, Any] = {
        "dim": model.dim(),
        "pixels": model.pixels.write(),
        "notes": model.notes,
        "tokens": None,
        "why_no_tokens": None,
    }
    with towers.making(FACTS) as folder:
        try:
            recipe, tokenizer = model.recipe()
            tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
            check_tokens(model, Tokens(folder / "tokenizer.json", recipe), recipe)
            facts["tokens"] = recipe.write()
        except Exception as error:  # any tokenizer may be any trouble
            log.info("tokens of %s need torch", towers.folder, exc_info=True)
            facts["why_no_tokens"] = f"{type(error).__name__}: {error}"[:300]
        (folder / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return facts


def check_tokens(model: TorchModel, tokens: Tokens, recipe: TokenRecipe) -> None:
    """Nothing, if they are those of open_clip's tokenizer.

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
    towers: Towers,
    modality: Modality,
    things: Sequence[NDArray[Any]],
    precisions: Sequence[str],
) -> None:
    """Export a tower and check it, in each precision until one passes; `towers` keeps the results.

    Args:
        model: The reference.
        towers: Where the graphs and how they compare are written.
        modality: Which tower.
        things: Pixels or token ids to compare on, at least one.
        precisions: "int8", "fp32", in order of preference.
    """
    from mmsearch.encoders.clip_export import export

    things, distinct = sample(things) if modality == "image" else (list(things[:COUNT]), COUNT)
    with towers.scratch() as folder:
        raw = folder / "raw.onnx"
        wanted = _reference(model, modality, things)
        for precision in precisions:
            try:
                if not raw.exists():
                    export(model, modality, raw)
                if _made(towers, modality, precision, raw, (things, wanted, distinct)).passed:
                    return
            except Exception as error:  # exporting an unknown network fails in all ways
                log.info("no %s graph of the %s tower", precision, modality, exc_info=True)
                raw.unlink(missing_ok=True)
                why = f"{type(error).__name__}: {error}".splitlines()[0][:300]
                with towers.making(f"{modality}-{precision}") as place:
                    _write_check(place, {"passed": False, "error": why})


Sample = tuple[Sequence["NDArray[Any]"], "Vectors", int]
"""Things, their vectors by torch, and how many of them are distinct."""


def _made(towers: Towers, modality: Modality, precision: str, raw: Path, on: Sample) -> Verdict:
    from mmsearch.encoders.clip_export import simplified
    from mmsearch.encoders.clip_int8 import shrink

    things, wanted, distinct = on
    with towers.making(f"{modality}-{precision}") as folder:
        graph = folder / "graph.onnx"
        if precision == "int8":
            with towers.scratch() as basic, towers.scratch() as small:
                simplified(raw, basic / graph.name, "BASIC")
                shrink(basic / graph.name, small / graph.name, blocks=modality == "text")
                simplified(small / graph.name, graph, "EXTENDED")
        else:
            simplified(raw, graph, "EXTENDED")
        found = tower_of(graph, modality).run(things)
        verdict = compare(wanted, found, precision, distinct)
        _write_check(folder, verdict.write())
    log.info("%s tower in %s: %s", modality, precision, verdict)
    return verdict


def _write_check(folder: Path, found: dict[str, Any]) -> None:
    text = json.dumps(found | {"makers": makers()}, indent=1)
    (folder / "check.json").write_text(text, encoding="utf-8")


def _reference(model: TorchModel, modality: Modality, things: Sequence[NDArray[Any]]) -> Vectors:
    """The vectors by torch; texts are padded as its tower needs them."""
    import numpy as np

    if modality == "text":
        batch: NDArray[np.int64] = model.tokens(SENTENCES)
        return model.run("text", batch)
    parts = [model.run("image", np.stack(things[at : at + 8])) for at in range(0, len(things), 8)]
    return np.concatenate(parts)
