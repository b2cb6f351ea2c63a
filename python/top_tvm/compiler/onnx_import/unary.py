"""Functions of single numbers: rounding, roots, exponentials, trigonometry.

What changes no digits (sign, rounding, absolute value) stays in its type, the rest is widened; see
:mod:`~top_tvm.compiler.onnx_import.widening`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tvm import relax

from top_tvm.compiler.onnx_import.arithmetic import maximum, minimum
from top_tvm.compiler.onnx_import.node import Converted, Expr, Node
from top_tvm.compiler.onnx_import.widening import is_float, widened

Unary = Callable[[Expr], Expr]


def exact(operator: Unary) -> Callable[[Node], Converted]:
    """Converter of an operator that needs no more digits than its operand has."""
    return lambda node: operator(node.input(0))


def transcendental(operator: Unary) -> Callable[[Node], Converted]:
    """Converter of an operator that Relax has for float32 and float64."""
    return lambda node: widened(node, operator, node.input(0))


def of_floats(operator: Unary) -> Callable[[Node], Converted]:
    """Converter of an operator that leaves integers as they are."""
    return lambda node: operator(node.input(0)) if is_float(node.dtype(0)) else node.input(0)


def convert_abs(node: Node) -> Converted:
    """Absolute value; unsigned integers are theirs."""
    data = node.input(0)
    return data if node.dtype(0).startswith("uint") else relax.op.abs(data)


def convert_neg(node: Node) -> Converted:
    """Negative."""
    return relax.op.negative(node.input(0))


def convert_reciprocal(node: Node) -> Converted:
    """1 / x."""
    return relax.op.divide(node.scalar(1, node.dtype(0)), node.input(0))


def convert_sign(node: Node) -> Converted:
    """-1, 0 or 1; NaN stays."""
    data, dtype = node.input(0), node.dtype(0)
    zero, one = node.scalar(0, dtype), node.scalar(1, dtype)
    if dtype.startswith("uint"):
        return relax.op.minimum(data, one)
    negative = relax.op.where(relax.op.less(data, zero), node.scalar(-1, dtype), data)
    return relax.op.where(relax.op.greater(data, zero), one, negative)


def convert_clip(node: Node) -> Converted:
    """Clip to bounds that are attributes before version 11; the upper one has the last word."""
    data, dtype = node.input(0), node.dtype(0)
    for index, name, operator in ((1, "min", maximum), (2, "max", minimum)):
        bound = _bound(node, index, name, dtype)
        if bound is not None:
            data = operator(node, data, bound)
    return data


def _bound(node: Node, index: int, name: str, dtype: str) -> Expr | None:
    if node.opset < 11:
        value = node.attribute(name)
        return None if value is None else node.scalar(value, dtype)
    if not node.has(index):
        return None
    if node.shape(index) not in ((), (1,)):
        node.refuse(f"its {name} has the shape {node.shape(index)}: it must be one number")
    bound = node.input(index)
    return relax.op.reshape(bound, ()) if node.rank(index) else bound


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "Abs": convert_abs,
    "Ceil": of_floats(relax.op.ceil),
    "Clip": convert_clip,
    "Floor": of_floats(relax.op.floor),
    "Neg": convert_neg,
    "Reciprocal": convert_reciprocal,
    "Round": of_floats(relax.op.round),
    "Sign": convert_sign,
    **{
        name: transcendental(operator)
        for name, operator in {
            "Acos": relax.op.acos,
            "Acosh": relax.op.acosh,
            "Asin": relax.op.asin,
            "Asinh": relax.op.asinh,
            "Atan": relax.op.atan,
            "Atanh": relax.op.atanh,
            "Cos": relax.op.cos,
            "Cosh": relax.op.cosh,
            "Erf": relax.op.erf,
            "Exp": relax.op.exp,
            "Log": relax.op.log,
            "Sigmoid": relax.op.sigmoid,
            "Sin": relax.op.sin,
            "Sinh": relax.op.sinh,
            "Sqrt": relax.op.sqrt,
            "Tan": relax.op.tan,
            "Tanh": relax.op.tanh,
        }.items()
    },
}
