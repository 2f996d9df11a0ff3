"""Two versions of the code, run in turns on one machine: what their comparisons have in common.

A tree is a folder whose `mmsearch` is run by PYTHONPATH, such as a clone, or what `git worktree add
--detach FOLDER COMMIT` makes. Both run on this interpreter, with the packages that it has.

A script that compares trees starts itself again within each, `--part NAME ARGUMENT…`: what such a
part does uses the public interface alone, which all versions share, and imports `mmsearch` itself.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from timing import Process, run

Part = Callable[..., Any]
"""Takes arguments as written on the command line; returns what JSON can hold."""

SUBJECTS = ("dog", "cat", "bird", "car", "boat", "tree", "child", "street")
COLOURS = ("red", "blue", "green", "grey", "white")
PLACES = ("Rome", "Oslo", "Bern")


@dataclass(frozen=True)
class Tree:
    """One version of the code."""

    name: str
    folder: Path

    def python(self, *arguments: str | os.PathLike[str], check: bool = True) -> Process:
        """Run the interpreter on this tree, and on no `mmsearch` of the working folder (-P)."""
        path = f"{self.folder}{os.pathsep}{Path(__file__).parent}"
        env = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
        return run([sys.executable, "-P", *arguments], env=env, check=check)

    def command(self, *arguments: str | os.PathLike[str], check: bool = True) -> Process:
        """Run `mmsearch`, by the entry point that installing this tree would make."""
        project = tomllib.loads((self.folder / "pyproject.toml").read_text(encoding="utf-8"))
        module, _, name = project["project"]["scripts"]["mmsearch"].partition(":")
        code = f"import sys; from {module} import {name} as main; sys.argv[0] = 'mmsearch'; main()"
        return self.python("-c", code, *arguments, check=check)

    def part(self, name: str, *arguments: str | int | os.PathLike[str]) -> Any:
        """What a part of the running script returns in this tree."""
        script = Path(sys.argv[0]).resolve()
        done = self.python(script, "--part", name, *map(str, arguments))
        return json.loads(done.output.splitlines()[-1])


def parser_of_trees(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trees", type=Path, nargs=2, metavar="TREE", help="A, the older, and B")
    return parser


def trees_of(folders: list[Path]) -> tuple[Tree, Tree]:
    """Both trees, of which it is certain that they run their own code."""
    a, b = (Tree(name, folder.resolve()) for name, folder in zip("AB", folders, strict=True))
    for tree in (a, b):
        found = tree.python("-c", "import mmsearch; print(mmsearch.__file__)").output
        if not Path(found.strip()).is_relative_to(tree.folder):
            raise SystemExit(f"{tree.folder} holds no mmsearch: {found.strip()} would be run")
        print(f"{tree.name} = {tree.folder}")
    return a, b


def in_turns(trees: tuple[Tree, Tree], pairs: int) -> Iterator[tuple[int, Tree]]:
    """A B, B A, A B, …; the pair of number 0 comes first, to be left out: it fills caches."""
    for number in range(pairs + 1):
        for tree in trees if number % 2 else reversed(trees):
            yield number, tree


def run_part(parts: Mapping[str, Part]) -> bool:
    """Whether this process was started by `Tree.part`; if so, its part is done and printed."""
    if sys.argv[1:2] != ["--part"]:
        return False
    name, *arguments = sys.argv[2:]
    print(json.dumps(parts[name](*arguments)))
    return True


# ---------------------------------------------------------------------- invented items


def vectors(count: int, dim: int, seed: int = 1) -> np.ndarray:
    """(count, dim) float32, of length 1: 400 clusters that are the same for every seed."""
    centres = np.random.default_rng(0).standard_normal((400, dim), np.float32)
    rng = np.random.default_rng(seed)
    rows = centres[rng.integers(0, len(centres), count)]
    rows += 0.6 * rng.standard_normal(rows.shape, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def metadata(count: int) -> list[dict[str, Any]]:
    """A path, a caption, fields of an item and a user's own metadata for each row."""
    return [
        {
            "path": f"/x/{row % 97}/{row}.jpg",
            "caption": f"a {COLOURS[row % 5]} {SUBJECTS[row % 8]}, number {row}",
            "width": 100 + row % 3000,
            "height": 200,
            "taken": f"20{10 + row % 14}-0{1 + row % 9}-11",
            "rating": row % 10,
            "place": PLACES[row % 3],
        }
        for row in range(count)
    ]
