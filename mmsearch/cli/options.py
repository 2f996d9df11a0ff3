"""The options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def option(names: str, text: str, metavar: str = "", **more: Any) -> Any:
    """An option of a command.

    Args:
        names: Its flags: "-q --quiet".
        text: Its help, which says the default if there is one to say.
        metavar: What stands for its value.
        more: As `typer.Option` takes it.
    """
    given: dict[str, Any] = {"show_default": False, "metavar": metavar or None, **more}
    return typer.Option(*names.split(), help=text, **given)


def as_path(text: str) -> Path:
    """A path as it is given; an empty one would be the current folder."""
    if not text:
        raise typer.BadParameter("it is empty")
    return Path(text)


as_path.__name__ = "path"  # what --help calls the type


Index = Annotated[
    str | None,
    option(
        "-i --index",
        "Which index: a name, a folder if it has a path separator, or an address, "
        "postgresql://… or milvus://…. (default: $MMSEARCH_INDEX, else 'default')",
        "NAME|DIR|URL",
    ),
]
ServedIndexes = Annotated[
    list[str] | None,
    option(
        "-i --index",
        "Which index: a name, a folder if it has a path separator, or an address, "
        "postgresql://… or milvus://…; repeatable. (default: $MMSEARCH_INDEX, else 'default')",
        "NAME|DIR|URL",
    ),
]
LLM = Annotated[
    str | None,
    option(
        "--llm",
        "The address of an OpenAI-compatible server: http://localhost:11434/v1 for Ollama. "
        "(default: $OPENAI_BASE_URL)",
        "URL",
    ),
]
LLMModel = Annotated[
    str | None,
    option("--llm-model", "Which of its models. (default: the first that it lists)", "NAME"),
]
Json = Annotated[bool, option("--json", "Print JSON.")]
Quiet = Annotated[bool, option("-q --quiet", "No progress bar.")]
Runtime = Annotated[
    str, option("--runtime", "What runs models: auto, torch, onnx. (default: auto)", "R")
]
Device = Annotated[
    str, option("--device", "Where they run: auto, cpu, cuda, mps. (default: auto)", "D")
]
Precision = Annotated[
    str,
    option("--precision", "With which numbers: auto, fp32, bf16, int8. (default: auto)", "P"),
]
Where = Annotated[
    list[str] | None,
    option(
        "-w --where",
        "Only files that pass, as for `query`: 'path ~ beach', 'stars > 3'; repeatable.",
        "'KEY OP VALUE'",
    ),
]
