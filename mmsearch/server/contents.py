"""Routes about what an index holds: its status, items, duplicates, tags and failed files."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Query, Request
from pydantic import Field
from starlette.responses import Response

from mmsearch import __version__
from mmsearch.server.problems import AsciiJSONResponse
from mmsearch.server.requests import (
    Index,
    ItemId,
    collection_of,
    run_in_workers,
    strict_router,
)
from mmsearch.server.strict_models import StrictModel
from mmsearch.storage.item_files import duplicates_of, is_available

router = strict_router(tag="contents")


@router.get("/indexes")
def indexes(request: Request) -> AsciiJSONResponse:
    """The indexes that are served."""
    served = request.app.state.indexes
    sizes = served.sizes()
    return AsciiJSONResponse(
        [
            {"name": name, "items": sizes.get(name), "default": name == served.default}
            for name in served.places
        ]
    )


@router.get("/status")
def status(request: Request, index: Index = None) -> AsciiJSONResponse:
    """What an index holds, as `mmsearch status --json` prints it, and the state of the server."""
    state = request.app.state
    server = {
        "writable": state.writable,
        "ready": state.indexes.ready,
        "version": __version__,
    }
    return AsciiJSONResponse(state.indexes.status(index) | server)


@router.get("/errors")
def errors(request: Request, index: Index = None) -> AsciiJSONResponse:
    """The files that could not be used, and why."""
    failures = collection_of(request, index).failures
    return AsciiJSONResponse([asdict(failure) for failure in failures])


@router.get("/items/{item_id}")
def item(request: Request, item_id: ItemId, index: Index = None) -> AsciiJSONResponse:
    """All that is known of an item."""
    collection = collection_of(request, index)
    found = collection.item(item_id)
    return AsciiJSONResponse(
        {
            **asdict(found),
            "available": is_available(collection.index.store, item_id),
            "duplicates": duplicates_of(collection.index.store, found),
        }
    )


@router.get("/duplicates")
async def duplicates(
    request: Request,
    same: Annotated[bool, Query(description="Only files of the same content.")] = False,  # noqa: FBT002
    threshold: Annotated[
        float | None,
        Query(description="From what cosine on files are alike. Default: measured for the model."),
    ] = None,
    index: Index = None,
) -> Response:
    """Groups of copies, and which file of each to keep."""

    def make() -> list[dict[str, Any]]:
        groups = collection_of(request, index).duplicates(same=same, threshold=threshold)
        return [group.as_dict() for group in groups]

    return await run_in_workers(request, request.app.state.searches, make)


# ---------------------------------------------------------------------- tags


class TagBody(StrictModel):
    """A tag, and the items to add it to or remove it from."""

    tag: Annotated[str, Field(description="The tag.")]
    items: Annotated[list[int], Field(description="Ids of items.", max_length=100_000)]


@router.get("/tags")
def tags(request: Request, index: Index = None) -> AsciiJSONResponse:
    """All tags, the most frequent first."""
    counts = collection_of(request, index).facets(None).tag
    return AsciiJSONResponse([asdict(count) for count in counts])


@router.post("/tags")
def add_tag(request: Request, body: TagBody, index: Index = None) -> AsciiJSONResponse:
    """Add a tag to items by hand; answers how many of them have it now."""
    tagged = collection_of(request, index).add_tag(body.tag, body.items)
    return AsciiJSONResponse({"items": tagged})


@router.delete("/tags")
def remove_tag(request: Request, body: TagBody, index: Index = None) -> AsciiJSONResponse:
    """Remove a tag from items; answers how many of them had it."""
    removed = collection_of(request, index).remove_tag(body.tag, body.items)
    return AsciiJSONResponse({"items": removed})
