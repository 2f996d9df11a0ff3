"""The command `mmsearch ask`: a language model answers questions from the indexed files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmsearch.cli import render
from mmsearch.cli.console import NOTHING_FOUND, out, say
from mmsearch.cli.options import LLM, Index, Json, LLMModel, option
from mmsearch.cli.search import why_nothing, with_search_flags
from mmsearch.collection import Collection
from mmsearch.encoders import runtime_of
from mmsearch.storage.place import index_place

if TYPE_CHECKING:
    from mmsearch.collection.ask import Answer
    from mmsearch.collection.language_model import Reply
    from mmsearch.types import Hit


@with_search_flags(without="k", shows_hits=False)
def ask(
    question: Annotated[list[str], typer.Argument(metavar="QUESTION...", help="In words.")],
    *,
    llm: LLM = None,
    llm_model: LLMModel = None,
    k: Annotated[int, option("-k", "How many hits the model is given. (default: 6)", "N")] = 6,
    index: Index = None,
    json: Json = False,
    settings: dict[str, Any],
) -> None:
    """Have a language model answer a question from your files, with its sources.

    Nothing leaves this machine unless the address is another machine's.
    """
    with Collection(index_place(index), how=runtime_of(once=True)) as library:
        answer = library.ask(" ".join(question), llm=llm, model=llm_model, k=k, **settings)
        if not answer.sources:
            say(f"nothing found{why_nothing(library, settings)}")
        show_reply(answer, quiet=json)
    if json:
        sources = [
            {"number": number, "cited": number in answer.cited, **hit.as_dict()}
            for number, hit in enumerate(answer.sources, 1)
        ]
        out(render.as_pretty_json({"answer": answer.text, "sources": sources}))
    elif answer.found:
        out(_listed(answer))
    if not answer.found:
        raise typer.Exit(NOTHING_FOUND)


def show_reply(reply: Reply, *, quiet: bool) -> None:
    """Print a reply as it streams, unless `quiet`, and its notes on stderr.

    If it breaks off, what has come is printed, and its line ended.
    """
    if reply.sends is not None:
        say(reply.sends)
    printed = 0
    try:
        for piece in reply:
            printed = _print_notes(reply, printed)
            if not quiet:
                out(render.printable(piece))
    finally:
        if reply.text and not quiet and not reply.text.endswith("\n"):
            out("\n")
        _print_notes(reply, printed)


def _print_notes(reply: Reply, printed: int) -> int:
    """Print the notes after the first `printed`; returns how many there are."""
    for note in reply.notes[printed:]:
        say(note)
    return len(reply.notes)


def _listed(answer: Answer) -> str:
    """The sources that an answer cites, a line each; all of them if it cites none."""
    if not answer.cited:
        say("the answer names none of its sources, which are:")
    numbers = answer.cited or range(1, len(answer.sources) + 1)
    return "\n" + "".join(
        f"[{number}] {_source(answer.sources[number - 1])}\n" for number in numbers
    )


def _source(hit: Hit) -> str:
    """Path, span and date."""
    from mmsearch.collection.ask import modified_at

    place = render.visible(hit.path)
    if hit.span is not None:
        place += f"{':' if hit.span.unit == 'line' else ' '}{render.span_text(hit.span)}"
    date = hit.metadata.get("taken_at") or modified_at(hit)
    return f"{place}  {date[:10]}" if date else place
