"""What one thread does with one file: read, hash, compare, decode, prepare for the encoders."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mmsearch.errors import MissingExtra, UnreadableFile
from mmsearch.indexing.file_contents import Contents, Reader, ReadOptions
from mmsearch.indexing.scan import ScannedFile
from mmsearch.media import facts
from mmsearch.media.companions import JSON, XMP
from mmsearch.media.file_state import (
    CHANGED,
    ChangedMeanwhile,
    may_pass,
    read_file,
    stat_of,
    touched_since,
)
from mmsearch.media.kinds import ending_of
from mmsearch.media.members import SEPARATOR, lexists, member_at
from mmsearch.media.photo_metadata import PhotoFacts
from mmsearch.media.text import passages, read_text
from mmsearch.media.walk import CAPTIONED, WITH_COMPANIONS, is_away
from mmsearch.spaces.targets import EncodingTarget
from mmsearch.storage import KnownFile, Store
from mmsearch.storage.records import fact_text, metadata_key
from mmsearch.types import CAPTIONS, Item, TextPart

if TYPE_CHECKING:
    from mmsearch.media.corpora import Details


@dataclass(slots=True)
class DecodedFile:
    """A file that was decoded: what to store of it, or why not.

    Attributes:
        scanned: The file.
        hash: Of its content.
        duplicate_of: A stored item of the same content, itself if it has not changed.
        duplicate_is_deleted: Whether that item's own file no longer exists.
        renamed: Whether this is that item under a new name.
        contents: None if everything stored of the duplicate is reused.
        texts: None if those of the duplicate are reused.
        photo: When, where and how a photo or video was taken, by the file, its companions and its
            name; None leaves what is stored.
        failures: (name, reason, whether to try again), of the file, its sidecar or its companions.
        details: What the corpus that it is a member of says of it; None of a file.
        changes_details: Whether other metadata were stored of it.
        usable: Whether there is something to store.
        seconds: That each stage took.
    """

    scanned: ScannedFile
    hash: bytes = b""
    duplicate_of: int | None = None
    duplicate_is_deleted: bool = False
    renamed: bool = False
    contents: Contents | None = None
    texts: list[TextPart] | None = None
    photo: PhotoFacts | None = None
    failures: list[tuple[str, str, bool]] = field(default_factory=list)
    details: Details | None = None
    changes_details: bool = False
    usable: bool = True
    seconds: dict[str, float] = field(default_factory=dict)


class Decoder:
    """Decodes files, unless the store knows their content; callable from many threads at once."""

    def __init__(
        self, store: Store, targets: Sequence[EncodingTarget], options: ReadOptions
    ) -> None:
        self._store = store
        self._options = options
        self._reader = Reader(targets, options)
        self.stop, self.close = self._reader.stop, self._reader.close

    def __call__(self, scanned: ScannedFile, *, reuse: bool = True) -> DecodedFile:
        """Decode a file; what is stored of the same content is reused unless it is not to be."""
        decoded = DecodedFile(scanned)
        try:
            self._read(decoded, reuse=reuse)
        except OSError as error:
            decoded.failures.append((scanned.name, os.strerror(error.errno or 0).lower(), True))
            decoded.usable = False
        # MissingExtra: of a raw photo whose ending is that of another format
        except (UnreadableFile, MissingExtra) as error:
            decoded.failures.append((scanned.name, str(error), may_pass(error)))
            decoded.usable = False
        return decoded

    def _read(self, decoded: DecodedFile, *, reuse: bool) -> None:
        began = time.perf_counter()
        scanned = decoded.scanned
        known = scanned.known
        content: bytes | str
        if known is not None and reuse and _has_stored_content(known, scanned.path):
            content, decoded.hash = scanned.path, known.hash
        else:
            content, decoded.hash = read_file(scanned.path)
        read = time.perf_counter()
        decoded.seconds["read"] = read - began
        try:
            if reuse:
                self._find_duplicate(decoded)
            own = self._decode(decoded, content)
            self._read_details(decoded)
            decoded.texts = self._texts(decoded, own)
            decoded.photo = self._photo_facts(decoded, content)
        finally:
            decoded.seconds["decode"] = time.perf_counter() - read

    def _read_details(self, decoded: DecodedFile) -> None:
        """What the corpus of a member says of it."""
        scanned = decoded.scanned
        if (member := member_at(scanned.path)) is None:
            return
        from mmsearch.media.corpora import open_corpus

        decoded.details = details = open_corpus(member[0]).details(member[1])
        if details.problem is not None:
            name, reason = details.problem
            start = len(scanned.name) - len(member[1])
            decoded.failures.append((scanned.name[:start] + name, reason, False))
        if scanned.known is not None and scanned.known.id == decoded.duplicate_of:
            item = self._item(scanned.known.id)
            stored = item.metadata.get("meta", {}) if item is not None else {}
            decoded.changes_details = any(
                stored.get(metadata_key(key)) != fact_text(value)
                for key, value in details.metadata.items()
            )

    def _decode(self, decoded: DecodedFile, content: bytes | str) -> list[TextPart] | None:
        """The file's own texts; None if those of its duplicate are reused."""
        path, kind = decoded.scanned.path, decoded.scanned.file.kind
        readings = self._options.readings_of(kind)
        if decoded.duplicate_of is None:
            before = stat_of(path) if content == path else None  # it is read from disk only now
            decoded.contents = self._reader.read(kind, content, path)
            if before is not None and stat_of(path) != before:
                raise ChangedMeanwhile(CHANGED)
            return decoded.contents.texts
        if readings <= self._store.files.readings(decoded.duplicate_of):
            return None
        decoded.contents = Contents(columns={"readings": " ".join(sorted(readings))})
        return self._reader.read_texts(kind, content, path)

    def _find_duplicate(self, decoded: DecodedFile) -> None:
        """A stored item of the same content: itself, else one whose file was deleted, else any."""
        scanned = decoded.scanned
        if scanned.known is not None and scanned.known.hash == decoded.hash:
            decoded.duplicate_of = scanned.known.id
            return
        for item_id, root, below, device, path in self._store.files.duplicates_of(
            decoded.hash, scanned.file.kind
        ):
            deleted = not lexists(path) or _is_other_spelling(path, scanned.path)
            if decoded.duplicate_of is None or deleted:
                decoded.duplicate_of, decoded.duplicate_is_deleted = item_id, deleted
                # a file that is away with its disk has not moved
                decoded.renamed = deleted and not is_away(root, device, below)
            if deleted:
                return

    def _texts(self, decoded: DecodedFile, own: list[TextPart] | None) -> list[TextPart] | None:
        """The texts the item is to have, its own and its captions; None: those of its duplicate."""
        scanned = decoded.scanned
        known_id = scanned.known.id if scanned.known else None
        duplicate = self._item(decoded.duplicate_of)
        # captions of a lost file go to where its content is found again, but not to each copy
        keeps_captions = known_id is not None or decoded.duplicate_is_deleted
        from_duplicate = known_id in (None, decoded.duplicate_of) or decoded.duplicate_is_deleted
        before = duplicate if from_duplicate else self._item(known_id)
        captions = [part for part in before.texts if part.origin in CAPTIONS] if before else []
        if own is None:
            own = [p for p in duplicate.texts if p.origin not in CAPTIONS] if duplicate else []
        texts = own + (_sidecar(decoded, captions) if scanned.file.sidecar_name else [])
        if decoded.details is not None and scanned.file.kind in CAPTIONED:
            beside = (part for text in decoded.details.captions for part in passages(text))
            there = {part.text for part in texts}  # some tools write captions in two places
            texts += [TextPart(part.text, "sidecar") for part in beside if part.text not in there]
        if scanned.captions is not None:
            texts += [TextPart(text, "caption") for text in scanned.captions]
        elif keeps_captions:
            texts += [part for part in captions if part.origin == "caption"]
        # a copy of what can have no captions follows the texts of its original as they change
        follows = known_id == decoded.duplicate_of or scanned.file.kind not in CAPTIONED
        same = duplicate is not None and follows and texts == list(duplicate.texts)
        return None if same else texts

    def _photo_facts(self, decoded: DecodedFile, content: bytes | str) -> PhotoFacts | None:
        """As `DecodedFile.photo`; of a duplicate too: it has its own name and companions."""
        scanned, contents = decoded.scanned, decoded.contents
        if scanned.file.kind not in WITH_COMPANIONS:
            return None
        sidecar, takeout, complete = _companion_facts(decoded)
        known_id = scanned.known.id if scanned.known else None
        if not complete and known_id is not None and known_id == decoded.duplicate_of:
            return None
        if decoded.duplicate_of is None and contents is not None:
            own = _as_photo_facts(contents.columns, contents.facts or {})
        elif scanned.file.kind == "image":
            own = facts.of_photo(content)
        else:
            from mmsearch.media import video

            own = video.facts(scanned.path)
        if scanned.known is not None and not decoded.hash:  # imported, with the user's own columns
            stored = self._item(known_id)
            own = _as_photo_facts(stored.metadata if stored else {}, {}).completed_by(own)
        by_name = facts.of_name(os.path.basename(scanned.name.rpartition(SEPARATOR)[2]))
        return own.edited_by(sidecar).completed_by(takeout).completed_by(by_name)

    def _item(self, item_id: int | None) -> Item | None:
        return None if item_id is None else self._store.items.get([item_id]).get(item_id)


def _has_stored_content(known: KnownFile, path: str) -> bool:
    """Whether a file is unchanged, so that only its sidecar or companions can have changed.

    An imported file has no hash: it counts as unchanged while its size and time are the same.
    """
    if known.hash and known.ctime_ns is None:
        return False
    return stat_of(path) == known[2:4] and not touched_since(path, known.ctime_ns)


def _as_photo_facts(columns: Mapping[str, Any], more: facts.Facts) -> PhotoFacts:
    """The columns of an item, and the rest of its file's metadata, as one."""
    taken_at = columns.get("taken_at")
    return PhotoFacts(
        None if taken_at is None else datetime.fromisoformat(taken_at),
        columns.get("camera"),
        columns.get("latitude"),
        columns.get("longitude"),
        more,
    )


def _companion_facts(decoded: DecodedFile) -> tuple[PhotoFacts, PhotoFacts, bool]:
    """The facts in XMP sidecars and in Takeout's JSON; False if one may be readable later."""
    xmp, takeout, complete = PhotoFacts(), PhotoFacts(), True
    for name in decoded.scanned.file.companions:
        path = decoded.scanned.beside(name)
        try:
            if ending_of(name) == XMP:
                xmp = xmp.completed_by(facts.of_xmp(path))
            elif ending_of(name) == JSON:
                takeout = takeout.completed_by(facts.of_takeout(path))
        except UnreadableFile as error:
            decoded.failures.append((name, str(error), may_pass(error)))
            complete = complete and not may_pass(error)
    return xmp, takeout, complete


def _is_other_spelling(one: str, other: str) -> bool:
    """Whether two paths differ in case alone and are one file to the file system."""
    if one == other or one.lower() != other.lower():
        return False
    return member_at(one) is None and os.path.samefile(one, other)


def _sidecar(decoded: DecodedFile, captions: Sequence[TextPart]) -> list[TextPart]:
    """Each line of `photo.txt` beside `photo.jpg`, a caption (long ones in passages).

    While the disk fails, the sidecar's stored captions stay.
    """
    name = decoded.scanned.file.sidecar_name or ""
    try:
        lines = read_text(decoded.scanned.beside(name)).splitlines()
    except UnreadableFile as error:
        decoded.failures.append((name, str(error), may_pass(error)))
        return [part for part in captions if part.origin == "sidecar"] if may_pass(error) else []
    return [TextPart(part.text, "sidecar") for line in lines for part in passages(line)]
