"""mmsearch beside rclip, and beside the loop that most people write: whole processes, in turns.

    python benchmarks/peers.py [--rclip-python python3.13] [--rounds 3] [--only photos|rescan]

All run the same ViT-B/32 at 256 pixels, of random weights. rclip (PyPI) is installed into an
environment of its own, and its two ONNX files are made from these weights by torch's exporter, as
its own are. The loop is open_clip's example: PIL, its preprocessing, `encode_image` in batches of
32, fp32. Files, environments and indexes are kept in the work folder.

Printed are the seconds of: indexing photos and one query; a query alone; looking through many files
that have not changed, and one query; and how many times as fast as rclip each is, as the median of
the rounds' ratios. The re-scan runs on tiny models, as indexing so many files takes hours.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from photos import LARGE, SMALL, crops
from timing import Cost, Process, machine, run, table

ARCH = "ViT-B-32-256"
RCLIP = "rclip==4.0.8"
SUBFOLDER = "ViT-B-32-256-datacomp_s34b_b86k"
"""Where rclip looks for its models."""
LEGAL = ("LICENSE", "OPENAI-CLIP-MIT.txt", "README.md", "THIRD_PARTY_NOTICES.md")
"""Files without which it would try to download them."""
QUERY = "a dog on a beach"
FILES_A_FOLDER = 1000
LOOP = """
import sys
from pathlib import Path
import open_clip, torch
from PIL import Image
arch, weights, folder, query = sys.argv[1:]
model, _, preprocess = open_clip.create_model_and_transforms(arch, weights)
model.eval()
paths, parts = sorted(Path(folder).glob("*.jpg")), []
with torch.no_grad():
    for at in range(0, len(paths), 32):
        batch = torch.stack([preprocess(Image.open(path)) for path in paths[at : at + 32]])
        parts.append(model.encode_image(batch, normalize=True))
    text = model.encode_text(open_clip.get_tokenizer(arch)([query]), normalize=True)
for place in (torch.cat(parts) @ text[0]).topk(min(10, len(paths))).indices:
    print(paths[place])
"""

Program = Callable[[Path], Process]
"""Indexes a folder from nothing, or what is new in it, and answers a query."""


def untrained(work: Path, arch: str = ARCH) -> Path:
    """A checkpoint of random weights, made by the first run."""
    import open_clip
    import torch

    file = work / f"{arch}.pt"
    if not file.exists():
        torch.manual_seed(0)
        torch.save(open_clip.create_model(arch).state_dict(), file)
    return file


def environment() -> dict[str, str]:
    """That of the processes, which may keep compiled code."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"HF_HUB_OFFLINE": "1"}


# ---------------------------------------------------------------------- rclip


def install_rclip(work: Path, python: str) -> Path:
    """The command of an rclip in an environment of its own, made by the first run."""
    place = work / "rclip"
    command = place / "bin" / "rclip"
    if not command.exists():
        run([python, "-m", "venv", place])
        run([place / "bin" / "pip", "install", "--quiet", RCLIP])
    return command


def rclip_files(work: Path, weights: Path) -> Path:
    """The data folder of rclip, with the model as it would download it."""
    import open_clip
    import torch

    folder = work / "rclip-data"
    models = _data_folder(folder)
    if (models / "textual.onnx").exists():
        return folder
    model = open_clip.create_model(ARCH, str(weights)).eval()
    model.forward = model.encode_text
    torch.backends.mha.set_fastpath_enabled(False)  # it has no ONNX counterpart
    texts = open_clip.get_tokenizer(ARCH)(["a dog", "two cats"])
    for module, example, name in (
        (model.visual, torch.rand(2, 3, 256, 256), "visual.onnx"),
        (model, texts, "textual.onnx"),
    ):
        torch.onnx.export(
            module,
            (example,),
            str(models / name),
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={"input": {0: "n"}, "output": {0: "n"}},
            dynamo=False,
        )
    return folder


def tiny_rclip_files(work: Path) -> Path:
    """The same with graphs that do next to nothing."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder = work / "rclip-tiny"
    models = _data_folder(folder)
    rng = np.random.default_rng(0)
    spread = [helper.make_node("MatMul", ["flat", "spread"], ["output"])]
    means = [helper.make_node("ReduceMean", ["input", "axes"], ["flat"], keepdims=0)]
    floats = [helper.make_node("Cast", ["input"], ["flat"], to=TensorProto.FLOAT)]
    for name, first, kind, shape, width in (
        ("visual.onnx", means, TensorProto.FLOAT, ["n", 3, 256, 256], 3),
        ("textual.onnx", floats, TensorProto.INT64, ["n", 77], 77),
    ):
        matrix = rng.standard_normal((width, 512)).astype(np.float32)
        constants = [numpy_helper.from_array(matrix, "spread")]
        if first is means:
            constants.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
        graph = helper.make_graph(
            [*first, *spread],
            "tiny",
            [helper.make_tensor_value_info("input", kind, shape)],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 512])],
            constants,
        )
        opset = helper.make_opsetid("", 18)
        onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), models / name)
    return folder


def _data_folder(folder: Path) -> Path:
    import open_clip

    models = folder / SUBFOLDER
    words = folder / "tokenizer" / "bpe_simple_vocab_16e6.txt.gz"
    for each in (models, words.parent):
        each.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(open_clip.__file__).parent / words.name, words)
    for name in LEGAL:
        (folder / name).touch()
    return models


def rclip(command: Path, data: Path, *options: str) -> Program:
    """Run rclip in a folder; it indexes what is new at each query."""

    def searched(folder: Path) -> Process:
        env = environment() | {"RCLIP_DATADIR": str(data)}
        return run([command, "-f", *options, QUERY], env=env, cwd=folder)

    return searched


# ---------------------------------------------------------------------- the others


def loop(weights: Path) -> Program:
    """The usual loop, in a process of its own."""
    return lambda folder: run(
        [sys.executable, "-c", LOOP, ARCH, weights, folder, QUERY], env=environment()
    )


def mmsearch(index: Path, model: Sequence[str] = (), how: Sequence[str] = ()) -> Program:
    """`mmsearch index`, then `mmsearch query`, taken together."""

    def searched(folder: Path) -> Process:
        first = mmsearch_index(index, model, how)(folder)
        second = mmsearch_query(index, how)(folder)
        costs = first.cost, second.cost
        both = Cost(sum(one.wall for one in costs), sum(one.cpu for one in costs))
        return Process(0, second.output, second.errors, both, max(first.peak, second.peak))

    return searched


def mmsearch_index(index: Path, model: Sequence[str] = (), how: Sequence[str] = ()) -> Program:
    """`mmsearch index`."""
    command = [sys.executable, "-m", "mmsearch", "index", "-i", index, *model, *how]
    return lambda folder: run([*command, folder], env=environment())


def mmsearch_query(index: Path, how: Sequence[str] = ()) -> Program:
    """`mmsearch query` on an index that is there."""
    command = [sys.executable, "-m", "mmsearch", "query", QUERY, "-i", index, *how]
    return lambda _folder: run(command, env=environment())


# ---------------------------------------------------------------------- comparing


def compare(
    title: str,
    programs: Mapping[str, Program],
    folder: Path,
    rounds: int,
    forget: Callable[[], None] = lambda: None,
) -> None:
    """Run programs in turns on a folder, and print a table.

    Args:
        title: The table's.
        programs: The first is what the others are compared with.
        folder: Of photos.
        rounds: How often each is run.
        forget: Removes what they have indexed; called before each round.
    """
    taken: dict[str, list[Process]] = {name: [] for name in programs}
    for _ in range(rounds):
        forget()
        for name, program in programs.items():
            taken[name].append(program(folder))
    walls = {name: [one.cost.wall for one in several] for name, several in taken.items()}
    first = next(iter(walls.values()))
    rows = []
    for name, several in taken.items():
        ratios = [a / b for a, b in zip(first, walls[name], strict=True)]
        rows.append(
            [
                name,
                f"{statistics.median(walls[name]):.2f} s",
                f"{statistics.median(one.cost.cpu for one in several):.2f} s",
                f"{statistics.median(ratios):.2f} ×",
                f"{max(one.peak for one in several):.0f} MiB",
            ]
        )
    table(title, rows, ["", "seconds", "of the processor", "as fast as the first", "peak memory"])


def tiny_clip(work: Path) -> str:
    """The name of an open_clip model that does next to nothing."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = work / "tiny"
    folder.mkdir(exist_ok=True)
    config = {
        "embed_dim": 512,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 64,
            "head_width": 32,
            "patch_size": 32,
        },
        "text_cfg": {"width": 64, "heads": 2, "layers": 1},
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    torch.manual_seed(0)
    state = open_clip.create_model(f"local-dir:{folder}").state_dict()
    save_file(state, folder / "open_clip_model.safetensors")
    return f"clip:@{folder}"


def many(work: Path, count: int) -> Path:
    """A folder of so many small JPEGs, all different; made by the first run."""
    folder = work / f"many-{count}"
    if not folder.exists():
        making = Path(tempfile.mkdtemp(dir=work))
        sources = [
            one.read_bytes() for one in sorted(crops(work / "tiles", 50, (64, 64)).iterdir())
        ]
        for number in range(count):
            place = making / f"{number // FILES_A_FOLDER:04}"
            place.mkdir(exist_ok=True)
            end = number.to_bytes(4, "big")  # after the photo, where no decoder looks
            (place / f"{number:07}.jpg").write_bytes(sources[number % len(sources)] + end)
        making.rename(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--work", type=Path, default=Path(".cache/benchmarks"), help="files to keep"
    )
    parser.add_argument("--rclip-python", default="python3.13", help="3.12 or 3.13")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", type=int, default=300, help="photos of 224 pixels")
    parser.add_argument("--large", type=int, default=60, help="photos of 12 megapixels")
    parser.add_argument("--rescan", type=int, default=100_000, help="files")
    parser.add_argument("--only", choices=("photos", "rescan"))
    options = parser.parse_args()
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    os.environ["MMSEARCH_CACHE"] = str(work / "cache")
    command = install_rclip(work, options.rclip_python)
    with ProcessPoolExecutor(
        1, get_context("spawn")
    ) as making:  # torch would stay in this process,
        weights = making.submit(untrained, work).result()  # and count for those that it starts
        data = making.submit(rclip_files, work, weights).result()
        tiny_data = making.submit(tiny_rclip_files, work).result()
        tiny = making.submit(tiny_clip, work).result()
    indexes = work / "peers"
    model = ["--model", f"clip:{ARCH}@{weights}"]
    kinds: dict[str, tuple[Sequence[str], Sequence[str]]] = {
        "mmsearch, fp32": (model, ["--precision", "fp32"]),
        "mmsearch": (model, []),
        "mmsearch, built-in model": ([], []),
    }

    def forget() -> None:
        shutil.rmtree(indexes, ignore_errors=True)
        for file in data.glob("db.sqlite3*"):
            file.unlink()

    print(machine())
    programs = {"rclip": rclip(command, data), "the usual loop": loop(weights)}
    programs |= {kind: mmsearch(indexes / kind, *given) for kind, given in kinds.items()}
    if options.only != "rescan":
        warm = crops(work / "clip-warm", 64, SMALL, seed=8)
        forget()
        for program in programs.values():  # towers are made and checked here, once
            program(warm)
        queries = {"rclip": rclip(command, data, "--no-indexing")}
        queries |= {name: mmsearch_query(indexes / name, how) for name, (_, how) in kinds.items()}
        compare("a query", queries, warm, 3 * options.rounds)
        for number, size in ((options.small, SMALL), (options.large, LARGE)):
            folder = crops(work / f"{number}-of-{size[0]}", number, size, seed=9)
            title = f"{number} photos of {size[0]} × {size[1]} pixels, and a query"
            compare(title, programs, folder, options.rounds, forget)
    if options.only != "photos":
        folder = many(work, options.rescan)
        again = {
            "rclip": rclip(command, tiny_data),
            "mmsearch": mmsearch(work / "tiny-index", ["--model", tiny]),
            "mmsearch index alone": mmsearch_index(work / "tiny-index", ["--model", tiny]),
        }
        for program in again.values():
            program(folder)
        title = f"{options.rescan:,} unchanged photos, and a query"
        compare(title, again, folder, options.rounds)


if __name__ == "__main__":
    main()
