"""What one thread does with one file: read, hash, compare, decode, make ready for the encoder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmsearch.catalog import Catalog, Known
from mmsearch.errors import TooLarge, UnreadableFile
from mmsearch.media.image import load_image
from mmsearch.media.text import passages, read_text
from mmsearch.media.walk import FileStat, is_away
from mmsearch.types import Encoder, Span, TextPart

WHOLE = 64 * 2**20
"""Bytes; a larger file is hashed in pieces and decoded from disk, so it is never held whole."""


@dataclass(frozen=True, slots=True)
class Job:
    """A file that is new or may have changed."""

    source_id: int
    root: str
    folder: str
    name: str
    file: FileStat
    known: Known | None = None
    captions: Sequence[str] | None = None  # from a captions file; None: it does not name this one


@dataclass(slots=True)
class Decoded:
    """A job, done: what to store, or why not."""

    job: Job
    hash: bytes = b""
    like: int | None = None  # a stored item of the same content
    orphan: bool = False  # and that item's own file is gone
    moved: bool = False  # for good: this is the same item under a new name
    picture: Any = None  # ready for the encoder; None when a stored vector serves
    details: dict[str, Any] | None = None
    texts: list[TextPart] | None = None  # None: as stored
    failures: list[tuple[str, str, bool]] = field(default_factory=list)  # name, reason, retry
    usable: bool = True


class Decoder:
    """Callable from many threads at once.

    Args:
        catalog: Asked for stored files of the same content.
        encoder: Says how pictures are made ready.
        max_megapixels: Larger pictures are refused.
    """

    def __init__(self, catalog: Catalog, encoder: Encoder, max_megapixels: float) -> None:
        self._catalog = catalog
        self._encoder = encoder
        self._max_megapixels = max_megapixels

    def __call__(self, job: Job, *, borrow: bool = True) -> Decoded:
        """Decode one file; without `borrow`, even if a file of the same content is stored."""
        done = Decoded(job)
        path = os.path.join(job.root, job.folder, job.name)
        try:
            self._decode(done, path, borrow=borrow)
        except OSError as error:
            done.failures.append((job.name, os.strerror(error.errno or 0).lower(), True))
            done.usable = False
        except UnreadableFile as error:
            done.failures.append((job.name, str(error), isinstance(error, TooLarge)))
            done.usable = False
        return done

    def _decode(self, done: Decoded, path: str, *, borrow: bool) -> None:
        job = done.job
        content, done.hash = _read(path)
        if borrow and job.known is not None and job.known.hash == done.hash:
            done.like = job.known.id
        elif borrow:
            self._find_twin(done, path)
        if job.file.modality == "image":
            if done.like is None:
                picture, info = load_image(
                    content,
                    at_least=self._encoder.image_size,
                    max_megapixels=self._max_megapixels,
                )
                done.picture = self._encoder.prepare("image", picture)
                taken = info.taken_at.isoformat() if info.taken_at else None
                done.details = {**asdict(info), "taken_at": taken}
            done.texts = self._captions(done, path)
        elif done.like is None:
            done.texts = [
                TextPart(part.text, "passage", Span(part.start, part.end, "line"))
                for part in passages(read_text(content))
            ]

    def _find_twin(self, done: Decoded, path: str) -> None:
        """A stored file of the same content, one that is gone from the disk before any other."""
        for item_id, root, device, place in self._catalog.twins(done.hash, done.job.file.modality):
            orphan = not os.path.lexists(place) or _is_other_spelling(place, path)
            if done.like is None or orphan:
                done.like, done.orphan = item_id, orphan
                # a source that is away altogether is an unmounted drive, not a move
                done.moved = orphan and not is_away(root, device)
            if orphan:
                return

    def _captions(self, done: Decoded, path: str) -> list[TextPart] | None:
        """The captions a photo is to have; None when they are those it has."""
        job = done.job
        # those of a lost file go to where its content is found again, not to each copy
        own = done.like if done.orphan or not job.known else job.known.id
        item = None if own is None else self._catalog.items([own]).get(own)
        stored = list(item.texts) if item else []
        parts = _sidecar(done, path) if job.file.sidecar else []
        if job.captions is not None:
            parts += [TextPart(text, "caption") for text in job.captions]
        elif job.known or done.orphan:
            parts += [part for part in stored if part.origin == "caption"]
        unchanged = job.known is not None and own == job.known.id == done.like
        return None if unchanged and parts == stored else parts


def _is_other_spelling(one: str, other: str) -> bool:
    """Whether two paths differ in case alone and the disk takes them for the same."""
    if one == other or one.lower() != other.lower():
        return False
    return os.path.samefile(one, other)


def _read(path: str) -> tuple[bytes | str, bytes]:
    """A file's bytes (its path, when it is large) and the BLAKE2b-128 of its content."""
    with Path(path).open("rb") as file:
        if os.fstat(file.fileno()).st_size > WHOLE:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
            return path, digest.digest()
        content = file.read()
    return content, hashlib.blake2b(content, digest_size=16).digest()


def _sidecar(done: Decoded, path: str) -> list[TextPart]:
    """Each line of `photo.txt` beside `photo.jpg`, a caption (long ones in passages)."""
    name = done.job.file.sidecar_name or ""
    try:
        lines = read_text(os.path.join(os.path.dirname(path), name)).splitlines()
    except UnreadableFile as error:
        done.failures.append((name, str(error), False))
        return []
    return [TextPart(part.text, "sidecar") for line in lines for part in passages(line)]
