"""Opens collections: existing ones, new ones, and folders that are indexed at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmsearch.collection import Collection, Paths, existing
from mmsearch.encoders import runtime_of
from mmsearch.storage.place import IndexLike, index_place

if TYPE_CHECKING:
    from mmsearch.encoders import Encoder, Runtime


def load_encoder(
    name: str = "auto", *, runtime: str = "auto", device: str = "auto", precision: str = "auto"
) -> Encoder:
    """An encoder by name; "auto" is the best that is on this machine.

    Args:
        name: `mini`, `clip:ARCH/TAG`, `clip:ARCH@/path/to/checkpoint`, `clip:hf-hub:ORG/REPO`,
            `clap:REPO_OR_PATH`.
        runtime: "auto", "torch" or "onnx".
        device: "auto", "cpu", "cuda" or "mps".
        precision: Of the weights: "auto", "fp32", "bf16" or "int8".

    Raises:
        UnknownModel: no model has this name; the message suggests others.
        ModelUnavailable: its weights are not on this machine.
        MissingExtra: it needs packages that are not installed.
        InvalidOption: it cannot run like this on this machine.
        ModelDamaged: its files are missing or damaged.
    """
    from mmsearch.encoders import registry

    return registry.load_encoder(name, runtime_of(runtime, device, precision))


def open_collection(
    index: IndexLike | None = None,
    *,
    runtime: str = "auto",
    device: str = "auto",
    precision: str = "auto",
) -> Collection:
    """An existing index, open.

    Args:
        index: Its name, folder or address; see `mmsearch.storage.place.index_place`.
        runtime: What its encoders run on; see `load_encoder`.
        device: See `load_encoder`.
        precision: See `load_encoder`.

    Raises:
        IndexNotFound: there is no such index.
        IndexUnusable: it is damaged, or was made by a newer version.
    """
    return Collection(index_place(index), how=runtime_of(runtime, device, precision))


def collection_for(
    needed: Sequence[str | os.PathLike[str]],
    into: IndexLike | None = None,
    *,
    model: str | Sequence[str] = "auto",
    how: Runtime | None = None,
    create: bool = True,
) -> Collection:
    """The index that files are to be added to, created if need be; nothing is indexed yet.

    Args:
        needed: Files and folders that must exist.
        into: The name, folder or address of the index.
        model: The name of the encoder, or several.
        how: What encoders run on.
        create: Create the index if there is none.

    Raises:
        PathNotFound: one of `needed` does not exist; then no index is created.
        IndexNotFound: there is no index, and `create` is False.
    """
    existing(needed)
    return Collection(index_place(into), model=model, how=how, create=create, restore=True)


def index_paths(
    paths: Paths,
    into: IndexLike | None = None,
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
        into: The name, folder or address of the index.
        model: The name of the encoder, or several.
        runtime: What encoders run on; see `load_encoder`.
        device: See `load_encoder`.
        precision: See `load_encoder`.
        options: The keywords of `Collection.add`.

    Raises:
        PathNotFound: one of `paths` does not exist.
        MMSearchError: as `Collection` and `Collection.add`.
    """
    roots = existing(paths)
    how = runtime_of(runtime, device, precision)
    collection = collection_for(roots, into, model=model, how=how)
    try:
        collection.add(roots, **options)
    except BaseException:
        collection.close()
        raise
    return collection
