"""Finds the files under a folder that can be indexed, folder by folder, in a stable order.

An unchanged collection costs one walk and nothing else, so the disk is asked once about a file.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from fnmatch import translate
from typing import TYPE_CHECKING, NamedTuple

from mmsearch.errors import PathNotFound
from mmsearch.media.kinds import EXTENSIONS, kind_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mmsearch.types import Kind

    Medium = tuple[str, Kind, os.DirEntry[str]]
    """The name of what may be a file to index, its kind, and its entry."""

CAPTIONED: frozenset[Kind] = frozenset({"image", "audio", "video"})
"""What may have captions; texts and documents speak for themselves."""

_BINS = {"#recycle", "@Recycle", "$RECYCLE.BIN", ".Trashes", "lost+found"}
_THUMBNAILS = {"@eaDir", ".thumbnails"}
_CODE = {".git", ".hg", ".svn", "node_modules", "__pycache__"}
_SYSTEM = {"__MACOSX", "System Volume Information"}
SKIPPED_FOLDERS = frozenset(_BINS | _THUMBNAILS | _CODE | _SYSTEM)
"""Folders that hold no one's photos; skipped wherever they are met, hidden files wanted or not."""


class FileStat(NamedTuple):
    """One file that can be indexed: a tuple, as a hundred thousand are made in a second."""

    path: str
    """Relative to the root, "/" separated; a name that is not UTF-8 holds surrogate escapes."""
    kind: Kind
    size: int
    """Bytes."""
    mtime_ns: int
    sidecar: tuple[int, int] | None
    """(size, mtime_ns) of `photo.txt` beside `photo.jpg`; not of texts and documents."""
    sidecar_name: str | None
    """How that text is written: photo.txt, photo.TXT."""


@dataclass(frozen=True, slots=True)
class Folder:
    """What one folder holds, without what lies in its subfolders."""

    path: str
    """Relative to the root; "" for the root itself."""
    files: list[FileStat]
    """Sorted by name."""
    failures: list[tuple[str, str]]
    """(path relative to the root, reason) of the folder itself or of files in it."""
    complete: bool
    """False when the folder was not listed wholly: nothing below it may be taken for deleted."""
    others: Mapping[Kind, int]
    """How many files could be indexed, but are of an ending that was not asked for."""


def walk(
    root: str | Path,
    below: str = "",
    *,
    exclude: Sequence[str] = (),
    include_hidden: bool = False,
    endings: Collection[str] = EXTENSIONS,
) -> Iterator[Folder]:
    """Every folder from `root` down, depth first and sorted, with its files.

    Links to files are followed, and so are links to folders that lead out of `root`; a link to
    a folder that is walked anyway is not, so no photo comes twice and no loop is entered.

    Args:
        root: An existing folder; walked even when it is hidden or in SKIPPED_FOLDERS.
        below: A folder under `root`, relative to it, to look at alone.
        exclude: Shell globs, matched against bare names of files and folders and against their
            paths relative to the folder that is looked at.
        include_hidden: Whether to look at names that begin with a dot.
        endings: Which of EXTENSIONS to look for.

    Raises:
        PathNotFound: `root` is no folder, or there is no folder `below` under it.
    """
    root = os.fspath(root)
    below = _checked(root, below)
    skips = _Skips(exclude, below, include_hidden=include_hidden, endings=endings)
    return _folders(root, below, skips)


def count(
    root: str | Path,
    below: str = "",
    *,
    exclude: Sequence[str] = (),
    include_hidden: bool = False,
    endings: Collection[str] = EXTENSIONS,
) -> int:
    """The number of files `walk` would list, told from names alone wherever the disk allows.

    Args and Raises are those of `walk`. A file that `walk` fails to ask for its size counts.
    """
    root = os.fspath(root)
    below = _checked(root, below)
    skips = _Skips(exclude, below, include_hidden=include_hidden, endings=endings)
    total = 0
    for listing in _listings(root, below, skips):
        media = _regular(listing.media)
        total += len(media) - len(set(_sidecars(media).values()))
    return total


def is_away(root: str, device: int) -> bool:
    """Whether a folder that was on `device` (its st_dev) is gone or an empty mount point now."""
    if not os.path.isdir(root):
        return True
    if os.stat(root).st_dev == device:
        return False
    with os.scandir(root) as entries:
        return next(entries, None) is None


def is_passed_over(path: str) -> bool:
    """Whether a walk with no options leaves out a relative path for one of the names in it."""
    return any(name[0] == "." or name in SKIPPED_FOLDERS for name in path.split("/") if name)


class _Skips:
    """Which names are passed over."""

    def __init__(
        self, exclude: Sequence[str], below: str, *, include_hidden: bool, endings: Collection[str]
    ) -> None:
        self._kinds = {ending: EXTENSIONS[ending] for ending in endings}
        globs = "|".join(translate(glob.removeprefix("./").rstrip("/")) for glob in exclude)
        self._above = f"{below}/" if below else ""
        self._excluded = re.compile(globs).match if globs else None
        self._include_hidden = include_hidden
        self.excludes_some = bool(globs)

    def wanted(self, name: str) -> Kind | None:
        dot = name.rfind(".")
        return self._kinds.get(name[dot:].lower()) if dot > 0 else None

    def hides(self, name: str) -> bool:
        # "._name" is macOS's resource fork of "name": no picture, hidden files wanted or not.
        return name[0] == "." and (not self._include_hidden or name.startswith("._"))

    def excludes(self, folder: str, name: str) -> bool:
        if self._excluded is None:
            return False
        path = _under(folder, name).removeprefix(self._above)
        return bool(self._excluded(name) or self._excluded(path))

    def skips_folder(self, folder: str, name: str) -> bool:
        return name in SKIPPED_FOLDERS or self.hides(name) or self.excludes(folder, name)

    def skips_way_to(self, path: str) -> bool:
        return any(self.skips_folder(*step) for step in _steps(path))


@dataclass(frozen=True, slots=True)
class _Listing:
    """One folder as the disk lists it, before its files are asked for size and time."""

    path: str
    media: list[Medium]
    subfolders: list[os.DirEntry[str]]
    failures: list[tuple[str, str]]
    others: dict[Kind, int]


def _folders(root: str, below: str, skips: _Skips) -> Iterator[Folder]:
    for listing in _listings(root, below, skips):
        files, failures = _stat_files(listing.path, listing.media)
        failures = listing.failures + failures
        yield Folder(listing.path, files, failures, not listing.failures, listing.others)


def _listings(root: str, below: str, skips: _Skips) -> Iterator[_Listing]:
    real_root = os.path.realpath(root)
    # Folders are remembered by inode: that is bounded by their number, and cuts loops as well as
    # second ways into one place, wherever links and mounts lead.
    visited = {_inode(root)} if below else set()
    pending = [below]
    while pending:
        path = pending.pop()
        inode = _inode(os.path.join(root, path))
        if inode in visited:
            continue
        if inode is not None:
            visited.add(inode)
        listing = _list(root, path, skips)
        yield listing
        pending.extend(
            _under(path, entry.name)
            for entry in reversed(listing.subfolders)
            if not _leads_back(entry, real_root, skips)
        )


def _list(root: str, folder: str, skips: _Skips) -> _Listing:
    entries: list[os.DirEntry[str]] = []
    failures: list[tuple[str, str]] = []
    try:
        with os.scandir(os.path.join(root, folder)) as listed:
            entries.extend(listed)
    except OSError as error:
        failures.append((folder, _reason(error)))
    media: list[Medium] = []
    subfolders = []
    others: dict[Kind, int] = {}
    wanted, excludes = skips.wanted, skips.excludes if skips.excludes_some else None
    for entry in entries:
        name = entry.name
        if name[0] == "." and skips.hides(name):
            continue
        if _is_folder(entry):
            if not skips.skips_folder(folder, name):
                subfolders.append(entry)
        elif excludes is not None and excludes(folder, name):
            continue
        elif kind := wanted(name):
            media.append((name, kind, entry))
        elif other := kind_of(name):
            others[other] = others.get(other, 0) + 1
    media.sort()
    subfolders.sort(key=lambda entry: entry.name)
    return _Listing(folder, media, subfolders, failures, others)


def _leads_back(folder: os.DirEntry[str], real_root: str, skips: _Skips) -> bool:
    """Whether this is a link to a folder that a walk of the root meets by its own name.

    Without this rule, a photo's path would depend on which of its folder's names sorts first.
    """
    if not folder.is_symlink():
        return False
    target = os.path.realpath(folder.path)
    inside = target.removeprefix(os.path.join(real_root, ""))
    if inside == target:
        return target == real_root
    return not skips.skips_way_to(inside.replace(os.sep, "/"))


def _stat_files(
    folder: str, media: Iterable[Medium]
) -> tuple[list[FileStat], list[tuple[str, str]]]:
    files: list[FileStat] = []
    failures: list[tuple[str, str]] = []
    start = f"{folder}/" if folder else ""
    texts = False
    for name, kind, entry in media:
        try:
            status = entry.stat()
        except OSError as error:
            broken = isinstance(error, FileNotFoundError) and entry.is_symlink()
            failures.append((start + name, "broken link" if broken else _reason(error)))
        else:
            if stat.S_ISREG(status.st_mode):
                texts = texts or kind == "text"
                size, mtime_ns = status.st_size, status.st_mtime_ns
                files.append(FileStat(start + name, kind, size, mtime_ns, None, None))
    return (_with_sidecars(files, len(start)) if texts else files), failures


def _with_sidecars(files: Sequence[FileStat], start: int) -> list[FileStat]:
    """The files of a folder, each text that is a sidecar put to the files it is about.

    Args:
        files: With paths, of which names begin at `start`.
        start: The length of what stands before a name.
    """
    by_name = {file.path[start:]: file for file in files}
    sidecars = _sidecars({name: file.kind for name, file in by_name.items()})
    taken = set(sidecars.values())
    found = []
    for name, file in by_name.items():
        if name in taken:
            continue
        if beside := sidecars.get(name):
            text = by_name[beside]
            sidecar = text.size, text.mtime_ns
            found.append(file._replace(sidecar=sidecar, sidecar_name=beside))
        else:
            found.append(file)
    return found


def _regular(media: Iterable[Medium]) -> dict[str, Kind]:
    """Name → kind of what is a file, by what the listing says (links are followed)."""
    return {name: kind for name, kind, entry in media if _is_file(entry)}


def _sidecars(media: Mapping[str, Kind]) -> dict[str, str]:
    """Name → name of the text beside it; of a.TXT and a.txt, the one that comes last."""
    texts = {name[:-4]: name for name in media if name[-4:].lower() == ".txt"}
    if not texts:
        return {}
    return {
        name: texts[stem]
        for name, kind in media.items()
        if kind in CAPTIONED and (stem := name.rpartition(".")[0]) in texts
    }


def _under(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _steps(path: str) -> Iterator[tuple[str, str]]:
    """(folder, name) of everything on the way down to `path`."""
    names = path.split("/") if path else []
    return (("/".join(names[:depth]), name) for depth, name in enumerate(names))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, say: asking it for its size tells the reason
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
    return status.st_dev, status.st_ino


def _checked(root: str, below: str) -> str:
    """`below`, normalised; "" for the root."""
    if not os.path.isdir(root):
        raise PathNotFound(f"{root} is not a folder")
    path = os.path.normpath(below).replace(os.sep, "/") if below else ""
    outside = os.path.isabs(path) or path.split("/")[0] == ".."
    if outside or not os.path.isdir(os.path.join(root, path)):
        raise PathNotFound(f"there is no folder {below} in {root}")
    return "" if path == "." else path


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
