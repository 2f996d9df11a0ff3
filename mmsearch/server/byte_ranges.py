"""Answers with a file, or a range of it (RFC 9110, section 14), and conditional requests."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from email.utils import formatdate
from typing import TYPE_CHECKING, BinaryIO

from anyio import to_thread
from starlette.responses import Response, StreamingResponse

from mmsearch.server.problems import Problem

if TYPE_CHECKING:
    import os

    from starlette.requests import Request

CHUNK = 2**18
"""Bytes read at a time."""

_RANGE = re.compile(r"bytes=(\d*)-(\d*)[ \t]*", re.ASCII | re.IGNORECASE)


def is_fresh(request: Request, etag: str) -> bool:
    """Whether the client has what this ETag is of (If-None-Match)."""
    given = request.headers.get("if-none-match", "")
    known = [one.strip().removeprefix("W/") for one in given.split(",")]
    return "*" in known or etag in known


def not_modified(headers: Mapping[str, str]) -> Response:
    """The answer to a client that has it."""
    kept = {"etag", "cache-control", "last-modified"}
    return Response(
        status_code=304, headers={k: v for k, v in headers.items() if k.lower() in kept}
    )


def file_response(
    request: Request, file: BinaryIO, status: os.stat_result, headers: Mapping[str, str]
) -> Response:
    """The answer with an open file, or with the range of it that the request names.

    It reads from `file`, whatever is at its path by then, and closes it, unless it raises.

    Args:
        request: A GET or HEAD.
        file: Open.
        status: Its size and time.
        headers: With Content-Type.

    Raises:
        Problem: 416, the range lies outside of the file.
    """
    size = status.st_size
    etag = f'"{size:x}-{status.st_mtime_ns:x}"'
    modified = formatdate(max(0, status.st_mtime), usegmt=True)
    sent = {**headers, "ETag": etag, "Last-Modified": modified, "Accept-Ranges": "bytes"}
    if is_fresh(request, etag):
        file.close()
        return not_modified(sent)
    wanted = None
    if request.method == "GET" and request.headers.get("if-range") in (None, etag, modified):
        wanted = wanted_range(request.headers.get("range", ""), size)
    start, stop = wanted or (0, size)
    if wanted and start >= stop:
        whole = {"Content-Range": f"bytes */{size}"}
        raise Problem(416, f"the file has {size} bytes: ask for a range of these", whole)
    if wanted:
        sent["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    sent["Content-Length"] = str(stop - start)
    if request.method == "HEAD":
        file.close()
        return Response(headers=sent)
    return StreamingResponse(_read(file, start, stop), 206 if wanted else 200, sent)


def wanted_range(header: str, size: int) -> tuple[int, int] | None:
    """The first byte that a Range header names, and the one after the last.

    None: the whole file is to be sent, as the header is absent, malformed, or of another unit, or
    names several ranges, which no player does, and a server may ignore. The range is empty if it
    lies outside of the file.
    """
    found = _RANGE.fullmatch(header)
    if found is None:
        return None
    first, last = found.groups()
    if not first:  # the last bytes of the file, so many
        return (max(0, size - _number(last)), size) if last else None
    start, stop = _number(first), _number(last) + 1 if last else size
    if last and stop <= start:
        return None
    return min(start, size), min(stop, size)


def _number(digits: str) -> int:
    # 18 digits are more bytes than any file has; int() refuses thousands
    return int(digits.lstrip("0")[:18] or 0)


async def _read(file: BinaryIO, start: int, stop: int) -> AsyncIterator[bytes]:
    with file:
        await to_thread.run_sync(file.seek, start)
        while start < stop:
            block = await to_thread.run_sync(file.read, min(CHUNK, stop - start))
            if not block:
                raise OSError("the file became shorter while it was sent")
            start += len(block)
            yield block
