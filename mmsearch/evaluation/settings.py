"""Settings of a search as `mmsearch eval` takes them: "fusion=rrf,lexical=off"."""

from __future__ import annotations

from typing import Any

from mmsearch.errors import InvalidOption
from mmsearch.search.settings import declared, settings_of

PLAIN = "default"
"""Stands for a search without any settings."""


def parse_settings(written: str) -> dict[str, Any]:
    """Settings by keyword, of "name=value,name=value" or "default"; "index" names another index.

    Raises:
        InvalidOption: a name or a value is unknown; the message lists those there are.
    """
    known = {name: one.form for name, one in declared().items() if one.form.read and one.in_eval}
    found: dict[str, Any] = {}
    for pair in written.split(",") if written.strip() != PLAIN else ():
        name, _, text = (part.strip() for part in pair.partition("="))
        if name == "index" and text:
            found[name] = text
            continue
        if name not in known or not text:
            names = [f"{name}={form.written}" for name, form in known.items()]
            there = ", ".join([PLAIN, "index=NAME|DIR", *names])
            raise InvalidOption(f"{pair.strip()!r} is no setting; there is: {there}")
        form = known[name]
        try:
            found[name] = form.value_of(text.split("+") if form.collect else [text])
        except (ValueError, KeyError) as error:
            raise InvalidOption(f"{name} is {form.written}, not {text!r}") from error
    settings_of({name: value for name, value in found.items() if name != "index"})
    return found
