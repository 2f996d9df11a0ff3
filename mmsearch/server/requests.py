"""Reading requests strictly (unknown parameters, data URLs), and answering from a worker."""

from __future__ import annotations

import base64
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from fastapi import APIRouter, Path, Query, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response

from mmsearch.server.problems import AsciiJSONResponse, Problem
from mmsearch.server.strict_models import NESTED, no_such, strict_json

if TYPE_CHECKING:
    from mmsearch.collection import Collection
    from mmsearch.server.indexes import ServedIndexes
    from mmsearch.server.limits import Workers

Index = Annotated[str | None, Query(description="Which index; by default the first served.")]
ItemId = Annotated[int, Path(ge=1, lt=2**63, description="The id of an item.")]


class StrictRoute(APIRoute):
    """A route that refuses what it has no meaning for.

    Its query parameters are those of the function, and those that `openapi_extra` describes, which
    the function reads itself.

    Raises:
        Problem: 422 for an unknown query parameter, or one that is repeated but has a single value;
            415 for a body that is not declared as JSON.
        HTTPException: 400 for a body that is not JSON.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        handle = super().get_route_handler()
        fields = self.dependant.query_params
        several = {field.alias: _is_list(field.field_info.annotation) for field in fields}
        for more in (self.openapi_extra or {}).get("parameters", ()):
            several[more["name"]] = more["schema"]["type"] == "array"

        body = self.body_field
        needs_body = body is not None and body.field_info.is_required()

        async def answer(request: Request) -> Response:
            for name in request.query_params:
                if name not in several:
                    raise Problem(422, no_such("parameter", name, several))
                if not several[name] and len(request.query_params.getlist(name)) > 1:
                    raise Problem(422, f"the parameter {name!r} is given more than once")
            if needs_body or (body and _has_body(request)):
                _check_json(request)
            try:
                return await handle(_StrictRequest(request.scope, request.receive))
            except RecursionError as error:
                raise Problem(422, NESTED) from error

        return answer


def strict_router(*, tag: str, prefix: str = "") -> APIRouter:
    """A router of strict routes, under a heading of the OpenAPI document."""
    return APIRouter(prefix=prefix, tags=[tag], route_class=StrictRoute)


class _StrictRequest(Request):
    """A request whose JSON is read strictly."""

    async def json(self) -> Any:
        try:
            return strict_json(await self.body())
        except ValueError as error:
            raise HTTPException(400, f"the body is not JSON: {error}") from error


def _check_json(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, "send JSON, with Content-Type: application/json")


def _has_body(request: Request) -> bool:
    headers = request.headers
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _is_list(annotation: Any) -> bool:
    return any(get_origin(one) is list for one in (annotation, *get_args(annotation)))


# ---------------------------------------------------------------------- answers


def collection_of(request: Request, index: str | None) -> Collection:
    """The index that a request names, open; by default the first served.

    Raises:
        IndexNotFound, IndexUnusable: as `ServedIndexes.get`.
    """
    indexes: ServedIndexes = request.app.state.indexes
    return indexes.get(index)


async def run_in_workers(request: Request, workers: Workers, make: Callable[[], Any]) -> Response:
    """The JSON of what `make` returns; both are made in one of the workers' threads.

    Raises:
        Problem: 503, the models are not loaded yet; else as `Workers.run`.
    """
    request.app.state.indexes.check_ready()
    return await workers.run(lambda: AsciiJSONResponse(make()), request.is_disconnected)


# ---------------------------------------------------------------------- data URLs


def data_url(url: str, what: str, most: int) -> bytes:
    """The bytes in a data URL (RFC 2397). Its media type is ignored: the bytes tell.

    Args:
        url: Such as "data:image/jpeg;base64,…".
        what: Its place in the request, for messages.
        most: The limit of its bytes.

    Raises:
        Problem: 422, it is not a data URL in base64; 413, it holds more.
    """
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        raise Problem(422, f"{what} is a data URL in base64, such as data:image/jpeg;base64,/9j/…")
    if len(data) > (most + 2) // 3 * 4:
        raise Problem(413, f"{what} holds more than {most / 1e6:g} MB, which is the limit")
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as error:  # binascii.Error, or a character that is not ASCII
        raise Problem(422, f"{what} is not base64: {error}") from error
