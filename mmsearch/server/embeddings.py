"""POST /v1/embeddings, as in OpenAI's API, so that other programs can use the encoders."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from mmsearch.encoders import check_modality
from mmsearch.server.problems import Problem
from mmsearch.server.requests import (
    Index,
    collection_of,
    data_url,
    run_in_workers,
    strict_router,
)
from mmsearch.server.strict_models import StrictModel
from mmsearch.types import Part

if TYPE_CHECKING:
    from mmsearch.collection import Collection
    from mmsearch.encoders import Encoder
    from mmsearch.server.limits import Limits

router = strict_router(tag="embeddings")

PICTURE = "data:image/"
"""An input that begins so is a picture; any other is a text."""


class EmbeddingsBody(StrictModel):
    """The body of a request, as clients of OpenAI's API send it."""

    input: Annotated[
        str | list[str], Field(description="A text, or several; pictures as data URLs.")
    ]
    model: Annotated[
        str | None, Field(description="A model of the index; by default the preferred one.")
    ] = None
    encoding_format: Annotated[
        Literal["float", "base64"],
        Field(description="Numbers, or the base64 of float32, little-endian."),
    ] = "float"
    dimensions: Annotated[
        int | None, Field(description="Must be what the model has: vectors are not shortened.")
    ] = None
    user: Annotated[str | None, Field(description="Ignored.")] = None


class Embedding(BaseModel):
    """The vector of one input. This and the next two are for the OpenAPI document."""

    object: Literal["embedding"]
    index: int
    embedding: Annotated[list[float] | str, Field(description="Of unit length.")]


class Usage(BaseModel):
    """Always 0: nothing is counted."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """The vectors of all inputs, in their order."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


_ANSWER: Any = {200: {"model": EmbeddingsAnswer, "description": "A vector for each input."}}


@router.post("/v1/embeddings", responses=_ANSWER)
async def embeddings(request: Request, body: EmbeddingsBody, index: Index = None) -> Response:
    """Vectors of texts and pictures, as `Encoder.encode` makes them."""
    state = request.app.state

    def make() -> dict[str, Any]:
        encoder = _encoder(collection_of(request, index), body.model)
        if body.dimensions not in (None, encoder.dim):
            raise Problem(
                422, f"dimensions: vectors of {encoder.name!r} have {encoder.dim}: leave it out"
            )
        return _encoded(encoder, body, state.limits)

    return await run_in_workers(request, state.encodes, make)


def _encoder(collection: Collection, model: str | None) -> Encoder:
    """The encoder of a model that answers searches; by default the preferred one.

    Raises:
        Problem: 404, the index has no such model.
        IndexUnusable, ModelUnavailable: it has no model yet, or the model is not on this machine.
    """
    if model is None:
        return collection.encoder
    spaces = {space.name: space for space, _ in collection.index.serving()}
    if model not in spaces:
        names = ", ".join(map(repr, spaces)) or "none yet: index something first"
        raise Problem(404, f"there is no model {model!r:.80} here; models: {names}")
    return collection.index.encoder(spaces[model])


def _encoded(encoder: Encoder, body: EmbeddingsBody, limits: Limits) -> dict[str, Any]:
    from mmsearch.search.query_vectors import encode_parts

    inputs = [body.input] if isinstance(body.input, str) else body.input
    if not 0 < len(inputs) <= limits.batch:
        raise Problem(422, f"input: from 1 to {limits.batch} texts or pictures at a time")
    parts = [_part(one, f"input.{number}", limits) for number, one in enumerate(inputs)]
    for modality in {part.modality for part in parts}:
        check_modality(encoder, modality)
    vectors = encode_parts(encoder, parts)
    numbers: list[Any]
    if body.encoding_format == "base64":
        numbers = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
    else:
        numbers = vectors.tolist()
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": number, "embedding": embedding}
            for number, embedding in enumerate(numbers)
        ],
        "model": encoder.name,
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
    }


def _part(given: str, where: str, limits: Limits) -> Part:
    if given.startswith(PICTURE):
        return Part("image", data_url(given, where, limits.upload_bytes))
    if not given.strip():
        raise Problem(422, f"{where} is empty: leave it out")
    if len(given) > limits.query_characters:
        raise Problem(422, f"{where} has more than {limits.query_characters} characters")
    return Part("text", given)
