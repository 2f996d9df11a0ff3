"""What reranking costs: `python benchmarks/rerank.py`.

Times are of the processor, not of the clock, so other programs hardly change them; medians of some
rounds. The token embeddings that are compared were made before, as in a search.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable

import numpy as np
from PIL import Image
from timing import cost, median

import mmsearch

CANDIDATES = 100
CAPTION = "a man in a red jacket climbs a steep rock above the sea while others watch him"


def milliseconds(work: Callable[[], object], rounds: int) -> float:
    """The median of some runs, in milliseconds of the processor."""
    return 1000 * median(cost(work) for _ in range(rounds)).cpu


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="default %(default)s")
    parser.add_argument("--photos", type=int, default=20, help="default %(default)s")
    options = parser.parse_args()

    encoder = mmsearch.load_encoder("mini")
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (options.photos, 9, 9, 3), dtype=np.uint8)
    photos = [encoder.prepare("image", Image.fromarray(one)) for one in noise]
    regions = encoder.encode_with_tokens("image", photos)[1]
    texts = [f"{CAPTION} {number}" for number in range(CANDIDATES)]
    words = encoder.encode_with_tokens("text", texts)[1]
    longest = encoder.encode_with_tokens("text", [f"{CAPTION} " * 9])[1][0]
    shown = [regions[row % len(regions)] for row in range(CANDIDATES)]
    encoder.encode("image", photos[:2])
    encoder.encode("text", texts[:2])

    print(f"{platform.machine()}, median of {options.rounds} rounds, one core\n")
    for what, tokens in (("photo", regions[0]), ("caption", words[0]), ("longest text", longest)):
        print(f"{f'bytes stored of a {what}':50} {tokens.nbytes:8}")
    jobs = [
        ("a text against 100 photos, ms", lambda: encoder.match("text", words[0], shown)),
        ("the longest text against 100 photos, ms", lambda: encoder.match("text", longest, shown)),
        ("a photo against 100 captions, ms", lambda: encoder.match("image", shown[0], words)),
        ("a photo against 100 longest texts, ms",
         lambda: encoder.match("image", shown[0], [longest] * CANDIDATES)),
    ]  # fmt: skip
    for what, work in jobs:
        print(f"{what:50} {milliseconds(work, options.rounds):8.1f}")
    for modality, things in (("image", photos), ("text", texts)):
        few = max(3, options.rounds // 4)
        plain = milliseconds(lambda: encoder.encode(modality, things), few)  # noqa: B023
        with_tokens = milliseconds(lambda: encoder.encode_with_tokens(modality, things), few)  # noqa: B023
        name = f"{modality}: time with token embeddings / without"
        each = f"{plain / len(things):.1f} and {with_tokens / len(things):.1f} ms each"
        print(f"{name:50} {with_tokens / plain:8.2f}  ({each})")


if __name__ == "__main__":
    main()
