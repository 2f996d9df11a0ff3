"""The commands `mmsearch models …`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated

import typer

from mmsearch.cli import render
from mmsearch.cli.console import library_messages, out, progress_bar, say, terminal
from mmsearch.collection.opening import open_collection
from mmsearch.encoders import runtime_of
from mmsearch.errors import IndexUnusable

models = typer.Typer(
    help="List, fetch and choose models.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="As the list has it, or as --model takes it.")
]


@models.callback(invoke_without_command=True)
def list_models(
    ctx: typer.Context,
    *,
    json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """List the models that can be used: built in, on this machine, and to be fetched.

    Recalls are those published, zero-shot: captions of 100 whose photo is found first, or among
    the first five, on Flickr30k and COCO.
    """
    if ctx.invoked_subcommand is not None:
        return
    from mmsearch.encoders import store

    rows = store.listing()
    if json:
        out(render.models_json(rows))
    else:
        out(render.models_table(rows) if terminal() else render.models_tsv(rows))


@models.command()
def pull(
    name: Name,
    *,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress bar.")] = False,
) -> None:
    """Fetch a model's weights, once; then it works without a network."""
    from mmsearch.encoders.pull import pull as fetch

    with progress_bar("B", quiet=quiet) as progress:
        place = fetch(name, progress)
    say(f"{name} is at {place}")


@models.command()
def export(
    name: Name,
    *,
    photos: Annotated[
        str | None,
        typer.Option(
            "--photos",
            metavar="FOLDER",
            help="Photos to check it on. [default: those of the default index]",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option("--precision", metavar="P", help="With what: auto, fp32, int8.")
    ] = "auto",
) -> None:
    """Make a clip: model's ONNX files now, and check them, not at its first use.

    From then on neither indexing nor searching with it needs torch, or a second to import it.
    """
    from mmsearch.encoders.onnx_export import export as make

    how = runtime_of("auto" if precision == "auto" else "onnx", precision=precision)
    with library_messages():
        made = make(name, _photos(photos), how)
    for note in made.notes:
        say(note)
    if "image" in made.towers:
        say(f"{name}: both towers are ready, checked on {made.photos} photos")
    else:
        say(
            f"{name}: the text tower is ready; the image tower is made when the first photos are "
            "indexed, or now with --photos FOLDER"
        )


def _photos(folder: str | None) -> Iterator[str]:
    """Photos to check a model on: in a folder, else in the default index, if there is one."""
    if folder is not None:
        from mmsearch.encoders.onnx_export import photos_in

        yield from photos_in(folder)
        return
    with suppress(IndexUnusable), open_collection() as library:
        yield from (item.path for item in library.items if item.modality == "image")


@models.command()
def default(name: Name) -> None:
    """Let new indexes use a model unless --model says otherwise; "auto" takes that back."""
    from mmsearch.encoders import store

    store.set_default(name)
    say(f"new indexes use {store.choose().name}")
