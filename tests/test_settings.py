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

import numpy as np
import pytest
from conftest import paint
from PIL import Image
from typer.testing import CliRunner

import mmsearch
from mmsearch.cli.app import app
from mmsearch.cli.render import as_json
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


def test_the_help_of_a_search_has_a_line_for_each_setting():
    lines = (mmsearch.Collection.search.__doc__ or "").splitlines()
    for name, one in declared().items():
        default = f" Default: {one.default_text}." if one.default_text else ""
        assert f"    {name}: {one.help}{default}" in lines


def test_a_switch_that_is_on_by_default_says_so():
    assert declared()["hubness"].default_text == "on"
    assert declared()["spans"].default_text == ""


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


# ---------------------------------------------------------------------- each setting takes effect

TEXTS = ["a red square", "green grass"]
QUERY = mmsearch.Query.text(TEXTS[0]) + mmsearch.Query.text(TEXTS[1])
FUSED = {"target": ["image", "text"]}

CHANGES: dict[str, tuple[Any, str]] = {
    "k": (2, "-k 2"),
    "offset": (2, "--offset 2"),
    "sort": ("oldest", "--sort oldest"),
    "target": ("text", "--in text"),
    "combine": ("late", "--combine late"),
    "spans": (True, "--spans"),
    "where": ({"modality": "image"}, "--modality image"),
    "rerank": ("diverse", "--rerank diverse"),
    "diversity": (1.0, "--diversity 1"),
    "duplicates": ("collapse", "--duplicates collapse"),
    "lexical": (False, "--lexical off"),
    "fusion": ("rrf", "--fusion rrf"),
    "weights": ({"text": 0.2, "image": 0.5}, "--weight text=0.2 --weight image=0.5"),
    "hubness": (False, "--hubness off"),
    "like": ([3, 5], "--like 3 --like 5"),
    "unlike": ([3, 5], "--unlike 3 --unlike 5"),
    "min_confidence": (0.5, "--min-confidence 0.5"),
}
"""By setting, a value that changes what is found, and the flag that gives it in the shell."""

BESIDE = {"diversity": {"rerank": "diverse"}}
"""What a setting needs beside it."""

IDLE = {
    "rank_many": {"spans"},
    "search_vectors": {"combine", "lexical", "hubness"},
    "similar": {"combine", "lexical"},
}
"""Settings that make no difference to a method, as its docstring says."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, some with captions and one of them twice, and texts."""
    folder = tmp_path_factory.mktemp("settings") / "pictures"
    for colour in ("red", "green", "blue", "white"):
        paint(folder / f"{colour}.png", colour)
    (folder / "again.png").write_bytes((folder / "red.png").read_bytes())
    rng = np.random.default_rng(5)
    for number in range(3):
        pixels = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(folder / f"noise{number}.png")
    (folder / "blue.txt").write_text("a square of blue")
    (folder / "noise1.txt").write_text("red and green noise")
    (folder / "cat.txt").write_text("a cat sleeps on a sofa")
    passages = f"green grass {'and trees ' * 60}", f"a red square {'on a wall ' * 60}"
    (folder / "notes.txt").write_text("\n\n".join(passages))
    return folder


@pytest.fixture(scope="module")
def collection(pictures: Path):
    with mmsearch.index(pictures, into=pictures.parent / "idx", model="mini") as made:
        yield made


def hits_of(method: str, collection: mmsearch.Collection, example: Path, **settings: Any) -> Any:
    """What a method of searching finds, of a query or of an example."""
    if method == "search":
        return collection.search(QUERY, **settings)
    if method == "similar":
        return collection.similar(example, **settings)
    if method == "search_vectors":
        vectors = collection.encoder.encode("text", TEXTS[:1])
        return collection.search_vectors(vectors, **settings)[0]
    return getattr(collection, method)([QUERY], **settings)[0]


@pytest.mark.parametrize(
    "method", ["search", "search_many", "rank_many", "search_vectors", "similar"]
)
@pytest.mark.parametrize("name", declared())
def test_each_setting_changes_what_each_method_finds(collection, pictures, method, name):
    value, _ = CHANGES[name]
    default = FUSED | BESIDE.get(name, {})
    usual = hits_of(method, collection, pictures / "green.png", **default)
    changed = hits_of(method, collection, pictures / "green.png", **default | {name: value})
    assert (changed == usual) is (name in IDLE.get(method, ()))


@pytest.mark.parametrize(
    ("command", "name"),
    [
        *(("query", name) for name in declared()),
        *(("similar", name) for name in declared() if name != "combine"),
    ],
)
def test_each_flag_is_the_setting(collection, pictures, command, name):
    value, flag = CHANGES[name]
    settings = FUSED | BESIDE.get(name, {}) | {name: value}
    given = [] if name == "target" else ["--in", "image,text"]
    for beside in BESIDE.get(name, {}):
        given += [declared()[beside].flag, BESIDE[name][beside]]
    what = [word for text in TEXTS for word in ("--text", text)]
    if command == "similar":
        what = [str(pictures / "green.png")]
    words = [command, *what, *given, *flag.split(), "-i", str(collection.folder), "--json"]
    shown = json.loads(CliRunner().invoke(app, words).stdout)
    method = "search" if command == "query" else command
    expected = hits_of(method, collection, pictures / "green.png", **settings)
    assert shown == json.loads(as_json(expected))


@pytest.mark.parametrize("spans", [False, True])
def test_just_the_hits_of_the_least_confidence_are_left(collection, spans):
    hits = collection.search(QUERY, k=50, spans=spans, **FUSED)
    for least in (0.2, 0.5, 0.9):
        expected = [hit.id for hit in hits if (hit.confidence or 0.0) >= least]
        assert 0 < len(expected) < len(hits)
        left = collection.search(QUERY, k=50, spans=spans, min_confidence=least, **FUSED)
        assert [hit.id for hit in left] == expected


def test_without_diversity_the_hits_come_in_order_of_relevance(collection):
    settings = {"k": 50, "duplicates": "show", **FUSED}
    plain = [hit.id for hit in collection.search(QUERY, **settings)]
    diverse = collection.search(QUERY, rerank="diverse", diversity=0, **settings)
    assert [hit.id for hit in diverse] == plain
