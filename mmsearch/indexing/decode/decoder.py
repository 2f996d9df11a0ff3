"""What one thread does with one file: read, hash, compare, decode, make ready for the encoder."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from mmsearch.errors import UnreadableFile
from mmsearch.indexing.decode.contents import Contents, Options, Reader
from mmsearch.media.file_state import CHANGED, ChangedMeanwhile, may_pass, read_file, stat_of
from mmsearch.media.text import passages, read_text
from mmsearch.media.walk import CAPTIONED, FileStat, is_away
from mmsearch.spaces.targets import EncodingTarget
from mmsearch.storage import KnownFile, Store
from mmsearch.types import Item, TextPart


@dataclass(frozen=True, slots=True)
class Job:
    """A file that is new or may have changed."""

    source_id: int
    root: str
    folder: str
    name: str
    file: FileStat
    known: KnownFile | None = None
    captions: Sequence[str] | None = None  # from a captions file; None: it does not name this one


@dataclass(slots=True)
class Decoded:
    """A job, done: what to store, or why not."""

    job: Job
    hash: bytes = b""
    like: int | None = None  # a stored item of the same content
    orphan: bool = False  # and that item's own file is gone
    moved: bool = False  # for good: this is the same item under a new name
    contents: Contents | None = None  # None when what is stored serves
    texts: list[TextPart] | None = None  # None: as stored
    failures: list[tuple[str, str, bool]] = field(default_factory=list)  # name, reason, retry
    usable: bool = True
    seconds: dict[str, float] = field(default_factory=dict)  # that each stage took


class Decoder:
    """Callable from many threads at once.

    Args:
        store: Asked for stored files of the same content.
        targets: The encoders that files are made ready for.
        options: How files are read.
    """

    def __init__(self, store: Store, targets: Sequence[EncodingTarget], options: Options) -> None:
        self._store = store
        self._options = options
        self._reader = Reader(targets, options)
        self.stop = self._reader.stop

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
            done.failures.append((job.name, str(error), may_pass(error)))
            done.usable = False
        return done

    def _decode(self, done: Decoded, path: str, *, borrow: bool) -> None:
        began = time.perf_counter()
        content, done.hash = read_file(path)
        read = time.perf_counter()
        done.seconds["read"] = read - began
        try:
            self._understand(done, path, content, borrow=borrow)
        finally:
            done.seconds["decode"] = time.perf_counter() - read

    def _understand(self, done: Decoded, path: str, content: bytes | str, *, borrow: bool) -> None:
        job = done.job
        kind = job.file.kind
        if borrow and job.known is not None and job.known.hash == done.hash:
            done.like = job.known.id
        elif borrow:
            self._find_twin(done, path)
        own: list[TextPart] | None = None  # as stored
        if done.like is None:
            before = stat_of(path) if content == path else None  # it is read from disk only now
            done.contents = self._reader.read(kind, content, path)
            if before is not None and stat_of(path) != before:
                raise ChangedMeanwhile(CHANGED)
            own = done.contents.texts
        elif not self._options.readings_of(kind) <= self._store.files.readings(done.like):
            own = self._reader.read_texts(kind, content, path)
            readings = " ".join(sorted(self._options.readings_of(kind)))
            done.contents = Contents(columns={"readings": readings})
        done.texts = self._texts(done, path, own)

    def _find_twin(self, done: Decoded, path: str) -> None:
        """A stored file of the same content, one that is gone from the disk before any other."""
        for item_id, root, device, place in self._store.files.duplicates_of(
            done.hash, done.job.file.kind
        ):
            orphan = not os.path.lexists(place) or _is_other_spelling(place, path)
            if done.like is None or orphan:
                done.like, done.orphan = item_id, orphan
                # a source that is away altogether is an unmounted drive, not a move
                done.moved = orphan and not is_away(root, device)
            if orphan:
                return

    def _texts(self, done: Decoded, path: str, own: list[TextPart] | None) -> list[TextPart] | None:
        """The texts an item is to have, its own and its captions; None when it gets
        those of the item it is like.
        """
        job = done.job
        # captions of a lost file go to where its content is found again, not to each copy
        lender = done.like if done.orphan or not job.known else job.known.id
        item = self._item(lender)
        stored = list(item.texts) if item else []
        like = item if done.like == lender else self._item(done.like)
        if own is None:
            own = [part for part in like.texts if part.origin not in _CAPTIONS] if like else []
        parts = own + (_sidecar(done, path, stored) if job.file.sidecar else [])
        if job.captions is not None:
            parts += [TextPart(text, "caption") for text in job.captions]
        elif job.known or done.orphan:
            parts += [part for part in stored if part.origin == "caption"]
        unchanged = job.known is not None and lender == job.known.id == done.like
        # of what can have no captions a copy has the texts of its original, whatever happens to it
        same = like is not None and (unchanged or job.file.kind not in CAPTIONED)
        return None if same and like and parts == list(like.texts) else parts

    def _item(self, item_id: int | None) -> Item | None:
        return None if item_id is None else self._store.items.get([item_id]).get(item_id)


_CAPTIONS = {"sidecar", "caption"}


def _is_other_spelling(one: str, other: str) -> bool:
    """Whether two paths differ in case alone and the disk takes them for the same."""
    if one == other or one.lower() != other.lower():
        return False
    return os.path.samefile(one, other)


def _sidecar(done: Decoded, path: str, stored: list[TextPart]) -> list[TextPart]:
    """Each line of `photo.txt` beside `photo.jpg`, a caption (long ones in passages).

    When the disk fails, what was stored of it stays until it can be read again.
    """
    name = done.job.file.sidecar_name or ""
    try:
        lines = read_text(os.path.join(os.path.dirname(path), name)).splitlines()
    except UnreadableFile as error:
        done.failures.append((name, str(error), may_pass(error)))
        return [part for part in stored if part.origin == "sidecar"] if may_pass(error) else []
    return [TextPart(part.text, "sidecar") for line in lines for part in passages(line)]
