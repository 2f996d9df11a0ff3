"""Finds the files under a folder that can be indexed, folder by folder, in a stable order.

Re-indexing an unchanged collection costs one walk and nothing else, so `stat` is called once per
file.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from fnmatch import translate
from typing import TYPE_CHECKING, NamedTuple

from mmsearch.errors import PathNotFound
from mmsearch.media.companions import COMPANION_ENDINGS, FILM, RAW, RawPairs, find_companions
from mmsearch.media.file_state import EARLIEST, LATEST, storable_time
from mmsearch.media.kinds import FORMATS, Format, ending_of, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mmsearch.types import Kind

    Medium = tuple[str, Kind, os.DirEntry[str]]
    """Name, kind and entry of what is probably a file to index."""

CAPTIONED: frozenset[Kind] = frozenset({"image", "audio", "video"})
"""The kinds that may have captions; texts and documents are text already."""

WITH_COMPANIONS: frozenset[Kind] = frozenset({"image", "video"})
"""The kinds that may have companions (see `companions`)."""

_BINS = {"#recycle", "@Recycle", "$RECYCLE.BIN", ".Trashes", "lost+found"}
_THUMBNAILS = {"@eaDir", ".thumbnails"}
_CODE = {".git", ".hg", ".svn", "node_modules", "__pycache__"}
_SYSTEM = {"__MACOSX", "System Volume Information"}
SKIPPED_FOLDERS = frozenset(_BINS | _THUMBNAILS | _CODE | _SYSTEM)
"""Folders without files of the user; always skipped, even if hidden files are included."""


class FileStat(NamedTuple):
    """A file that can be indexed: a tuple, since a walk makes a hundred thousand a second.

    Items 2 to 6 are in the order of `KnownFile`, so that a scan compares them by one comparison.
    """

    path: str
    """Relative to the root, "/" separated; a name that is not UTF-8 holds surrogate escapes."""
    kind: Kind
    size: int
    """Bytes."""
    mtime_ns: int
    sidecar_size: int | None = None
    """Bytes of the captions (`photo.txt` beside `photo.jpg`, not beside texts and documents) and of
    all companions except RAW photos."""
    sidecar_mtime_ns: int | None = None
    """Of the latest of them."""
    ctime_ns: int | None = None
    """When the file, or one of those, last changed in any way; None if not known."""
    sidecar_name: str | None = None
    """The name of that text: photo.txt, photo.TXT."""
    companions: Sequence[str] = ()
    """The names of its companions, as `find_companions` orders them."""

    @property
    def sidecar(self) -> tuple[int, int] | None:
        """(size, mtime_ns) of its captions and companions, if it has any."""
        if self.sidecar_size is None or self.sidecar_mtime_ns is None:
            return None
        return self.sidecar_size, self.sidecar_mtime_ns


Film = tuple[FileStat, FileStat]
"""A still as it is without its film, and the film as a file of its own."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The files in one folder, without those in its subfolders."""

    path: str
    """Relative to the root; "" for the root itself."""
    files: list[FileStat]
    """Sorted by name."""
    failures: list[tuple[str, str]]
    """(path relative to the root, reason) of the folder itself or of files in it."""
    complete: bool
    """False if listing the folder failed: nothing below it may be considered deleted."""
    others: Mapping[Format, int]
    """How many files of each format were skipped because `endings` lacks theirs."""
    unknown: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By ending, the names of the files whose endings are not in FORMATS."""
    films: Mapping[str, Film] = field(default_factory=dict)
    """By path of a still, it and its film as they are if the film is an item."""
    device: int | None = field(default=None, compare=False)
    """The device that it lies on, as `device_of` has it; None if that cannot be read."""


class Tree:
    """The files below a folder that can be indexed.

    Links to files are followed, and so are links to folders outside `root`. A link to a folder that
    is walked anyway is not, so that no file is found twice and no loop is entered.

    Args:
        root: An existing folder; walked even if it is hidden or in SKIPPED_FOLDERS.
        below: The only folder under `root`, relative to it, to walk.
        start: Walk only this folder, at or under `below` and relative to `root`; if a walk of
            `below` would skip it, nothing is found.
        recursive: Whether to walk subfolders.
        exclude: Shell globs, or plain names with glob characters in them, of the names of files
            and folders, or of their paths relative to the folder that is walked.
        include_hidden: Whether to include names that begin with a dot.
        endings: Which of FORMATS to find.
        raw_pairs: Whether a RAW photo is a companion of the JPEG of its name ("one"), or a file of
            its own ("both").

    Raises:
        PathNotFound: `root` is not a folder, or has no folder `below` or `start` under it.
    """

    def __init__(  # noqa: PLR0913 - keywords, all optional
        self,
        root: str | Path,
        below: str = "",
        *,
        start: str | None = None,
        recursive: bool = True,
        exclude: Sequence[str] = (),
        include_hidden: bool = False,
        endings: Collection[str] = FORMATS,
        raw_pairs: RawPairs = "one",
    ) -> None:
        self._root = os.fspath(root)
        self._real_root = os.path.realpath(root)
        self._below = _normalised(self._root, below)
        self._start = self._below if start is None else _normalised(self._root, start)
        self._recursive = recursive
        self._endings = endings
        self._raw_pairs = raw_pairs
        # companions are looked for only in folders that have such endings
        self._kinds = {one: FORMATS[one].kind for one in endings if one not in COMPANION_ENDINGS}
        self._excluded = excluder(exclude)
        self._include_hidden = include_hidden

    def walk(self) -> Iterator[Folder]:
        """Every folder from the root down, depth first and sorted, with its files."""
        for listing in self._listings():
            files, failures = _stat_files(listing.path, listing.media)
            films: dict[str, Film] = {}
            if listing.companions:
                with_films = FILM in self._endings
                files, films, more = _with_companions(listing, files, with_films=with_films)
                failures += more
            failures = listing.failures + failures
            complete = not listing.failures
            others, unknown = listing.others, listing.unknown
            yield Folder(
                listing.path,
                files,
                failures,
                complete,
                others,
                unknown,
                films,
                device=listing.device,
            )

    def count(self) -> int:
        """The number of files in a walk, from names alone if the file system permits.

        Files whose size `walk` cannot read are included.
        """
        total = 0
        for listing in self._listings():
            media = {name: kind for name, kind, entry in listing.media if _is_file(entry)}
            total += len(media) - len(set(_sidecars(media).values()))
        return total

    def leaves_out(self, path: str) -> bool:
        """Whether the walk skips a path, because of its name or that of a folder above it.

        Args:
            path: A file or folder at or under `below`, relative to the root.
        """
        inside = _under(self._below, "")
        steps = (step for step in _steps(path) if _under(step[0], "").startswith(inside))
        return any(self._skips_folder(folder, name) for folder, name in steps)

    def _listings(self) -> Iterator[_Listing]:
        # Folders are remembered by inode: neither loops nor a second path to a folder, through
        # links or mounts, lead into it twice.
        visited = {_inode(self._root)} if self._start else set()
        pending = [] if self.leaves_out(self._start) else [self._start]
        while pending:
            path = pending.pop()
            inode = _inode(os.path.join(self._root, path))
            if inode in visited:
                continue
            if inode is not None:
                visited.add(inode)
            listing = self._list(path)
            listing.device = inode and inode[0]
            yield listing
            if not self._recursive:
                return
            pending.extend(
                _under(path, entry.name)
                for entry in reversed(listing.subfolders)
                if not self._leads_back(entry)
            )

    def _list(self, folder: str) -> _Listing:
        listing = _Listing(folder)
        entries: list[os.DirEntry[str]] = []
        try:
            with os.scandir(os.path.join(self._root, folder)) as listed:
                entries.extend(listed)
        except OSError as error:
            listing.failures.append((folder, _reason(error)))
        for entry in entries:
            name = entry.name
            if name[0] == "." and self._hides(name):  # the first test spares most files the call
                continue
            if _is_folder(entry):
                if not self._skips_folder(folder, name):
                    listing.subfolders.append(entry)
            elif self._excluded and self._excludes(folder, name):
                continue
            elif kind := self._kinds.get(ending := ending_of(name)):
                listing.media.append((name, kind, entry))
            elif ending in COMPANION_ENDINGS:
                listing.possible_companions[name] = entry
            elif form := FORMATS.get(ending):
                listing.others[form] = listing.others.get(form, 0) + 1
            else:
                listing.unknown.setdefault(ending, []).append(name)
        if listing.possible_companions:
            self._find_companions(listing)
        listing.media.sort()
        listing.subfolders.sort(key=lambda entry: entry.name)
        return listing

    def _find_companions(self, listing: _Listing) -> None:
        """Set the companions of a listing; the other possible ones become media of their own."""
        others = listing.possible_companions
        photos = [
            name
            for name, kind, entry in listing.media
            if kind in WITH_COMPANIONS and _is_file(entry)  # not a broken link
        ]
        found = find_companions(photos, others, self._raw_pairs)
        listing.companions = found
        attached = {file for files in found.values() for file in files}
        for name, entry in others.items():
            kind = kind_of(name)
            if kind is None or name in attached:
                continue
            if ending_of(name) in self._endings:
                listing.media.append((name, kind, entry))
            else:
                form = FORMATS[ending_of(name)]
                listing.others[form] = listing.others.get(form, 0) + 1

    def _hides(self, name: str) -> bool:
        # "._name" is macOS's resource fork of "name", which is never a picture
        return name[0] == "." and (not self._include_hidden or name.startswith("._"))

    def _excludes(self, folder: str, name: str) -> bool:
        if self._excluded is None:
            return False
        path = _under(folder, name).removeprefix(_under(self._below, ""))
        return bool(self._excluded(name) or self._excluded(path))

    def _skips_folder(self, folder: str, name: str) -> bool:
        return name in SKIPPED_FOLDERS or self._hides(name) or self._excludes(folder, name)

    def _leads_back(self, folder: os.DirEntry[str]) -> bool:
        """Whether this is a link to a folder that the walk also reaches without it.

        Otherwise the paths of its files would depend on which of the two sorts first.
        """
        if not folder.is_symlink():
            return False
        target = os.path.realpath(folder.path)
        inside = target.removeprefix(os.path.join(self._real_root, ""))
        if inside == target:
            return target == self._real_root
        return not any(self._skips_folder(*step) for step in _steps(inside))


@dataclass(slots=True)
class _Listing:
    """One folder as the disk lists it, before the sizes and times of its files are known."""

    path: str
    device: int | None = None
    media: list[Medium] = field(default_factory=list)
    subfolders: list[os.DirEntry[str]] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    others: dict[Format, int] = field(default_factory=dict)
    unknown: dict[str, list[str]] = field(default_factory=dict)
    possible_companions: dict[str, os.DirEntry[str]] = field(default_factory=dict)
    """By name, the files whose endings are in COMPANION_ENDINGS."""
    companions: dict[str, list[str]] = field(default_factory=dict)
    """Name of a file → the names of its companions."""


def device_of(path: str) -> int:
    """The device (st_dev) that a path lies on, in 64 bits with a sign, as databases have them.

    Raises:
        OSError: there is nothing at the path, or it cannot be read.
    """
    return _signed(os.stat(path).st_dev)


def _signed(device: int) -> int:
    return device - 2**64 if device >= 2**63 else device  # Windows' serial numbers take 64 bits


def is_away(root: str, device: int, below: str = "") -> bool:
    """Whether a folder is away with its disk, rather than deleted.

    Args:
        root: The source that it is or lies in, which is away if it is missing or an empty mount
            point; hidden files in that do not count.
        device: That the folder was on.
        below: The folder, relative to the root, if it was on another disk than that.
    """
    if not os.path.isdir(root):
        return True
    place = _nearest(root, below)
    now = device_of(place)
    if now == device:
        return False
    if below and now == device_of(root):
        return True
    return not lists_anything(place)


def is_mounted(root: str, below: str, device: int) -> bool:
    """Whether the disk that a folder was on is there: what is not on it has been deleted then.

    A mount point that lists nothing at all may be one whose server does not answer.
    """
    place = _nearest(root, below)
    try:
        if device_of(place) != device:
            return False
        with os.scandir(place) as entries:
            return next(entries, None) is not None or not os.path.ismount(place)
    except OSError:
        return False


def device_now(root: str, below: str) -> int | None:
    """The device of a folder below a root, or where it would be; None if that cannot be read."""
    try:
        return device_of(_nearest(root, below))
    except OSError:
        return None


def _nearest(root: str, below: str) -> str:
    """A folder below a root, or the nearest folder above it that is there."""
    place = os.path.normpath(os.path.join(root, below)) if below else root
    while len(place) > len(root) and not os.path.isdir(place):
        place = os.path.dirname(place)
    return place if len(place) > len(root) else root


def lists_anything(folder: str) -> bool:
    """Whether a folder lists more than hidden files and folders without files of the user."""
    try:
        with os.scandir(folder) as entries:
            return not all(is_passed_over(entry.name) for entry in entries)
    except OSError:
        return True


def is_passed_over(path: str) -> bool:
    """Whether a walk without options skips a relative path, because of a name in it."""
    return any(name[0] == "." or name in SKIPPED_FOLDERS for name in path.split("/") if name)


def excluder(globs: Sequence[str]) -> Callable[[str], object] | None:
    """A function that is true of names and relative paths that match a glob; None without globs.

    A glob also matches itself literally: "[2020] Rome" means a folder of that name, not "2 Rome".
    """
    names = [glob.removeprefix("./").rstrip("/") for glob in globs]
    patterns = [regex for name in names for regex in (translate(name), rf"{re.escape(name)}\Z")]
    return re.compile("|".join(patterns)).match if patterns else None


def _stat_files(
    folder: str, media: Iterable[Medium]
) -> tuple[list[FileStat], list[tuple[str, str]]]:
    files: list[FileStat] = []
    failures: list[tuple[str, str]] = []
    prefix = f"{folder}/" if folder else ""
    has_texts = False
    make, earliest, latest = tuple.__new__, EARLIEST, LATEST  # locals take half the time
    for name, kind, entry in media:
        try:
            status = entry.stat()
        except OSError as error:
            broken = isinstance(error, FileNotFoundError) and entry.is_symlink()
            failures.append((prefix + name, "broken link" if broken else _reason(error)))
        else:
            if stat.S_ISREG(status.st_mode):
                has_texts = has_texts or kind == "text"
                size, mtime_ns, ctime_ns = status.st_size, status.st_mtime_ns, status.st_ctime_ns
                if not earliest <= mtime_ns <= latest >= ctime_ns:
                    mtime_ns, ctime_ns = storable_time(mtime_ns), storable_time(ctime_ns)
                found = prefix + name, kind, size, mtime_ns, None, None, ctime_ns, None, ()
                files.append(make(FileStat, found))
    return (_with_sidecars(files, len(prefix)) if has_texts else files), failures


def _with_companions(
    listing: _Listing, files: Sequence[FileStat], *, with_films: bool
) -> tuple[list[FileStat], dict[str, Film], list[tuple[str, str]]]:
    """The files of a folder with their companions; its films; (path, reason) of failures.

    Args:
        listing: The folder.
        files: Those to index, with their captions.
        with_films: Whether videos are indexed; if not, films are ignored.
    """
    name_at = len(listing.path) + 1 if listing.path else 0
    left_alone = RAW if with_films else RAW | {FILM}
    names = {name for some in listing.companions.values() for name in some}
    entries: list[Medium] = [
        (name, "video", listing.possible_companions[name])
        for name in sorted(names)
        if ending_of(name) not in left_alone
    ]
    found, failures = _stat_files(listing.path, entries)
    stats = {file.path[name_at:]: file for file in found}

    def joined(file: FileStat, *, film: bool = False) -> FileStat:
        names = listing.companions.get(file.path[name_at:], ())
        if not with_films or not film:
            names = [name for name in names if ending_of(name) != FILM]
        parts = [stats[name] for name in names if name in stats]
        if not parts:
            return file._replace(companions=tuple(names))
        return file._replace(
            sidecar_size=(file.sidecar_size or 0) + sum(part.size for part in parts),
            sidecar_mtime_ns=max(
                *(part.mtime_ns for part in parts), file.sidecar_mtime_ns or EARLIEST
            ),
            ctime_ns=max(*(part.ctime_ns or 0 for part in parts), file.ctime_ns or 0),
            companions=tuple(names),
        )

    whole, films = [], {}
    for file in files:
        own = listing.companions.get(file.path[name_at:])
        film = next(
            (stats[name] for name in own or () if name in stats and ending_of(name) == FILM), None
        )
        if film is not None:
            films[file.path] = joined(file), joined(film)
        whole.append(joined(file, film=film is not None) if own else file)
    return whole, films, failures


def _with_sidecars(files: Sequence[FileStat], name_at: int) -> list[FileStat]:
    """The files of a folder; a sidecar is part of its file's entry and has none of its own.

    Args:
        files: All of them, sidecars included.
        name_at: Where the name begins in a path.
    """
    by_name = {file.path[name_at:]: file for file in files}
    sidecars = _sidecars({name: file.kind for name, file in by_name.items()})
    for name, sidecar_name in sidecars.items():
        text = by_name[sidecar_name]
        file = by_name[name]
        by_name[name] = file._replace(
            sidecar_size=text.size,
            sidecar_mtime_ns=text.mtime_ns,
            sidecar_name=sidecar_name,
            ctime_ns=max(file.ctime_ns or 0, text.ctime_ns or 0),
        )
    names_of_sidecars = set(sidecars.values())
    return [file for name, file in by_name.items() if name not in names_of_sidecars]


def _sidecars(media: Mapping[str, Kind]) -> dict[str, str]:
    """Name → name of its sidecar text; of a.TXT and a.txt, the last."""
    texts = {name[:-4]: name for name in media if name[-4:].lower() == ".txt"}
    if not texts:
        return {}
    return {
        name: texts[stem]
        for name, kind in media.items()
        if kind in CAPTIONED and (stem := name.rpartition(".")[0]) in texts
    }


def _steps(path: str) -> Iterator[tuple[str, str]]:
    """(folder, name) of each folder above a path, from the top down, and of the path itself."""
    names = path.replace(os.sep, "/").split("/") if path else []
    return (("/".join(names[:depth]), name) for depth, name in enumerate(names))


def _under(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, say; `_stat_files` reports why
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _inode(place: str) -> tuple[int, int] | None:
    try:
        status = os.stat(place)
    except OSError:
        return None
    return _signed(status.st_dev), status.st_ino


def _normalised(root: str, below: str) -> str:
    """`below`, relative to `root` and "" for the root itself; PathNotFound unless it exists."""
    if not os.path.isdir(root):
        raise PathNotFound(f"{root} is not a folder")
    path = os.path.normpath(below).replace(os.sep, "/") if below else ""
    outside = os.path.isabs(path) or path.split("/")[0] == ".."
    if outside or not os.path.isdir(os.path.join(root, path)):
        raise PathNotFound(f"there is no folder {below} in {root}")
    return "" if path == "." else path


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
