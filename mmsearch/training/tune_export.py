"""Writes what `mmsearch.encoders.clip_details` reads."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.encoders.clip_details import (
    FILES,
    MANIFEST,
    REGIONS_WEIGHTS,
    WORDS_WEIGHTS,
)
from mmsearch.encoders.clip_export import simplified, write_graph
from mmsearch.encoders.mini_match import REGIONS, RERANK, WORDS
from mmsearch.training.rows_export import export_matcher

if TYPE_CHECKING:
    from mmsearch.encoders.clip import ClipEncoder
    from mmsearch.encoders.clip_torch import TorchModel
    from mmsearch.training.intermediate_features import PhotoTower, WordTower
    from mmsearch.training.matching import Matcher
    from mmsearch.training.tune_figures import Figures
    from mmsearch.types import Modality


def write_graphs(
    folder: Path, model: TorchModel, photos: PhotoTower, texts: WordTower, matcher: Matcher
) -> None:
    """Write three graphs, complete each, and the weights of two beside them.

    Args:
        folder: An empty one.
        model: The one that both towers are parts of.
        photos: Pixels to rows.
        texts: Token ids to rows.
        matcher: Rows to how well they match.
    """
    towers: tuple[tuple[Modality, Any, str, str], ...] = (
        ("image", photos, REGIONS, REGIONS_WEIGHTS),
        ("text", texts, WORDS, WORDS_WEIGHTS),
    )
    for modality, tower, graph, weights in towers:
        raw = folder / "raw.onnx"
        write_graph(model, modality, tower, raw, {"rows": {0: "n", 1: "rows"}})
        simplified(raw, folder / graph, "EXTENDED", weights)
        for left in set(folder.iterdir()) - {folder / name for name in FILES}:
            left.unlink()  # a graph of 2 GB comes in many files
    (folder / RERANK).write_bytes(export_matcher(matcher))


def write_manifest(
    folder: Path, encoder: ClipEncoder, figures: Figures | None = None, photos: int = 0
) -> None:
    """Write what a folder's files are, and what they are worth if it is known.

    Args:
        folder: Where the graphs are.
        encoder: The model they belong to.
        figures: On held-out pairs.
        photos: How many were learnt from.
    """
    manifest: dict[str, Any] = {
        "name": encoder.name,
        "fingerprint": encoder.fingerprint,
        "match_weight": figures.weight if figures else 0.0,
        "photos": photos,
        "figures": dataclasses.asdict(figures) if figures else None,
        "sha256": {name: _sha256(folder / name) for name in FILES},
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def move_details(made: Path, folder: Path) -> None:
    """Put finished files where they are looked for; what was tuned before goes.

    The manifest is last: without one, nothing is there.
    """
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in (*FILES, MANIFEST):
        (made / name).replace(folder / name)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
