"""How long a whole `mmsearch query` takes on an index of a clip model, started from nothing.

    python benchmarks/clip_cold.py [--work FOLDER] [--runs N]

ViT-B/32 of random weights on ONNX Runtime; its towers are made beforehand, as indexing does.
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

ARCH = "ViT-B-32"
STAGES = """
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
"""


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
        table(f"mmsearch query, {precision}: {whole.wall:.2f} s", rows)


if __name__ == "__main__":
    main()
