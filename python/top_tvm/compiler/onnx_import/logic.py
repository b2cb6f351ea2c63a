"""Comparisons, logic, bits, and tests of single numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tvm import relax, te, tirx, topi

from top_tvm.compiler.onnx_import.arithmetic import binary
from top_tvm.compiler.onnx_import.node import Converted, Node, dtype_of
from top_tvm.compiler.onnx_import.widening import cast, is_nan


def convert_not(node: Node) -> Converted:
    """Logical negation."""
    return relax.op.logical_not(node.input(0))


def convert_bitwise_not(node: Node) -> Converted:
    """All bits flipped."""
    return relax.op.bitwise_not(node.input(0))


def convert_bit_shift(node: Node) -> Converted:
    """Shift by any distance: what is shifted out is gone, sign bits follow from the left."""
    direction = node.attribute("direction", "")
    if direction not in ("LEFT", "RIGHT"):
        node.refuse(f"its direction is {direction!r}, neither 'LEFT' nor 'RIGHT'")
    shape = np.broadcast_shapes(node.shape(0), node.shape(1))
    bits = np.iinfo(node.dtype(0)).bits
    shift = _left if direction == "LEFT" else _right

    def compute(a: te.Tensor, b: te.Tensor) -> te.Tensor:
        a, b = (topi.broadcast_to(operand, shape) for operand in (a, b))
        return te.compute(shape, lambda *index: shift(a(*index), b(*index), bits), name="shift")

    return node.builder.emit_te(
        compute, node.input(0), node.input(1), primfunc_name_hint="bit_shift"
    )


def _left(value: Any, distance: Any, bits: int) -> Any:
    zero, fits, distance = _distance(distance, bits)
    return tirx.Select(fits, value << distance, zero)


def _right(value: Any, distance: Any, bits: int) -> Any:
    zero, fits, distance = _distance(distance, bits)
    signs = value >> tirx.const(bits - 1, str(value.ty.dtype))
    beyond = signs if str(value.ty.dtype).startswith("int") else zero
    return tirx.Select(fits, value >> distance, beyond)


def _distance(distance: Any, bits: int) -> tuple[Any, Any, Any]:
    """Zero, whether the distance is one that a processor can shift by, and one that is."""
    dtype = str(distance.ty.dtype)
    zero = tirx.const(0, dtype)
    fits = (distance >> tirx.const(bits.bit_length() - 1, dtype)) == zero
    return zero, fits, tirx.Select(fits, distance, zero)


def convert_is_inf(node: Node) -> Converted:
    """Whether a number is infinite, of the signs that are asked for."""
    data = node.input(0)
    if node.dtype(0) == "bfloat16":
        data = cast(node, data, "float32")
    positive, negative = (
        bool(node.attribute(name, 1)) for name in ("detect_positive", "detect_negative")
    )
    if positive and negative:
        return relax.op.isinf(data)
    if not positive and not negative:
        return relax.op.zeros(node.shape(0), "bool")
    infinity = node.scalar(np.inf if positive else -np.inf, dtype_of(data))
    return relax.op.equal(data, infinity)


def convert_is_nan(node: Node) -> Converted:
    """Whether a number is none."""
    return is_nan(node, node.input(0))


def convert_equal(node: Node) -> Converted:
    """Whether two values are equal; truth values are compared as numbers."""
    left, right = node.input(0), node.input(1)
    if node.dtype(0) == "bool":
        left, right = (cast(node, value, "uint8") for value in (left, right))
        return relax.op.equal(left, right)
    equal: Converted = binary(relax.op.equal)(node)
    return equal


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "And": binary(relax.op.logical_and),
    "Or": binary(relax.op.logical_or),
    "Xor": binary(relax.op.logical_xor),
    "Not": convert_not,
    "Equal": convert_equal,
    "Greater": binary(relax.op.greater),
    "GreaterOrEqual": binary(relax.op.greater_equal),
    "Less": binary(relax.op.less),
    "LessOrEqual": binary(relax.op.less_equal),
    "BitwiseAnd": binary(relax.op.bitwise_and),
    "BitwiseOr": binary(relax.op.bitwise_or),
    "BitwiseXor": binary(relax.op.bitwise_xor),
    "BitwiseNot": convert_bitwise_not,
    "BitShift": convert_bit_shift,
    "IsInf": convert_is_inf,
    "IsNaN": convert_is_nan,
}
