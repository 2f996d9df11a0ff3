"""A graph that is laid behind another one: it holds only what the other lacks.

Messages of Protocol Buffers that follow each other are read as one, so the bytes of a tower's file
and of its appendix are one graph with one more output, and the tower's weights are stored once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

BIG = 4096
"""Arrays with fewer numbers stay float32."""


def appendix(model: onnx.ModelProto, taps: Mapping[str, str], prefix: str) -> bytes:
    """The bytes to lay behind the graph that has the taps.

    Args:
        model: A graph of its own; its inputs are what `taps` names, its outputs keep their names.
        taps: For each input the tensor of the other graph that takes its place.
        prefix: Set before every other name, so that none is there twice.
    """
    graph = model.graph
    kept = {one.name for one in graph.output} | {""}

    def renamed(name: str) -> str:
        return taps.get(name, name if name in kept else f"{prefix}/{name}")

    for number, node in enumerate(graph.node):  # some steps leave nodes without a name
        node.name = f"{prefix}/{number}/{node.name}"
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
    for array in graph.initializer:
        array.name = renamed(array.name)
    added: bytes = onnx.ModelProto(
        graph=onnx.GraphProto(node=graph.node, initializer=graph.initializer, output=graph.output)
    ).SerializePartialToString()
    return added


def narrow(model: onnx.ModelProto) -> None:
    """Store big matrices and filters as 8-bit numbers, with a scale for each of their outputs.

    They are widened to float32 when the graph is loaded; nothing is computed in 8 bits.
    """
    graph = model.graph
    axes = {one: axis for node in graph.node for one, axis in _outputs_axis(node).items()}
    for array in [one for one in graph.initializer if one.data_type == TensorProto.FLOAT]:
        values = numpy_helper.to_array(array)
        if values.size < BIG or array.name not in axes:
            continue
        name, scale = array.name, _scale(values, axes[array.name])
        graph.initializer.remove(array)
        graph.initializer.extend(
            [
                numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f"{name}_bytes"),
                numpy_helper.from_array(scale, f"{name}_scale"),
            ]
        )
        wide = f"{name}_wide"
        steps = [
            helper.make_node(
                "Cast", [f"{name}_bytes"], [wide], name=f"{wide}_cast", to=TensorProto.FLOAT
            ),
            helper.make_node("Mul", [wide, f"{name}_scale"], [name], name=f"{wide}_scaled"),
        ]
        for place, step in enumerate(steps):
            graph.node.insert(place, step)


def _outputs_axis(node: onnx.NodeProto) -> dict[str, int]:
    """The node's weights, and the axis along which their outputs lie."""
    if node.op_type == "Conv":
        return {node.input[1]: 0}
    if node.op_type == "Gemm":
        turned = any(one.name == "transB" and one.i for one in node.attribute)
        return {node.input[1]: 0 if turned else 1}
    if node.op_type == "MatMul":
        return {node.input[1]: -1}
    return {}


def _scale(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    others = tuple(one for one in range(values.ndim) if one != axis % values.ndim)
    widest = np.abs(values).max(axis=others, keepdims=True)
    scale: NDArray[np.float32] = (widest / 127).clip(1e-9).astype(np.float32)
    return scale
