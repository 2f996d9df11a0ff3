"""What is shown of how far a long run is."""

from __future__ import annotations

import io
import sys

import pytest

from mmsearch.cli import console
from mmsearch.cli.console import progress_bar


class Clock:
    """Told what time it is."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(console, "monotonic", made)
    monkeypatch.setattr("tqdm.std.time", made)
    return made


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(capsys) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_the_rate_and_the_time_left_follow_what_is_done_lately(clock, capsys):
    with progress_bar(" files", quiet=False) as tell:
        for second in range(300):  # a thousand unchanged files a second, then ten new ones
            clock.now = float(second)
            tell(1000 * min(second, 200) + 10 * max(0, second - 200), 220_000)
    assert "200900/220000 files [04:50<31:49, 10.00 files/s]" in lines(capsys)[-1]


def test_something_else_being_counted_is_no_step_back(clock, capsys):
    with progress_bar(" files", quiet=False) as tell:
        for second, done in enumerate([0, 900, 0, 40, 80, 120, 160, 200, 240, 280, 320]):
            clock.now = float(second)
            tell(done, None)
    (line,) = lines(capsys)
    assert line.startswith("320 files [00:10, ")
    assert "-" not in line


def test_a_log_gets_a_line_every_ten_seconds(clock, capsys):
    with progress_bar(" files", quiet=False, limiting=lambda: "decode") as tell:
        for second in range(25):
            clock.now = float(second)
            tell(100 * second, 10_000)
    assert lines(capsys) == [
        "1000/10000 files [00:10<01:30, 100.00 files/s, limited by decoding]",
        "2000/10000 files [00:20<01:20, 100.00 files/s, limited by decoding]",
    ]


def test_a_line_says_what_is_known(clock, capsys):
    with progress_bar(" files", quiet=False) as tell:
        clock.now = 20.0
        tell(300, None)
    assert lines(capsys) == ["300 files [00:20, 15.00 files/s]"]


def test_a_short_run_says_nothing_in_a_log(clock, capsys):
    with progress_bar(" files", quiet=False) as tell:
        clock.now = 9.0
        tell(7, 7)
    assert lines(capsys) == []


def test_quiet_says_nothing_at_all(clock, capsys):
    with progress_bar(" files", quiet=True) as tell:
        for second in range(100):
            clock.now = float(second)
            tell(second, 100)
    assert lines(capsys) == []


def test_a_terminal_gets_a_bar_with_rate_time_left_and_the_limiting_stage(monkeypatch, clock):
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    with progress_bar(" files", quiet=False, limiting=lambda: "encode") as tell:
        for second in range(1, 4):
            clock.now = float(second)
            tell(50 * second, 1000)
    said = shown.getvalue()
    assert "15%|" in said
    assert "150/1000 files [00:03<00:17, 50.00 files/s, limited by encoding]" in said
