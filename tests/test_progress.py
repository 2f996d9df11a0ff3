"""What is shown of how far a long run is."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.cli import console
from mmsearch.cli.console import Pace, progress_bar


class Clock:
    """Told what time it is."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(console, "monotonic", made)
    return made


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_rate_is_that_of_the_last_half_minute():
    clock = Clock()
    pace = Pace(clock)
    for second in range(300):  # a thousand unchanged files a second, then ten new ones
        clock.now = float(second)
        pace.note(1000 * min(second, 200) + 10 * max(0, second - 200))
    assert pace.rate == pytest.approx(10)


def test_the_time_left_follows_from_it():
    clock = Clock()
    pace = Pace(clock)
    pace.note(0)
    clock.now = 10.0
    pace.note(500)
    assert pace.said(10_500) == "50 a second, 3 min left"
    assert pace.said(None) == "50 a second"


def test_nothing_is_said_before_the_rate_can_be_told():
    assert Pace(Clock()).said(5) == ""


def test_something_else_being_counted_begins_anew():
    clock = Clock()
    pace = Pace(clock)
    for second, done in enumerate([0, 900, 0, 5]):
        clock.now = float(second)
        pace.note(done)
    assert pace.rate == 5


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 1000)), max_size=200))
def test_a_rate_is_never_below_nothing_nor_above_the_most_at_once(steps):
    clock = Clock()
    pace = Pace(clock)
    done = 0
    for seconds, more in steps:
        clock.now += seconds
        done += more
        pace.note(done)
        assert pace.rate >= 0
    assert len(pace._seen) <= 70


def test_a_log_gets_a_line_every_ten_seconds(clock, capsys):
    with progress_bar(" files", quiet=False, limiting=lambda: "decode") as tell:
        for second in range(25):
            clock.now = float(second)
            tell(100 * second, 10_000)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "1,000 of 10,000 files, 100 a second, 90 s left, limited by decoding",
        "2,000 of 10,000 files, 100 a second, 80 s left, limited by decoding",
    ]


def test_a_line_says_what_is_known(clock, capsys):
    with progress_bar(" files", quiet=False) as tell:
        clock.now = 11.0
        tell(7, None)
    assert capsys.readouterr().err.splitlines() == ["7 files"]


def test_a_short_run_says_nothing_in_a_log(clock, capsys):
    with progress_bar(" files", quiet=False) as tell:
        clock.now = 9.0
        tell(7, 7)
    assert capsys.readouterr().err == ""


def test_quiet_says_nothing_at_all(clock, capsys):
    with progress_bar(" files", quiet=True) as tell:
        for second in range(100):
            clock.now = float(second)
            tell(second, 100)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_with_rate_time_left_and_the_limiting_stage(monkeypatch, clock):
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr("tqdm.std.time", clock)
    with progress_bar(" files", quiet=False, limiting=lambda: "encode") as tell:
        for second in range(1, 4):
            clock.now = float(second)
            tell(50 * second, 1000)
    said = shown.getvalue()
    assert "files" in said
    assert "50 a second" in said
    assert "limited by encoding" in said
