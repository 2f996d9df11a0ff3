"""Thumbnails in a terminal, by the bytes that it gets; and hits in the system's viewer."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import select
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import COLOURS, Preferred, ToyEncoder, paint, tone
from PIL import Image
from test_media import film
from test_pdf import document, says
from typer.testing import CliRunner

import mmsearch
from mmsearch.cli import preview
from mmsearch.cli.app import app
from mmsearch.encoders.registry import REGISTRY
from mmsearch.errors import MMSearchError, PathNotFound
from mmsearch.types import Span

pytest.importorskip("textual_image")
pytest.importorskip("termios")


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory):
    """Three photos and a text, indexed."""
    folder = tmp_path_factory.mktemp("preview") / "album"
    for name in ("red", "green", "blue"):
        os.utime(paint(folder / f"{name}.png", name, (400, 300)), (0, 0))
    (folder / "sea.txt").write_text("red sea")
    os.utime(folder / "sea.txt", (0, 0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRY, "toy", Preferred("toy", ToyEncoder))
        patch.setenv("MMSEARCH_HOME", str(folder.parent / "home"))
        patch.delenv("MMSEARCH_INDEX", raising=False)
        mmsearch.index(folder).close()
        yield folder


def run(*words: str, code: int = 0):
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == code, (result.output, result.exception)
    return result


# ---------------------------------------------------------------------- a terminal

QUESTIONS = b"\x1b[>q\x1b[16t\x1b[c"
CELL = b"\x1b[6;20;10t"
IN_KITTY, IN_ITERM = {"KITTY_WINDOW_ID": "1"}, {"TERM_PROGRAM": "iTerm.app"}
TERMINALS = {
    "kitty": ({}, b"\x1bP>|kitty(0.36.4)\x1b\\" + CELL + b"\x1b[?62;c"),
    "iterm2": ({}, b"\x1bP>|iTerm2 3.5.10\x1b\\" + CELL + b"\x1b[?62;4c"),
    "sixel": ({}, b"\x1bP>|XTerm(390)\x1b\\" + CELL + b"\x1b[?64;1;2;4;22c"),
    "nameless kitty": (IN_KITTY, b"\x1b[?62;c"),
    "nameless iterm2": (IN_ITERM, b"\x1b[?62;c"),
    "nameless sixel": ({}, b"\x1b[?62;4;22c"),
    "sixel, started in kitty": (IN_KITTY, b"\x1bP>|foot(1.20.2)\x1b\\\x1b[?62;4;22c"),
    "tmux in kitty": (IN_KITTY | {"TERM": "tmux-256color"}, b"\x1b[?1;2c"),
    "plain": ({}, b"\x1bP>|VTE(7600)\x1b\\\x1b[?61;1;21;22c"),
    "sixel of giant characters": ({}, b"\x1b[6;9999;9999t\x1b[?62;4c"),
    "sixel of endless characters": ({}, b"\x1b[6;" + b"9" * 3000 + b";1t\x1b[?62;4c"),
    "silent": ({}, b""),
    "dumb": ({"TERM": "dumb"}, None),
}
"""The environment in terminals, and what they answer; None: they are not to be asked."""

CHILD = """
import fcntl, json, os, select, sys, termios, tty
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
import conftest
from mmsearch.cli import preview
from mmsearch.cli.app import main
from mmsearch.encoders.registry import REGISTRY

REGISTRY["toy"] = conftest.Preferred("toy", conftest.ToyEncoder)
preview.ANSWER_TIMEOUT = 0.3
environment = dict(os.environ)
for changes in json.loads(sys.argv[1]):
    os.environ.clear()
    os.environ.update(environment | changes)
    sys.argv[1:] = ["query", "red", "--in", "image,text", "--preview"]
    try:
        main()
    except SystemExit:
        pass
    before = termios.tcgetattr(0)
    tty.setcbreak(0, termios.TCSANOW)  # to read what is left, though no line has ended
    left = os.read(0, 99) if select.select([0], [], [], 0)[0] else b""
    termios.tcsetattr(0, termios.TCSANOW, before)
    assert not left, left
    os.write(1, b"<END>")
    sys.stdin.readline()
"""


def read_until(terminal: int, end: bytes, read: bytes = b"") -> bytes:
    while end not in read:
        assert select.select([terminal], [], [], 30)[0], read[-500:]
        read += os.read(terminal, 65536)
    return read


@pytest.fixture(scope="module")
def screens(album):
    """What `query --preview` writes to each of TERMINALS; one process for all."""
    import pty

    said = ("TERM_PROGRAM", "LC_TERMINAL", "KITTY_WINDOW_ID", "NO_COLOR")
    environment = {name: value for name, value in os.environ.items() if name not in said}
    environment |= {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    terminal, line = pty.openpty()
    # TIOCSCTTY makes it the terminal of the new session
    changes = json.dumps([changes for changes, _ in TERMINALS.values()])
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, changes],
        stdin=line,
        stdout=line,
        stderr=line,
        start_new_session=True,
        env=environment,
    )
    os.close(line)
    found = {}
    try:
        for name, (_, answer) in TERMINALS.items():
            read = b""
            if answer is not None:
                read = read_until(terminal, QUESTIONS).partition(QUESTIONS)[2]
                os.write(terminal, answer)
            found[name] = read_until(terminal, b"<END>", read)
            os.write(terminal, b"\n")
        assert child.wait(30) == 0
    finally:
        child.kill()
        child.wait()
        os.close(terminal)
    return {name: text.decode().removesuffix("<END>") for name, text in found.items()}


def colour_of(picture: Image.Image) -> str:
    pixel = picture.convert("RGB").resize((1, 1)).getpixel((0, 0))
    return min(
        COLOURS, key=lambda name: sum(abs(a - b) for a, b in zip(COLOURS[name], pixel, strict=True))
    )


def of_iterm2(text: str) -> list[Image.Image]:
    """The pictures in what iTerm2 gets."""
    found = re.findall(r"\x1b\]1337;File=[^:]*inline=1[^:]*:([^\a]*)\a", text)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


@pytest.mark.parametrize("name", ["kitty", "nameless kitty"])
def test_kitty_gets_each_picture_and_the_characters_that_stand_for_it(screens, name):
    pictures = {}
    for about, data in re.findall(r"\x1b_G([^;\x1b]*);([^\x1b]*)\x1b\\", screens[name]):
        number = re.search(r"i=(\d+)", about)[1]
        pictures[number] = pictures.get(number, "") + data
    shown = [Image.open(io.BytesIO(base64.b64decode(data))) for data in pictures.values()]
    assert colour_of(shown[0]) == "red"
    assert {colour_of(one) for one in shown} == {"red", "green", "blue"}
    for number in map(int, pictures):
        red, green, blue = (number >> 16) & 255, (number >> 8) & 255, number & 255
        assert f"\x1b[38;2;{red};{green};{blue}m\U0010eeee" in screens[name]


@pytest.mark.parametrize("name", ["iterm2", "nameless iterm2"])
def test_iterm2_gets_its_own_pictures(screens, name):
    shown = of_iterm2(screens[name])
    assert colour_of(shown[0]) == "red"
    assert len(shown) == 3


@pytest.mark.parametrize("name", [name for name in TERMINALS if "sixel" in name])
def test_other_terminals_get_sixels_if_they_take_them(screens, name):
    found = re.findall(r'\x1bP0;0;0q"1;1;(\d+);(\d+)#\d+;2;(\d+);(\d+);(\d+)', screens[name])
    assert len(found) == 3
    width, height, *percent = map(int, found[0])
    assert min(width, height) > 80
    assert max(width, height) < 1000
    assert percent == [round(value / 2.55) for value in COLOURS["red"]]


@pytest.mark.parametrize("name", ["plain", "silent", "tmux in kitty"])
def test_a_terminal_without_pictures_gets_one_line(screens, name):
    assert screens[name].endswith(
        "no pictures: this terminal cannot show them (Kitty, iTerm2 and those with sixel can)\r\n"
    )
    assert len(screens[name].splitlines()) == 1


@pytest.mark.parametrize("name", ["kitty", "iterm2", "sixel"])
def test_rank_name_and_date_stand_below_each_picture(screens, name):
    ranks, dates = (line.strip() for line in screens[name].splitlines() if " " * 5 in line)
    assert re.fullmatch(r"1  red.png +[23]  (green|blue).png +[34]  (green|blue).png", ranks)
    assert re.fullmatch(r"1970-01-01( +1970-01-01){2}", dates)


def test_a_terminal_that_would_print_questions_is_not_asked(screens):
    assert "\x1b[" not in screens["dumb"].replace("\x1b[0m", "").replace("\x1b[1m", "")
    assert "no pictures: this terminal cannot show them" in screens["dumb"]


# ---------------------------------------------------------------------- which pictures


@pytest.fixture
def show(monkeypatch, capfdbinary):
    """Returns the pictures, by the colour of each, and all that iTerm2 gets for some hits."""

    def shown(*hits, columns=80):
        monkeypatch.setattr(preview, "terminal", lambda: True)
        screen = preview.Screen("iterm2", columns, 24, (10, 20))
        monkeypatch.setattr(preview, "screen_of", lambda: screen)
        preview.show_thumbnails(hits)
        text = capfdbinary.readouterr().out.decode()
        return [colour_of(one) for one in of_iterm2(text)], text

    return shown


@pytest.fixture
def hit(album):
    with mmsearch.open() as library:
        return library.search("red", k=1, target="image")[0]


def test_a_video_is_shown_at_the_moment_of_the_hit(show, hit, tmp_path):
    path = str(film(tmp_path / "a.mp4", ("red", 4), ("blue", 5)))
    video = replace(hit, path=path, modality="video", span=Span(6, 8, "second"))
    colours, text = show(video)
    assert colours == ["blue"]
    assert "0:06.0–0:08.0" in text


def test_a_document_is_shown_at_the_page_of_the_hit(show, hit, tmp_path):
    blue = (300, 400, b"0 0 1 rg 0 0 300 400 re f", b"")
    (tmp_path / "a.pdf").write_bytes(document(says("white"), blue))
    path = str(tmp_path / "a.pdf")
    assert show(replace(hit, path=path, modality="document", span=Span(2, 2, "page")))[0] == [
        "blue"
    ]


def test_a_hit_without_a_picture_is_a_line_below(show, hit, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    without = [
        replace(hit, rank=2, path=str(tmp_path / "gone.png")),
        replace(hit, rank=3, path=str(tmp_path / "broken.png")),
        replace(hit, rank=4, path=str(tone(tmp_path / "low.wav", "low")), modality="audio"),
        replace(hit, rank=5, path=__file__, modality="text", span=Span(3, 4, "line")),
    ]
    colours, text = show(*without, hit)
    assert colours == ["red"]
    assert text.splitlines()[-4:] == [
        "2  gone.png  1970-01-01",
        "3  broken.png  1970-01-01",
        "4  low.wav  1970-01-01",
        "5  test_preview.py  1970-01-01  3-4",
    ]


@pytest.mark.parametrize(("columns", "rows"), [(10, 5), (40, 5), (64, 2), (110, 1)])
def test_as_many_pictures_stand_side_by_side_as_fit(show, hit, columns, rows):
    text = show(*[hit] * 5, columns=columns)[1]
    labels = [line for line in text.splitlines() if line.startswith("1  red.png")]
    assert len(labels) == rows
    assert all(len(line) <= columns for line in labels)


def test_an_interrupt_ends_the_picture_that_the_terminal_is_in(show, hit, monkeypatch, capfdbinary):
    written = []

    def cut(text):
        if "]1337;" in text:  # while the terminal reads it
            raise KeyboardInterrupt
        written.append(text)

    monkeypatch.setattr(preview, "out", cut)
    with pytest.raises(KeyboardInterrupt):
        show(hit)
    assert written == ["\x18\x1b\\\x1b[m\n"]


def test_a_name_with_an_escape_sequence_does_nothing_to_the_terminal(show, hit):
    assert "\\x1b]0;x" in show(replace(hit, path="/\x1b]0;x\a.png"))[1]


# ---------------------------------------------------------------------- no terminal


@pytest.mark.parametrize("command", ["query", "similar"])
def test_piped_output_stays_as_it_is(album, command):
    what = "red" if command == "query" else str(album / "red.png")
    piped = run(command, what, "--preview")
    assert piped.stdout == run(command, what).stdout
    assert "no pictures: the output is not a terminal\n" in piped.stderr


@pytest.mark.usefixtures("album")
def test_without_its_package_a_preview_is_an_error_that_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(preview, "find_spec", lambda name: None)
    said = run("query", "red", "--preview", code=2)
    assert "pip install 'mmsearch[preview]'" in said.stderr
    assert not said.stdout


@pytest.mark.usefixtures("album")
def test_a_query_without_a_preview_imports_nothing_of_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "mmsearch.cli.preview")
    run("query", "red")
    assert "mmsearch.cli.preview" not in sys.modules


# ---------------------------------------------------------------------- the system's viewer


@pytest.fixture
def viewer(tmp_path, monkeypatch):
    """A viewer that notes what it is to open; returns the note, and how it ends can be set."""
    name = "open" if sys.platform == "darwin" else "xdg-open"
    program, note = tmp_path / "bin" / name, tmp_path / "note"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s|" "$@" > {note}\nexit ${{EXIT:-0}}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return note


@pytest.mark.parametrize("command", ["query", "similar"])
def test_the_hit_of_a_rank_is_opened_after_all_are_printed(album, viewer, command):
    what = "green" if command == "query" else str(album / "green.png")
    words = [command, what, "--in", "image", "-k", "2"]
    plain = run(*words, "--paths").stdout
    for rank, path in enumerate(plain.splitlines(), 1):
        assert run(*words, "--open", str(rank), "--paths").stdout == plain
        assert viewer.read_text() == f"{path}|"


def test_ranks_go_on_over_pages(album, viewer):
    words = ["query", "green", "--in", "image", "-k", "1", "--offset", "1", "--paths"]
    path = run(*words, "--open", "2").stdout.strip()
    assert viewer.read_text() == f"{path}|"
    assert "--open 1: the hits have the ranks 2 to 2" in run(*words, "--open", "1", code=2).stderr


def test_what_a_shell_would_read_is_a_name(hit, viewer, tmp_path):
    path = paint(tmp_path / "$(touch x) & -;'a.png", "red")
    preview.open_hit([replace(hit, path=str(path))], 1)
    assert viewer.read_text() == f"{path}|"


@pytest.mark.usefixtures("viewer")
def test_a_file_that_is_gone_is_not_opened(hit, tmp_path):
    with pytest.raises(PathNotFound, match="is gone: bring the index up to date"):
        preview.open_hit([replace(hit, path=str(tmp_path / "gone.png"))], 1)


@pytest.mark.usefixtures("viewer")
def test_a_program_is_not_opened(hit):
    with pytest.raises(MMSearchError, match="not that of a media file"):
        preview.open_hit([replace(hit, path=__file__)], 1)


@pytest.mark.usefixtures("viewer")
def test_a_viewer_that_fails_is_an_error(hit, monkeypatch):
    monkeypatch.setenv("EXIT", "3")
    with pytest.raises(MMSearchError, match=r"cannot open .*red.png' \(exit code 3\)"):
        preview.open_hit([hit], 1)


def test_without_a_viewer_the_error_names_it(hit, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MMSearchError, match="open needs the program"):
        preview.open_hit([hit], 1)
