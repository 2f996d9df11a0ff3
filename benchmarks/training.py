"""How fast the image tower trains: convolutions against matrix products.

`python benchmarks/training.py` takes steps forwards and backwards through the blocks above the cut,
in bfloat16, on maps of random numbers; both ways in turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from timing import machine
from torch import Tensor

from mmsearch.training.backbones import MAP_SHAPE, ImageTrunk


def step_seconds(grid_of: Callable[[Tensor], Tensor], maps: Tensor) -> float:
    """Seconds for one step."""
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        loss = grid_of(maps).float().square().mean()
    torch.autograd.backward(loss)
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=500, help="in a step, default %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    args = parser.parse_args()
    trunk = ImageTrunk().train().to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(args.photos, *MAP_SHAPE, generator=generator).bfloat16()
    rows = maps.contiguous(memory_format=torch.channels_last)
    ways = {"convolutions": (trunk.above, rows), "products": (trunk.grid_of, maps)}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(args.rounds + 1):
        for name, (grid_of, given) in ways.items():
            seconds = step_seconds(grid_of, given)
            if number:  # the first round warms up
                taken[name].append(seconds)
    print(machine())
    for name, seconds_of in taken.items():
        print(f"{name:14} {statistics.median(seconds_of):6.2f} s a step of {args.photos} photos")
    pairs = zip(taken["convolutions"], taken["products"], strict=True)
    print(f"ratio {statistics.median(one / other for one, other in pairs):.2f}")


if __name__ == "__main__":
    main()
