"""Each tower with its head as one ONNX graph: pixels → vector, token ids → vector."""

from __future__ import annotations

import io
import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from mmsearch.training.trunks import IMAGE_SIZE, ImageTrunk

OPSET = 18


def export_lower(trunk: ImageTrunk) -> bytes:
    """The frozen lower part alone, for computing features fast."""

    class Lower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = trunk

        def forward(self, pixels: Tensor) -> Tensor:
            return self.trunk.below(pixels)

    return exported(Lower(), _pixels(), "pixels", {0: "photos"})


def export_image(tower: nn.Module) -> bytes:
    """Pixels (n, 260, 260, 3) uint8 → unit vectors (n, dim)."""
    return exported(tower, _pixels(), "pixels", {0: "photos"})


def export_text(tower: nn.Module) -> bytes:
    """Token ids (n, tokens) int64, 0 where padded → unit vectors (n, dim)."""
    ids = torch.ones(2, 9, dtype=torch.int64)
    ids[1, 6:] = 0
    return exported(tower, ids, "ids", {0: "texts", 1: "tokens"})


def _pixels() -> Tensor:
    return torch.zeros(2, IMAGE_SIZE, IMAGE_SIZE, 3, dtype=torch.uint8)


def exported(module: nn.Module, example: Tensor, name: str, free: dict[int, str]) -> bytes:
    """The ONNX file of a module with one input, in memory."""
    out = io.BytesIO()
    options: dict[str, Any] = {"f": out, "opset_version": OPSET, "dynamo": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            module.eval(),
            (example,),
            input_names=[name],
            output_names=["vectors"],
            dynamic_axes={name: free, "vectors": {0: free[0]}},
            **options,
        )
    return out.getvalue()
