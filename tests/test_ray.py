"""Indexing by Ray's workers: the same vectors, nothing lost in silence, clear errors."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from conftest import paint, tone
from typer.testing import CliRunner

import mmsearch
from mmsearch.cli.app import app
from mmsearch.errors import InvalidOption, MissingExtra
from mmsearch.indexing import ray_pipeline

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")

KILLING = """
import os
from mmsearch.indexing import decoder

decode = decoder.Decoder.__call__

def kill(self, scanned, **how):
    if scanned.name == "killer.png":
        os.kill(os.getpid(), 9)
    return decode(self, scanned, **how)

decoder.Decoder.__call__ = kill
"""
"""What workers run when they start: one file kills whoever reads it."""

INTERRUPTED = """
import mmsearch, ray

def interrupt(done, total):
    if done == 4:  # a block is stored
        raise KeyboardInterrupt

with mmsearch.Collection({index!r}, create=True, model="mini") as library:
    try:
        library.add({photos!r}, on="ray", progress=interrupt)
    except KeyboardInterrupt:
        assert not ray.is_initialized()
        assert library.report.interrupted
        assert library.report.added == len(library)
    else:
        raise AssertionError("it was not interrupted")
"""

ROOT = str(Path(mmsearch.__file__).parents[1])


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMSEARCH_HOME", str(tmp_path / "home"))
    folder = tmp_path / "photos"
    for number in range(10):
        paint(folder / f"{number}.png", "blue", (30 + number, 40))
    paint(folder / "killer.png", "red")
    (folder / "broken.jpg").write_bytes(b"no photo")
    (folder / "note.txt").write_text("a note about the sea")
    tone(folder / "beep.wav", "low")
    return folder


def by_ray(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own: Ray forks, which may hang beside others' threads."""
    start = "import os\nfrom mmsearch.indexing import ray_pipeline\nray_pipeline.FILES_A_BLOCK = 4"
    return subprocess.run(
        [sys.executable, "-c", f"{start}\n{script}"],
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def vectors(index: Path) -> dict[tuple[str, str], np.ndarray]:
    """By the name of a file and by modality."""
    found = {}
    with mmsearch.open(index) as library:
        names = {item.id: os.path.basename(item.path) for item in library.items}
        ((space, modalities),) = library.index.serving()
        for modality in modalities:
            ids, rows, _ = library.store.vectors.of(space, modality)
            found |= {(names[id_], modality): row for id_, row in zip(ids, rows, strict=True)}
    return found


@needs_ray
def test_what_dies_with_a_worker_is_named_and_the_rest_is_as_without_ray(
    photos: Path, tmp_path: Path
):
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text(KILLING)
    command = ["index", str(photos), "-i", str(tmp_path / "idx"), "--model", "mini", "-q"]
    workers = f"os.environ['PYTHONPATH'] = {str(tmp_path / 'start')!r} + os.pathsep + {ROOT!r}"
    run = f"from mmsearch.cli.app import app\napp({[*command, '--on', 'ray']!r})"
    shown = by_ray(f"{workers}\n{run}")
    assert shown.returncode == 4, shown.stderr
    assert "missing: 1 files" in shown.stderr
    assert "killer.png" in shown.stderr
    assert "Traceback" not in shown.stderr
    with mmsearch.open(tmp_path / "idx") as library:
        assert [os.path.basename(one.path) for one in library.failures] == ["broken.jpg"]
    alone = [*command[:2], "-i", str(tmp_path / "alone"), "--model", "mini", "-q"]
    assert CliRunner().invoke(app, alone).exit_code == 4  # one is broken
    wanted, found = vectors(tmp_path / "alone"), vectors(tmp_path / "idx")
    assert wanted.keys() - found.keys() == {("killer.png", "image")}
    assert all(np.array_equal(found[key], wanted[key]) for key in found)
    CliRunner().invoke(app, command)  # here, where nothing kills
    assert vectors(tmp_path / "idx").keys() == wanted.keys()


@needs_ray
def test_an_interruption_keeps_what_is_stored_and_ends_the_workers(photos: Path):
    (photos / "killer.png").unlink()
    index = photos.parent / "idx"
    shown = by_ray(INTERRUPTED.format(photos=str(photos), index=str(index)))
    assert shown.returncode == 0, shown.stderr
    with mmsearch.Collection(index) as library:
        stored = len(library)
        assert stored >= 3
        assert library.add(photos).added == 12 - stored


@needs_ray
@pytest.mark.parametrize("address", ["spark", "ray:", "ray//x", "http://x"])
def test_what_is_no_address_is_refused_before_anything_is_read(photos: Path, address: str):
    with mmsearch.Collection(photos.parent / "idx", create=True, model="mini") as library:
        with pytest.raises(InvalidOption, match="--on takes ray"):
            library.add(photos, on=address)
        assert len(library) == 0


@needs_ray
def test_a_folder_that_a_machine_does_not_see_is_named(tmp_path: Path):
    place = tmp_path / "gone"
    problem = ray_pipeline._problem(ray_pipeline.version("mmsearch"), None, [str(place)])
    assert problem is not None
    assert f"does not see {place}" in problem


@needs_ray
def test_another_version_of_mmsearch_is_named():
    problem = ray_pipeline._problem("0.0", None, [])
    assert problem is not None
    assert "and not 0.0" in problem


def test_without_ray_the_extra_is_named(photos: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray_pipeline, "find_spec", lambda _: None)
    with (
        mmsearch.Collection(photos.parent / "idx", create=True, model="mini") as library,
        pytest.raises(MissingExtra, match=r"mmsearch\[ray\]"),
    ):
        library.add(photos, on="ray")


def test_indexing_here_imports_no_ray(photos: Path):
    code = (
        "import sys, mmsearch\n"
        f"mmsearch.index({str(photos / '1.png')!r}, into={str(photos.parent / 'idx')!r})\n"
        "assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_ray
def test_a_cluster_out_of_reach_is_said(photos: Path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with (
        mmsearch.Collection(photos.parent / "idx", create=True, model="mini") as library,
        pytest.raises(InvalidOption, match="no Ray cluster can be used"),
    ):
        library.add(photos, on=f"ray://127.0.0.1:{port}")
