"""ONNX graphs of trained modules: traced, with small weights, or as extensions of other graphs.

Small weights: the dynamic quantisation of ONNX Runtime scales the activations of a whole batch
together, so that a text's vector depends on its neighbours. Here only weights are quantised: the
text tower's matrices to 8-bit blocks (`MatMulNBits`, which scales activations by blocks of a row),
its word table to 8-bit rows, and the image tower's convolutions to float16, computed in float32.

Extensions: Protocol Buffers merge messages that follow each other. So the bytes of a tower's file,
followed by those of an extension, are a graph with one more output, and the tower's weights are
stored once.
"""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from mmsearch.encoders.clip.onnx_export import trace
from mmsearch.encoders.onnx import write_optimised
from mmsearch.encoders.token_embeddings import FULL, MOST_ROWS, TOKEN_DIM
from mmsearch.training.backbones import IMAGE_SIZE, MAP_SHAPE, ImageTrunk
from mmsearch.training.late_interaction import Matcher

QUANTISED_FROM = 4096
"""Arrays with fewer numbers stay float32."""
BLOCK = 64
"""Rows of a matrix that share a scale."""

FROZEN_STATES = "/trunk/layers.2/after_mlp/LayerNormalization_output_0"
"""The output of the frozen layers in the text tower's graph."""

Axes = dict[int, str]
"""The names of axes of variable length."""
Inputs = dict[str, tuple[Tensor, Axes]]
"""An example of each input, and its axes."""


def block_output(blocks: int) -> str:
    """The name of the output of the first `blocks` blocks in the image tower's graph."""
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
    return export_module(tower, pixels, "pixels", {0: "photos"})


def export_text(tower: nn.Module) -> bytes:
    """Token ids (n, tokens) int64, 0 where padded → unit vectors (n, dim)."""
    return export_module(tower, _example_ids(), "ids", {0: "texts", 1: "tokens"})


def export_module(module: nn.Module, example: Tensor, name: str, axes: Axes) -> bytes:
    """The ONNX file of a module with a single input and the output "vectors"."""
    return _trace(module, {name: (example, axes)}, ["vectors"], {"vectors": {0: axes[0]}})


def _example_ids() -> Tensor:
    ids = torch.ones(2, 9, dtype=torch.int64)
    ids[1, 6:] = 0
    return ids


def _trace(
    module: nn.Module, inputs: Inputs, outputs: Sequence[str], output_axes: Mapping[str, Axes]
) -> bytes:
    file = io.BytesIO()
    examples = {name: example for name, (example, _) in inputs.items()}
    axes = {name: axes for name, (_, axes) in inputs.items()} | dict(output_axes)
    trace(module, examples, outputs, axes, file)
    return file.getvalue()


# ---------------------------------------------------------------------- graphs for reranking


def export_regions(regions: nn.Module, blocks: int) -> bytes:
    """The extension that adds the output "regions" (photos, rows, TOKEN_DIM) to the image tower,
    after its first `blocks` blocks.
    """
    inputs: Inputs = {"maps": (torch.zeros(2, *MAP_SHAPE), {0: "photos"})}
    model = simplified(_trace_unshaped(_WithoutPooled(regions), inputs, "regions"), "BASIC")
    pad_inside_convolutions(model.graph)
    quantise(model)
    return extension(model, {"maps": block_output(blocks)}, "look")


def export_words(words: nn.Module) -> bytes:
    """The extension that adds the output "tokens" (texts, rows, TOKEN_DIM) to the text tower."""
    axes = {0: "texts", 1: "tokens"}
    inputs: Inputs = {"states": (torch.randn(2, 9, 384), axes), "ids": (_example_ids(), axes)}
    traced = _trace_unshaped(_WithoutPooled(words), inputs, "tokens")
    model = small_matrices(simplified(traced, "EXTENDED"))
    return extension(model, {"states": FROZEN_STATES, "ids": "ids"}, "read")


def export_matcher(matcher: Matcher) -> bytes:
    """int8 embeddings → scores (n,) for a "text" as the query, and for an "image" as the query."""

    class Int8Matcher(nn.Module):
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
    model = onnx.load_from_string(_trace_unshaped(Int8Matcher(), inputs, "text", "image"))
    quantise(model)
    scorer: bytes = model.SerializeToString()
    return scorer


class _WithoutPooled(nn.Module):
    """The embeddings of the regions or words alone."""

    def __init__(self, embeddings: Any) -> None:
        super().__init__()
        self.side = embeddings  # the attribute's name is part of tensor names in the graph

    def forward(self, *features: Tensor) -> Tensor:
        return self.side.parts(*features)


def _trace_unshaped(module: nn.Module, inputs: Inputs, *outputs: str) -> bytes:
    """A graph whose outputs have no shape: their length is not that of any input."""
    model = onnx.load_from_string(_trace(module, inputs, outputs, {}))
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    traced: bytes = model.SerializeToString()
    return traced


def extension(model: onnx.ModelProto, inputs: Mapping[str, str], prefix: str) -> bytes:
    """The bytes that, after those of another graph, add the outputs of a model to it.

    Args:
        model: Its outputs keep their names.
        inputs: For each input of the model, the tensor of the other graph that replaces it.
        prefix: Of all other names, so that none occurs twice.
    """
    graph = model.graph
    unchanged = {output.name for output in graph.output} | {""}

    def renamed(name: str) -> str:
        return inputs.get(name, name if name in unchanged else f"{prefix}/{name}")

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
    """The graph of an ONNX file after `write_optimised`, which loading then skips."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "simple.onnx"
        write_optimised(model, path, level)
        return onnx.load(path)


def small_text(model: bytes, vocabulary: int) -> bytes:
    """A text tower with 8-bit matrices and an 8-bit word table of `vocabulary` rows."""
    graph = simplified(model, "EXTENDED")
    _shrink_word_table(graph.graph, vocabulary)
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
    for array in _float_arrays(graph):
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


def _float_arrays(graph: onnx.GraphProto) -> list[TensorProto]:
    return [array for array in graph.initializer if array.data_type == TensorProto.FLOAT]


def quantise(model: onnx.ModelProto) -> None:
    """Store large matrices and filters as 8-bit numbers, with a scale for each of their outputs.

    They are widened to float32 when the graph is loaded; nothing is computed in 8 bits.
    """
    graph = model.graph
    axes = {name: axis for node in graph.node for name, axis in _output_axis(node).items()}
    for array in _float_arrays(graph):
        values = numpy_helper.to_array(array)
        if values.size < QUANTISED_FROM or array.name not in axes:
            continue
        name, axis = array.name, axes[array.name] % values.ndim
        scale = _scale(values, tuple(other for other in range(values.ndim) if other != axis))
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
    """The name of a node's weights → their axis of outputs; empty if it has no weights."""
    if node.op_type == "Conv":
        return {node.input[1]: 0}
    if node.op_type == "Gemm":
        return {node.input[1]: 0 if _transposed(node) else 1}
    if node.op_type == "MatMul":
        return {node.input[1]: -1}
    return {}


def _transposed(gemm: onnx.NodeProto) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in gemm.attribute)


def _scale(values: NDArray[np.float32], axes: tuple[int, ...]) -> NDArray[np.float32]:
    """The value of 1 in 8 bits, from the largest number along some axes."""
    largest = np.abs(values).max(axis=axes, keepdims=True)
    scale: NDArray[np.float32] = (largest / 127).clip(1e-9).astype(np.float32)
    return scale


def _insert(graph: onnx.GraphProto, at: int, *nodes: onnx.NodeProto) -> None:
    for offset, node in enumerate(nodes):
        graph.node.insert(at + offset, node)


def _shrink_word_table(graph: onnx.GraphProto, vocabulary: int) -> None:
    """Replace each gather from the float word table by one of 8-bit rows with a scale each."""
    tables = {array.name: array for array in graph.initializer if array.dims[:1] == [vocabulary]}
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
    weights = {array.name: array for array in graph.initializer}
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
    """Move each `Pad` into the `Conv` after it; it would break ONNX Runtime's blocked layout."""
    amounts = {array.name: numpy_helper.to_array(array) for array in graph.initializer}
    pads = {node.output[0]: node for node in graph.node if node.op_type == "Pad"}
    for node in graph.node:
        if node.op_type != "Conv" or node.input[0] not in pads:
            continue
        pad = pads.pop(node.input[0])
        before, after = amounts[pad.input[1]].reshape(2, 4)[:, 2:]
        for old in [a for a in node.attribute if a.name in ("pads", "auto_pad")]:
            node.attribute.remove(old)
        node.attribute.append(helper.make_attribute("pads", [*before.tolist(), *after.tolist()]))
        node.input[0] = pad.input[0]
        graph.node.remove(pad)
    used = {name for node in graph.node for name in node.input}
    for unused in [array for array in graph.initializer if array.name not in used]:
        graph.initializer.remove(unused)
