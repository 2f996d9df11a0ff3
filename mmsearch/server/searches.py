"""Search routes: requests become a query and settings; the answers are those of the Python API."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Query, Request
from pydantic import Field, create_model, model_validator
from starlette.responses import Response

from mmsearch.errors import InvalidOption
from mmsearch.filters.values import shown
from mmsearch.search.settings import Setting, declared
from mmsearch.server.requests import (
    Index,
    ItemId,
    collection_of,
    data_url,
    run_in_workers,
    strict_router,
)
from mmsearch.server.strict_models import (
    PAGED,
    StrictModel,
    check_limits,
    description_of,
    refused,
    setting_field,
    strict_json,
)
from mmsearch.types import Facets, Hit, SearchPage
from mmsearch.types import Part as QueryPart
from mmsearch.types import Query as SearchQuery

router = strict_router(tag="search")

WithFacets = Annotated[bool, Query(description="Count the facets as well.")]
Words = Annotated[str, Query(description="What to look for, in words. Left out: lists all items.")]

# ---------------------------------------------------------------------- settings


def _text_schema(setting: Setting) -> dict[str, Any]:
    """The OpenAPI schema of a query parameter for a setting."""
    form = setting.format
    schema: dict[str, Any] = {"type": "string"}
    if form.parse is int:
        schema = {"type": "integer"}
    elif form.parse is float:
        schema = {"type": "number"}
    elif re.fullmatch(r"\w+(\|\w+)+", form.syntax):
        schema["enum"] = form.syntax.split("|")
    elif form.parse is None:
        schema |= {"contentMediaType": "application/json"}
    return {"type": "array", "items": schema} if form.collect else schema


def _parameters(*, without: Sequence[str] = ()) -> dict[str, Any]:
    """The OpenAPI parameters of a route that takes settings in its address.

    `StrictRoute` allows these. As arguments of the function, FastAPI would validate all fifty for
    each request, given or not.
    """
    return {
        "parameters": [
            {
                "name": name,
                "in": "query",
                "required": False,
                "description": description_of(setting),
                "schema": _text_schema(setting),
            }
            for name, setting in declared().items()
            if name not in without
        ]
    }


def _settings_from(request: Request) -> dict[str, Any]:
    """The settings in the address of a request."""
    params = request.query_params
    known = declared()
    return {
        name: _from_text(name, known[name], params.getlist(name))
        for name in params
        if name in known
    }


def _from_text(name: str, setting: Setting, texts: Sequence[str]) -> Any:
    """The value of a setting, written as for its flag; one without a flag is JSON."""
    try:
        if setting.format.parse is None:
            return strict_json(texts[-1])
        return setting.format.value_of(texts)
    except (ValueError, KeyError) as error:
        takes = setting.format.syntax or f"JSON ({error})"
        raise InvalidOption(f"{name} takes {takes}, not {shown(texts[-1])}") from error


# ---------------------------------------------------------------------- bodies


class Part(StrictModel):
    """Words or an example, with a weight; a negative one pushes similar items away."""

    text: Annotated[str | None, Field(description="Words.")] = None
    upload: Annotated[str | None, Field(description="The id of an upload.")] = None
    item: Annotated[int | None, Field(description="The id of an item.")] = None
    image: Annotated[str | None, Field(description="A picture, as a data URL.")] = None
    audio: Annotated[str | None, Field(description="A sound, as a data URL.")] = None
    weight: float = 1.0

    @model_validator(mode="after")
    def _one_content(self) -> Part:
        names = ("text", "upload", "item", "image", "audio")
        if sum(getattr(self, name) is not None for name in names) != 1:
            raise refused(f"a part holds one of {', '.join(names)}, and a weight if need be")
        return self


class _Search(StrictModel):
    """The parts of a query and the settings of its search."""

    parts: Annotated[
        Sequence[Part], Field(description="What to look for. Left out: lists all items.")
    ] = ()
    index: Annotated[str | None, Field(description="By default the first served.")] = None


def _body(name: str, *, without: Sequence[str] = (), **more: Any) -> type[_Search]:
    chosen = {key: setting_field(one) for key, one in declared().items() if key not in without}
    return create_model(name, __base__=_Search, **more, **chosen)


_COUNTED: Any = (bool, Field(default=False, description="Count the facets as well."))
SearchBody: Any = _body("SearchBody", facets=_COUNTED)
FacetsBody: Any = _body("FacetsBody", without=PAGED)

SearchAnswer: Any = create_model(
    "SearchAnswer",
    hits=(list[Hit], ...),
    total=(int, ...),
    weak_from=(int | None, ...),
    facets=(Facets | None, ...),
)
"""For the OpenAPI document only: answers are not validated."""


def _settings_of(body: Any) -> dict[str, Any]:
    """The settings in a body."""
    return {name: getattr(body, name) for name in declared() if name in body.model_fields_set}


# ---------------------------------------------------------------------- queries


def _words(q: str) -> list[Part]:
    return [Part(text=q)] if q.strip() else []


def _query_of(parts: Sequence[Part], state: Any) -> SearchQuery | None:
    """The query of some parts; None without parts, which lists all items.

    Raises:
        Problem: a data URL cannot be used.
        PathNotFound: an upload is not kept.
    """
    query = SearchQuery(())
    for number, part in enumerate(parts):
        query += _part(part, f"parts.{number}", state)
    return query if parts else None


def _part(part: Part, where: str, state: Any) -> SearchQuery:
    weight = part.weight
    if part.text is not None:
        return SearchQuery.text(part.text, weight)
    if part.item is not None:
        return SearchQuery.item(part.item, weight)
    if part.upload is not None:
        upload = state.uploads.find(part.upload)
        return SearchQuery((QueryPart(upload.modality, str(upload.path), weight),))
    most = state.limits.upload_bytes
    if part.image is not None:
        return SearchQuery.image(data_url(part.image, f"{where}.image", most), weight)
    assert part.audio is not None
    return SearchQuery.audio(data_url(part.audio, f"{where}.audio", most), weight)


# ---------------------------------------------------------------------- answers


def _page(found: SearchPage, facets: Facets | None = None) -> dict[str, Any]:
    return {
        "hits": [hit.as_dict() for hit in found.hits],
        "total": found.total,
        "weak_from": found.weak_from,
        "facets": facets and asdict(facets),
    }


async def _search(
    request: Request,
    index: str | None,
    parts: Sequence[Part],
    settings: Mapping[str, Any],
    *,
    facets: bool,
) -> Response:
    state = request.app.state
    check_limits([part.text or "" for part in parts], settings, state.limits)

    def make() -> dict[str, Any]:
        collection, query = collection_of(request, index), _query_of(parts, state)
        page = collection.search_page(query, **settings)
        if not facets:
            return _page(page)
        unpaged = {name: value for name, value in settings.items() if name not in PAGED}
        return _page(page, collection.facets(query, **unpaged))

    return await run_in_workers(request, state.searches, make)


async def _facets(
    request: Request, index: str | None, parts: Sequence[Part], settings: Mapping[str, Any]
) -> Response:
    state = request.app.state
    check_limits([part.text or "" for part in parts], settings, state.limits)

    def make() -> dict[str, Any]:
        query = _query_of(parts, state)
        return asdict(collection_of(request, index).facets(query, **settings))

    return await run_in_workers(request, state.searches, make)


# ---------------------------------------------------------------------- routes

_PAGE: Any = {200: {"model": SearchAnswer, "description": "A page of hits."}}
_FACETS: Any = {200: {"model": Facets, "description": "Counts, by facet."}}


@router.get("/search", responses=_PAGE, openapi_extra=_parameters())
async def search(
    request: Request,
    q: Words = "",
    index: Index = None,
    facets: WithFacets = False,  # noqa: FBT002 - a query parameter
) -> Response:
    """The best hits for words, by page; without words every item that passes `where`."""
    return await _search(request, index, _words(q), _settings_from(request), facets=facets)


@router.post("/search", responses=_PAGE)
async def search_parts(request: Request, body: SearchBody) -> Response:
    """The best hits for a query of any parts, by page."""
    return await _search(request, body.index, body.parts, _settings_of(body), facets=body.facets)


@router.get("/facets", responses=_FACETS, openapi_extra=_parameters(without=PAGED))
async def facets(request: Request, q: Words = "", index: Index = None) -> Response:
    """What the good matches of a query have in common, counted."""
    return await _facets(request, index, _words(q), _settings_from(request))


@router.post("/facets", responses=_FACETS)
async def facets_of_parts(request: Request, body: FacetsBody) -> Response:
    """What the good matches of a query of any parts have in common, counted."""
    return await _facets(request, body.index, body.parts, _settings_of(body))


@router.get("/items/{item_id}/similar", responses=_PAGE, openapi_extra=_parameters())
async def similar(request: Request, item_id: ItemId, index: Index = None) -> Response:
    """The items most similar to an item, without the item itself."""
    state = request.app.state
    settings = _settings_from(request)
    check_limits((), settings, state.limits)

    def make() -> dict[str, Any]:
        collection = collection_of(request, index)
        return _page(collection.similar_page(collection.item(item_id).path, **settings))

    return await run_in_workers(request, state.searches, make)
