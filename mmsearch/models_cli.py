"""The commands `mmsearch models …`."""

from __future__ import annotations

from typing import Annotated

import typer

from mmsearch import render
from mmsearch.console import out, progress_bar, say, terminal

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
def default(name: Name) -> None:
    """Let new indexes use a model unless --model says otherwise; "auto" takes that back."""
    from mmsearch.encoders import store

    store.set_default(name)
    say(f"new indexes use {store.choose().name}")
