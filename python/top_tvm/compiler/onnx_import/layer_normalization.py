"""Normalisations over the last axes: of each element by statistics of those with equal indices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np
import onnx
from onnx import helper
from tvm import relax

from top_tvm.compiler.onnx_import.node import Converted, Expr, Node, constant


def convert_layer_normalization(node: Node) -> Converted:
    """``(x - mean) / sqrt(variance + epsilon) * scale + bias``; mean and deviation on demand."""
    data, scale = node.input(0), node.input(1)
    axes, precision = _axes(node), _precision(node)
    epsilon = float(node.attribute("epsilon", 1e-5))
    shape = node.shape(0)[axes[0] :]
    whole = node.shape(1) == shape and (not node.has(2) or node.shape(2) == shape)
    if whole and node.dtype(0) == precision and not node.wants(1) and not node.wants(2):
        bias = node.input(2) if node.has(2) else constant(np.zeros(shape, precision))
        return relax.op.nn.layer_norm(data, scale, bias, axes, epsilon)
    wide = _cast(node, data, precision)
    mean = node.emit(relax.op.mean(wide, axes, keepdims=True))
    centred = node.emit(relax.op.subtract(wide, mean))
    variance = relax.op.mean(relax.op.multiply(centred, centred), axes, keepdims=True)
    deviation = relax.op.sqrt(relax.op.add(variance, node.scalar(epsilon, precision)))
    inverse = node.emit(relax.op.divide(node.scalar(1, precision), deviation))
    result = _cast(node, relax.op.multiply(centred, inverse), node.dtype(0))
    result = relax.op.multiply(result, scale)
    if node.has(2):
        result = relax.op.add(result, node.input(2))
    stash = _stash_type(node)
    return [node.emit(result), _cast(node, mean, stash), _cast(node, inverse, stash)]


def convert_rms_normalization(node: Node) -> Converted:
    """``x / sqrt(mean(x ** 2) + epsilon) * scale``."""
    data, scale = node.input(0), node.input(1)
    axes, precision = _axes(node), _precision(node)
    epsilon = float(node.attribute("epsilon", 1e-5))
    shape = node.shape(0)[axes[0] :]
    if node.dtype(0) == node.dtype(1) == precision and node.shape(1) == shape:
        if axes[0] > 0:
            return relax.op.nn.rms_norm(data, scale, axes, epsilon)
        # TVM's kernel wants an axis that is none of those.
        row = node.emit(relax.op.reshape(data, (1, prod(shape))))
        weights = node.emit(relax.op.reshape(scale, (prod(shape),)))
        whole = node.emit(relax.op.nn.rms_norm(row, weights, [1], epsilon))
        return relax.op.reshape(whole, shape)
    wide = _cast(node, data, precision)
    square = relax.op.mean(relax.op.multiply(wide, wide), axes, keepdims=True)
    deviation = relax.op.sqrt(relax.op.add(square, node.scalar(epsilon, precision)))
    normalised = _cast(node, relax.op.divide(wide, deviation), node.dtype(1))
    return relax.op.multiply(normalised, scale)


def _axes(node: Node) -> list[int]:
    rank = node.rank(0)
    if rank == 0:
        node.refuse("a scalar has no axis to normalise over")
    return list(range(node.axis(int(node.attribute("axis", -1)), rank), rank))


def _stash_type(node: Node) -> str:
    number = int(node.attribute("stash_type", onnx.TensorProto.FLOAT))
    name = str(np.dtype(helper.tensor_dtype_to_np_dtype(number)).name)
    if name not in ("float16", "bfloat16", "float32", "float64"):
        node.refuse(f"it computes in {name}: its stash_type is no floating point type")
    return name


def _precision(node: Node) -> str:
    """Type to compute in: what the node says, but not less than float32, nor than its data."""
    return "float64" if "float64" in (node.dtype(0), _stash_type(node)) else "float32"


def _cast(node: Node, value: Expr, dtype: str) -> Expr:
    value = node.builder.normalize(value)
    return node.emit(value if str(value.ty.dtype) == dtype else relax.op.astype(value, dtype))


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "LayerNormalization": convert_layer_normalization,
    "RMSNormalization": convert_rms_normalization,
}
