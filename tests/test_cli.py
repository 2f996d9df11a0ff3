from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import typer.main
from conftest import ToyEncoder, paint
from typer.testing import CliRunner

from mmsearch.cli.app import app
from mmsearch.collection import opening
from mmsearch.encoders import Runtime
from mmsearch.encoders.family import SingleModel
from mmsearch.encoders.registry import REGISTRY

runner = CliRunner()


@pytest.fixture
def folder(toy: ToyEncoder, photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Indexed photos, with the working folder set to them."""
    (photos / "sea.txt").write_text("blue sea")
    assert runner.invoke(app, ["index", str(photos)]).exit_code == 0
    monkeypatch.chdir(photos)
    return photos


def run(*arguments: str, code: int = 0):
    result = runner.invoke(app, list(arguments))
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    return result


def test_index_says_what_it_did(toy, photos):
    result = run("index", str(photos))
    assert result.stdout == ""
    line = result.stderr.splitlines()[-1]
    assert line.startswith(
        "added 3, updated 0, renamed 0, unchanged 0, removed 0, skipped 0 in "
    ), line


def test_index_ends_with_4_and_says_why_when_files_failed(toy, photos):
    (photos / "bad.jpg").write_bytes(b"")
    result = run("index", str(photos), code=4)
    assert "skipped 1 (1 0 bytes)" in result.stderr
    assert "mmsearch errors" in result.stderr
    result = run("index", str(photos), code=4)
    assert "skipped 1 (1 known from before)" in result.stderr


def test_an_option_before_the_command_is_told_where_it_belongs(toy):
    result = run("-i", "trip", "query", "red", code=2)
    assert result.stderr == (
        "mmsearch: No such option: -i; options come after the command: mmsearch COMMAND -i\n"
    )


def test_index_of_a_missing_folder_is_a_usage_error(toy, tmp_path):
    result = run("index", str(tmp_path / "nowhere"), code=2)
    assert "nowhere" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_old_office_file_is_told_what_to_save_it_as(folder):
    (folder / "old.doc").touch()
    words = run("index", str(folder / "old.doc")).stderr
    assert "1 of the files given cannot be indexed: old.doc (save .doc as .docx, " in words


def test_a_mistyped_folder_leaves_no_empty_index_behind(toy, tmp_path):
    run("index", str(tmp_path / "nowhere"), "-i", str(tmp_path / "idx"), code=2)
    assert not (tmp_path / "idx").exists()


def test_an_interrupted_index_ends_with_130_and_says_what_is_kept(toy, photos, monkeypatch):
    def interrupt(self, *args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("mmsearch.indexing.file_indexer.FileIndexer.run", interrupt)
    result = run("index", str(photos), code=130)
    assert "interrupted: added 0" in result.stderr


def test_a_pipe_gets_tsv(folder):
    found = run("query", "red", "--in", "image").stdout
    rows = [line.split("\t") for line in found.splitlines()]
    assert rows[0][0] == "1"
    assert rows[0][2] == str(folder / "red.png")
    assert len(rows) == 3
    assert all(len(row) == 5 for row in rows)


def test_json_is_one_array_with_all_that_is_promised(folder):
    hits = json.loads(run("query", "red", "--in", "image", "--json").stdout)
    assert list(hits[0]) == [
        "rank",
        "id",
        "path",
        "modality",
        "score",
        "confidence",
        "span",
        "caption",
        "metadata",
        "signals",
    ]
    assert hits[0]["path"] == str(folder / "red.png")
    signal = hits[0]["signals"]["image"]
    assert list(signal) == ["rank", "score", "standardised", "share"]
    assert (signal["rank"], signal["score"]) == (1, hits[0]["score"])
    text = json.loads(run("query", "blue", "--in", "text", "--json").stdout)[0]
    assert text["span"] == {"start": 1, "end": 1, "unit": "line"}
    assert text["caption"] == "blue sea"


def test_jsonl_is_a_hit_a_line(folder):
    whole = json.loads(run("query", "red", "--json").stdout)
    lines = run("query", "red", "--jsonl").stdout.splitlines()
    assert [json.loads(line) for line in lines] == whole


def test_csv_has_a_header_and_reads_back(folder):
    rows = list(csv.DictReader(io.StringIO(run("query", "red", "--csv").stdout)))
    assert rows[0]["path"] == str(folder / "red.png")
    assert list(rows[0]) == ["rank", "score", "path", "span", "caption"]


def test_paths_are_a_path_a_line(folder):
    first = str(folder / "red.png")
    assert run("query", "red", "-f").stdout.splitlines()[0] == first
    assert run("query", "red", "--paths", "-k", "1").stdout == first + "\n"
    assert run("query", "red", "-0", "-k", "1").stdout == first + "\0"
    assert run("query", "red", "-f", "-0", "-k", "1").stdout == first + "\0"


def test_two_output_forms_are_a_usage_error(folder):
    assert "one output form" in run("query", "red", "--json", "--csv", code=2).stderr


def test_a_name_with_a_line_end_stays_on_one_line_of_tsv(folder):
    paint(folder / "new\nline\t.png", "white")
    run("index", str(folder))
    line = run("query", "white", "-k", "1").stdout
    assert line.count("\n") == 1
    assert r"new\nline\t.png" in line


EVIL = "a\x1b[2Jb\x9b31m\x90q\x9c\u202e\x7f\u2028 é 👩\u200d🌾"
"""What a terminal would obey, and words that are none of that."""


OUTPUTS = ("search", "contents", "analysis", "preview", "console")


def set_terminal(monkeypatch: pytest.MonkeyPatch, *, is_one: bool) -> None:
    # all are imported first: one that is imported later would keep what console has now
    for module in [import_module(f"mmsearch.cli.{name}") for name in OUTPUTS]:
        monkeypatch.setattr(module, "terminal", lambda: is_one)


@pytest.fixture
def evil(folder, monkeypatch) -> Path:
    """A photo with such a name and caption, and a standard output that is a terminal."""
    path = paint(folder / f"{EVIL}.png", "white")
    path.with_suffix(".txt").write_text(f"{EVIL} white")
    (folder / os.fsdecode(b"\xff.png")).write_bytes(path.read_bytes() + b" ")
    run("index", str(folder))
    set_terminal(monkeypatch, is_one=True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    return path


FORMS = ["--json", "--jsonl", "--csv", "--tsv", "--table", "--paths", "-0"]


@pytest.mark.parametrize("form", FORMS)
def test_what_files_say_gives_a_terminal_no_orders(evil, form):
    shown = run("query", "white", form).stdout
    assert all(char.isprintable() or char in "\n\t\u200d" for char in shown)


def test_what_files_say_gives_a_terminal_no_orders_elsewhere(evil):
    for words in (["list", "-f"], ["list", "--json"], ["describe", str(evil)], ["errors"]):
        shown = runner.invoke(app, words).output
        assert all(char.isprintable() or char in "\n\u200d" for char in shown), words


def test_programs_get_names_and_texts_as_they_are(evil, monkeypatch):
    set_terminal(monkeypatch, is_one=False)
    assert f"{evil}\n" in run("query", "white", "--paths").stdout
    assert b"/\xff.png\n" in run("query", "white", "--paths").stdout_bytes
    assert str(evil) in [hit["path"] for hit in json.loads(run("query", "white", "--json").stdout)]
    rows = csv.DictReader(io.StringIO(run("query", "white", "--csv").stdout))
    assert str(evil) in [row["path"] for row in rows]


def test_an_error_that_names_something_gives_a_terminal_no_orders(folder):
    said = run("query", "red", "-i", f"{EVIL}/x", code=3).stderr
    assert all(char.isprintable() or char in "\n\u200d" for char in said)


def test_an_image_or_option_text_is_a_query_too(folder):
    by_image = run("query", "--image", str(folder / "red.png"), "-k", "1", "-f").stdout
    by_text = run("query", "--text", "red", "-k", "1", "-f").stdout
    assert by_image == by_text == str(folder / "red.png") + "\n"


def test_words_need_no_quotes(folder):
    assert run("query", "a", "red", "wall").stdout == run("query", "a red wall").stdout


def test_a_path_in_place_of_a_command_says_how_to_index_it(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mmsearch", str(folder)])
    assert f"mmsearch index {folder}" in run(str(folder), code=2).stderr
    monkeypatch.setattr(sys, "argv", ["mmsearch", "dog"])
    assert 'mmsearch query "dog"' in run("dog", code=2).stderr


def test_an_index_of_nothing_says_what_can_be_indexed(toy, tmp_path):
    (tmp_path / "none").mkdir()
    assert ".jpg" in run("index", str(tmp_path / "none")).stderr


def test_similar_finds_the_others(folder):
    assert str(folder / "red.png") not in run("similar", str(folder / "red.png"), "-f").stdout


EMPTIABLE = ("--after", "--before", "--camera", "--near", "--min-size", "--path", "--modality")
"""Filters whose value can be an unset variable of a shell."""

TAKES_PATH = (
    ["remove"],
    ["backup"],
    ["import"],
    ["index", "--captions"],
    ["index", "--metadata"],
    ["query", "--vector"],
    ["query", "--image"],
    ["tag", "--file"],
)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["query"], "say what to look for"),
        (["query", ""], "empty"),
        (["query", "red", "--image", "x.png"], "x.png"),
        (["query", "--not", "red"], "all parts of the query are negative"),
        (["query", "red", "--text", "-1:red"], "cancel each other out"),
        (["query", "--text", "0:red"], "empty"),
        (["query", "red", "--combine", "loudly"], "early, late"),
        (["query", "red", "--runtime", "coal"], "auto, torch, onnx"),
        (["query", "--audio", "nowhere.wav"], "'toy' cannot encode audio"),
        (["index", "--drop-space", "nonsense"], "toy"),
        (["index", "--drop-space", "toy"], "nothing would answer for image"),
        (["query", "red", "-k", "abc"], "query --help"),
        (["query", "--image", "."], "is a folder"),
        (["index", ".", "--max-megapixels", "-5"], "above 0"),
        (["index", ".", "--captions", "nowhere.tsv"], "nowhere.tsv"),
        (["query", "red", "--in", "smell"], "image, text, audio"),
        (["query", "red", "-k", "0"], "at least 1"),
        (["query", "--image", "nowhere.png"], "nowhere.png"),
        (["similar", "nowhere.png"], "nowhere.png"),
        (["remove", "/nowhere"], "holds nothing"),
        (["index", ".", "--model", "nonsense"], "mmsearch models"),
        (["index", ".", "--model", "minni"], "did you mean mini?"),
        (["query", "red", "--weight", "text"], "FACET=W"),
        (["query", "-k"], "query --help"),
        (["models", "pull"], "models pull --help"),
        *((["query", "red", flag, ""], "") for flag in EMPTIABLE),
        *(([*command, ""], "") for command in TAKES_PATH),
        *(([*command, 300 * "x"], "") for command in TAKES_PATH),
        (["relocate", "", ""], "no folder"),
    ],
)
def test_a_wrong_command_ends_with_2_and_one_line_of_why(folder, arguments, said):
    result = run(*arguments, code=2)
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_a_missing_index_ends_with_3_and_says_how_to_make_one(toy):
    for command in (["query", "red"], ["status"], ["errors"], ["similar", __file__]):
        assert "mmsearch index" in run(*command, code=3).stderr


def test_nothing_found_ends_with_1(toy, tmp_path):
    (tmp_path / "none").mkdir()
    run("index", str(tmp_path / "none"))
    result = run("query", "red", code=1)
    assert "nothing found" in result.stderr
    assert run("query", "red", "--json", code=1).stdout == "[]\n"


def test_status_in_words_and_in_json(folder):
    words = run("status").stdout
    assert "3 image, 1 text" in words
    status = json.loads(run("status", "--json").stdout)
    assert status["items"] == {"image": 3, "text": 1}


def test_status_says_what_was_passed_over_and_how_to_include_it(folder):
    (folder / "a.mp4").touch()
    run("index", str(folder))
    words = run("status").stdout
    assert "passed over 1 video (to include videos: `mmsearch index --video`)" in words
    [group] = json.loads(run("status", "--json").stdout)["passed_over"]
    assert (group["kind"], group["files"]) == ("video", 1)


def test_steps_that_are_named_are_for_the_index_that_was_named(folder, tmp_path):
    (folder / "a.mp4").touch()
    (folder / "bad.jpg").touch()
    for name in ("trip", str(tmp_path / "a b")):
        words = run("index", "-i", name, str(folder), code=4).stderr
        named = f"-i {shlex.quote(name)}"
        assert f"`mmsearch index {named} --video`" in words
        assert f"`mmsearch errors {named}`" in words
        assert f"`mmsearch index {named} --video`" in run("status", "-i", name).stdout


def test_errors_lists_path_and_reason(folder):
    assert "no file failed" in run("errors").stderr
    (folder / "bad.jpg").write_bytes(b"")
    run("index", str(folder), code=4)
    path, reason, _ = run("errors").stdout.rstrip("\n").split("\t")
    assert (path, reason) == (str(folder / "bad.jpg"), "0 bytes")
    assert json.loads(run("errors", "--json").stdout)[0]["reason"] == "0 bytes"


def test_remove_takes_files_out(folder):
    assert "removed 1" in run("remove", str(folder / "red.png")).stderr
    assert "red.png" not in run("query", "red", "-f").stdout


def test_several_files_are_taken_out_at_once(folder):
    assert "removed 2" in run("remove", str(folder / "red.png"), str(folder / "sea.txt")).stderr


def test_an_index_goes_by_name_or_by_folder(toy, photos, tmp_path, monkeypatch):
    run("index", str(photos), "-i", "holiday")
    assert (tmp_path / "home" / "holiday" / "catalog.db").is_file()
    run("index", str(photos), "-i", str(tmp_path / "here"))
    assert (
        run("query", "red", "-i", "holiday").stdout
        == run("query", "red", "-i", str(tmp_path / "here")).stdout
    )
    monkeypatch.setenv("MMSEARCH_INDEX", "holiday")
    assert run("status").stdout.splitlines()[0].endswith("holiday")


def test_version_and_help(toy):
    from mmsearch import __version__

    assert run("--version").stdout == f"mmsearch {__version__}\n"
    for command in ("index", "query", "similar", "status", "errors", "remove"):
        assert command in run("--help").stdout
        assert "Usage" in run(command, "--help").stdout


def test_a_terminal_gets_a_table(folder, monkeypatch):
    monkeypatch.setattr("mmsearch.cli.search.terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    table = run("query", "blue", "--in", "text", "--lexical", "off").stdout
    assert [line.rstrip() for line in table.splitlines() if line.strip()] == [
        " #    score   sure   path          text",
        " ──────────────────────────────────────────",
        " 1   1.0000          sea.txt:1-1   blue sea",
    ]


@pytest.mark.parametrize("redirection", ["| true", ">&-", "2>&-"])
def test_a_reader_that_stops_early_is_no_error(folder, tmp_path, redirection):
    index = opening.open_collection().folder
    script = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); "
        "from conftest import Preferred, ToyEncoder; "
        "from mmsearch.encoders.registry import REGISTRY; from mmsearch.cli.app import main; "
        "REGISTRY['toy'] = Preferred('toy', ToyEncoder); main()"
    )
    tests = str(Path(__file__).parent)
    words = [sys.executable, "-c", script, tests, "query", "red", "-f", "-i", f"{index}/"]
    line = f"set -o pipefail; {shlex.join(words)} {redirection}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_name_that_is_not_utf8_is_printed_as_it_is_and_as_valid_json(toy, tmp_path):
    raw = os.fsencode(tmp_path / "p") + b"/caf\xe9.png"
    paint(tmp_path / "p" / "a.png", "red")
    try:
        os.rename(tmp_path / "p" / "a.png", raw)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    run("index", str(tmp_path / "p"))
    assert run("query", "red", "-f").stdout_bytes == raw + b"\n"
    assert json.loads(run("query", "red", "--json").stdout_bytes)[0]["path"] == os.fsdecode(raw)
    assert r"caf\xe9.png" in run("query", "red").stdout


def test_closing_twice_does_no_harm(folder):
    library = opening.open_collection()
    library.close()
    library.close()


def test_a_command_imports_no_module_of_other_commands():
    script = (
        "import contextlib, sys; from mmsearch.cli.app import app\n"
        "with contextlib.suppress(SystemExit): app(['status', '--help'])\n"
        "names = [name for name in sys.modules if name.startswith('mmsearch.cli.')]\n"
        "print(*names, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    own = {f"mmsearch.cli.{name}" for name in ("app", "console", "contents", "options", "render")}
    assert set(done.stderr.split()) == own
    assert "Show what an index holds" in done.stdout


# ---------------------------------------------------------------------- options of many commands

COMMANDS = (
    "index .",
    "query red",
    "similar red.png",
    "list",
    "status",
    "errors",
    "remove red.png",
    "relocate moved .",
    "describe red.png",
    "tag red",
    "duplicates",
    "eval pairs.tsv",
    "import v.npy --model toy",
    "export out --format npy",
    "doctor",
    "backup copy",
)
"""Each command that takes an index, except `watch`, with what it needs beside it."""

SHOW_PROGRESS = (
    "index .",
    "tag red",
    "duplicates",
    "eval pairs.tsv",
    "import v.npy --model toy",
    "export out --format npy --overwrite",
    "copy ../idx ./new",
    "encode . --out ../shards --model toy",
    "models pull toy",
)
"""Each command that shows progress, except `watch` and `tune`, which have tests of their own."""

RUN_MODELS = ("index .", "query red", "eval pairs.tsv", "encode . --out ../shards --model toy")
"""Each command that can be told what its models run on."""


@pytest.fixture
def inputs(toy: ToyEncoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what COMMANDS name, and an index of it that is not the default one."""
    paint(photos / "crimson.png", "red", (41, 30))
    (photos / "pairs.tsv").write_text("red\tred.png\n")
    np.save(photos / "v.npy", np.eye(2, 8, dtype=np.float32))
    monkeypatch.chdir(photos)
    run("index", ".", "-i", str(tmp_path / "idx"))
    return tmp_path / "idx"


def flags() -> dict[str, list[list[str]]]:
    """By command, the ways to write each of its flags."""
    found = {}
    commands = dict(typer.main.get_command(app).commands)
    commands |= {f"models {name}": one for name, one in commands["models"].commands.items()}
    for name, command in commands.items():
        options = [one for one in command.params if one.opts[0].startswith("-")]
        found[name] = [[*one.opts, *one.secondary_opts] for one in options]
    return found


def command_of(words: str) -> str:
    """The command of a line, with the second word of `models pull` and its like."""
    return max((name for name in flags() if f"{words} ".startswith(f"{name} ")), key=len)


@pytest.mark.parametrize(
    ("flag", "tested"),
    [
        ("--index", [*COMMANDS, "watch", "serve", "mcp", "ask", "tune"]),
        ("--quiet", [*SHOW_PROGRESS, "watch", "tune"]),
        ("--runtime", RUN_MODELS),
        ("--device", RUN_MODELS),
        ("--precision", [*RUN_MODELS, "models export"]),
    ],
)
def test_a_flag_of_many_commands_is_tested_on_each(flag, tested):
    having = {name for name, some in flags().items() if any(flag in one for one in some)}
    assert {command_of(words) for words in tested} == having


def test_each_flag_is_tried_in_a_test():
    tests = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("*.py")]
    tried = set(re.findall(r"(?<![\w-])--?[a-z0-9][a-z0-9-]*", "\n".join(tests)))
    for name, some in flags().items():
        untried = [one for one in some if tried.isdisjoint(one)]
        assert not untried, name


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_works_on_the_index_that_is_named(inputs, tmp_path, command):
    if command.startswith("relocate"):
        (tmp_path / "photos").rename(tmp_path / "moved")
        command = f"relocate ../photos {tmp_path / 'moved'}"
    run(*command.split(), "-i", str(inputs))
    assert not (tmp_path / "home" / "default").exists()


@pytest.mark.parametrize("command", SHOW_PROGRESS)
def test_progress_is_shown_unless_it_is_to_be_quiet(inputs, monkeypatch, command):
    def pull(name: str, progress) -> str:
        progress(1, 2)
        return name

    monkeypatch.setattr("mmsearch.encoders.registry.pull", pull)
    monkeypatch.setattr("mmsearch.cli.console.SECONDS_A_LINE", 0.0)
    where = [] if command.startswith(("models", "copy", "encode")) else ["-i", str(inputs)]
    assert "[00:00" in run(*command.split(), *where).stderr
    again = command.replace("./new", "./newer")
    assert "[00:00" not in run(*again.split(), *where, "-q").stderr


class Recording(SingleModel):
    """The toy encoder, and what it was to run on each time that it was loaded."""

    has_runtimes = True

    def __init__(self) -> None:
        super().__init__("toy", ToyEncoder)
        self.told: list[Runtime] = []

    def load(self, name: str, how: Runtime) -> ToyEncoder:
        self.told.append(how)
        return ToyEncoder()


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch, inputs: Path) -> Recording:
    family = Recording()
    monkeypatch.setitem(REGISTRY, "toy", family)
    return family


@pytest.mark.parametrize("command", RUN_MODELS)
@pytest.mark.parametrize(
    ("flags", "how"),
    [
        ("--runtime onnx", Runtime(runtime="onnx")),
        ("--device cuda", Runtime(device="cuda")),
        ("--precision int8", Runtime(precision="int8")),
    ],
)
def test_models_run_as_each_command_is_told(recording, inputs, command, flags, how):
    paint(Path("white.png"), "white")
    where = [] if command.startswith("encode") else ["-i", str(inputs)]
    run(*command.split(), *flags.split(), *where)
    assert {replace(told, once=False) for told in recording.told} == {how}


def test_a_model_is_exported_in_the_precision_that_is_named(recording):
    run("models", "export", "toy", "--precision", "int8")
    assert recording.told == [Runtime("onnx", precision="int8")]


def test_an_exported_model_is_checked_on_the_photos_that_are_named(recording, photos):
    said = run("models", "export", "toy", "--photos", str(photos / "deep")).stderr
    assert said == "toy: both towers are ready, checked on 1 photos\n"
    assert "the text tower is ready" in run("models", "export", "toy").stderr
