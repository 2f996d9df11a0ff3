"""The documentation names every command and flag, and what the README shows is what comes out."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest
import typer.main
from typer.testing import CliRunner

import mmsearch
from mmsearch.cli.app import app
from mmsearch.storage.sql.schema import tables

ROOT = Path(__file__).parent.parent
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    *(ROOT / name for name in ("README.md", "README.zh.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / folder / "README.md" for folder in ("demo", "indexes")),
]

commands = typer.main.get_command(app).commands


@pytest.mark.parametrize("name", sorted(commands))
def test_each_command_and_flag_is_documented(name: str):
    assert f"mmsearch {name}" in COMMANDS
    for parameter in commands[name].params:
        for flag in parameter.opts:
            if flag.startswith("-") and flag not in ("--help", "-h"):
                assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", COMMANDS), flag


@pytest.mark.parametrize("name", sorted(commands))
def test_each_flag_has_a_help_text(name: str):
    assert commands[name].help
    for parameter in commands[name].params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_every_file_the_documentation_links_to_exists():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_heading_the_documentation_links_to_exists():
    for page in PAGES:
        links = re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text(encoding="utf-8"))
        for target, heading in links:
            linked = page.parent / target if target else page
            assert heading in anchors(linked), f"{page.name}: {target}#{heading}"


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}


# ---------------------------------------------------------------------- names of the code

INDEX_FOLDER = {"cache/", "backups/"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_module_that_a_page_names_exists(page: Path):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"[\w/]+\.py\b", text):
        assert any((top / name).is_file() for top in (ROOT, ROOT / "mmsearch")), name
    for name in re.findall(r"\bmmsearch(?:\.[A-Za-z]\w*)+", text):
        assert resolve_name(name), name


def test_every_package_and_class_that_the_architecture_names_exists():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for name in set(re.findall(r"`((?:\w+/)+)`", text)) - INDEX_FOLDER:
        assert any((top / name).is_dir() for top in (ROOT, ROOT / "mmsearch")), name
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "mmsearch").rglob("*.py"))
    for name in re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)*)`", text):
        assert f"class {name}" in code, name
    for name in re.findall(r"`([A-Z][a-z]+\.[a-z_]\w*)`", text):
        owner, _, member = name.partition(".")
        defined = re.search(rf"^class {owner}\b.*?^    (?:def )?{member}\b", code, re.M | re.S)
        assert defined, name


def test_the_architecture_names_every_table_of_the_catalog_and_nothing_else():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    paragraph = text[text.index("\nThe tables (") :].partition("`PRAGMA")[0]
    named = set(re.findall(r"`([a-z_]+)`", paragraph))
    assert named - {"index", "words"} == set(tables.tables)


# ---------------------------------------------------------------------- README, as it runs


def examples() -> list[tuple[str, list[str]]]:
    """(command, lines shown) of every `$ mmsearch …` in the README."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = part.rstrip().splitlines()
            found.append((command, [line for line in shown if line.strip()]))
    return found


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory):
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("demo")
    gather = ROOT / "demo" / "gather.py"
    subprocess.run([sys.executable, str(gather), str(folder)], check=True, capture_output=True)
    return folder


def test_the_examples_of_the_readme_print_what_it_shows(demo: Path, monkeypatch):
    """Names and their order must agree; scores may differ in the last digits between machines."""
    monkeypatch.chdir(demo)
    monkeypatch.setenv("MMSEARCH_HOME", str(demo / "home"))
    monkeypatch.delenv("MMSEARCH_INDEX", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("mmsearch.cli.search.terminal", lambda: True)
    ran = examples()
    assert len(ran) >= 5
    for command, shown in ran:
        result = CliRunner().invoke(app, shlex.split(command)[1:])
        assert result.exit_code == 0, (command, result.output)
        said = result.output.replace(str(demo.resolve()), "/home/me/demo")
        assert _without_figures(said) == _without_figures("\n".join(shown)), command


def _without_figures(text: str) -> list[str]:
    text = text.replace("pip install 'mmsearch[clip]', then ", "")  # said where it is missing
    lines = [re.sub(r"\d+\.\d+|\d+%", "0.0", line).split() for line in text.splitlines()]
    return [line for line in lines if line and not set("".join(line)) <= set("─")]


def test_the_python_of_the_readme_runs(demo: Path, monkeypatch, capsys):
    monkeypatch.chdir(demo)
    monkeypatch.setenv("MMSEARCH_HOME", str(demo / "python-home"))
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {"mmsearch": mmsearch})
    assert capsys.readouterr().out
