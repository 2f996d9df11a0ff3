"""Quantises a graph: its big weight matrices become int8, and are multiplied as integers.

Image towers use static quantisation: a weight matrix has a scale per column, its activations one
scale and zero point, computed beforehand from their range on calibration photos. This is the
fastest, and since no scale is computed during a run, a photo's vector does not depend on its batch.
A few channels of a wide range would cost all others their precision, so activations are smoothed
first: SmoothQuant (Xiao et al., 2023, https://arxiv.org/abs/2211.10438).

Text towers use a scale per block of 32 numbers, for weights and for activations, whose scales are
computed during the run. This is half as fast, has a quarter to a half of the error, and needs no
calibration.
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
"""Weight matrices with fewer elements stay float32."""
BLOCK = 32
"""Elements that share a scale."""
ORT_DOMAIN = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""


@dataclass(frozen=True, slots=True)
class Range:
    """The least and greatest value of each channel (K,) of activations (…, K)."""

    least: NDArray[np.float32]
    greatest: NDArray[np.float32]

    def union(self, other: Range) -> Range:
        """The smallest range that contains both."""
        import numpy as np

        least = np.minimum(self.least, other.least)
        return Range(least, np.maximum(self.greatest, other.greatest))

    def __truediv__(self, divisors: NDArray[np.float32]) -> Range:
        """The range after dividing each channel by its divisor (K,), which is positive."""
        return Range(self.least / divisors, self.greatest / divisors)


def measure_ranges(graph: Path, batches: Iterable[NDArray[Any]]) -> dict[str, Range]:
    """The ranges of the activations that are multiplied by big weight matrices, by name.

    Args:
        graph: An ONNX file with one input and with operators of ONNX only.
        batches: Calibration data, at least one batch: pixels (n, height, width, 3) uint8.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(graph, load_external_data=False)
    activations = _Quantiser(model, None).activations()
    outputs = []
    for name, channels in activations.items():
        shape = numpy_helper.from_array(np.array([-1, channels]), f"{name}_shape")
        axis = numpy_helper.from_array(np.array([0]), f"{name}_axis")
        model.graph.initializer.extend([shape, axis])
        model.graph.node.append(helper.make_node("Reshape", [name, shape.name], [f"{name}_flat"]))
        for operator in ("ReduceMin", "ReduceMax"):
            inputs, output = [f"{name}_flat", axis.name], f"{name}_{operator}"
            model.graph.node.append(helper.make_node(operator, inputs, [output], keepdims=0))
            model.graph.output.append(
                helper.make_tensor_value_info(output, TensorProto.FLOAT, [channels])
            )
            outputs.append(output)
    probe = session(model.SerializeToString(), optimise=False, weights_folder=graph.parent)
    ranges: dict[str, Range] = {}
    for batch in batches:
        values = iter(probe.run(outputs, {probe.get_inputs()[0].name: batch}))
        for name in activations:
            measured = Range(next(values), next(values))
            ranges[name] = ranges[name].union(measured) if name in ranges else measured
    return ranges


def quantise(graph: Path, out: Path, ranges: Mapping[str, Range] | None) -> None:
    """Write a graph whose big weight matrices and embedding tables are int8.

    Args:
        graph: An ONNX file with operators of ONNX only.
        out: The file to write; its weights go into `WEIGHTS` beside it.
        ranges: What `measure_ranges` returns for this graph, for static quantisation; None for
            scales per block.
    """
    import onnx

    model = onnx.load(graph)
    _Quantiser(model, ranges).run()
    if all(one.domain != ORT_DOMAIN for one in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(ORT_DOMAIN, 1))
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
        """The names of quantised activations."""
        self.smoothed: dict[str, NDArray[np.float32]] = {}
        """Matrices (K, N) after smoothing, by the output of their product."""
        self.last = self._last_products()

    def activations(self) -> dict[str, int]:
        """The names of activations that big matrices multiply, and their numbers of channels."""
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
            self._smooth()
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

    def _smooth(self) -> None:
        """Divide each channel after a LayerNormalization, and multiply that row of the matrices
        that follow, so that the range of activations and of weights becomes the same.
        """
        import numpy as np

        assert self.ranges is not None
        for node in self.graph.node:
            affine, output = node.input[1:], node.output[0]  # gain, and usually bias
            products = self._products_of(output)
            constant = all(name in self.weights for name in affine)
            if node.op_type != "LayerNormalization" or not constant or not products:
                continue
            measured = self.ranges[output]
            of_channels = np.maximum(np.abs(measured.least), np.abs(measured.greatest))
            of_rows = np.max([np.abs(self._matrix(one)).max(1) for one in products], axis=0)
            divisors = np.sqrt(of_channels.clip(1e-5) / of_rows.clip(1e-5)).astype(np.float32)
            for place, name in enumerate(affine, 1):
                smoothed = f"{output}_smoothed_{place}"  # several nodes may share their weights
                node.input[place] = self._add(smoothed, self._array(name) / divisors)
            for product in products:
                self.smoothed[product.output[0]] = self._matrix(product) * divisors[:, None]
            self.ranges[output] = measured / divisors

    def _products_of(self, name: str) -> list[Any]:
        """The products of activations with big matrices; none if they are used elsewhere too."""
        users = [one for one in self.users.get(name, []) if one.op_type != "Shape"]
        only_products = all(self._is_product(one) and one.input[0] == name for one in users)
        is_output = any(one.name == name for one in self.graph.output)
        return users if only_products and not is_output else []

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
        """The weight matrix (K, N) of a product."""
        if product.output[0] in self.smoothed:
            return self.smoothed[product.output[0]]
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
        return self._static_product(node, values, bias, out)

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
            domain=ORT_DOMAIN,
            accuracy_level=4,
            **shape,
        )

    def _static_product(
        self, node: Any, values: NDArray[np.float32], bias: str, out: str
    ) -> list[Any]:
        from onnx import helper

        assert self.ranges is not None
        name, quantised = node.input[0], f"{node.input[0]}_8bit"
        scale, zero = self._stored_scale(name, self.ranges[name])
        nodes = []
        if quantised not in self.quantised:  # several products may share their activations
            self.quantised.add(quantised)
            nodes.append(
                helper.make_node("QuantizeLinear", [name, scale, zero], [quantised], quantised)
            )
        matrix, scales = self._stored(f"{out}_matrix", values, axis=0)
        inputs = [quantised, matrix, scale, scales, zero]
        inputs += ["", bias] if bias else []
        operator = "MatMulIntegerToFloat"
        nodes.append(helper.make_node(operator, inputs, [out], f"{out}_8bit", domain=ORT_DOMAIN))
        return nodes

    def _stored_scale(self, name: str, measured: Range) -> list[str]:
        """The names of the scale and the zero point of activations in uint8, where 0 is exact."""
        import numpy as np

        least = min(float(measured.least.min()), 0.0)
        greatest = max(float(measured.greatest.max()), 0.0)
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
