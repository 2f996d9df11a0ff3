"""`python -m mmsearch.training`: build the built-in model, or measure one.

`build` trains everything, `listen` only the audio head of an existing model, `banks` makes only
its query bank, `rerank` trains only its reranking. `tune` trains the reranking of a `clip:` model,
on photos and captions of your own.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from mmsearch.encoders.mini import FOLDER
from mmsearch.errors import MMSearchError
from mmsearch.training import tune
from mmsearch.training.recipe import Recipe


def main() -> None:
    """Parse the arguments and run one task."""
    parser = argparse.ArgumentParser(prog="python -m mmsearch.training", description=__doc__)
    tasks = ["build", "listen", "banks", "rerank", "evaluate", "tune"]
    parser.add_argument("task", nargs="?", choices=tasks, default="build")
    parser.add_argument("--data", type=Path, help="captions.tsv, images/, splits")
    parser.add_argument("--sounds", type=Path, help="ESC-10: labels.tsv, audio/")
    parser.add_argument("--stamps", type=Path, help="tuxpaint: labels.tsv, audio/, images/")
    parser.add_argument("--out", type=Path, help="the model's folder")
    parser.add_argument("--cache", type=Path, default=Path(".cache/training"))
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--threads", type=int, help="of torch; its own choice by default")
    parser.add_argument("--pictures", type=Path, help="evaluate: also on these captioned pictures")
    parser.add_argument("--model", help="tune: a clip: model")
    parser.add_argument("--photos", type=Path, help="tune: a folder of photos")
    parser.add_argument("--captions", type=Path, help="tune: a file that names them")
    args = parser.parse_args()
    if args.task == "tune" and not (args.model and args.photos and args.captions):
        parser.error("tune needs --model, --photos and --captions")
    if args.task != "tune" and args.data is None:
        parser.error("--data is needed")
    if (args.sounds is None) != (args.stamps is None):
        parser.error("--sounds and --stamps go together")
    if args.task == "listen" and args.sounds is None:
        parser.error("listen needs --sounds and --stamps")
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    recipe = dataclasses.replace(Recipe(), seed=args.seed)
    if args.task != "tune":
        _run(args, recipe)
        return
    try:
        tune(args.model, args.photos, args.captions, args.out, recipe=recipe)
    except MMSearchError as error:
        raise SystemExit(str(error)) from None


def _run(args: argparse.Namespace, recipe: Recipe) -> None:
    """Train what the task says, and print the figures."""
    from mmsearch.training import build
    from mmsearch.training.dev_figures import evaluate, evaluate_rerank
    from mmsearch.training.evaluate_audio import evaluate_audio

    out, task = args.out or FOLDER, args.task
    how = {"cache": args.cache, "recipe": recipe}
    if task == "build":
        build.build(args.data, out, **how)
    if task in ("build", "listen") and args.sounds:
        build.build_audio(args.sounds, args.stamps, out, **how)
    if task in ("build", "banks"):
        build.build_bank(args.data, out, seed=args.seed)
    if task in ("build", "rerank"):
        build.build_rerank(args.data, out, **how)
    if task in ("build", "evaluate"):
        evaluate(out, args.data, args.pictures)
    if task not in ("listen", "banks"):
        evaluate_rerank(out, args.data)
    if args.sounds:
        evaluate_audio(out, args.data, args.sounds, args.stamps, **how)


if __name__ == "__main__":
    main()
