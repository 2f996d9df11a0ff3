"""Mutation testing: small faults are planted one by one; do the tests notice?

    make mutants            or: python benchmarks/mutants.py [MODULE...] [--sample N] [--seed N]
                                [--budget SECONDS] [--survivors] [--work FOLDER]

Mutants are made by mutmut's operators (a number plus one, `<` to `<=`, `and` to `or`, an argument
left out, ...), of whole modules: mutmut's own runner passes over constants, declarations of
settings and properties. A random sample of each module is tested, in a copy of the code in --work,
by tests that run the changed line, as many as --budget allows. Faults in the texts of errors are
left out.

Prints a table by module: of the mutants that there are, how many were tested, killed (a test
failed), ran out of time, and survived; `survivors.diff` in --work shows the latter. Some of them
are equivalent: no test could tell them apart. Results are kept, so that a run can be broken off
and resumed; --survivors tests only the surviving mutants again, with the tests as they are now.

--sample     mutants of a module that decides on answers; of others, half as many
--budget     seconds that the tests of one mutant may take
"""

from __future__ import annotations

import argparse
import ast
import difflib
import gc
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

DECIDING = """
    search/fusion search/hits search/settings search/ranking spaces/calibration vectors/exact
    vectors/index vectors/hubness vectors/id_set filters/parse filters/values filters/match
    storage/sql/conditions storage/sql/writer
""".split()  # noqa: SIM905
OTHERS = """
    search/planning search/query_vectors search/searcher search/diversity search/rerank
    search/feedback search/example search/duplicates search/duplicate_threshold search/near_pairs
    search/labels search/tagging search/describe search/everyday_words search/setting_formats
    vectors/segment vectors/ann_index vectors/index_choice filters/keys filters/model
    storage/sqlite/change_log storage/sqlite/loader storage/sqlite/filters
    storage/sql/annotations storage/sqlite/columns/predicates storage/sqlite/columns/column
""".split()  # noqa: SIM905
"""Below mmsearch/, without the ending."""

TESTS = """
    audio banks bulk cache calibration captions catalog cli columns details diversity duplicates
    encoder_seam evaluation feedback filters fusion hits hubness index_roots ingest kinds labels
    lexical media metadata pairs public queries ranking relocate rerank search search_cli settings
    similar snapshots spaces store_contract store_histories text vectors words
""".split()  # noqa: SIM905
PRELOADED = """
    chardet faiss filelock hypothesis numpy PIL.Image platformdirs pytest soundfile
    sqlalchemy.dialects.sqlite tqdm typer
""".split()  # noqa: SIM905
SLOW = 10.0
"""Seconds; a test that takes longer is left out."""


# ---------------------------------------------------------------------- mutants


@dataclass(frozen=True)
class Mutant:
    """A fault in a module."""

    module: str
    code: str
    """Of the whole module."""
    line: int
    """Where it differs first."""
    on_import: bool
    """Whether that line is run when the module is imported."""
    diff: str

    @property
    def key(self) -> str:
        """Identifies the fault in this version of the module."""
        return hashlib.sha256(f"{self.module}\n{self.code}".encode()).hexdigest()[:16]


def path_of(module: str) -> str:
    return f"mmsearch/{module}.py"


def mutants_of(module: str, sample: int, seed: int) -> tuple[int, list[Mutant]]:
    """How many mutants a module has, and a random sample of them."""
    import libcst as cst

    source = (ROOT / path_of(module)).read_text()
    tree = cst.parse_module(source)
    changes = list(_changes(tree))
    count = len(changes)
    random.Random(f"{seed} {module}").shuffle(changes)
    found = {}
    for old, new in changes[:sample]:
        code = tree.deep_replace(old, new).code  # type: ignore[arg-type]
        mutant = _mutant(module, source, code)
        if mutant is not None:
            found[mutant.key] = mutant
    return count, list(found.values())


def _mutant(module: str, before: str, after: str) -> Mutant | None:
    """The mutant, unless it is the same program or none."""
    try:
        if _meaning(before) == _meaning(after):
            return None
    except SyntaxError:
        return None
    name = path_of(module)
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), name, name, n=2, lineterm=""
    )
    pairs = zip(before.splitlines(), after.splitlines(), strict=False)
    line = next((number for number, (a, b) in enumerate(pairs, 1) if a != b), 1)
    functions = (node for node in ast.walk(ast.parse(before)) if isinstance(node, ast.FunctionDef))
    inside = any(node.body[0].lineno <= line <= (node.end_lineno or 0) for node in functions)
    return Mutant(module, after, line, not inside, "\n".join(lines))


def _meaning(code: str) -> str:
    """The syntax tree, without `strict=` of zip, which is an assertion."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "strict"]
    return ast.dump(tree)


def _changes(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Pairs of a node and another to put in its place."""
    from libcst import SimpleString
    from mutmut.mutation.mutators import mutation_operators

    for node, in_raise in _nodes(tree, in_raise=False):
        for kind, operator in mutation_operators:
            for new in operator(node) if isinstance(node, kind) else ():
                if isinstance(new, SimpleString) and (in_raise or "XX" not in new.value):
                    continue  # of a string, one mutant: SQL has no case
                yield node, new


def _nodes(node: Any, *, in_raise: bool) -> Iterator[tuple[Any, bool]]:
    """A node and those below it that are executed, and whether they are part of an error."""
    import libcst as cst
    import libcst.matchers as m

    uncounted = m.Call(func=m.Name("len") | m.Name("isinstance") | m.Name("cast"))
    docstring = m.Expr(value=m.SimpleString() | m.ConcatenatedString())
    declared = m.Assign(value=m.Call(func=m.Name("TypeVar")))
    if isinstance(node, (cst.Annotation, cst.Decorator, cst.Import, cst.ImportFrom)):
        return
    if m.matches(node, docstring | declared):
        return
    in_raise = in_raise or isinstance(node, cst.Raise)
    if not m.matches(node, uncounted):
        yield node, in_raise
    if m.matches(node, m.If(test=m.Name("TYPE_CHECKING"))):
        return
    for child in node.children:
        yield from _nodes(child, in_raise=in_raise)


# ---------------------------------------------------------------------- which tests run a line


class Traced:
    """A plugin of pytest that records which lines each test runs, and for how long."""

    def __init__(self, data: Path) -> None:
        import coverage

        self.coverage = coverage.Coverage(data_file=data, source=["mmsearch"], config_file=False)
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.failed: set[str] = set()
        self.coverage.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] += report.duration
        if not report.passed:
            self.failed.add(report.nodeid)

    def pytest_unconfigure(self) -> None:
        self.coverage.stop()
        self.coverage.save()


class Selection:
    """The tests that run each line. What each file of tests runs is kept in a folder."""

    def __init__(self, work: Path, modules: Iterable[str]) -> None:
        self.seconds: dict[str, float] = {}
        self._of_line: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
        for name in TESTS:
            self._add(work, f"tests/test_{name}.py", list(modules))
        self._lines: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for (module, _), tests in self._of_line.items():
            for test in tests:
                self._lines[test][module] += 1
                self._lines[_file(test)][module] += 1

    def tests(self, mutant: Mutant, budget: float) -> list[list[str]]:
        """Tests that run the changed line, in the order in which they are to be run.

        First some of the quickest, then those that run little beside this module, then any. What is
        run on import, as constants are, may matter to every test; of these, those come second whose
        files do.
        """
        line = mutant.line
        while line > 1 and (mutant.module, line) not in self._of_line:
            line -= 1  # a statement may go over several lines
        found = None if mutant.on_import else self._of_line.get((mutant.module, line))
        left = sorted(found or self.seconds)
        random.Random(0).shuffle(left)
        orders: list[tuple[float, Callable[[str], float]]] = [
            (1 / 8, lambda test: self.seconds[test]),
            (3 / 8, lambda test: -self._share(test if found else _file(test), mutant.module)),
            (1 / 2, lambda _: 0.0),
        ]
        chosen = []
        for share, order in orders:
            chosen.append(self._within(budget * share, sorted(left, key=order)))
            left = [test for test in left if test not in chosen[-1]]
        return chosen

    def _share(self, tests: str, module: str) -> float:
        """The share of a module in the lines that a test, or a file of tests, runs."""
        return self._lines[tests][module] / max(self._lines[tests].total(), 1)

    def _within(self, budget: float, tests: list[str]) -> list[str]:
        """The first tests, one or as many as there is time for."""
        spent = list(accumulate(self.seconds[test] for test in tests))
        return tests[: max(1, bisect_right(spent, budget))]

    def _add(self, work: Path, file: str, modules: list[str]) -> None:
        from coverage import CoverageData

        text = b"".join((ROOT / path_of(module)).read_bytes() for module in modules)
        text += (ROOT / file).read_bytes()
        data = work / "lines" / f"{Path(file).stem}-{hashlib.sha256(text).hexdigest()[:12]}"
        times = data.with_suffix(".json")
        if not times.exists():
            print(f"which lines {file} runs …", file=sys.stderr)
            data.parent.mkdir(exist_ok=True)
            run_pytest(work, [file], 600, times=times, data=data)
            if not json.loads(times.read_text()):
                times.unlink()
                raise SystemExit(f"no test of {file} passes: see {work}/pytest.log")
        seconds = json.loads(times.read_text())
        quick = {test: took for test, took in seconds.items() if took < SLOW}
        self.seconds |= quick
        lines = CoverageData(data)
        lines.read()
        for module in modules:
            contexts = lines.contexts_by_lineno(str(work / path_of(module)))
            for line, tests in ((line, set(tests)) for line, tests in contexts.items()):
                self._of_line[module, line] |= tests & quick.keys()


def _file(test: str) -> str:
    return test.partition("::")[0]


# ---------------------------------------------------------------------- running tests


def run_pytest(
    work: Path,
    tests: list[str],
    seconds: float,
    times: Path | None = None,
    data: Path | None = None,
) -> int | None:
    """The exit code of pytest in a forked process, which finds heavy packages imported.

    None if it ran out of time. With `data`, writes which lines each test ran there, and to `times`
    for how long those ran that passed.
    """
    child = os.fork()
    if not child:
        os.setsid()
        log = os.open(work / "pytest.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 3
        try:
            code = _pytest(work, tests, times, data)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.02)


def _pytest(work: Path, tests: list[str], times: Path | None, data: Path | None) -> int:
    import pytest

    os.chdir(work)
    sys.path.insert(0, str(work))
    plugins: list[Any] = []
    if data is not None:
        plugins.append(Traced(data))
    options = ["-q", "-p", "no:cacheprovider", "--tb=line", f"--basetemp={work}/tmp"]
    code = int(pytest.main([*options, *([] if data else ["-x"]), *tests], plugins))
    if data is not None and times is not None:
        traced = plugins[0]
        passed = {id_: took for id_, took in traced.seconds.items() if id_ not in traced.failed}
        times.write_text(json.dumps(passed))
    return code


def copied(work: Path) -> None:
    """A copy of the code and the tests, in which faults are planted."""
    for name in ("mmsearch", "tests", "docs"):
        shutil.rmtree(work / name, ignore_errors=True)
        shutil.copytree(ROOT / name, work / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy2(ROOT / name, work)


def outcome(work: Path, mutant: Mutant, tests: list[str], expected: float, number: int) -> str:
    """Whether a mutant is killed, survives, or runs out of time."""
    file = work / path_of(mutant.module)
    before, times = file.read_bytes(), file.stat()
    file.write_text(mutant.code)
    os.utime(file, (number, number))  # bytecode is current if its source's time stamp is the same
    try:
        code = run_pytest(work, tests, 15 + 4 * expected)
    finally:
        file.write_bytes(before)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    return "timeout" if code is None else "survived" if code == 0 else "killed"


def tested(work: Path, mutant: Mutant, selection: Selection, budget: float, number: int) -> str:
    """Tested by some tests, what survives them by others, until the budget is spent."""
    result = "survived"
    for chosen in selection.tests(mutant, budget):
        if chosen and result == "survived":
            expected = sum(selection.seconds[test] for test in chosen)
            result = outcome(work, mutant, chosen, expected, number)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("modules", nargs="*", default=[*DECIDING, *OTHERS])
    parser.add_argument("--sample", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=30)
    parser.add_argument("--survivors", action="store_true")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "mutants")
    args = parser.parse_args()

    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    copied(work)
    os.environ["PYTHONPATH"] = str(work)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for package in PRELOADED:  # once, before forking
        importlib.import_module(package)
    gc.freeze()

    kept = work / "results.json"
    results: dict[str, str] = json.loads(kept.read_text()) if kept.exists() else {}
    selection = Selection(work, [*DECIDING, *OTHERS])
    counts: dict[str, Counter[str]] = {}
    survivors = []
    number = int(time.time()) - 10_000_000
    for module in args.modules:
        sample = args.sample if module in DECIDING else args.sample // 2
        there, mutants = mutants_of(module, sample, args.seed)
        counts[module] = Counter(there=there)
        for mutant in mutants:
            number += 1
            again = args.survivors and results.get(mutant.key) == "survived"
            if again or (not args.survivors and mutant.key not in results):
                results[mutant.key] = tested(work, mutant, selection, args.budget, number)
                kept.write_text(json.dumps(results))
            if result := results.get(mutant.key):
                counts[module][result] += 1
                if result == "survived":
                    survivors.append(f"# {mutant.key}\n{mutant.diff}\n")
                    (work / "survivors.diff").write_text("\n".join(survivors))
        print(row(module, counts[module]), file=sys.stderr)

    print(f"sample of {args.sample}, seed {args.seed}\n\n{HEAD}")
    for module, count in counts.items():
        print(row(module, count))
    print(row("all", sum(counts.values(), Counter())))


HEAD = f"{'module':34}{'mutants':>9}{'tested':>8}{'killed':>8}{'timeout':>9}{'survived':>10}"


def row(module: str, count: Counter[str]) -> str:
    killed, timeout, survived = count["killed"], count["timeout"], count["survived"]
    tested = killed + timeout + survived
    return f"{module:34}{count['there']:9}{tested:8}{killed:8}{timeout:9}{survived:10}"


if __name__ == "__main__":
    main()
