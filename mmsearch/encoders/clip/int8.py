"""Quantises a graph: its big matrices in 8 bits, multiplied as integers.

Photos: a matrix has a scale per column, and what it multiplies one scale, fixed beforehand from the
range that it has on some photos. That is the fastest, and as nothing is measured in a run, a
photo's vector does not depend on the others of its run. Channels of a wide range would cost the
others their precision; they are evened out first, as in SmoothQuant (Xiao et al., 2023).

Texts: both have a scale per block of 32 numbers, taken in the run. That is half as fast, has a
quarter to a half of the error, and needs no ranges.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.encoders.clip.onnx_export import WEIGHTS
from mmsearch.encoders.onnx import session

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BIG = 4096
"""Smaller matrices, in numbers, stay float32."""
BLOCK = 32
"""Numbers in a block."""
OWN_OPERATORS = "com.microsoft"
"""The domain of ONNX Runtime's."""


@dataclass(frozen=True, slots=True)
class Range:
    """The least and greatest value in each column (K,) of what multiplies a matrix (K, N)."""

    least: NDArray[np.float32]
    greatest: NDArray[np.float32]

    def joined(self, other: Range) -> Range:
        """The range of both."""
        import numpy as np

        least = np.minimum(self.least, other.least)
        return Range(least, np.maximum(self.greatest, other.greatest))

    def divided(self, by: NDArray[np.float32]) -> Range:
        """The range once column k is divided by `by[k]`, which is positive."""
        return Range(self.least / by, self.greatest / by)


def measure_ranges(graph: Path, batches: Iterable[NDArray[Any]]) -> dict[str, Range]:
    """The range of each input of a big matrix, by its name, over all runs.

    Args:
        graph: An ONNX file with ONNX's own operators only, and one input.
        batches: What to run it on, at least one.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(graph, load_external_data=False)
    inputs = _Quantiser(model, None).inputs_of_products()
    for name, width in inputs.items():
        rows = numpy_helper.from_array(np.array([-1, width]), f"{name}_rows")
        first = numpy_helper.from_array(np.array([0]), f"{name}_first")
        model.graph.initializer.extend([rows, first])
        model.graph.node.append(helper.make_node("Reshape", [name, rows.name], [f"{name}_flat"]))
        for operator in ("ReduceMin", "ReduceMax"):
            found = f"{name}_{operator}"
            flat = [f"{name}_flat", first.name]
            model.graph.node.append(helper.make_node(operator, flat, [found], keepdims=0))
            shape = helper.make_tensor_value_info(found, TensorProto.FLOAT, [width])
            model.graph.output.append(shape)
    probe = session(model.SerializeToString(), optimise=False, weights_folder=graph.parent)
    outputs = [f"{name}_{kind}" for name in inputs for kind in ("ReduceMin", "ReduceMax")]
    ranges: dict[str, Range] = {}
    for batch in batches:
        found = iter(probe.run(outputs, {probe.get_inputs()[0].name: batch}))
        for name in inputs:
            seen = Range(next(found), next(found))
            ranges[name] = ranges[name].joined(seen) if name in ranges else seen
    return ranges


def quantise(graph: Path, out: Path, ranges: Mapping[str, Range] | None) -> None:
    """Write a graph with 8-bit matrices and embedding tables.

    Args:
        graph: An ONNX file with ONNX's own operators only.
        out: The file to write; its weights go into `WEIGHTS` beside it.
        ranges: As `measure_ranges` returns them for this graph, for one scale per input; None for
            scales per block.
    """
    import onnx

    model = onnx.load(graph)
    _Quantiser(model, ranges).run()
    if all(one.domain != OWN_OPERATORS for one in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(OWN_OPERATORS, 1))
    onnx.save_model(
        model,
        out,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=WEIGHTS,
        size_threshold=1024,
    )


class _Quantiser:
    def __init__(self, model: Any, ranges: Mapping[str, Range] | None) -> None:
        self.ranges = None if ranges is None else dict(ranges)
        self.graph = model.graph
        self.weights = {one.name: one for one in self.graph.initializer}
        self.users: dict[str, list[Any]] = {}
        for node in self.graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        self.quantised: set[str] = set()
        self.matrices: dict[str, NDArray[np.float32]] = {}
        """Of products, by their output, whose matrix is no longer the graph's own."""
        self.last = self._last_products()

    def inputs_of_products(self) -> dict[str, int]:
        """The names of what big matrices multiply, with its columns."""
        found = {}
        for node in self.graph.node:
            if self._is_product(node):
                transposed = any(one.name == "transB" and one.i for one in node.attribute)
                found[node.input[0]] = int(self.weights[node.input[1]].dims[int(transposed)])
        return found

    def run(self) -> None:
        merged: set[str] = set()
        nodes: list[Any] = []
        if self.ranges is not None:
            self._even_out()
        for node in self.graph.node:
            if node.output[0] in merged:
                continue
            if node.output[0] in self.last:
                nodes.append(node)
            elif self._is_product(node):
                nodes.extend(self._product(node, merged))
            elif node.op_type == "Gather" and self._is_big(node.input[0]):
                nodes.extend(self._lookup(node))
            else:
                nodes.append(node)
        kept = [copy.deepcopy(node) for node in nodes]
        del self.graph.node[:]
        self.graph.node.extend(kept)
        used = {name for node in kept for name in node.input}
        for at in reversed(range(len(self.graph.initializer))):
            if self.graph.initializer[at].name not in used:
                del self.graph.initializer[at]

    def _even_out(self) -> None:
        """Divide what a LayerNormalization returns, column by column, and multiply the rows of the
        matrices behind it, so that wide columns and wide rows meet halfway.
        """
        import numpy as np

        assert self.ranges is not None
        for node in self.graph.node:
            gains, users = node.input[1:], self._products_of(node.output[0])
            known = all(name in self.weights for name in gains)
            if node.op_type != "LayerNormalization" or not known or not users:
                continue
            seen = self.ranges[node.output[0]]
            columns = np.maximum(np.abs(seen.least), np.abs(seen.greatest))
            rows = np.max([np.abs(self._matrix(user)).max(1) for user in users], axis=0)
            by = np.sqrt(columns.clip(1e-5) / rows.clip(1e-5)).astype(np.float32)
            for place, name in enumerate(gains, 1):
                even = f"{node.output[0]}_even_{place}"  # several may share their weights
                node.input[place] = self._add(even, self._array(name) / by)
            for user in users:
                self.matrices[user.output[0]] = self._matrix(user) * by[:, None]
            self.ranges[node.output[0]] = seen.divided(by)

    def _products_of(self, name: str) -> list[Any]:
        """The products of something with big matrices; none if its values are used otherwise."""
        users = [one for one in self.users.get(name, []) if one.op_type != "Shape"]
        products = all(self._is_product(one) and one.input[0] == name for one in users)
        is_output = any(one.name == name for one in self.graph.output)
        return users if products and not is_output else []

    def _last_products(self) -> set[str]:
        """The outputs of the last products before the vector, which stay float32.

        They would cause much of the error, and do little of the work.
        """
        makers = {name: node for node in self.graph.node for name in node.output}
        todo, found = [one.name for one in self.graph.output], set()
        seen: set[str] = set()
        while todo:
            node = makers.get(todo.pop())
            if node is None or node.output[0] in seen:
                continue
            seen.add(node.output[0])
            if node.op_type in {"MatMul", "Gemm"} and self._is_big(node.input[1]):
                found.add(node.output[0])
            elif node.op_type not in {"LayerNormalization", "Softmax"}:
                todo.extend(node.input)
        return found

    def _is_big(self, name: str) -> bool:
        from onnx import TensorProto

        one = self.weights.get(name)
        if one is None or one.data_type != TensorProto.FLOAT or len(one.dims) != 2:
            return False
        return int(one.dims[0] * one.dims[1]) >= BIG

    def _is_product(self, node: Any) -> bool:
        """Whether it is a product with a big matrix, at most with a bias added."""
        if node.output[0] in self.last or len(node.input) < 2 or not self._is_big(node.input[1]):
            return False
        if node.op_type != "Gemm":
            return bool(node.op_type == "MatMul")
        flags = {one.name: one for one in node.attribute}
        unscaled = all(flags[name].f == 1.0 for name in ("alpha", "beta") if name in flags)
        transposed = "transA" in flags and flags["transA"].i
        return bool(
            unscaled and not transposed and (len(node.input) < 3 or self._is_bias(node.input[2]))
        )

    def _is_bias(self, name: str) -> bool:
        one = self.weights.get(name)
        return one is not None and len(one.dims) == 1

    def _array(self, name: str) -> NDArray[np.float32]:
        from onnx import numpy_helper

        values: NDArray[np.float32] = numpy_helper.to_array(self.weights[name])
        return values

    def _matrix(self, product: Any) -> NDArray[np.float32]:
        """The matrix (K, N) of a product."""
        if product.output[0] in self.matrices:
            return self.matrices[product.output[0]]
        values = self._array(product.input[1])
        transposed = any(one.name == "transB" and one.i for one in product.attribute)
        return values.T if transposed else values

    def _product(self, node: Any, merged: set[str]) -> list[Any]:
        """A product, together with its bias if nothing else uses the product without."""
        bias = node.input[2] if len(node.input) > 2 else ""
        out = node.output[0]
        users = self.users.get(out, [])
        if not bias and len(users) == 1 and users[0].op_type == "Add":
            added = next((one for one in users[0].input if one != out), "")
            if self._is_bias(added):
                bias, out = added, users[0].output[0]
                merged.add(out)
        values = self._matrix(node)
        if self.ranges is None:
            return [self._product_in_blocks(node, values, bias, out)]
        return self._product_of_a_range(node, values, bias, out)

    def _product_in_blocks(
        self, node: Any, values: NDArray[np.float32], bias: str, out: str
    ) -> Any:
        from onnx import helper

        inputs = [node.input[0], *self._stored_in_blocks(node.input[1], values)]
        inputs += ["", "", bias] if bias else []
        shape = {"K": values.shape[0], "N": values.shape[1], "bits": 8, "block_size": BLOCK}
        return helper.make_node(
            "MatMulNBits",
            inputs,
            [out],
            f"{out}_8bit",
            domain=OWN_OPERATORS,
            accuracy_level=4,
            **shape,
        )

    def _product_of_a_range(
        self, node: Any, values: NDArray[np.float32], bias: str, out: str
    ) -> list[Any]:
        from onnx import helper

        assert self.ranges is not None
        name, small = node.input[0], f"{node.input[0]}_8bit"
        scale, zero = self._stored_range(name, self.ranges[name])
        made = []
        if small not in self.quantised:
            self.quantised.add(small)
            made.append(helper.make_node("QuantizeLinear", [name, scale, zero], [small], small))
        matrix, scales = self._stored(f"{out}_matrix", values, axis=0)
        inputs = [small, matrix, scale, scales, zero]
        inputs += ["", bias] if bias else []
        product = "MatMulIntegerToFloat"
        made.append(helper.make_node(product, inputs, [out], f"{out}_8bit", domain=OWN_OPERATORS))
        return made

    def _stored_range(self, name: str, seen: Range) -> list[str]:
        """The names of the scale and the zero that fit a range, which is widened to hold 0."""
        import numpy as np

        least, greatest = min(float(seen.least.min()), 0.0), max(float(seen.greatest.max()), 0.0)
        scale = np.float32(max((greatest - least) / 255, 1e-12))
        zero = np.uint8(np.clip(round(-least / float(scale)), 0, 255))
        return [
            self._add(f"{name}_scale", np.asarray(scale)),
            self._add(f"{name}_zero", np.asarray(zero)),
        ]

    def _lookup(self, node: Any) -> list[Any]:
        """A lookup in an embedding table of 8 bits, with a scale per row."""
        from onnx import TensorProto, helper

        name, ids, out = node.input[0], node.input[1], node.output[0]
        axis = next((one.i for one in node.attribute if one.name == "axis"), 0)
        if axis != 0:
            return [node]
        rows, scales = self._stored(name, self._array(name), axis=1)
        return [
            helper.make_node("Gather", [rows, ids], [f"{out}_row"]),
            helper.make_node("Cast", [f"{out}_row"], [f"{out}_float"], to=TensorProto.FLOAT),
            helper.make_node("Gather", [scales, ids], [f"{out}_scale"]),
            helper.make_node("Mul", [f"{out}_float", f"{out}_scale"], [out]),
        ]

    def _stored(self, name: str, values: NDArray[np.float32], axis: int) -> list[str]:
        """The names of a matrix in 8 bits and of its scales, which are constant along `axis`."""
        import numpy as np

        scales = (np.abs(values).max(axis, keepdims=axis == 1) / 127).clip(1e-12)
        scales = scales.astype(np.float32)
        small = np.round(values / scales).astype(np.int8)
        return [self._add(f"{name}_8bit", small), self._add(f"{name}_scales", scales)]

    def _stored_in_blocks(self, name: str, values: NDArray[np.float32]) -> list[str]:
        """The same in the layout of `MatMulNBits`: column by column, 128 standing for zero."""
        import numpy as np

        rows, columns = values.shape
        blocks = -(-rows // BLOCK)
        padded = np.zeros((blocks * BLOCK, columns), np.float32)
        padded[:rows] = values
        cut = padded.T.reshape(columns, blocks, BLOCK)
        scales = (np.abs(cut).max(2) / 127).clip(1e-12).astype(np.float32)
        small = (np.round(cut / scales[..., None]) + 128).astype(np.uint8)
        return [self._add(f"{name}_8bit", small), self._add(f"{name}_scales", scales.ravel())]

    def _add(self, name: str, array: NDArray[Any]) -> str:
        import numpy as np
        from onnx import numpy_helper

        if name not in self.weights:
            self.weights[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
            self.graph.initializer.append(self.weights[name])
        return name
