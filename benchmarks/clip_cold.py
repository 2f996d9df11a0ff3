"""How long a whole `mmsearch query` takes on an index of a clip model, started from nothing.

    python benchmarks/clip_cold.py [--work FOLDER] [--runs N]

ViT-B/32 of random weights on ONNX Runtime; its towers are made beforehand, as indexing does. Then
follows what a process that asks once does otherwise than one that asks again, and what it gains.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from peers import untrained
from photos import SMALL, crops
from timing import machine, median, run, stages, table

import mmsearch
from mmsearch.encoders.clip.towers import TowerCache
from mmsearch.encoders.registry import load_encoder

ARCH = "ViT-B-32"
STAGES = """
import os; os.environ["OPENBLAS_NUM_THREADS"] = "1"
import mmsearch; mark("import mmsearch")
import numpy; mark("import numpy")
from mmsearch.encoders.registry import load_encoder
from mmsearch.encoders.onnx import import_onnxruntime; import_onnxruntime()
mark("import onnxruntime")
import tokenizers; mark("import tokenizers")
from mmsearch.encoders import Runtime
encoder = load_encoder(NAME, Runtime(precision=PRECISION, once=True)); mark("find the model")
encoder.encode("text", ["a dog on a beach"]); mark("load the text tower, encode")
import sys; assert "torch" not in sys.modules
"""
NUMPY = """
import time
import numpy
time.sleep(0.1)
"""
GRAPH = """
from pathlib import Path
import numpy as np
from mmsearch.encoders.clip.towers import Tower
from mmsearch.encoders.onnx import import_onnxruntime; import_onnxruntime()
ids = [np.array([49406, 320, 1929, 525, 320, 2117, 49407])]
mark("import")
tower = Tower(Path(FILE), "text", packs=PACKS)
tower.load(1); mark("load the graph")
tower.run(ids); mark("run it")
tower.run(ids); mark("run it again")
"""
TOKENS = """
import json
from mmsearch.encoders.clip.preprocessing import TokenRecipe, Tokens
from mmsearch.encoders.clip.towers import TowerCache
import numpy, tokenizers
towers = TowerCache(FINGERPRINT)
recipe = TokenRecipe.read(towers.facts()["tokens"])
mark("import")
Tokens(towers.tokenizer, recipe)(["a dog on a beach"]); mark("all pieces")
Tokens(towers.tokenizer, recipe, towers.pieces)(["a dog on a beach"]); mark("those it needs")
"""


def gains(name: str, runs: int) -> None:
    """Print what each thing costs that a process that asks once does otherwise."""
    rows = []
    for threads, title in ("2", "import NumPy, with two threads"), ("1", "with one"):
        env = os.environ | {"OPENBLAS_NUM_THREADS": threads}
        command = [sys.executable, "-c", NUMPY]
        cpu = median(run(command, env=env).cost for _ in range(runs)).cpu
        rows.append((title, f"{cpu * 1000:.0f} ms of the processor"))
    fingerprint = load_encoder(name).fingerprint
    towers = TowerCache(fingerprint)
    for packs in (True, False):
        code = GRAPH.replace("FILE", repr(str(towers.graph("text", "fp32"))))
        taken = stages(code.replace("PACKS", str(packs)), runs)
        del taken["import"]
        kind = "packed" if packs else "as it lies"
        rows += [(f"{stage}, {kind}", f"{one * 1000:.0f} ms") for stage, one in taken.items()]
    taken = stages(TOKENS.replace("FINGERPRINT", repr(fingerprint)), runs)
    del taken["import"]
    rows += [(f"read {stage}", f"{one * 1000:.0f} ms") for stage, one in taken.items()]
    table("A process that asks once, and one that asks again", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--work", type=Path, default=Path(".cache/benchmarks"), help="files to keep"
    )
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    os.environ["MMSEARCH_CACHE"] = str(work / "cache")
    name = f"clip:{ARCH}@{untrained(work, ARCH)}"
    photos = crops(work / "clip-warm", 64, SMALL, seed=8)
    print(machine())
    for precision in ("int8", "fp32"):
        index = work / f"clip-index-{precision}"
        mmsearch.index(photos, into=index, model=name, precision=precision).close()
        command = [sys.executable, "-m", "mmsearch", "query", "a dog on a beach"]
        command += ["-i", str(index), "--precision", precision]
        whole = median(run(command).cost for _ in range(options.runs))
        code = STAGES.replace("NAME", repr(name)).replace("PRECISION", repr(precision))
        rows = [
            (stage, f"{seconds * 1000:.0f} ms")
            for stage, seconds in stages(code, options.runs).items()
        ]
        title = f"mmsearch query, {precision}: {whole.wall:.2f} s, {whole.cpu:.2f} of the processor"
        table(title, rows)
    gains(name, options.runs)


if __name__ == "__main__":
    main()
