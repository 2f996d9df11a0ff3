"""How fast mmsearch is, and how much memory it takes, through the commands its users run.

    python benchmarks/speed.py [--work FOLDER]

Makes 10,000 small photos on its first run (crops of scikit-image's), then prints a table each for
cold and warm queries, and peak memory. How fast photos are taken in: benchmarks/ingest.py.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from photos import SMALL, crops

import mmsearch

QUERIES = ["a dog on a beach", "an astronaut", "a cup of coffee", "a cat", "a red motorcycle"]
COLD_RUNS = 11


def table(title: str, rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    print(f"\n{title}")
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")


def command(*arguments: str) -> tuple[float, float]:
    """(seconds, peak MiB) of one whole `mmsearch` process."""
    began = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "mmsearch.cli.app", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - began
    if child.returncode:
        raise SystemExit(f"mmsearch {' '.join(arguments)} ended with {child.returncode}")
    return seconds, usage.ru_maxrss / 1024


def median_ms(call: Callable[[], object], runs: int) -> float:
    call()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


def memory(folders: list[Path], index: Path) -> None:
    rows = []
    for count in (1, 7):
        with tempfile.TemporaryDirectory() as place:
            paths = [str(folder) for folder in folders[:count]]
            seconds, peak = command("index", *paths, "-i", f"{place}/i", "-q")
            rows.append((f"indexing {count},000 photos", f"{peak:.0f} MiB  ({seconds:.0f} s)"))
    if not (index / "catalog.db").exists():
        command("index", *map(str, folders), "-i", f"{index}/", "-q")
    _, peak = command("query", QUERIES[0], "-i", f"{index}/")
    rows.append(("a query over 10,000", f"{peak:.0f} MiB"))
    table("Peak memory of the process", rows)


def queries(index: Path, example: Path) -> None:
    cold = [command("query", QUERIES[0], "-i", f"{index}/")[0] for _ in range(COLD_RUNS)]
    bare = [_python("pass") for _ in range(COLD_RUNS)]
    imports = [
        _python("import sqlalchemy, typer, numpy, onnxruntime, faiss, tokenizers") for _ in cold
    ]
    table(
        f"Cold `mmsearch query` over 10,000 photos, whole process, median of {COLD_RUNS}",
        [
            ("seconds", f"{statistics.median(cold):.2f}  (best {min(cold):.2f})"),
            ("of which Python itself", f"{statistics.median(bare):.2f}"),
            ("Python and the bare imports", f"{statistics.median(imports):.2f}"),
        ],
    )
    stages(index)
    with mmsearch.open(index) as library:
        vector = library.encoder.encode("text", QUERIES[:1])
        rows = [
            ("text encoded and searched", median_ms(lambda: library.search(QUERIES[0]), 200)),
            ("searched, vector given", median_ms(lambda: library.search_vectors(vector), 200)),
            (
                "image decoded, encoded, searched",
                median_ms(lambda: library.search(mmsearch.Query.image(example)), 50),
            ),
        ]
    table(
        "Warm query over 10,000 photos, k=10, milliseconds (median)",
        [(name, f"{value:.2f}") for name, value in rows],
    )


def _python(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


STAGES = """
import time; began = time.perf_counter(); marks = []
def mark(name):
    global began
    now = time.perf_counter(); marks.append((name, now - began)); began = now
import typer; mark("import typer")
import sqlalchemy; mark("import sqlalchemy")
import mmsearch.cli.app; mark("import the rest of mmsearch.cli.app")
library = mmsearch.open(INDEX); mark("open the catalog")
import numpy; mark("import numpy")
from mmsearch.encoders import onnx; onnx.import_onnxruntime(); mark("import onnxruntime")
import tokenizers; mark("import tokenizers")
library.encoder.encode("text", [QUERY]); mark("load the text tower, encode")
import faiss; mark("import faiss")
vector = library.encoder.encode("text", [QUERY])
library.search_vectors(vector); mark("read the index, search, hits")
print("\\n".join(f"{name}|{seconds}" for name, seconds in marks))
"""


def stages(index: Path) -> None:
    """Where a cold query's time goes when its steps follow one another."""
    code = STAGES.replace("INDEX", repr(index)).replace("QUERY", repr(QUERIES[0]))
    code = "from pathlib import PosixPath, WindowsPath\n" + code
    taken: dict[str, list[float]] = {}
    for _ in range(COLD_RUNS):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        for line in done.stdout.splitlines():
            name, seconds = line.split("|")
            taken.setdefault(name, []).append(float(seconds))
    rows = [(name, f"{statistics.median(values) * 1000:.0f}") for name, values in taken.items()]
    table("Its steps one after the other, milliseconds (the command overlaps the last ones)", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path(".cache/benchmarks"), help="kept files")
    work = parser.parse_args().work.absolute()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    package = Path(mmsearch.__file__).parent
    shipped = [p for p in package.rglob("*") if p.is_file() and p.suffix != ".pyc"]
    size = sum(path.stat().st_size for path in shipped)
    table("The package, its model included", [("MB", f"{size / 1e6:.1f}")])
    folders = [crops(work / "small" / str(n), 1000, SMALL, seed=n) for n in range(10)]
    index = work / "index-10k"
    memory(folders, index)
    queries(index, folders[0] / "00000.jpg")


if __name__ == "__main__":
    main()
