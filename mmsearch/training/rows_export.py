"""The graphs of a closer look: `regions.onnx`, `words.onnx` and `rerank.onnx`."""

from __future__ import annotations

import io
import logging
import warnings
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from mmsearch.encoders.mini_match import FULL, MOST_ROWS
from mmsearch.training.export import OPSET
from mmsearch.training.graph_extension import appendix, narrow
from mmsearch.training.grids import SHAPE, tap
from mmsearch.training.matching import Matcher
from mmsearch.training.quantise import pad_inside_convolutions, simplified, small_matrices
from mmsearch.training.regions import ROW

FROZEN_STATES = "/trunk/layers.2/after_mlp/LayerNormalization_output_0"
"""Where the text tower is tapped: after its frozen layers."""

Inputs = dict[str, tuple[Tensor, dict[int, str]]]
"""An example of each input, and the names of its axes of any length."""


def export_regions(side: nn.Module, blocks: int) -> bytes:
    """What the image tower's graph lacks to give "regions" (photos, rows, ROW).

    Args:
        side: Maps to rows.
        blocks: Of the tower, that maps have gone through.
    """
    inputs: Inputs = {"maps": (torch.zeros(2, *SHAPE), {0: "photos"})}
    model = simplified(_traced(Parts(side), inputs, "regions"), "BASIC")
    pad_inside_convolutions(model.graph)
    narrow(model)
    return appendix(model, {"maps": tap(blocks)}, "look")


def export_words(side: nn.Module) -> bytes:
    """What the text tower's graph lacks to give "tokens" (texts, rows, ROW)."""
    ids = torch.ones(2, 9, dtype=torch.int64)
    ids[1, 6:] = 0
    axes = {0: "texts", 1: "tokens"}
    inputs: Inputs = {"states": (torch.randn(2, 9, 384), axes), "ids": (ids, axes)}
    model = small_matrices(simplified(_traced(Parts(side), inputs, "tokens"), "EXTENDED"))
    return appendix(model, {"states": FROZEN_STATES, "ids": "ids"}, "read")


def export_matcher(matcher: Matcher) -> bytes:
    """Rows as bytes → scores (n,) for a query that is a "text", and for one that is an "image"."""

    class OfBytes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matcher = matcher

        def forward(self, words: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
            found: tuple[Tensor, Tensor] = self.matcher(
                words.float() / FULL, regions.float() / FULL
            )
            return found

    rows = torch.randint(-100, 100, (2, MOST_ROWS, ROW), dtype=torch.int8)
    inputs: Inputs = {
        "words": (rows, {0: "texts", 1: "word rows"}),
        "regions": (rows, {0: "photos", 1: "region rows"}),
    }
    model = onnx.load_from_string(_traced(OfBytes(), inputs, "text", "image"))
    narrow(model)
    scorer: bytes = model.SerializeToString()
    return scorer


class Parts(nn.Module):
    """The rows of a photo or a text without those of the whole."""

    def __init__(self, side: Any) -> None:
        super().__init__()
        self.side = side

    def forward(self, *features: Tensor) -> Tensor:
        """(n, rows, ROW)."""
        rows: Tensor = self.side.parts(*features)
        return rows


def _traced(module: nn.Module, inputs: Inputs, *outputs: str) -> bytes:
    out = io.BytesIO()
    options: dict[str, Any] = {"f": out, "opset_version": OPSET, "dynamo": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            module.eval(),
            tuple(example for example, _ in inputs.values()),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: axes for name, (_, axes) in inputs.items()},
            **options,
        )
    model = onnx.load_from_string(out.getvalue())
    for place in range(len(model.graph.output)):  # its length is not that of one of the inputs
        model.graph.output[place].type.tensor_type.ClearField("shape")
    traced: bytes = model.SerializeToString()
    return traced
