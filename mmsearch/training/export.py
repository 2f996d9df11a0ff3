"""ONNX graphs of what was trained: traced, with small weights, or as extensions of other graphs.

Small weights: ONNX Runtime's own dynamic quantisation takes one activation scale for a whole batch,
so that a text's vector depends on its neighbours. Here only weights are stored small: the text
tower's matrices as 8-bit blocks (`MatMulNBits`, whose activations are scaled block by block of one
row), its word table as 8-bit rows, and the image tower's convolutions as float16, computed in
float32.

Extensions: Protocol Buffers merge messages that follow each other. So the bytes of a tower's file,
followed by those of an extension, are one graph with one more output, and the tower's weights are
stored once.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from mmsearch.encoders.onnx import import_onnxruntime
from mmsearch.encoders.token_embeddings import FULL, MOST_ROWS
from mmsearch.training.token_embeddings import TOKEN_DIM, Matcher
from mmsearch.training.towers import IMAGE_SIZE, MAP_SHAPE, ImageTrunk

OPSET = 18

QUANTISED_FROM = 4096
"""Arrays with fewer numbers stay float32."""
BLOCK = 64
"""Rows of a matrix that share a scale."""

FROZEN_STATES = "/trunk/layers.2/after_mlp/LayerNormalization_output_0"
"""The tensor of the text tower's graph that comes out of its frozen layers."""

Axes = dict[int, str]
"""The names of axes of any length."""
Inputs = dict[str, tuple[Tensor, Axes]]
"""An example of each input."""


def block_output(blocks: int) -> str:
    """The tensor of the image tower's graph that comes out of its first `blocks` blocks."""
    return f"/trunk/lower/lower.{blocks - 1}/Add_output_0"


# ---------------------------------------------------------------------- graphs of the towers


def export_lower(trunk: ImageTrunk) -> bytes:
    """The frozen lower part alone, which ONNX Runtime computes faster."""

    class Lower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = trunk

        def forward(self, pixels: Tensor) -> Tensor:
            return self.trunk.below(pixels)

    return export_image(Lower())


def export_image(tower: nn.Module) -> bytes:
    """Pixels (n, 260, 260, 3) uint8 → unit vectors (n, dim)."""
    pixels = torch.zeros(2, IMAGE_SIZE, IMAGE_SIZE, 3, dtype=torch.uint8)
    return exported(tower, pixels, "pixels", {0: "photos"})


def export_text(tower: nn.Module) -> bytes:
    """Token ids (n, tokens) int64, 0 where padded → unit vectors (n, dim)."""
    return exported(tower, _example_ids(), "ids", {0: "texts", 1: "tokens"})


def exported(module: nn.Module, example: Tensor, name: str, axes: Axes) -> bytes:
    """The ONNX file of a module with one input and the output "vectors"."""
    return _trace(module, {name: (example, axes)}, ["vectors"], {"vectors": {0: axes[0]}})


def _example_ids() -> Tensor:
    ids = torch.ones(2, 9, dtype=torch.int64)
    ids[1, 6:] = 0
    return ids


def _trace(
    module: nn.Module, inputs: Inputs, outputs: Sequence[str], output_axes: Mapping[str, Axes]
) -> bytes:
    file = io.BytesIO()
    options: dict[str, Any] = {"f": file, "opset_version": OPSET, "dynamo": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            module.eval(),
            tuple(example for example, _ in inputs.values()),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: axes for name, (_, axes) in inputs.items()} | dict(output_axes),
            **options,
        )
    return file.getvalue()


# ---------------------------------------------------------------------- graphs for reranking


def export_regions(side: nn.Module, blocks: int) -> bytes:
    """The extension by which the image tower's graph gives "regions" (photos, rows, TOKEN_DIM).

    Args:
        side: Maps to region embeddings.
        blocks: Of the tower, those below the maps.
    """
    inputs: Inputs = {"maps": (torch.zeros(2, *MAP_SHAPE), {0: "photos"})}
    model = simplified(_traced(_Parts(side), inputs, "regions"), "BASIC")
    pad_inside_convolutions(model.graph)
    narrow(model)
    return extension(model, {"maps": block_output(blocks)}, "look")


def export_words(side: nn.Module) -> bytes:
    """The extension by which the text tower's graph gives "tokens" (texts, rows, TOKEN_DIM)."""
    axes = {0: "texts", 1: "tokens"}
    inputs: Inputs = {"states": (torch.randn(2, 9, 384), axes), "ids": (_example_ids(), axes)}
    model = small_matrices(simplified(_traced(_Parts(side), inputs, "tokens"), "EXTENDED"))
    return extension(model, {"states": FROZEN_STATES, "ids": "ids"}, "read")


def export_matcher(matcher: Matcher) -> bytes:
    """int8 embeddings → scores (n,) of a query that is a "text", and of one that is an "image"."""

    class OfBytes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matcher = matcher

        def forward(self, words: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
            return self.matcher(words.float() / FULL, regions.float() / FULL)

    rows = torch.randint(-100, 100, (2, MOST_ROWS, TOKEN_DIM), dtype=torch.int8)
    inputs: Inputs = {
        "words": (rows, {0: "texts", 1: "word rows"}),
        "regions": (rows, {0: "photos", 1: "region rows"}),
    }
    model = onnx.load_from_string(_traced(OfBytes(), inputs, "text", "image"))
    narrow(model)
    scorer: bytes = model.SerializeToString()
    return scorer


class _Parts(nn.Module):
    """The embeddings of the regions or words alone, without the pooled ones."""

    def __init__(self, side: Any) -> None:
        super().__init__()
        self.side = side

    def forward(self, *features: Tensor) -> Tensor:
        return self.side.parts(*features)


def _traced(module: nn.Module, inputs: Inputs, *outputs: str) -> bytes:
    """A graph whose outputs have no shape: their length is not that of one of the inputs."""
    model = onnx.load_from_string(_trace(module, inputs, outputs, {}))
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    traced: bytes = model.SerializeToString()
    return traced


def extension(model: onnx.ModelProto, taps: Mapping[str, str], prefix: str) -> bytes:
    """The bytes that, after those of another graph, add the outputs of a model to it.

    Args:
        model: Its inputs are what `taps` names; its outputs keep their names.
        taps: For each input, the tensor of the other graph that takes its place.
        prefix: Of every other name, so that none occurs twice.
    """
    graph = model.graph
    kept = {one.name for one in graph.output} | {""}

    def renamed(name: str) -> str:
        return taps.get(name, name if name in kept else f"{prefix}/{name}")

    for number, node in enumerate(graph.node):  # some tools leave nodes without a name
        node.name = f"{prefix}/{number}/{node.name}"
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
    for array in graph.initializer:
        array.name = renamed(array.name)
    added: bytes = onnx.ModelProto(
        graph=onnx.GraphProto(node=graph.node, initializer=graph.initializer, output=graph.output)
    ).SerializePartialToString()
    return added


# ---------------------------------------------------------------------- small weights


def simplified(model: bytes, level: str) -> onnx.ModelProto:
    """The graph after ONNX Runtime's optimisations for any machine, which loading can then skip.

    Args:
        model: An ONNX file.
        level: "BASIC" keeps to ONNX's own operators, "EXTENDED" does not.
    """
    onnxruntime = import_onnxruntime()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "simple.onnx"
        options = onnxruntime.SessionOptions()
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = getattr(levels, f"ORT_ENABLE_{level}")
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return onnx.load(path)


def small_text(model: bytes) -> bytes:
    """The text tower with 8-bit matrices and an 8-bit word table."""
    graph = simplified(model, "EXTENDED")
    _shrink_word_table(graph.graph)
    shrunk: bytes = small_matrices(graph).SerializeToString()
    return shrunk


def small_matrices(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its matrices as 8-bit blocks."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    logging.getLogger("onnxruntime.quantization").setLevel(logging.ERROR)
    _unfuse_gemm(model.graph)
    quantizer = MatMulNBitsQuantizer(
        model, bits=8, block_size=BLOCK, is_symmetric=True, accuracy_level=4
    )
    quantizer.process()
    shrunk: onnx.ModelProto = quantizer.model.model
    return shrunk


def small_image(model: bytes) -> bytes:
    """The image tower with float16 weights, widened to float32 when the graph is loaded."""
    onnx_model = simplified(model, "BASIC")
    graph = onnx_model.graph
    pad_inside_convolutions(graph)
    for array in [one for one in graph.initializer if one.data_type == TensorProto.FLOAT]:
        values = numpy_helper.to_array(array)
        if values.size < QUANTISED_FROM:
            continue
        name = array.name
        graph.initializer.remove(array)
        half = numpy_helper.from_array(values.astype(np.float16), f"{name}_half")
        graph.initializer.append(half)
        widen = helper.make_node("Cast", [half.name], [name], to=TensorProto.FLOAT)
        graph.node.insert(0, widen)
    shrunk: bytes = onnx_model.SerializeToString()
    return shrunk


def narrow(model: onnx.ModelProto) -> None:
    """Store big matrices and filters as 8-bit numbers, with a scale for each of their outputs.

    They are widened to float32 when the graph is loaded; nothing is computed in 8 bits.
    """
    graph = model.graph
    axes = {one: axis for node in graph.node for one, axis in _output_axis(node).items()}
    for array in [one for one in graph.initializer if one.data_type == TensorProto.FLOAT]:
        values = numpy_helper.to_array(array)
        if values.size < QUANTISED_FROM or array.name not in axes:
            continue
        name, axis = array.name, axes[array.name] % values.ndim
        scale = _scale(values, tuple(one for one in range(values.ndim) if one != axis))
        graph.initializer.remove(array)
        graph.initializer.extend(
            [
                numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f"{name}_bytes"),
                numpy_helper.from_array(scale, f"{name}_scale"),
            ]
        )
        wide = f"{name}_wide"
        cast = helper.make_node(
            "Cast", [f"{name}_bytes"], [wide], name=f"{wide}_cast", to=TensorProto.FLOAT
        )
        scaled = helper.make_node("Mul", [wide, f"{name}_scale"], [name], name=f"{wide}_scaled")
        _insert(graph, 0, cast, scaled)


def _output_axis(node: onnx.NodeProto) -> dict[str, int]:
    """The node's weights, and the axis along which their outputs lie."""
    if node.op_type == "Conv":
        return {node.input[1]: 0}
    if node.op_type == "Gemm":
        return {node.input[1]: 0 if _transposed(node) else 1}
    if node.op_type == "MatMul":
        return {node.input[1]: -1}
    return {}


def _transposed(gemm: onnx.NodeProto) -> bool:
    return any(one.name == "transB" and one.i for one in gemm.attribute)


def _scale(values: NDArray[np.float32], axes: tuple[int, ...]) -> NDArray[np.float32]:
    """What 1 stands for in 8 bits, by the largest number along some axes."""
    largest = np.abs(values).max(axis=axes, keepdims=True)
    scale: NDArray[np.float32] = (largest / 127).clip(1e-9).astype(np.float32)
    return scale


def _insert(graph: onnx.GraphProto, at: int, *nodes: onnx.NodeProto) -> None:
    for offset, node in enumerate(nodes):
        graph.node.insert(at + offset, node)


def _shrink_word_table(graph: onnx.GraphProto) -> None:
    """Replace each float gather from a big table by 8-bit rows and one scale per row."""
    tables = {one.name: one for one in graph.initializer if one.dims[:1] == [30522]}
    for at, node in enumerate(list(graph.node)):
        if node.op_type != "Gather" or node.input[0] not in tables:
            continue
        table = tables[node.input[0]]
        values = numpy_helper.to_array(table)
        scale = _scale(values, (1,))
        rows = np.round(values / scale).astype(np.int8)
        graph.initializer.remove(table)
        graph.initializer.extend(
            [numpy_helper.from_array(rows, "words"), numpy_helper.from_array(scale, "scales")]
        )
        ids, out = node.input[1], node.output[0]
        graph.node.remove(node)
        _insert(
            graph,
            at,
            helper.make_node("Gather", ["words", ids], ["word_rows"]),
            helper.make_node("Cast", ["word_rows"], ["word_floats"], to=TensorProto.FLOAT),
            helper.make_node("Gather", ["scales", ids], ["word_scales"]),
            helper.make_node("Mul", ["word_floats", "word_scales"], [out]),
        )


def _unfuse_gemm(graph: onnx.GraphProto) -> None:
    """Write each `Gemm` as `MatMul` and `Add`: only a `MatMul` can have 8-bit blocks."""
    weights = {one.name: one for one in graph.initializer}
    for at, node in reversed(list(enumerate(graph.node))):
        if node.op_type != "Gemm":
            continue
        matrix = numpy_helper.to_array(weights[node.input[1]])
        name, product = f"{node.output[0]}_matrix", f"{node.output[0]}_product"
        upright = np.ascontiguousarray(matrix.T if _transposed(node) else matrix)
        graph.initializer.append(numpy_helper.from_array(upright, name))
        graph.initializer.remove(weights[node.input[1]])
        graph.node.remove(node)
        _insert(
            graph,
            at,
            helper.make_node("MatMul", [node.input[0], name], [product], name=f"{product}_node"),
            helper.make_node("Add", [product, node.input[2]], [node.output[0]]),
        )


def pad_inside_convolutions(graph: onnx.GraphProto) -> None:
    """Let each `Conv` pad for itself; a `Pad` before it breaks ONNX Runtime's blocked layout."""
    amounts = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    pads = {one.output[0]: one for one in graph.node if one.op_type == "Pad"}
    for node in graph.node:
        if node.op_type != "Conv" or node.input[0] not in pads:
            continue
        pad = pads.pop(node.input[0])
        before, after = amounts[pad.input[1]].reshape(2, 4)[:, 2:]
        for old in [one for one in node.attribute if one.name in ("pads", "auto_pad")]:
            node.attribute.remove(old)
        node.attribute.append(helper.make_attribute("pads", [*before.tolist(), *after.tolist()]))
        node.input[0] = pad.input[0]
        graph.node.remove(pad)
    used = {name for node in graph.node for name in node.input}
    for unused in [one for one in graph.initializer if one.name not in used]:
        graph.initializer.remove(unused)
