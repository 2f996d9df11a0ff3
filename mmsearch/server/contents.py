"""Routes about what an index holds: its status, items, duplicates, tags and failed files."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Query, Request
from pydantic import Field
from starlette.responses import Response

from mmsearch import __version__
from mmsearch.server.item_files import is_available
from mmsearch.server.problems import AsciiJSONResponse
from mmsearch.server.requests import (
    Body,
    Index,
    ItemId,
    collection_of,
    run_in_workers,
    strict_router,
)

if TYPE_CHECKING:
    from mmsearch.collection import Collection
    from mmsearch.types import Item

router = strict_router(tag="contents")

NOT_YET: dict[str, Any] = {
    "model": None,
    "fingerprint": None,
    "dim": None,
    "models": [],
    "sources": [],
    "items": {},
    "vectors": {},
    "indexes": [],
    "failures": 0,
    "bytes": 0,
}
"""The status of an index before its first indexing run."""


@router.get("/indexes")
def indexes(request: Request) -> AsciiJSONResponse:
    """The indexes that are served."""
    served = request.app.state.indexes
    sizes = served.sizes()
    return AsciiJSONResponse(
        [
            {"name": name, "items": sizes.get(name), "default": name == served.default}
            for name in served.folders
        ]
    )


@router.get("/status")
def status(request: Request, index: Index = None) -> AsciiJSONResponse:
    """What an index holds, as `mmsearch status --json` prints it, and the state of the server."""
    state = request.app.state
    if state.indexes.exists(index):
        found = state.indexes.get(index).status()
    else:
        found = {"index": str(state.indexes.folder(index)), **NOT_YET}
    server = {
        "writable": state.writable,
        "ready": state.indexes.ready,
        "version": __version__,
    }
    return AsciiJSONResponse(found | server)


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
            "duplicates": _same_content(collection, found),
        }
    )


def _same_content(collection: Collection, item: Item) -> list[dict[str, Any]]:
    """The other items with the same content, byte for byte."""
    store = collection.index.store
    hash_ = store.items.hashes([item.id]).get(item.id)
    copies = store.files.duplicates_of(hash_, item.modality) if hash_ else []
    return [{"id": id_, "path": path} for id_, *_, path in copies if id_ != item.id]


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


class TagBody(Body):
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
