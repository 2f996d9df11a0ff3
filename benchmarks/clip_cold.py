"""How long a whole `mmsearch query` takes on an index of a clip model, started from nothing.

    python benchmarks/clip_cold.py [--work FOLDER] [--runs N]

ViT-B/32 of random weights on ONNX Runtime; its towers are made beforehand, as indexing does.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from clip import ARCH, untrained
from photos import SMALL, crops

import mmsearch

STAGES = """
import time; began = time.perf_counter(); marks = []
def mark(name):
    global began
    now = time.perf_counter(); marks.append((name, now - began)); began = now
import mmsearch; mark("import mmsearch")
import numpy; mark("import numpy")
from mmsearch.encoders.registry import load_encoder
from mmsearch.encoders.onnx import import_onnxruntime; import_onnxruntime()
mark("import onnxruntime")
import tokenizers; mark("import tokenizers")
from mmsearch.encoders import Runtime
encoder = load_encoder(NAME, Runtime(precision=PRECISION)); mark("find the model")
encoder.encode("text", ["a dog on a beach"]); mark("load the text tower, encode")
encoder.encode("text", ["a cat on a sofa"]); mark("encode another")
import sys; assert "torch" not in sys.modules
print("\\n".join(f"{name}|{seconds}" for name, seconds in marks))
"""


def seconds(command: list[str], runs: int) -> list[float]:
    found = []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - began)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path(".cache/benchmarks"), help="kept files")
    parser.add_argument("--runs", type=int, default=9)
    given = parser.parse_args()
    work = given.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    os.environ["MMSEARCH_CACHE"] = str(work / "cache")
    name = f"clip:{ARCH}@{untrained(work)}"
    photos = crops(work / "clip-warm", 64, SMALL, seed=8)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for precision in ("int8", "fp32"):
        index = work / f"clip-index-{precision}"
        mmsearch.index(photos, into=index, model=name, precision=precision).close()
        command = [sys.executable, "-m", "mmsearch.cli.app", "query", "a dog on a beach"]
        taken = seconds([*command, "-i", str(index), "--precision", precision], given.runs)
        print(f"\nmmsearch query, {precision}: {statistics.median(taken):.2f} s")
        code = STAGES.replace("NAME", repr(name)).replace("PRECISION", repr(precision))
        stages: dict[str, list[float]] = {}
        for _ in range(given.runs):
            run = [sys.executable, "-c", code]
            done = subprocess.run(run, capture_output=True, text=True, check=True)
            for line in done.stdout.splitlines():
                stage, taken_there = line.split("|")
                stages.setdefault(stage, []).append(float(taken_there))
        for stage, times in stages.items():
            print(f"  {stage:<30} {statistics.median(times) * 1000:5.0f} ms")


if __name__ == "__main__":
    main()
