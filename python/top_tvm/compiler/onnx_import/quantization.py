"""Linear quantisation: ``q = saturate(round(x / scale) + zero point)`` and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from onnx import helper
from tvm import relax

from top_tvm.compiler.onnx_import.node import Converted, Expr, Node, dtype_of, shape_of
from top_tvm.compiler.onnx_import.products import along_axis, integer_product
from top_tvm.compiler.onnx_import.widening import cast

_QUANTIZED = ("uint8", "int8", "uint16", "int16")


def convert_quantize_linear(node: Node) -> Converted:
    """Quantise by one scale, one for each index of an axis, or one for each block along it."""
    dtype = node.dtype(2) if node.has(2) else _type(node, "output_dtype", "uint8")
    if dtype not in _QUANTIZED:
        node.refuse(f"it quantises to {dtype}; supported are {', '.join(_QUANTIZED)}")
    # 16-bit integers, and float16, are exact in float32; int32 is in float64 only.
    wide = "float64" if node.dtype(0) == "int32" else "float32"
    data, scale = cast(node, node.input(0), wide), cast(node, _spread(node, 1), wide)
    zero = cast(node, _spread(node, 2), wide) if node.has(2) else node.scalar(0, wide)
    return quantize(node, data, scale, zero, dtype)


def quantize(node: Node, data: Expr, scale: Expr, zero: Expr, dtype: str) -> Expr:
    """Quantised data; scale and zero point broadcast to it and have its type."""
    rounded = relax.op.add(relax.op.round(relax.op.divide(data, scale)), zero)
    limits, wide = np.iinfo(dtype), dtype_of(data)
    # In this order NaN becomes the lower limit: no integer is made of it.
    lower = relax.op.maximum(rounded, node.scalar(int(limits.min), wide))
    return cast(node, relax.op.minimum(lower, node.scalar(int(limits.max), wide)), dtype)


def convert_dequantize_linear(node: Node) -> Converted:
    """Scale times (data - zero point), in the type of the scale."""
    dtype = _type(node, "output_dtype", node.dtype(1))
    data = cast(node, node.input(0), "int32")
    if node.has(2):
        data = relax.op.subtract(data, cast(node, _spread(node, 2), "int32"))
    wide = "float64" if dtype == "float64" else "float32"
    scale = cast(node, _spread(node, 1), wide)
    return cast(node, relax.op.multiply(cast(node, data, wide), scale), dtype)


def _type(node: Node, attribute: str, default: str) -> str:
    number = int(node.attribute(attribute, 0))
    return str(helper.tensor_dtype_to_np_dtype(number).name) if number else default


def _spread(node: Node, index: int) -> Expr:
    """Scales or zero points, so that they broadcast to the data."""
    value, shape, rank = node.input(index), node.shape(index), node.rank(0)
    if shape in ((), (1,)):
        return relax.op.reshape(value, ()) if shape else value
    # Exporters leave it out for vectors, such as biases, which have no axis 1.
    axis = node.axis(int(node.attribute("axis", 1)), rank) if rank > 1 else 0
    block = int(node.attribute("block_size", 0))
    extent = node.shape(0)[axis]
    if len(shape) == 1 and not block:
        if shape[0] != extent:
            node.refuse(f"it has {shape[0]} scales or zero points for an axis of {extent}")
        return relax.op.reshape(value, (extent, *(1,) * (rank - 1 - axis)))
    if len(shape) != rank or shape[axis] * max(block, 1) < extent:
        node.refuse(f"its scales of shape {shape} do not cover its data in blocks of {block}")
    if block <= 1:
        return value
    repeated = node.emit(relax.op.repeat(value, block, axis))
    if shape[axis] * block == extent:
        return repeated
    return relax.op.strided_slice(repeated, [axis], [0], [extent])


def convert_dynamic_quantize_linear(node: Node) -> Converted:
    """Quantise to uint8 by the range of the data: the result, its scale and its zero point."""
    data, zero = node.input(0), node.scalar(0, "float32")
    top = relax.op.maximum(relax.op.max(data), zero)
    bottom = node.emit(relax.op.minimum(relax.op.min(data), zero))
    span = relax.op.divide(relax.op.subtract(top, bottom), node.scalar(255, "float32"))
    scale = node.emit(span)
    # Of nothing but zeros, any scale is right, but 0 has no inverse.
    one = node.scalar(1, "float32")
    divisor = node.emit(relax.op.where(relax.op.equal(scale, zero), one, scale))
    offset = node.emit(relax.op.round(relax.op.divide(relax.op.negative(bottom), divisor)))
    quantized = quantize(node, data, divisor, offset, "uint8")
    return [quantized, scale, cast(node, offset, "uint8")]


def convert_qlinear_matmul(node: Node) -> Converted:
    """Product of quantised matrices: multiplied in int32, scaled in float32, quantised again."""
    dtype = node.dtype(7)
    if dtype not in _QUANTIZED:
        node.refuse(f"it quantises to {dtype}; supported are {', '.join(_QUANTIZED)}")
    product = cast(node, integer_product(node, (0, 2), (3, 5)), "float32")
    rank = len(shape_of(product))

    def factor(index: int, axis: int) -> Expr:
        return cast(node, along_axis(node, index, rank, axis), "float32")

    scale = relax.op.multiply(factor(1, -2), factor(4, -1))
    real = node.emit(relax.op.multiply(product, scale))
    return quantize(node, real, factor(6, -2), factor(7, -2), dtype)


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "DequantizeLinear": convert_dequantize_linear,
    "DynamicQuantizeLinear": convert_dynamic_quantize_linear,
    "QLinearMatMul": convert_qlinear_matmul,
    "QuantizeLinear": convert_quantize_linear,
}
