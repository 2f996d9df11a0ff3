"""Errors as problem documents (RFC 9457): what went wrong, and what to do."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmsearch.errors import (
    IndexBusy,
    IndexNotFound,
    IndexUnusable,
    MissingExtra,
    MMSearchError,
    ModelDamaged,
    ModelUnavailable,
    NoHomeFolder,
    PathNotFound,
    TooLarge,
)

if TYPE_CHECKING:
    from fastapi import FastAPI

logger = logging.getLogger("mmsearch.server")

STATUS: dict[type[MMSearchError], HTTPStatus] = {
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    PathNotFound: HTTPStatus.NOT_FOUND,
    IndexNotFound: HTTPStatus.NOT_FOUND,
    IndexBusy: HTTPStatus.SERVICE_UNAVAILABLE,
    IndexUnusable: HTTPStatus.SERVICE_UNAVAILABLE,
    ModelDamaged: HTTPStatus.SERVICE_UNAVAILABLE,
    ModelUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    NoHomeFolder: HTTPStatus.SERVICE_UNAVAILABLE,
    MissingExtra: HTTPStatus.NOT_IMPLEMENTED,
    MMSearchError: HTTPStatus.UNPROCESSABLE_ENTITY,
}
"""The status of each class of errors; that of the nearest base class counts."""

RETRY_AFTER = 5
"""Seconds until a client should try again, after a 503."""

MEDIA_TYPE = "application/problem+json"

PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "What went wrong, and what to do (RFC 9457).",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
    },
}
"""`#/components/schemas/Problem` of the OpenAPI document."""

_RESPONSE = {
    "description": "What went wrong, and what to do",
    "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {"4XX": _RESPONSE, "5XX": _RESPONSE}
"""Of every operation."""


class Problem(Exception):
    """Ends a request with a problem document.

    Args:
        status: The HTTP status.
        detail: What went wrong, and what to do.
        headers: Sent with it.
        retry_after: Seconds after which the client may try again.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        headers: Mapping[str, str] | None = None,
        *,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = HTTPStatus(status)
        self.detail = detail
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)


class AsciiJSONResponse(JSONResponse):
    """JSON in ASCII, which can hold file names that are not UTF-8 (surrogate escapes)."""

    def render(self, content: Any) -> bytes:
        """The bytes of a JSON value."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class ProblemResponse(AsciiJSONResponse):
    """A problem document; `path` is that of the request."""

    media_type = MEDIA_TYPE

    def __init__(
        self, status: int, detail: str, path: str, headers: Mapping[str, str] | None = None
    ) -> None:
        known = HTTPStatus(status)
        content = {
            "type": "about:blank",
            "title": known.phrase,
            "status": known.value,
            "detail": detail,
            "instance": quote(path, errors="surrogateescape"),
        }
        super().__init__(content, known.value, headers)


def problem_response(scope: Scope, problem: Problem) -> ProblemResponse:
    """The problem document that answers the request of an ASGI scope."""
    return ProblemResponse(problem.status, problem.detail, scope["path"], problem.headers)


def problem_of(error: MMSearchError) -> Problem:
    """The problem that reports an error of the library."""
    status = next(STATUS[base] for base in type(error).__mro__ if base in STATUS)
    return Problem(status, str(error), retry_after=RETRY_AFTER if status == 503 else None)


def shutting_down() -> Problem:
    """The problem of a request that comes, or is not done, when the server ends."""
    detail = "the server is shutting down: ask again when it is back"
    return Problem(503, detail, retry_after=RETRY_AFTER)


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every expected error with a problem document."""
    from fastapi.exceptions import RequestValidationError  # `mmsearch mcp` does without FastAPI

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> ProblemResponse:
        return problem_response(request.scope, error)

    @app.exception_handler(MMSearchError)
    async def library(request: Request, error: MMSearchError) -> ProblemResponse:
        return problem_response(request.scope, problem_of(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> ProblemResponse:
        faults = error.errors()
        if any(fault["type"] == "json_invalid" for fault in faults):
            return problem_response(request.scope, Problem(400, "the body is not JSON"))
        details = "; ".join(
            f"{'.'.join(map(str, fault['loc'][1:])) or fault['loc'][0]}: {fault['msg']}"
            for fault in faults
        )
        return problem_response(request.scope, Problem(422, details))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> ProblemResponse:
        headers = dict(error.headers or {})
        detail = str(error.detail)
        if detail == HTTPStatus(error.status_code).phrase:  # Starlette's own
            detail = _detail(error.status_code, request, headers)
        return problem_response(request.scope, Problem(error.status_code, detail, headers))


def _detail(status: int, request: Request, headers: Mapping[str, str]) -> str:
    api = f"{request.app.openapi_url} describes the API"
    if status == HTTPStatus.NOT_FOUND:
        return f"there is nothing at this address; {api}"
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = headers.get("Allow") or headers.get("allow") or "another method"
        return f"this address does not take {request.method}, but {allowed}; {api}"
    return f"the request could not be read; {api}"


class UnexpectedErrors:
    """Answers unexpected exceptions with a problem document, and logs their traceback.

    The log leaves out the messages of exceptions, which may quote queries.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        started = refused = False

        async def watched(message: Message) -> None:
            nonlocal started, refused
            refused = not started  # sending fails if the client broke the protocol in its body
            started = True
            await send(message)
            refused = False

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:  # before its body was complete: nobody reads an answer
            return
        except Exception as error:
            if scope["type"] != "http":
                raise
            if refused:
                return
            logger.error("%s %s failed:\n%s", scope["method"], route_of(scope), trace_of(error))  # noqa: TRY400
            if not started:  # else uvicorn closes the connection
                detail = (
                    "the server failed to answer; its output says where: please report that, "
                    "together with what you asked for"
                )
                await problem_response(scope, Problem(500, detail))(scope, receive, send)


def route_of(scope: Scope) -> str:
    """The pattern of the route of a request, such as `/api/v1/items/{item_id}`."""
    pattern = getattr(scope.get("route"), "path", None)
    if pattern is None:
        return scope.get("root_path") or "unknown"  # the mounted files of the page
    # depending on the version of FastAPI, the pattern lacks the prefix of an included router
    before = scope["path"].split("/")[: -pattern.count("/")]
    return f"{'/'.join(before)}{pattern}"


def trace_of(error: BaseException) -> str:
    """The traceback of an exception and its causes, without messages: they may quote queries."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return "".join(
        line
        for one in reversed(chain)
        for line in (*traceback.format_tb(one.__traceback__), f"{type(one).__qualname__}\n")
    )
