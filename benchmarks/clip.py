"""How fast a clip model indexes photos, beside the loop that most people write.

    python benchmarks/clip.py [--work FOLDER] [--rounds N]

The loop is PIL, open_clip's preprocessing and `encode_image`: batches of 32, fp32, all cores. It
runs in turns with `Collection.add`, which also stores what it finds, on the same photos and the
same ViT-B/32 of random weights. Figures are photos a second (medians of the rounds) and ratios;
on other machines, only the ratios are likely to hold.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from photos import LARGE, SMALL, crops
from PIL import Image

import mmsearch
from mmsearch.encoders.onnx import session

ARCH = "ViT-B-32"
GFLOP = 8.7
"""Of its image tower and one photo, 4.37 billion multiplications with their additions."""
ORT_DOMAIN = "com.microsoft"
BATCH = 32
PRECISIONS = ("fp32", "int8")


def untrained(work: Path) -> Path:
    """A checkpoint of random weights, made by the first run."""
    import open_clip
    import torch

    file = work / f"{ARCH}.pt"
    if not file.exists():
        torch.manual_seed(0)
        torch.save(open_clip.create_model(ARCH).state_dict(), file)
    return file


def usual_loop(weights: Path) -> Callable[[list[Path]], Any]:
    """What open_clip's own example does, in batches."""
    import open_clip
    import torch

    model, _, preprocess = open_clip.create_model_and_transforms(ARCH, str(weights))
    model.eval()

    def run(paths: list[Path]) -> Any:
        batches = []
        for start in range(0, len(paths), BATCH):
            batch = paths[start : start + BATCH]
            photos = torch.stack([preprocess(Image.open(path)) for path in batch])
            with torch.no_grad():
                batches.append(model.encode_image(photos, normalize=True))
        return torch.cat(batches).numpy()

    return run


def indexing(name: str, precision: str, warm: Path, folder: Path) -> float:
    """Seconds to add a folder to an index whose model is loaded and has encoded before."""
    with tempfile.TemporaryDirectory() as index:
        with mmsearch.index(warm, into=Path(index), model=name, precision=precision) as library:
            began = time.perf_counter()
            library.add(folder)
            taken = time.perf_counter() - began
            if library.report.failures:
                raise SystemExit(f"{len(library.report.failures)} photos were not indexed")
        return taken


def encoding(name: str, precision: str, paths: list[Path]) -> float:
    """Seconds to encode pictures that are decoded already, in the encoder's own batches."""
    encoder = mmsearch.load_encoder(name, precision=precision)
    photos = [encoder.prepare("image", Image.open(path)) for path in paths]
    encoder.encode("image", photos[:BATCH])
    began = time.perf_counter()
    encoder.encode("image", photos)
    return time.perf_counter() - began


def product_rate(precision: str) -> float:
    """GFLOP/s of ONNX Runtime's matrix product on all cores: an upper bound for any model here."""
    from onnx import TensorProto, helper, numpy_helper

    rows, inner, columns, runs = 400, 768, 3072, 20
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((inner, columns)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    constants = [numpy_helper.from_array(weights, "w")]
    if precision == "int8":
        node = helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s"], ["y"], domain=ORT_DOMAIN)
        scales = np.full(columns, 0.01, np.float32)
        integers = (weights * 30).clip(-127, 127).astype(np.int8)
        constants = [numpy_helper.from_array(integers, "w"), numpy_helper.from_array(scales, "s")]
    shapes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [rows, inner]), ("y", [rows, columns]))
    ]
    graph = helper.make_graph([node], "product", shapes[:1], shapes[1:], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ORT_DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    product = session(model.SerializeToString(), optimise=True, threads=1)
    inputs = {"x": rng.standard_normal((rows, inner)).astype(np.float32)}
    times = []
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for _ in range(7):
            began = time.perf_counter()
            list(threads.map(lambda _: product.run(None, inputs), range(runs)))
            times.append(time.perf_counter() - began)
    return runs * 2 * rows * inner * columns / statistics.median(times[2:]) / 1e9


def report(title: str, count: int, taken: dict[str, list[float]]) -> None:
    """One table: photos a second, and how many times the first row's that is."""
    print(f"\n{title}")
    rounds = np.array(list(taken.values()))
    for name, ratios in zip(taken, rounds[0] / rounds, strict=True):
        rate = count / statistics.median(taken[name])
        print(f"  {name:<34} {rate:7.1f} photos/s   ×{statistics.median(ratios):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--work", type=Path, default=Path(".cache/benchmarks"), help="files to keep"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", type=int, default=256, help="photos of 224 pixels")
    parser.add_argument("--large", type=int, default=48, help="photos of 12 megapixels")
    options = parser.parse_args()
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    os.environ["MMSEARCH_CACHE"] = str(work / "cache")
    weights = untrained(work)
    name = f"clip:{ARCH}@{weights}"
    warm = crops(work / "clip-warm", 64, SMALL, seed=8)
    folders = {
        "224-pixel JPEGs": crops(work / "clip-small", options.small, SMALL, seed=9),
        "12-megapixel JPEGs": crops(work / "large", options.large, LARGE),
    }
    loop = usual_loop(weights)
    print(f"{platform.machine()}, {os.cpu_count()} cores, {ARCH} of random weights")
    rates = ", ".join(f"{one} {product_rate(one):.0f}" for one in PRECISIONS)
    print(f"matrix products, GFLOP/s: {rates}; a photo takes {GFLOP} GFLOP")
    for precision in PRECISIONS:
        indexing(name, precision, warm, warm)  # its towers are made and checked here, once
    for title, folder in folders.items():
        paths = sorted(folder.glob("*.jpg"))
        loop(paths[:BATCH])
        taken: dict[str, list[float]] = {"the usual loop": []}
        for _ in range(options.rounds):
            began = time.perf_counter()
            loop(paths)
            taken["the usual loop"].append(time.perf_counter() - began)
            for precision in PRECISIONS:
                label = f"mmsearch {precision}, decode and store in"
                taken.setdefault(label, []).append(indexing(name, precision, warm, folder))
                if folder is folders["224-pixel JPEGs"]:
                    alone = f"  its encoder alone, {precision}"
                    taken.setdefault(alone, []).append(encoding(name, precision, paths))
        report(title, len(paths), taken)


if __name__ == "__main__":
    main()
