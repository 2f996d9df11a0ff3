"""A setting of a search is declared once; keywords, flags, `eval --with` and the docs follow."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import mmsearch
from mmsearch.cli.app import app
from mmsearch.errors import InvalidOption
from mmsearch.evaluation import parse_settings
from mmsearch.search.ranking import DEPTH
from mmsearch.search.settings import Settings, declared

ROOT = Path(__file__).parent.parent
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")

LINE = '    patience: Annotated[float, Setting(SHARE, "How long to look.", metavar="P")] = 0.25\n'

TRY_IT = """
import json, sys
import mmsearch
from mmsearch.cli.app import app
from typer.testing import CliRunner

notes, index, pairs = sys.argv[1:]
run = lambda *words: CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})
with mmsearch.index(notes, into=index) as library:
    found = {"keyword": len(library.search("a dog", patience=0.5))}
    try:
        library.search("a dog", patience=2)
    except mmsearch.MMSearchError as error:
        found["refused"] = str(error)
for name, words in {
    "help": ["query", "--help"],
    "flag": ["query", "a dog", "--patience", "0.5", "-i", index],
    "similar": ["similar", notes + "/note.txt", "--patience", "2", "-i", index],
    "eval": ["eval", pairs, "--with", "patience=0.5", "--json", "-i", index],
    "compare": ["eval", pairs, "--compare", "default", "patience=soon", "-i", index],
}.items():
    done = run(*words)
    found[name] = [done.exit_code, done.stdout or done.stderr]
print(json.dumps(found))
"""


def with_one_line_more(folder: Path) -> None:
    """The package, in a folder, with one setting more."""
    (folder / "mmsearch" / "search").mkdir(parents=True)
    for parent in ("mmsearch", "mmsearch/search"):
        for path in (ROOT / parent).iterdir():
            copy = folder / parent / path.name
            if not copy.exists() and path.suffix != ".pyc":
                copy.symlink_to(path)
    changed = folder / "mmsearch" / "search" / "settings.py"
    text = changed.read_text(encoding="utf-8")
    changed.unlink()
    changed.write_text(text.replace("    k: Annotated", f"{LINE}    k: Annotated", 1), "utf-8")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("seam")
    with_one_line_more(folder)
    (folder / "notes").mkdir()
    (folder / "notes" / "note.txt").write_text("a dog on a beach")
    (folder / "pairs.tsv").write_text(f"a dog\t{folder}/notes/note.txt\n")
    words = [folder / "notes", folder / "idx", folder / "pairs.tsv"]
    done = subprocess.run(
        [sys.executable, "-c", TRY_IT, *map(str, words)],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "MMSEARCH_HOME": str(folder / "home")},
    )
    return json.loads(done.stdout)


def test_a_setting_that_is_declared_is_a_checked_keyword(outcome):
    assert outcome["keyword"] == 1
    assert outcome["refused"] == "patience is a number from 0 to 1, not 2"


def test_a_setting_that_is_declared_is_a_flag_with_help_and_default(outcome):
    code, shown = outcome["help"]
    assert code == 0
    assert re.search(r"--patience +P +How long to look\. \(default: 0\.25\)", shown), shown
    assert outcome["flag"][0] == 0
    assert outcome["similar"] == [2, "mmsearch: patience is a number from 0 to 1, not 2.0\n"]


def test_a_setting_that_is_declared_can_be_evaluated(outcome):
    code, shown = outcome["eval"]
    assert code == 0
    assert json.loads(shown)["settings"] == {"patience": 0.5}
    assert outcome["compare"] == [2, "mmsearch: patience is 0…1, not 'soon'\n"]


def test_the_keywords_of_a_search_are_the_settings():
    for method in ("search", "search_many", "rank_many", "search_vectors", "similar"):
        parameters = inspect.signature(getattr(mmsearch.Collection, method)).parameters
        keywords = [one.name for one in parameters.values() if one.kind is one.KEYWORD_ONLY]
        assert keywords == list(declared()) == list(Settings.__dataclass_fields__)


def test_every_setting_has_its_flag_its_default_and_its_help_in_the_shell():
    shown = " ".join(
        CliRunner().invoke(app, ["query", "--help"], env={"COLUMNS": "500"}).output.split()
    )
    for name, one in declared().items():
        if name != "where":
            assert f"{one.flag} {one.metavar}".strip() in shown
            assert one.help.removesuffix(".") in shown
            assert not one.default_text or f"(default: {one.default_text})" in shown


@pytest.mark.parametrize("name", sorted(declared().keys() - {"where"}))
def test_every_setting_is_documented_with_its_default(name):
    one = declared()[name]
    flag = f"`{one.flag} {one.metavar}".strip().replace("|", r"\|")
    rows = [line for line in COMMANDS.splitlines() if line.startswith("|") and flag in line]
    assert rows, flag
    assert one.default_text in rows[0].replace("`", "")


def test_every_setting_that_eval_takes_is_documented():
    with pytest.raises(InvalidOption) as caught:
        parse_settings("nonsense=1")
    assert set(re.findall(r"(\w+)=", str(caught.value))) <= {"nonsense", "index", *declared()}
    for name, one in declared().items():
        if one.format.parse and one.in_eval:
            assert f"`{name}=" in COMMANDS


def test_the_documentation_has_the_depth_of_rankings_as_it_is():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert f"Rankings go down to {DEPTH} items" in " ".join(text.split())
