"""Smaller weights with the same vectors, whatever the batch.

ONNX Runtime's own dynamic quantisation takes one activation scale for a whole batch, so that a
text's vector depends on its neighbours. Here only weights are stored small: the text tower's
matrices as 8-bit blocks (`MatMulNBits`, whose activations are scaled block by block of one row),
its word table as 8-bit rows, and the image tower's convolutions as float16, computed in float32.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mmsearch.encoders.onnx import import_onnxruntime

BLOCK = 64
"""Rows of a matrix that share a scale."""

BIG = 4096
"""Arrays with fewer numbers stay float32."""


def simplified(model: bytes, level: str) -> onnx.ModelProto:
    """The graph after ONNX Runtime's optimisations for any machine: loading need not run them.

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
        if values.size < BIG:
            continue
        name = array.name
        graph.initializer.remove(array)
        half = numpy_helper.from_array(values.astype(np.float16), f"{name}_half")
        graph.initializer.append(half)
        widen = helper.make_node("Cast", [half.name], [name], to=TensorProto.FLOAT)
        graph.node.insert(0, widen)
    shrunk: bytes = onnx_model.SerializeToString()
    return shrunk


def _shrink_word_table(graph: onnx.GraphProto) -> None:
    """Replace each float gather from a big table by 8-bit rows and one scale a row."""
    tables = {one.name: one for one in graph.initializer if one.dims[:1] == [30522]}
    for at, node in enumerate(list(graph.node)):
        if node.op_type != "Gather" or node.input[0] not in tables:
            continue
        table = tables[node.input[0]]
        values = numpy_helper.to_array(table)
        scale = (np.abs(values).max(1, keepdims=True) / 127).clip(1e-9).astype(np.float32)
        rows = np.round(values / scale).astype(np.int8)
        graph.initializer.remove(table)
        graph.initializer.extend(
            [numpy_helper.from_array(rows, "words"), numpy_helper.from_array(scale, "scales")]
        )
        ids, out = node.input[1], node.output[0]
        graph.node.remove(node)
        steps = [
            helper.make_node("Gather", ["words", ids], ["word_rows"]),
            helper.make_node("Cast", ["word_rows"], ["word_floats"], to=TensorProto.FLOAT),
            helper.make_node("Gather", ["scales", ids], ["word_scales"]),
            helper.make_node("Mul", ["word_floats", "word_scales"], [out]),
        ]
        for offset, step in enumerate(steps):
            graph.node.insert(at + offset, step)


def _unfuse_gemm(graph: onnx.GraphProto) -> None:
    """Write each `Gemm` as `MatMul` and `Add`: only a `MatMul` can have 8-bit blocks."""
    weights = {one.name: one for one in graph.initializer}
    for at, node in reversed(list(enumerate(graph.node))):
        if node.op_type != "Gemm":
            continue
        turned = any(one.name == "transB" and one.i for one in node.attribute)
        matrix = numpy_helper.to_array(weights[node.input[1]])
        name = f"{node.output[0]}_matrix"
        upright = np.ascontiguousarray(matrix.T if turned else matrix)
        graph.initializer.append(numpy_helper.from_array(upright, name))
        graph.initializer.remove(weights[node.input[1]])
        product = f"{node.output[0]}_product"
        steps = [
            helper.make_node("MatMul", [node.input[0], name], [product], name=f"{product}_node"),
            helper.make_node("Add", [product, node.input[2]], [node.output[0]]),
        ]
        graph.node.remove(node)
        for offset, step in enumerate(steps):
            graph.node.insert(at + offset, step)


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
