"""Processes that are killed or interrupted in the middle of indexing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from conftest import paint

import mmsearch
from mmsearch.storage.sqlite import Catalog

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")

PATIENCE = 300
"""Seconds after which a process hangs: far more than it takes on a machine that is busy."""

SLOW_TOY = """
import signal, sys, time
sys.path.insert(0, {tests!r})
from conftest import Preferred, ToyEncoder
from mmsearch.cli.app import main
from mmsearch.encoders.registry import REGISTRY

class Slow(ToyEncoder):
    def encode(self, modality, batch):
        if modality == "image":  # typical texts are many, and make no difference here
            time.sleep(0.5)
        return super().encode(modality, batch)

REGISTRY["toy"] = Preferred("toy", Slow)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
sys.argv = ["mmsearch", *sys.argv[1:]]
main()
"""


def start(*arguments: str) -> subprocess.Popen[bytes]:
    script = SLOW_TOY.format(tests=str(Path(__file__).parent))
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def output_of(child: subprocess.Popen[bytes]) -> str:
    """What a process wrote to stderr, once it has ended; if it hangs, the test fails with where."""
    try:
        _, said = child.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGABRT)
        _, said = child.communicate()
        pytest.fail(f"it hangs:\n{said.decode()}")
    return said.decode()


def wait_for_items(child: subprocess.Popen[bytes], folder: Path, at_least: int) -> None:
    """Wait until a process has stored so many items; it fails if the process ends before."""
    limit = time.monotonic() + PATIENCE
    while child.poll() is None and time.monotonic() < limit:
        with suppress(mmsearch.MMSearchError):  # there is no catalog yet, or it is just being made
            if (folder / "catalog.db").exists():
                with closing(Catalog(folder / "catalog.db")) as catalog:
                    if len(catalog) >= at_least:
                        return
        time.sleep(0.1)  # opening the catalog all the time would take a processor from the child
    child.kill()
    pytest.fail(f"nothing was stored:\n{output_of(child)}")


def content(library: mmsearch.Collection) -> list[tuple[str, bytes]]:
    """(path, vector) of every item, ids aside."""
    ids, rows, _ = library.store.vectors.of(library.index.serving()[0][0], "image")
    paths = {item.id: item.path for item in library.items}
    return sorted((paths[i], row.tobytes()) for i, row in zip(ids.tolist(), rows, strict=True))


@pytest.fixture
def many(tmp_path: Path) -> Path:
    for number in range(200):
        paint(tmp_path / "many" / f"{number:03}.png", ("red", "green", "blue")[number % 3], (9, 9))
        with (tmp_path / "many" / f"{number:03}.png").open("ab") as file:
            file.write(bytes([number]))  # no two have the same content
    return tmp_path / "many"


def test_a_killed_run_loses_nothing_that_was_stored_and_is_continued(toy, many, tmp_path):
    child = start("index", str(many), "-i", f"{tmp_path}/idx/")
    wait_for_items(child, tmp_path / "idx", 32)
    child.kill()
    child.communicate()
    with mmsearch.open(tmp_path / "idx") as library:
        kept = content(library)
        assert 32 <= len(kept) < 200
        report = library.add(many)
        assert report.unchanged == len(kept)
        assert report.added == 200 - len(kept)
        after = content(library)
    assert set(kept) <= set(after)
    with mmsearch.index(many, into=tmp_path / "undisturbed") as other:
        assert after == content(other)
    assert np.isfinite(np.frombuffer(after[0][1], dtype=np.float32)).all()


def test_ctrl_c_ends_with_130_one_line_and_what_was_stored(toy, many, tmp_path):
    child = start("index", str(many), "-i", f"{tmp_path}/idx/")
    wait_for_items(child, tmp_path / "idx", 32)
    child.send_signal(signal.SIGINT)
    (line,) = output_of(child).splitlines()
    assert child.returncode == 130
    assert line.startswith("interrupted: added ")
    with mmsearch.open(tmp_path / "idx") as library:
        assert f"added {len(library)}," in line
        assert len(library) >= 32


def test_searching_goes_on_while_another_process_indexes(toy, many, tmp_path):
    child = start("index", str(many), "-i", f"{tmp_path}/idx/")
    wait_for_items(child, tmp_path / "idx", 32)
    with mmsearch.open(tmp_path / "idx") as library:
        while child.poll() is None:
            hits = library.search("red", k=5)
            assert len(hits) == 5
            assert hits[0].score == pytest.approx(hits[4].score)
        assert len(library) == 200
    child.communicate()


def test_of_two_runs_at_once_the_second_is_told_of_the_first(toy, many, tmp_path):
    first = start("index", str(many), "-i", f"{tmp_path}/idx/")
    wait_for_items(first, tmp_path / "idx", 32)
    second = start("index", str(many), "-i", f"{tmp_path}/idx/")
    assert f"pid {first.pid} on " in output_of(second)
    output_of(first)
    assert (second.returncode, first.returncode) == (5, 0)
    with mmsearch.open(tmp_path / "idx") as library:
        assert len({item.path for item in library.items}) == len(library) == 200


def test_ctrl_c_while_modules_are_imported_ends_with_130_and_one_line(tmp_path):
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
    child = subprocess.run(
        [sys.executable, "-m", "mmsearch", "status"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 130
    assert child.stderr == "mmsearch: interrupted\n"
