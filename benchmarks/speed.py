"""How fast mmsearch is, and how much memory it takes, through the commands its users run.

    python benchmarks/speed.py [--work FOLDER]

Makes 10,000 small photos on its first run (crops of scikit-image's), then prints tables of peak
memory, cold queries with their steps, and warm queries. How fast photos are indexed is printed by
benchmarks/ingest.py; benchmarks/compare_speed.py compares cold queries of two versions.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from photos import SMALL, crops
from timing import Process, machine, median_seconds, run, stages, table

import mmsearch

QUERY = "a dog on a beach"
COLD_RUNS = 11

STAGES = """
from pathlib import Path
import typer; mark("import typer")
import sqlalchemy; mark("import sqlalchemy")
import mmsearch.cli.app; mark("import the rest of mmsearch.cli.app")
library = mmsearch.open(Path(INDEX)); mark("open the catalog")
import numpy; mark("import numpy")
from mmsearch.encoders import onnx; onnx.import_onnxruntime(); mark("import onnxruntime")
import tokenizers; mark("import tokenizers")
library.encoder.encode("text", [QUERY]); mark("load the text tower, encode")
import faiss; mark("import faiss")
vector = library.encoder.encode("text", [QUERY])
library.search_vectors(vector); mark("read the index, search, hits")
"""


def command(*arguments: str) -> Process:
    """One whole `mmsearch` process."""
    return run([sys.executable, "-m", "mmsearch", *arguments])


def median_ms(call: Callable[[], object], runs: int) -> float:
    call()
    return median_seconds(call, runs) * 1000


def cold(*arguments: str) -> list[float]:
    """Seconds of a whole Python process, several times."""
    return [run([sys.executable, *arguments]).cost.wall for _ in range(COLD_RUNS)]


def memory(folders: list[Path], index: Path) -> None:
    rows = []
    for count in (1, 7):
        with tempfile.TemporaryDirectory() as place:
            paths = [str(folder) for folder in folders[:count]]
            done = command("index", *paths, "-i", f"{place}/i", "-q")
            shown = f"{done.peak:.0f} MiB  ({done.cost.wall:.0f} s)"
            rows.append((f"indexing {count},000 photos", shown))
    if not (index / "catalog.db").exists():
        command("index", *map(str, folders), "-i", f"{index}/", "-q")
    peak = command("query", QUERY, "-i", f"{index}/").peak
    rows.append(("a query over 10,000", f"{peak:.0f} MiB"))
    table("Peak memory of the process", rows)


def queries(index: Path, example: Path) -> None:
    whole = cold("-m", "mmsearch", "query", QUERY, "-i", f"{index}/")
    bare = cold("-c", "pass")
    imports = cold("-c", "import sqlalchemy, typer, numpy, onnxruntime, faiss, tokenizers")
    table(
        f"Cold `mmsearch query` over 10,000 photos, whole process, median of {COLD_RUNS}",
        [
            ("seconds", f"{statistics.median(whole):.2f}  (best {min(whole):.2f})"),
            ("of which Python itself", f"{statistics.median(bare):.2f}"),
            ("Python and the bare imports", f"{statistics.median(imports):.2f}"),
        ],
    )
    code = STAGES.replace("INDEX", repr(str(index))).replace("QUERY", repr(QUERY))
    table(
        "Its steps one after the other, milliseconds (the command overlaps the last ones)",
        [(name, f"{seconds * 1000:.0f}") for name, seconds in stages(code, COLD_RUNS).items()],
    )
    with mmsearch.open(index) as library:
        vector = library.encoder.encode("text", [QUERY])
        rows = [
            ("text encoded and searched", median_ms(lambda: library.search(QUERY), 200)),
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--work", type=Path, default=Path(".cache/benchmarks"), help="files to keep"
    )
    work = parser.parse_args().work.absolute()
    print(machine())
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
