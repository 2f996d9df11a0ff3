"""Writes the model's folder: graphs, weights, the tokenizer, and a manifest of their hashes."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from mmsearch.encoders.mini import APPENDICES, AUDIO
from mmsearch.training.heads import DIM
from mmsearch.training.trunks import IMAGE_SIZE, MAX_TOKENS, minilm_folder

MOST_BYTES = 46_500_000
"""Of the model's files; the bank of typical queries lies beside them."""


def tokenizer_json() -> bytes:
    """MiniLM's tokenizer, cut at 128 tokens and not padded (the encoder pads each batch)."""
    given = json.loads((minilm_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    given["padding"] = None
    given["truncation"]["max_length"] = MAX_TOKENS
    return json.dumps(given, ensure_ascii=False, separators=(",", ":")).encode()


def apart(model: bytes) -> tuple[bytes, bytes]:
    """A graph and its weights as two files: weights are then mapped, not parsed and copied.

    That halves the time to load the text tower, which is most of what a first query waits for.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.onnx"
        onnx.save(
            onnx.load_from_string(model),
            path,
            save_as_external_data=True,
            location="text.bin",
            size_threshold=1024,
        )
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def write_model(
    folder: Path, image: bytes, text: bytes, *, most_bytes: int | None = MOST_BYTES
) -> None:
    """Write the folder that `load_mini` reads.

    Raises:
        ValueError: the files together are over `most_bytes`.
    """
    graph, weights = apart(text)
    files = {
        "image.onnx": image,
        "text.onnx": graph,
        "text.bin": weights,
        "tokenizer.json": tokenizer_json(),
    }
    total = sum(map(len, files.values()))
    if most_bytes is not None and total > most_bytes:
        raise ValueError(f"the model is {total / 1e6:.1f} MB; it may be {most_bytes / 1e6:.0f}")
    manifest = {
        "name": "mini",
        "dim": DIM,
        "image_size": IMAGE_SIZE,
        "max_tokens": MAX_TOKENS,
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name in APPENDICES:  # they belonged to the towers that were here
        (folder / name).unlink(missing_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    print(f"  {folder}: {total / 1e6:.1f} MB")


def add_hearing(folder: Path, audio: bytes, *, most_bytes: int = MOST_BYTES) -> None:
    """Put an audio head beside the towers of a model's folder, which stay as they are.

    Raises:
        ValueError: the files together are then over `most_bytes`.
    """
    _add(folder, {AUDIO: audio}, {}, most_bytes)


def add_details(
    folder: Path, files: Mapping[str, bytes], match_weight: float, *, most_bytes: int = MOST_BYTES
) -> None:
    """Put what looks closer beside the towers of a model's folder, which stay as they are.

    Args:
        folder: The model's.
        files: `mini_match.DETAILS` with their contents.
        match_weight: What a match counts beside a cosine of the vectors.
        most_bytes: All files together may have.

    Raises:
        ValueError: they are over `most_bytes`.
    """
    _add(folder, files, {"match_weight": match_weight}, most_bytes)


def _add(
    folder: Path, files: Mapping[str, bytes], entries: Mapping[str, Any], most_bytes: int
) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    others = [folder / name for name in manifest["sha256"] if name not in files]
    total = sum(map(len, files.values())) + sum(path.stat().st_size for path in others)
    if total > most_bytes:
        raise ValueError(f"the model is {total / 1e6:.1f} MB; it may be {most_bytes / 1e6:.1f}")
    manifest |= entries
    for name, content in files.items():
        manifest["sha256"][name] = hashlib.sha256(content).hexdigest()
        (folder / name).write_bytes(content)
        print(f"  {name}: {len(content) / 1e6:.2f} MB")
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
