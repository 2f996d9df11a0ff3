"""Writes the model's folder: graphs, weights, the tokenizer, and a manifest of their hashes."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import onnx

from mmsearch.encoders.mini import AUDIO
from mmsearch.training.heads import DIM
from mmsearch.training.trunks import IMAGE_SIZE, MAX_TOKENS, minilm_folder

MOST_BYTES = 40 * 1000 * 1000


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
    (folder / AUDIO).unlink(missing_ok=True)  # it belonged to the tower that was here
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    print(f"  {folder}: {total / 1e6:.1f} MB")


def add_hearing(folder: Path, audio: bytes, *, most_bytes: int = MOST_BYTES) -> None:
    """Put an audio head beside the towers of a model's folder, which stay as they are.

    Raises:
        ValueError: the files together are then over `most_bytes`.
    """
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    towers = [folder / name for name in manifest["sha256"] if name != AUDIO]
    total = len(audio) + sum(path.stat().st_size for path in towers)
    if total > most_bytes:
        raise ValueError(f"the model is {total / 1e6:.1f} MB; it may be {most_bytes / 1e6:.0f}")
    manifest["sha256"][AUDIO] = hashlib.sha256(audio).hexdigest()
    (folder / AUDIO).write_bytes(audio)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    print(f"  {AUDIO}: {len(audio) / 1e6:.2f} MB")
