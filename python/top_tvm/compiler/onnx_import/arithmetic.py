"""Arithmetic of two and more operands, with NumPy's broadcasting.

Kernels never trap: where C leaves a division undefined (by zero, or of the least integer by -1),
the result is defined here. Remainders and powers of float16 are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np
from tvm import relax, te, tirx, topi

from top_tvm.compiler.onnx_import.node import Converted, Expr, Node, constant_of, dtype_of, shape_of
from top_tvm.compiler.onnx_import.widening import HALF, cast, is_float, is_nan, widened

Binary = Callable[[Expr, Expr], Expr]


def operands(node: Node) -> tuple[Expr, Expr]:
    """Both operands of a binary operator, so that NumPy's rules broadcast them.

    Before version 7, the second one is laid along an axis of the first one where the node says so.
    """
    left, right = node.input(0), node.input(1)
    if node.opset >= 7 or node.shape(0) == node.shape(1):
        return left, right
    rank, shape = node.rank(0), node.shape(1)
    if not node.attribute("broadcast", 0):
        node.refuse("its operands have different shapes, and its attribute broadcast is not set")
    axis = node.axis(int(node.attribute("axis", rank - len(shape))), rank)
    behind = rank - axis - len(shape)
    if behind < 0:
        node.refuse(f"its second operand has more dimensions than there are from axis {axis}")
    return left, relax.op.reshape(right, (*shape, *(1,) * behind))


def binary(operator: Binary) -> Callable[[Node], Converted]:
    """Converter of an operator that Relax has."""
    return lambda node: operator(*operands(node))


def convert_div(node: Node) -> Converted:
    """Quotient: truncated for integers, and 0 where they are divided by zero."""
    if is_float(node.dtype(0)):
        return relax.op.divide(*operands(node))
    return _elementwise(node, _quotient, "divide", *operands(node))


def convert_mod(node: Node) -> Converted:
    """Remainder with the sign of the divisor, or of the dividend; by zero 0 for integers."""
    like_c = bool(node.attribute("fmod", 0))
    if is_float(node.dtype(0)):
        return widened(node, relax.op.mod if like_c else _float_modulo, *operands(node))
    return _elementwise(node, _remainder if like_c else _modulo, "modulo", *operands(node))


def convert_pow(node: Node) -> Converted:
    """Power in the type of the base; powers of integers are computed in float64."""
    base, exponent = operands(node)
    dtype = dtype_of(base)
    if not is_float(dtype):
        power = relax.op.power(cast(node, base, "float64"), cast(node, exponent, "float64"))
        return cast(node, power, dtype)
    if dtype in HALF:
        power = relax.op.power(cast(node, base, "float32"), cast(node, exponent, "float32"))
        return cast(node, power, dtype)
    value = constant_of(exponent)
    if value is not None and np.array_equal(value.astype(dtype).astype("float64"), value):
        exponent = cast(node, exponent, dtype)  # exactly
    narrow = (dtype, *HALF, "float32", "int8", "uint8", "int16", "uint16")
    wide = dtype if dtype_of(exponent) in narrow else "float64"
    power = relax.op.power(cast(node, base, wide), cast(node, exponent, wide))
    return cast(node, power, dtype)


def convert_max(node: Node) -> Converted:
    """Greatest of all operands; NaN where one of them is."""
    return reduce(lambda left, right: maximum(node, left, right), _all(node))


def convert_min(node: Node) -> Converted:
    """Least of all operands; NaN where one of them is."""
    return reduce(lambda left, right: minimum(node, left, right), _all(node))


def convert_sum(node: Node) -> Converted:
    """Sum of all operands."""
    return reduce(lambda left, right: node.emit(relax.op.add(left, right)), _all(node))


def convert_mean(node: Node) -> Converted:
    """Mean of all operands."""
    count = node.scalar(len(node.inputs), node.dtype(0))
    return relax.op.divide(convert_sum(node), count)


def maximum(node: Node, left: Expr, right: Expr) -> Expr:
    """Elementwise maximum that keeps NaN."""
    return _extremum(node, relax.op.maximum, left, right)


def minimum(node: Node, left: Expr, right: Expr) -> Expr:
    """Elementwise minimum that keeps NaN."""
    return _extremum(node, relax.op.minimum, left, right)


def _extremum(node: Node, operator: Binary, left: Expr, right: Expr) -> Expr:
    """A comparison with NaN is false, so a kernel returns the second operand where there is one."""
    if not is_float(dtype_of(left)) or _is_number(left):
        return node.emit(operator(left, right))
    if _is_number(right):
        return node.emit(operator(right, left))
    extremum = node.emit(operator(left, right))
    return node.emit(relax.op.where(is_nan(node, left), left, extremum))


def _is_number(value: Expr) -> bool:
    array = constant_of(value)
    return array is not None and not np.isnan(array).any()


def _all(node: Node) -> list[Expr]:
    if node.opset < 8 and len({node.shape(index) for index in range(len(node.inputs))}) > 1:
        node.refuse("its operands have different shapes, which came with version 8 of the operator")
    return [node.input(index) for index in range(len(node.inputs))]


def _elementwise(
    node: Node, function: Callable[[Any, Any], Any], name: str, left: Expr, right: Expr
) -> Expr:
    """A kernel for what Relax has no operator."""
    shape = np.broadcast_shapes(shape_of(left), shape_of(right))

    def compute(a: te.Tensor, b: te.Tensor) -> te.Tensor:
        a, b = (topi.broadcast_to(operand, shape) for operand in (a, b))
        return te.compute(shape, lambda *index: function(a(*index), b(*index)), name=name)

    return node.builder.emit_te(compute, left, right, primfunc_name_hint=name)


def _number(like: Any, value: int) -> Any:
    return tirx.const(value, str(like.ty.dtype))


def _is_signed(value: Any) -> bool:
    return str(value.ty.dtype).startswith("int")


def _quotient(a: Any, b: Any) -> Any:
    zero, one = _number(b, 0), _number(b, 1)
    harmless = tirx.Select(b == zero, one, b)
    if not _is_signed(a):
        return tirx.Select(b == zero, zero, tirx.truncdiv(a, harmless))
    # The least integer has no negative: its division by -1 traps, its subtraction wraps around.
    harmless = tirx.Select(b == _number(b, -1), one, harmless)
    negated = tirx.Select(b == _number(b, -1), zero - a, tirx.truncdiv(a, harmless))
    return tirx.Select(b == zero, zero, negated)


def _remainder(a: Any, b: Any) -> Any:
    zero, one = _number(b, 0), _number(b, 1)
    harmless = tirx.Select(b == zero, one, b)
    if _is_signed(a):
        harmless = tirx.Select(b == _number(b, -1), one, harmless)
    return tirx.truncmod(a, harmless)


def _modulo(a: Any, b: Any) -> Any:
    remainder = _remainder(a, b)
    if not _is_signed(a):
        return remainder
    zero = _number(b, 0)
    below = tirx.all(remainder < zero, b > zero)
    above = tirx.all(remainder > zero, b < zero)
    return tirx.Select(tirx.any(below, above), remainder + b, remainder)


def _float_modulo(a: Expr, b: Expr) -> Expr:
    remainder, zero = relax.op.mod(a, b), relax.const(0, dtype_of(a))
    less, greater = relax.op.less, relax.op.greater
    below = relax.op.logical_and(less(remainder, zero), greater(b, zero))
    above = relax.op.logical_and(greater(remainder, zero), less(b, zero))
    return relax.op.where(relax.op.logical_or(below, above), relax.op.add(remainder, b), remainder)


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "Add": binary(relax.op.add),
    "Sub": binary(relax.op.subtract),
    "Mul": binary(relax.op.multiply),
    "Div": convert_div,
    "Mod": convert_mod,
    "Pow": convert_pow,
    "Max": convert_max,
    "Min": convert_min,
    "Sum": convert_sum,
    "Mean": convert_mean,
}
