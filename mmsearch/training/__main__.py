"""`python -m mmsearch.training`: build the built-in model, or measure one.

`build` trains everything, `listen` only the audio head of an existing model, `languages` only its
text tower for languages other than English, `banks` makes only its query bank, `rerank` trains only
its reranking. `previous` maps its vectors to those of an older model, whose indexes are then
searched with it. Models are tuned by `mmsearch tune`.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from mmsearch.encoders.mini import FOLDER
from mmsearch.training.recipe import Recipe


def main() -> None:
    """Parse the arguments and run one task."""
    parser = argparse.ArgumentParser(prog="python -m mmsearch.training", description=__doc__)
    tasks = ["build", "listen", "languages", "banks", "rerank", "previous", "evaluate"]
    parser.add_argument("task", nargs="?", choices=tasks, default="build")
    parser.add_argument(
        "--data", type=Path, help="Flickr8k: captions.tsv, images/, train.txt, dev.txt"
    )
    parser.add_argument("--coco", type=Path, help="COCO: captions.tsv, images/")
    parser.add_argument(
        "--labelled", type=Path, help="a folder for each set, with labels.tsv, images/"
    )
    parser.add_argument("--sounds", type=Path, help="ESC-10: labels.tsv, audio/")
    parser.add_argument("--animals", type=Path, help="sounds of animals: labels.tsv, audio/")
    parser.add_argument("--stamps", type=Path, help="tuxpaint: labels.tsv, audio/, images/")
    parser.add_argument(
        "--parallel", type=Path, help="Multi30k: multi30k.tsv, captions.{en,de}.tsv.gz"
    )
    parser.add_argument("--names", type=Path, help="ImageNet's names in many languages")
    parser.add_argument(
        "--old",
        type=Path,
        help="previous: the folder of the older model",
    )
    parser.add_argument(
        "--photos",
        type=Path,
        action="append",
        default=[],
        help="previous: one more folder of photos (repeatable)",
    )
    parser.add_argument(
        "--licensed-only",
        action="store_true",
        help="build: only the towers, from COCO and the labelled sets with an open licence",
    )
    parser.add_argument("--out", type=Path, help="the model's folder")
    parser.add_argument("--cache", type=Path, default=Path(".cache/training"))
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--threads", type=int, help="of torch; its own choice by default")
    parser.add_argument("--pictures", type=Path, help="evaluate: also on these captioned pictures")
    args = parser.parse_args()
    if args.data is None:
        parser.error("--data is needed")
    if len({folder is None for folder in (args.sounds, args.animals, args.stamps)}) > 1:
        parser.error("--sounds, --animals and --stamps go together")
    if (args.parallel is None) != (args.names is None):
        parser.error("--parallel and --names go together")
    if args.task == "languages" and args.parallel is None:
        parser.error("languages needs --parallel and --names")
    if args.task == "listen" and args.sounds is None:
        parser.error("listen needs --sounds, --animals and --stamps")
    if args.task == "previous" and args.old is None:
        parser.error("previous needs --old")
    if args.licensed_only and (args.task, args.coco and args.out) != ("build", args.out):
        parser.error("--licensed-only is for build, and needs --coco and --out")
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    recipe = dataclasses.replace(Recipe(), seed=args.seed, licensed_only=args.licensed_only)
    _run(args, recipe)


def _run(args: argparse.Namespace, recipe: Recipe) -> None:
    """Train what the task says, and print the figures."""
    from mmsearch.training import build
    from mmsearch.training.data import training_sets
    from mmsearch.training.dev_figures import evaluate, evaluate_languages, evaluate_rerank
    from mmsearch.training.evaluate_audio import evaluate_audio
    from mmsearch.training.languages import Sources
    from mmsearch.training.sounds import SoundSources

    out, task = args.out or FOLDER, args.task
    how = {"cache": args.cache, "recipe": recipe}
    heard = args.sounds and SoundSources(args.sounds, args.animals, args.stamps)
    if task == "previous":
        sounds = heard.read() if heard else []
        also = {"photos": args.photos, "sounds": sounds, "cache": args.cache}
        build.build_previous(args.old, args.data, out, **also)
        return
    if task == "build":
        folders = (args.data, args.coco, args.labelled, args.parallel)
        sets = training_sets(*folders, licensed_only=recipe.licensed_only)
        build.build(sets, out, **how)
        if recipe.licensed_only:
            evaluate(out, args.data, args.pictures, args.coco, args.labelled)
            return
    if task in ("build", "listen") and heard:
        build.build_audio(heard, out, **how)
    sources = args.parallel and Sources(args.data, args.parallel, args.names)
    if task in ("build", "languages") and sources:
        build.build_languages(sources, out, **how)
    if task in ("build", "banks"):
        build.build_bank(args.data, out, seed=args.seed)
    if task in ("build", "rerank"):
        build.build_rerank(args.data, out, **how)
    if task in ("build", "evaluate"):
        evaluate(out, args.data, args.pictures, args.coco, args.labelled)
    if task not in ("listen", "languages", "banks"):
        evaluate_rerank(out, args.data)
    if task in ("build", "languages", "evaluate") and sources:
        evaluate_languages(out, sources)
    if heard:
        evaluate_audio(out, args.data, heard, **how)


if __name__ == "__main__":
    main()
