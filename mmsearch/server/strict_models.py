"""Strict pydantic models, for request bodies and the arguments of MCP tools."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Union, get_args

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, model_validator
from pydantic_core import PydanticCustomError

from mmsearch.filters.values import shown
from mmsearch.search.settings import Setting
from mmsearch.server.limits import Limits
from mmsearch.server.problems import Problem

NESTED = "it is nested too deeply"

PAGED = ("k", "offset")
"""The settings that choose a page of the hits."""


class StrictModel(BaseModel):
    """A model that refuses unknown fields and converts no values: "7" is not a number."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            for name in given:
                if name not in cls.model_fields:
                    message = no_such("field", name, cls.model_fields)
                    raise refused(message)
        return given


def refused(message: str) -> PydanticCustomError:
    """A validation error; its message may contain braces, which pydantic would fill in."""
    return PydanticCustomError("refused", "{message}", {"message": message})


def no_such(what: str, name: str, known: Iterable[str]) -> str:
    """The message for an unknown parameter or field: with the close names, else with all."""
    known = list(known)
    if near := get_close_matches(name, known):
        hint = f"; did you mean {' or '.join(map(repr, near))}?"
    elif known:
        hint = f"; there are: {', '.join(known)}"
    else:
        hint = ", as there is none at all"
    return f"there is no {what} {shown(name)}{hint}"


def strict_json(text: str | bytes) -> Any:
    """The value of a JSON text (RFC 8259): no NaN or Infinity, no name twice in an object.

    Raises:
        ValueError: it is not such JSON.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError(NESTED) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"an object holds the name {shown(name)} twice")
        found[name] = value
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


# ---------------------------------------------------------------------- searches


def description_of(setting: Setting) -> str:
    """The help of a setting, with its default."""
    default = f" Default: {setting.default_text}." if setting.default_text else ""
    return setting.help + default


def setting_field(setting: Setting) -> Any:
    """The field of a body for a setting; the search checks its value."""
    kinds = [kind for kind in get_args(setting.type) if not is_dataclass(kind)]
    kind = setting.type
    if kinds and type(None) in kinds:  # a union
        kind = Union[tuple(kinds)]  # noqa: UP007 - of a tuple
    return Annotated[kind, SkipValidation], Field(None, description=description_of(setting))


def check_limits(texts: Sequence[str], settings: Mapping[str, Any], limits: Limits) -> None:
    """Refuse queries that are too long, and pages that are too large or too far down.

    Args:
        texts: One for each part of the query, empty if the part is not a text.
        settings: Of the search.
        limits: Of the server.

    Raises:
        Problem: 422.
    """
    if len(texts) > limits.batch:
        raise Problem(422, f"parts: a query has at most {limits.batch} parts")
    if sum(map(len, texts)) > limits.query_characters:
        raise Problem(422, f"a query has at most {limits.query_characters} characters: shorten it")
    for name in PAGED:
        most, value = getattr(limits, name), settings.get(name)
        # the search refuses what is not a number
        if isinstance(value, int) and value > most:
            raise Problem(422, f"{name} is at most {most} here: ask for one page after another")
