"""`--preview` and `--open`: thumbnails in the terminal, and a hit in the system's viewer."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Literal, NamedTuple

from mmsearch.cli.console import out, say, terminal
from mmsearch.cli.render import label_of
from mmsearch.errors import InvalidQuery, MissingExtra, MMSearchError, PathNotFound
from mmsearch.media.kinds import kind_of
from mmsearch.media.members import exists, member_at

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmsearch.types import Hit

Protocol = Literal["kitty", "iterm2", "sixel"]
"""The graphics protocol of a terminal."""


class Screen(NamedTuple):
    """A terminal that can show pictures."""

    protocol: Protocol
    columns: int
    rows: int
    cell: tuple[int, int]
    """Pixels of a character, width and height."""


class _Drawing(NamedTuple):
    """A picture as escape sequences."""

    data: str
    """Written first; the position of the cursor does not matter."""
    lines: list[str]
    """Written below each other, from the upper left corner of the picture."""
    height: int
    """In characters."""


TILE_COLUMNS, TILE_ROWS, GAP = 20, 12, 2
"""The least width of a tile, the largest height of its picture, and what is between tiles."""
MOST_PIXELS = 100
"""The pixels of a character, wide or high, that are believed; a larger number is no answer."""
ANSWER_TIMEOUT = 1.0
"""The longest wait for a terminal's answer, which takes milliseconds, and more over a slow
connection. What comes later would appear at the prompt."""

_END = "\x18\x1b\\\x1b[m\n"
"""Ends whatever escape sequence a terminal is in (CAN, ST), and its colours."""

# ---------------------------------------------------------------------- thumbnails


def check_installed() -> None:
    """Check that the package for drawing pictures is installed.

    Raises:
        MissingExtra: it is not.
    """
    if find_spec("textual_image") is None:
        raise MissingExtra("--preview", "preview")


def show_thumbnails(hits: Sequence[Hit]) -> None:
    """Print the hits' thumbnails side by side, each above its rank, name and date.

    Hits without a picture follow, a line each. If the output is not a terminal that can show
    pictures, a line on stderr says so.
    """
    if not terminal():
        say("no pictures: the output is not a terminal")
        return
    if (screen := screen_of()) is None:
        say("no pictures: this terminal cannot show them (Kitty, iTerm2 and those with sixel can)")
        return
    number = max(1, (screen.columns + GAP) // (TILE_COLUMNS + GAP))
    width = max(1, (screen.columns + GAP) // number - GAP)
    # room for the labels and a line below: a picture at the lower end of the screen would scroll
    height = max(1, min(TILE_ROWS, screen.rows - 4))
    box = (width * screen.cell[0], min(height * screen.cell[1], width * screen.cell[0] * 3 // 4))
    without = []

    def pictured() -> Iterator[tuple[Hit, Image]]:
        for hit in hits:
            if (picture := _thumbnail(hit, box)) is None:
                without.append(hit)
            else:
                yield hit, picture

    pictures = pictured()
    try:
        while row := list(islice(pictures, number)):
            drawings = [_draw(picture, screen) for _, picture in row]
            out(_row(drawings, [label_of(hit) for hit, _ in row], width))
    except KeyboardInterrupt:
        # Ctrl-C cuts off what the terminal has not read yet; it would take what follows as a part
        # of the picture
        out(_END)
        raise
    out("".join(f"{'  '.join(filter(None, label_of(hit)))}\n" for hit in without))


def _thumbnail(hit: Hit, box: tuple[int, int]) -> Image | None:
    """A hit's picture, fitted into a box of (width, height) pixels; None if it has none."""
    from PIL import Image

    from mmsearch.media.open_media import open_file
    from mmsearch.media.thumbnails import thumbnail

    span = hit.span
    at = span.start if span and span.unit == "second" else None
    page = int(span.start) if span and span.unit == "page" else 1
    with suppress(MMSearchError, OSError), open_file(hit.path) as file:
        made = thumbnail(file, hit.modality, max(box), at=at, page=page)
        picture = Image.open(io.BytesIO(made))
        scale = min(box[0] / picture.width, box[1] / picture.height, 1)
        return picture.resize(
            (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        )
    return None


def _row(drawings: Sequence[_Drawing], labels: Sequence[tuple[str, str]], width: int) -> str:
    """Pictures side by side, and below them their labels."""
    from rich.cells import set_cell_size

    height = max(one.height for one in drawings)
    parts = [one.data for one in drawings]
    # scroll first, so that nothing scrolls between saving and restoring the cursor
    parts += ["\n" * (height + len(labels[0])), f"\x1b[{height + len(labels[0])}A"]
    for place, drawing in enumerate(drawings):
        for number, line in enumerate(drawing.lines):
            right, down = place * (width + GAP), height - drawing.height + number
            move = (f"\x1b[{down}B" if down else "") + (f"\x1b[{right}C" if right else "")
            parts.append(f"\x1b7{move}{line}\x1b8")
    parts.append("\n" * height)
    for texts in zip(*labels, strict=True):
        cells = (set_cell_size(text, width) for text in texts)
        parts.append((" " * GAP).join(cells).rstrip() + "\n")
    return "".join(parts) + "\n"


def _draw(picture: Image, screen: Screen) -> _Drawing:
    """A picture as the escape sequences of a terminal."""
    from PIL import ImageOps

    wide = max(1, round(picture.width / screen.cell[0]))
    high = max(1, round(picture.height / screen.cell[1]))
    # cropped to whole characters, not distorted
    picture = ImageOps.fit(picture, (wide * screen.cell[0], high * screen.cell[1]))
    if screen.protocol == "iterm2":
        jpeg = io.BytesIO()
        picture.save(jpeg, "JPEG", quality=85)
        about = f"size={jpeg.tell()};width={wide};height={high};inline=1"
        data = b64encode(jpeg.getvalue()).decode()
        return _Drawing("", [f"\x1b]1337;File={about}:{data}\a"], high)
    from rich.console import Console

    with _no_terminal(screen.cell) as written:
        from textual_image.renderable import SixelImage, TGPImage

        kind = TGPImage if screen.protocol == "kitty" else SixelImage
        # Kitty's lines encode the number of the picture as their colour
        console = Console(
            file=written,
            force_terminal=True,
            color_system="truecolor",
            legacy_windows=False,
            no_color=False,
            width=max(wide, screen.columns),
            height=screen.rows,
        )
        console.print(kind(picture, wide, high), end="")
    text = written.getvalue()
    if screen.protocol == "sixel":  # strip the cursor movements around it
        sixels = re.search(r"\x1bP.*?\x1b\\", text, re.DOTALL)
        return _Drawing("", [sixels[0]] if sixels else [], high)
    data, _, shown = text.rpartition("\x1b\\")
    return _Drawing(f"{data}\x1b\\", shown.splitlines(), high)


@contextmanager
def _no_terminal(cell: tuple[int, int]) -> Iterator[io.StringIO]:
    """Collect what textual-image writes, and keep it from querying the terminal.

    It queries it at its import, and for the size of a character, without waiting for slow answers,
    which then appear at the prompt; and it writes Kitty's pictures to the real stdout.
    """
    written = io.StringIO()
    real, environment = sys.__stdout__, os.environ.copy()
    sys.__stdout__ = written  # type: ignore[assignment, misc]
    os.environ["TEXTUAL_CELL_WIDTH"] = str(cell[0])
    os.environ["TEXTUAL_CELL_HEIGHT"] = str(cell[1])
    try:
        yield written
    finally:
        sys.__stdout__ = real  # type: ignore[misc]
        for name in ("TEXTUAL_CELL_WIDTH", "TEXTUAL_CELL_HEIGHT"):
            os.environ.pop(name)
            if name in environment:
                os.environ[name] = environment[name]


# ---------------------------------------------------------------------- what a terminal can show

_QUERIES = b"\x1b[>q\x1b[16t\x1b[c"
"""Name (XTVERSION), pixels of a character, attributes (DA1). Nearly all terminals answer the last,
which ends the wait. Kitty's own query is left out: Terminal.app would print it."""
_ATTRIBUTES = re.compile(rb"\x1b\[\?([\d;]*)c")
_SIXEL = b"4"
_WITHOUT_QUERIES = {"", "dumb", "linux"}
"""Values of TERM of terminals that answer no queries."""


def screen_of() -> Screen | None:
    """The terminal, if it can show pictures."""
    size = shutil.get_terminal_size()
    if sys.platform == "win32":
        # Windows Terminal reports no name, and places sixels as if characters had this size
        with _no_terminal((10, 20)):
            from textual_image.renderable.sixel import query_terminal_support
        return Screen("sixel", *size, (10, 20)) if query_terminal_support() else None
    of = os.environ.get
    if of("TERM", "") in _WITHOUT_QUERIES or of("TERM_PROGRAM") == "Apple_Terminal":
        return None
    answer, pixels = _answer()
    if (attributes := _ATTRIBUTES.search(answer)) is None:
        return None
    reported = re.search(rb"\x1bP>\|([^\x1b]*)\x1b", answer)
    name = reported[1].decode("ascii", "replace").lower() if reported else _name_in(os.environ)
    protocol: Protocol
    # Konsole and WezTerm support Kitty's protocol in part: not its placeholders in the text
    if name.startswith(("kitty", "ghostty")):
        protocol = "kitty"
    elif name.startswith("iterm2"):
        protocol = "iterm2"
    elif _SIXEL in attributes[1].split(b";")[1:]:
        protocol = "sixel"
    else:
        return None
    if (cell := re.search(rb"\x1b\[6;(\d{1,4});(\d{1,4})t", answer)) is not None:
        pixels = int(cell[2]), int(cell[1])
    return Screen(
        protocol, *size, pixels if all(0 < one <= MOST_PIXELS for one in pixels) else (10, 20)
    )


def _name_in(environment: Mapping[str, str]) -> str:
    """The terminal's name by environment variables; "" in tmux or screen, which inherit them."""
    term = environment.get("TERM", "")
    if term.startswith(("tmux", "screen")):
        return ""
    if "KITTY_WINDOW_ID" in environment:
        return "kitty"
    # ssh passes on the former
    if environment.get("LC_TERMINAL") == "iTerm2" or environment.get("TERM_PROGRAM") == "iTerm.app":
        return "iterm2"
    return term.removeprefix("xterm-")


def _answer() -> tuple[bytes, tuple[int, int]]:
    """The terminal's answer, and the (width, height) of a character in pixels, 0 if not known."""
    import fcntl
    import struct
    import termios
    import tty
    from select import select

    with suppress(OSError, termios.error), open("/dev/tty", "r+b", buffering=0) as file:
        if os.tcgetpgrp(file.fileno()) != os.getpgrp():
            return b"", (0, 0)  # a background process would be stopped (SIGTTOU)
        shape = fcntl.ioctl(file, termios.TIOCGWINSZ, bytes(8))
        rows, columns, width, height = struct.unpack("HHHH", shape)
        before = termios.tcgetattr(file)
        tty.setcbreak(file.fileno(), termios.TCSANOW)
        answer, until = b"", monotonic() + ANSWER_TIMEOUT
        try:
            file.write(_QUERIES)
            while not _ATTRIBUTES.search(answer):
                left = until - monotonic()
                if left <= 0 or not select([file], [], [], left)[0]:
                    break
                if not (read := file.read(1024)):
                    break
                answer += read
        finally:
            # an incomplete answer is flushed: it would appear at the prompt
            whole = _ATTRIBUTES.search(answer)
            termios.tcsetattr(file, termios.TCSADRAIN if whole else termios.TCSAFLUSH, before)
        return answer, (width // max(columns, 1), height // max(rows, 1))
    return b"", (0, 0)


# ---------------------------------------------------------------------- the system's viewer


def open_hit(hits: Sequence[Hit], rank: int) -> None:
    """Open a hit's file with the system's viewer, without waiting for its end.

    Raises:
        InvalidQuery: no hit has this rank.
        PathNotFound: its file is gone.
        MMSearchError: it cannot be opened.
    """
    hit = next((one for one in hits if one.rank == rank), None)
    if hit is None:
        raise InvalidQuery(
            f"--open {rank}: the hits have the ranks {hits[0].rank} to {hits[-1].rank}"
        )
    path = os.path.abspath(hit.path)
    if (member := member_at(path)) is not None and exists(path):
        raise MMSearchError(
            f"{hit.path!r} lies in {os.path.basename(member[0])!r}, and programs open whole "
            "files: take it out first, or see it with --preview"
        )
    if not os.path.isfile(path):
        raise PathNotFound(
            f"{hit.path!r} is gone: bring the index up to date (mmsearch index), or mount its disk"
        )
    if kind_of(path) is None:  # an imported path may be an executable
        raise MMSearchError(f"{hit.path!r} is not opened: its ending is not that of a media file")
    if sys.platform == "win32":
        os.startfile(path)  # noqa: S606 - as a click on it
        return
    command = "open" if sys.platform == "darwin" else "xdg-open"
    if (program := shutil.which(command)) is None:
        raise MMSearchError(f"--open needs the program {command} (in most systems, of xdg-utils)")
    silent = subprocess.DEVNULL
    viewer = subprocess.Popen(  # noqa: S603 - no shell; the path is absolute
        [program, path], stdin=silent, stdout=silent, stderr=silent, start_new_session=True
    )
    with suppress(subprocess.TimeoutExpired):  # some run as long as the viewer
        if code := viewer.wait(ANSWER_TIMEOUT):
            raise MMSearchError(
                f"{command} cannot open {hit.path!r} (exit code {code}): is there a program for it?"
            )
