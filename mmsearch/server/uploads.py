"""Uploads: photos and sounds to search with, kept for a while by their content."""

from __future__ import annotations

import hashlib
import io
import re
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal, NamedTuple

from anyio import to_thread
from fastapi import Path as PathParameter
from fastapi import Request
from starlette.responses import Response

from mmsearch.errors import MissingExtra, PathNotFound, TooLarge, UnreadableFile
from mmsearch.media import thumbnails
from mmsearch.media.image import decoder_of, load_image
from mmsearch.media.sound_files import find_sound
from mmsearch.server.derived_files import FileCache, folder_of
from mmsearch.server.media_files import FOREVER, WEBP, webp_response
from mmsearch.server.problems import AsciiJSONResponse, Problem
from mmsearch.server.requests import strict_router

if TYPE_CHECKING:
    from pathlib import Path

KEPT_BYTES, KEPT_SECONDS = 200 * 2**20, 7 * 86_400.0
"""Of all uploads together, and since each was last used."""

UploadModality = Literal["image", "audio"]
_MODALITIES: tuple[UploadModality, ...] = ("image", "audio")
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


class Upload(NamedTuple):
    """An upload, as a query takes it: `Part(modality, path)`."""

    id: str
    """The BLAKE2b-128 of its content, in hexadecimal."""
    modality: UploadModality
    path: Path


class Uploads:
    """The uploads of a server, by their content, in a folder of the user's cache.

    Methods may be called from any thread.

    Args:
        most_bytes: Larger ones are refused.
        max_megapixels: Larger photos are refused.
    """

    def __init__(self, *, most_bytes: int, max_megapixels: float) -> None:
        self.most_bytes = most_bytes
        self._max_megapixels = max_megapixels
        self._cache = FileCache(
            folder_of("uploads"), most_bytes=KEPT_BYTES, most_seconds=KEPT_SECONDS
        )

    def add(self, content: bytes) -> dict[str, Any]:
        """Keep a photo or sound that can be decoded; returns its id and facts.

        Raises:
            Problem: 415, it is neither; 422, empty or damaged; 413, too large; 503, it cannot be
                kept.
        """
        if not content:
            raise Problem(422, "this file is empty: send a photo or a sound")
        modality = _modality_of(io.BytesIO(content))
        try:
            facts = self._picture(content) if modality == "image" else _sound(content)
        except TooLarge as error:
            most = f"at most {self._max_megapixels:g} megapixels"
            raise Problem(413, f"this photo is too large: send one of {most}") from error
        except (UnreadableFile, MissingExtra) as error:
            name = "photo" if modality == "image" else "sound"
            raise Problem(422, f"this {name} cannot be searched with: {error}") from error
        upload_id = hashlib.blake2b(content, digest_size=16).hexdigest()
        try:
            self._cache.put(_name(upload_id, modality), content)
        except OSError as error:
            why = (error.strerror or "it cannot be written").lower()
            detail = f"uploads cannot be kept in the user's cache folder: {why}"
            raise Problem(503, f"{detail}; make room, or set MMSEARCH_CACHE") from error
        return {"id": upload_id, "modality": modality, **facts}

    def find(self, upload_id: str) -> Upload:
        """An upload by its id.

        Raises:
            PathNotFound: it was never sent, or is no longer kept.
        """
        if _ID.fullmatch(upload_id):
            for modality in _MODALITIES:
                name = _name(upload_id, modality)
                if (path := self._cache.find(name)) is None:
                    continue
                with suppress(OSError), path.open("rb") as file:
                    digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
                    if digest.hexdigest() == upload_id:
                        return Upload(upload_id, modality, path)
                self._cache.remove(name)  # cut short by a crash
        raise PathNotFound("this photo or sound is not kept any more: send it again")

    def thumbnail(self, upload_id: str) -> bytes:
        """A thumbnail of an upload.

        Raises:
            PathNotFound: it is not kept, or has no picture.
        """
        upload = self.find(upload_id)
        with upload.path.open("rb") as file:
            return thumbnails.thumbnail(
                file, upload.modality, 256, max_megapixels=self._max_megapixels
            )

    def too_large(self) -> Problem:
        """The problem with an upload of too many bytes."""
        megabytes = self.most_bytes / 2**20
        return Problem(413, f"a photo or sound may have {megabytes:g} MiB: send a smaller one")

    def _picture(self, content: bytes) -> dict[str, Any]:
        # all of it is decoded, so that a truncated one is refused
        info = load_image(content, at_least=256, max_megapixels=self._max_megapixels)[1]
        return {"width": info.width, "height": info.height}


def _name(upload_id: str, modality: UploadModality) -> str:
    return f"{upload_id}.{modality}"


def _modality_of(file: BinaryIO) -> UploadModality:
    with suppress(UnreadableFile):
        decoder_of(file)
        return "image"
    with suppress(UnreadableFile):
        find_sound(file)
        return "audio"
    raise Problem(415, "this is neither a photo nor a sound, such as a JPEG, PNG, WAV or MP3")


def _sound(content: bytes) -> dict[str, Any]:
    """Its length; as much of it is decoded as a search listens to."""
    from mmsearch.media.audio import HOP, probe, windows
    from mmsearch.search.query_vectors import MAX_WINDOWS

    stated = probe(content).seconds
    end = 0.0
    for span, _ in islice(windows(content, 8000), MAX_WINDOWS):
        end = span.end
    return {"seconds": round(max(stated, end) if end > MAX_WINDOWS * HOP else end, 3)}


# ---------------------------------------------------------------------- routes

router = strict_router(prefix="/uploads", tag="search")

UploadId = Annotated[str, PathParameter(description="The id of an upload.")]

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post("", status_code=201, openapi_extra=_BODY)
async def upload(request: Request) -> AsciiJSONResponse:
    """Keep a photo or sound, sent as the body, to search with by its id."""
    uploads: Uploads = request.app.state.uploads
    received = bytearray()  # one block, which goes back to the system; thousands of chunks do not
    async for chunk in request.stream():
        received += chunk
        if len(received) > uploads.most_bytes:
            raise uploads.too_large()
    content = bytes(received)
    received.clear()
    # in the threads of searches: a query by example should not wait for thumbnails
    add = partial(uploads.add, content)
    added = await request.app.state.searches.run(add, request.is_disconnected)
    return AsciiJSONResponse(added, 201)


@router.get("/{upload_id}/thumbnail", response_class=Response, responses=WEBP)
async def upload_thumbnail(request: Request, upload_id: UploadId) -> Response:
    """A small picture of a photo that was sent."""
    uploads: Uploads = request.app.state.uploads
    await to_thread.run_sync(uploads.find, upload_id)
    key = hashlib.blake2b(f"upload {upload_id}".encode(), digest_size=16).hexdigest()
    return await webp_response(request, key, FOREVER, partial(uploads.thumbnail, upload_id))
