"""Settings of a search as a command line has them: "fusion=rrf,lexical=off"."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmsearch.errors import InvalidOption

PLAIN = "default"
"""What stands for a search without any settings."""


@dataclass(frozen=True, slots=True)
class Option:
    """One setting: what its values look like, and how they are read (ValueError if they are not).

    Which values there are is the search's to say.
    """

    values: str
    read: Callable[[str], Any] = str


def _switch(written: str) -> bool:
    return {"on": True, "off": False}[written]


def _facets(written: str) -> list[str] | None:
    return None if written == "any" else written.split("+")


def _weights(written: str) -> dict[str, float]:
    pairs = [one.partition(":") for one in written.split("+")]
    return {facet: float(weight) for facet, _, weight in pairs}


OPTIONS: dict[str, Option] = {
    "combine": Option("early|late"),
    "diversity": Option("0…1", float),
    "duplicates": Option("show|collapse"),
    "fusion": Option("wsum|combmnz|rrf"),
    "hubness": Option("on|off", _switch),
    "index": Option("NAME|DIR"),
    "lexical": Option("on|off", _switch),
    "min_confidence": Option("0…1", float),
    "rerank": Option("none|fusion|diverse"),
    "target": Option("image|text|audio|any, or several: image+text", _facets),
    "weights": Option("image:1+text:0.5", _weights),
}
"""By the keyword that `Collection.search` takes; "index" names another index."""


def parse_settings(written: str) -> dict[str, Any]:
    """Settings by keyword, of "name=value,name=value" or "default".

    Raises:
        InvalidOption: a name or a value is none that there is; the message lists those there are.
        InvalidQuery: a target is none.
    """
    found: dict[str, Any] = {}
    for one in written.split(",") if written.strip() != PLAIN else ():
        name, equals, value = (part.strip() for part in one.partition("="))
        option = OPTIONS.get(name)
        if option is None or not equals:
            known = ", ".join(f"{name}={option.values}" for name, option in OPTIONS.items())
            raise InvalidOption(f"{one.strip()!r} is no setting; there is: {PLAIN}, {known}")
        try:
            found[name] = option.read(value)
        except (ValueError, KeyError) as error:
            raise InvalidOption(f"{name} is {option.values}, not {value!r}") from error
    from mmsearch.search.settings import settings_of

    settings_of({name: value for name, value in found.items() if name != "index"})
    return found
