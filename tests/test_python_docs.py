"""docs/python.md: its examples run, in order, and it names everything there is to call."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmsearch
from mmsearch import errors
from mmsearch.search.settings import declared

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the page starts in."""
    sf = pytest.importorskip("soundfile")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMSEARCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MMSEARCH_INDEX", raising=False)
    for name in ("photos", "notes", "sounds", "more"):
        (tmp_path / name).mkdir()
    rng = np.random.default_rng(0)
    for number, name in enumerate(("beach", "coffee", "dog", "street")):
        pixels = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        photo = Image.fromarray(pixels).resize((160, 120), Image.Resampling.BICUBIC)
        exif = Image.Exif()
        exif[0x0110] = "Canon EOS 5D"
        exif[0x0132] = f"202{number}:05:01 10:00:00"
        photo.save(tmp_path / "photos" / f"{name}.jpg", exif=exif)
        photo.save(tmp_path / "more" / f"{name}.png")  # copies
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"not a photo")
    (tmp_path / "notes" / "coffee.txt").write_text(
        "How to make a cup of coffee.\n\n" + "Grind the beans first. " * 60 + "\n\nPour slowly."
    )
    (tmp_path / "notes" / "old.txt").write_text("An old note about a street in Rome.")
    seconds = np.arange(16_000 * 3) / 16_000
    sf.write(tmp_path / "sounds" / "tone.wav", 0.3 * np.sin(2 * np.pi * 440 * seconds), 16_000)
    (tmp_path / "captions.tsv").write_text(
        "photos/beach.jpg\ta dog runs along a beach\nphotos/coffee.jpg\ta cup of coffee\n"
    )
    (tmp_path / "ratings.csv").write_text("file,stars\nphotos/beach.jpg,5\nphotos/dog.jpg,3\n")
    (tmp_path / "pairs.tsv").write_text(
        "query\tfile\na beach\tphotos/beach.jpg\nsome coffee\tphotos/coffee.jpg\n"
    )
    return tmp_path


def test_the_examples_run_one_after_the_other(scratch: Path, capsys):
    blocks = list(re.finditer(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
    assert len(blocks) >= 20
    names: dict[str, object] = {}
    for block in blocks:
        line = PAGE[: block.start()].count("\n") + 1
        code = "\n" * line + block[1]  # so that a traceback names the line of the page
        exec(compile(code, "docs/python.md", "exec"), names)
    shown = capsys.readouterr().out
    assert "broken.jpg" in shown
    assert "no item has a key 'colour'" in shown
    assert "there is no index" in shown


def test_everything_public_is_named():
    public = set(mmsearch.__all__)
    public |= {name for name in dir(mmsearch.Collection) if not name.startswith("_")}
    public |= {name for name in vars(errors) if isinstance(vars(errors)[name], type)}
    missing = {name for name in public if not re.search(rf"\b{name}\b", PAGE)}
    assert not missing


@pytest.mark.parametrize("thing", [mmsearch.Hit, mmsearch.Signal, mmsearch.Span])
def test_every_field_of_a_hit_is_named(thing: type):
    fields = thing.__dataclass_fields__  # type: ignore[attr-defined]
    assert not [name for name in fields if not re.search(rf"\b{name}\b", PAGE)]


def test_every_setting_of_a_search_is_listed_with_its_default():
    for name, one in declared().items():
        row = next(line for line in PAGE.splitlines() if re.match(rf"\| .*`{name}`.* \|", line))
        default = row.split("|")[2].strip().strip("`")
        assert default.replace('"', "'") == repr(one.default), name


def test_every_keyword_of_add_is_named():
    keywords = [
        one.name
        for one in inspect.signature(mmsearch.Collection.add).parameters.values()
        if one.kind is one.KEYWORD_ONLY
    ]
    assert not [name for name in keywords if f"`{name}`" not in PAGE]
