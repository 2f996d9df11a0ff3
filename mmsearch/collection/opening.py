"""Ways to an open collection: an existing index, or one that is made or brought up to date."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmsearch.collection import Collection, Paths, existing
from mmsearch.encoders import models, runtime_of
from mmsearch.home import index_folder

if TYPE_CHECKING:
    from mmsearch.encoders import Encoder, Runtime


def load_encoder(
    name: str = "auto", *, runtime: str = "auto", device: str = "auto", precision: str = "auto"
) -> Encoder:
    """An encoder by name; "auto" is the best that is at hand.

    Args:
        name: `mini`, `clip:ARCH/TAG`, `clip:ARCH@/path/to/checkpoint`, `clip:hf-hub:ORG/REPO`,
            `clap:REPO_OR_PATH`.
        runtime: What it runs on: "auto", "torch" or "onnx".
        device: Where: "auto", "cpu", "cuda" or "mps".
        precision: With what numbers: "auto", "fp32", "bf16" or "int8".

    Raises:
        UnknownModel: there is none of this name; the message lists those there are.
        ModelUnavailable: its weights are not on this machine.
        MissingExtra: it needs packages that are not installed.
        InvalidOption: it cannot run this way here.
        ModelDamaged: its files are missing or damaged.
    """
    return models.load_encoder(name, runtime_of(runtime, device, precision))


def open_collection(
    index: str | os.PathLike[str] | None = None,
    *,
    runtime: str = "auto",
    device: str = "auto",
    precision: str = "auto",
) -> Collection:
    """An existing index, by name or folder; see `mmsearch.home.index_folder`.

    Args:
        index: Which.
        runtime: What its models run on; see `load_encoder`.
        device: On which device.
        precision: With what numbers.

    Raises:
        IndexNotFound: there is none.
    """
    return Collection(index_folder(index), how=runtime_of(runtime, device, precision))


def collection_for(
    needed: Sequence[str | os.PathLike[str]],
    into: str | os.PathLike[str] | None = None,
    *,
    model: str | Sequence[str] = "auto",
    how: Runtime | None = None,
    create: bool = True,
) -> Collection:
    """The index that files are to go into, made if need be; nothing is indexed yet.

    Args:
        needed: Files and folders.
        into: The index, by name or folder.
        model: The encoder's name, or several.
        how: What encoders are to run on.
        create: Make the index if there is none.

    Raises:
        PathNotFound: one of the `needed` paths does not exist; then no index is made.
        IndexNotFound: there is no index, and none is to be made.
    """
    existing(needed)
    return Collection(index_folder(into), model=model, how=how, create=create, restore=True)


def index_paths(
    paths: Paths,
    into: str | os.PathLike[str] | None = None,
    *,
    model: str | Sequence[str] = "auto",
    runtime: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    **options: Any,
) -> Collection:
    """Build an index of folders and files, or bring it up to date; returns it open.

    Args:
        paths: Folders (searched to any depth) and files.
        into: The index, by name or folder.
        model: The encoder's name, or several.
        runtime: What it runs on; see `load_encoder`.
        device: On which device.
        precision: With what numbers.
        options: As `Collection.add` takes them.
    """
    given = existing(paths)
    how = runtime_of(runtime, device, precision)
    collection = collection_for(given, into, model=model, how=how)
    try:
        collection.add(given, **options)
    except BaseException:
        collection.close()
        raise
    return collection
