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
    parser.add_argument("--data", type=Path, help="captions.tsv, images/, splits")
    parser.add_argument("--sounds", type=Path, help="ESC-10: labels.tsv, audio/")
    parser.add_argument("--stamps", type=Path, help="tuxpaint: labels.tsv, audio/, images/")
    parser.add_argument("--parallel", type=Path, help="texts in several languages")
    parser.add_argument("--names", type=Path, help="ImageNet's names in many languages")
    parser.add_argument("--old", type=Path, help="previous: the folder of the older model")
    parser.add_argument("--photos", type=Path, action="append", default=[], help="previous: more")
    parser.add_argument("--out", type=Path, help="the model's folder")
    parser.add_argument("--cache", type=Path, default=Path(".cache/training"))
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--threads", type=int, help="of torch; its own choice by default")
    parser.add_argument("--pictures", type=Path, help="evaluate: also on these captioned pictures")
    args = parser.parse_args()
    if args.data is None:
        parser.error("--data is needed")
    if (args.sounds is None) != (args.stamps is None):
        parser.error("--sounds and --stamps go together")
    if (args.parallel is None) != (args.names is None):
        parser.error("--parallel and --names go together")
    if args.task == "languages" and args.parallel is None:
        parser.error("languages needs --parallel and --names")
    if args.task == "listen" and args.sounds is None:
        parser.error("listen needs --sounds and --stamps")
    if args.task == "previous" and args.old is None:
        parser.error("previous needs --old")
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    recipe = dataclasses.replace(Recipe(), seed=args.seed)
    _run(args, recipe)


def _run(args: argparse.Namespace, recipe: Recipe) -> None:
    """Train what the task says, and print the figures."""
    from mmsearch.training import build
    from mmsearch.training.dev_figures import evaluate, evaluate_languages, evaluate_rerank
    from mmsearch.training.evaluate_audio import evaluate_audio
    from mmsearch.training.languages import Sources
    from mmsearch.training.sounds import read_esc10, read_stamps

    out, task = args.out or FOLDER, args.task
    how = {"cache": args.cache, "recipe": recipe}
    if task == "previous":
        sounds = [*read_esc10(args.sounds), *read_stamps(args.stamps)] if args.sounds else []
        also = {"photos": args.photos, "sounds": sounds, "cache": args.cache}
        build.build_previous(args.old, args.data, out, **also)
        return
    if task == "build":
        build.build(args.data, out, **how)
    if task in ("build", "listen") and args.sounds:
        build.build_audio(args.sounds, args.stamps, out, **how)
    sources = args.parallel and Sources(args.data, args.parallel, args.names)
    if task in ("build", "languages") and sources:
        build.build_languages(sources, out, **how)
    if task in ("build", "banks"):
        build.build_bank(args.data, out, seed=args.seed)
    if task in ("build", "rerank"):
        build.build_rerank(args.data, out, **how)
    if task in ("build", "evaluate"):
        evaluate(out, args.data, args.pictures)
    if task not in ("listen", "languages", "banks"):
        evaluate_rerank(out, args.data)
    if task in ("build", "languages", "evaluate") and sources:
        evaluate_languages(out, sources)
    if args.sounds:
        evaluate_audio(out, args.data, args.sounds, args.stamps, **how)


if __name__ == "__main__":
    main()
