"""The commands `mmsearch models …`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmsearch.cli import render
from mmsearch.cli.console import library_messages, out, progress_bar, say, terminal
from mmsearch.cli.options import Quiet, option
from mmsearch.collection.opening import open_collection
from mmsearch.encoders import runtime_of
from mmsearch.errors import IndexUnusable, InvalidOption, PathNotFound, UnreadableFile

if TYPE_CHECKING:
    from mmsearch.encoders import Encoder

CHECKED_ON = 64
"""Photos that an image tower is checked on."""

_NOT_COMMERCIAL = re.compile(r"(?i)\bnc\b|non-?commercial|amlr|research")
"""Of licences."""

models = typer.Typer(
    name="models",
    help="List, fetch and choose models.",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="As the list has it, or as --model takes it.")
]


@models.callback(invoke_without_command=True)
def list_models(
    ctx: typer.Context,
    *,
    json: Annotated[bool, option("--json", "One JSON array.")] = False,
) -> None:
    """List the models that can be used: built in, on this machine, and to be fetched.

    Recalls are those published, zero-shot: captions of 100 whose photo is found first, or among
    the first five, on Flickr30k and COCO.
    """
    if ctx.invoked_subcommand is not None:
        return
    from mmsearch.encoders.registry import listing

    rows = listing()
    if json:
        out(render.models_json(rows))
    else:
        out(render.models_table(rows) if terminal() else render.models_tsv(rows))


@models.command()
def pull(
    name: Name,
    *,
    trust_remote_code: Annotated[
        bool,
        option("--trust-remote-code", "Let Python code that the model brings run here."),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a model's weights, once; then it works without a network."""
    from mmsearch.encoders.registry import check_name, family_of, is_here
    from mmsearch.encoders.registry import pull as fetch

    check_name(name)
    licence = None if is_here(name) else family_of(name).licence(name)
    if licence and _NOT_COMMERCIAL.search(licence):
        say(f"the licence of {name}, {licence}, forbids commercial use")
    with progress_bar("B", quiet=quiet) as progress:
        place = fetch(name, progress)
    if trust_remote_code:
        family_of(name).trust(name)
    say(f"{name} is at {place}")


@models.command()
def export(
    name: Name,
    *,
    photos: Annotated[
        str | None,
        option(
            "--photos",
            "Photos to check it on. (default: those of the default index)",
            "FOLDER",
        ),
    ] = None,
    precision: Annotated[
        str, option("--precision", "With what: auto, fp32, int8. (default: auto)", "P")
    ] = "auto",
) -> None:
    """Make a clip: model's ONNX files now, and check them, not at its first use.

    From then on neither indexing nor searching with it needs torch, or a second to import it.
    """
    from mmsearch.encoders.registry import family_of, load_encoder

    how = runtime_of("auto" if precision == "auto" else "onnx", precision=precision)
    with library_messages():
        encoder = load_encoder(name, how)
        if not family_of(encoder.name).has_runtimes:
            raise InvalidOption(f"{encoder.name} needs no export: only clip: models are exported")
        encoder.encode("text", ["a photo of a dog"])  # makes the text tower
        pictures = list(islice(_pictures(photos, encoder), CHECKED_ON))
        if pictures:
            encoder.encode("image", pictures)
    for note in encoder.notes:
        say(note)
    if pictures:
        say(f"{name}: both towers are ready, checked on {len(pictures)} photos")
    else:
        say(
            f"{name}: the text tower is ready; the image tower is made when the first photos are "
            "indexed, or now with --photos FOLDER"
        )


def _pictures(folder: str | None, encoder: Encoder) -> Iterator[Any]:
    """Photos that can be read, as an encoder takes them."""
    from mmsearch.media.image import load_image

    for path in _photos(folder):
        with suppress(UnreadableFile):
            picture, _ = load_image(path, at_least=encoder.image_size)
            yield encoder.prepare("image", picture)


def _photos(folder: str | None) -> Iterator[str]:
    """Paths of the photos in a folder, else in the default index, if there is one."""
    if folder is None:
        with suppress(IndexUnusable), open_collection() as library:
            yield from (item.path for item in library.items if item.modality == "image")
        return
    from mmsearch.media.kinds import endings_of
    from mmsearch.media.walk import Tree

    if not os.path.isdir(folder):
        raise PathNotFound(f"there is no folder {folder!r}")
    for found in Tree(folder, endings=endings_of(["image"])).walk():
        yield from (os.path.join(folder, file.path) for file in found.files)


@models.command()
def default(name: Name) -> None:
    """Let new indexes use a model unless --model says otherwise; "auto" takes that back."""
    from mmsearch.encoders.registry import choose, set_default

    set_default(name)
    say(f"new indexes use {choose().name}")
