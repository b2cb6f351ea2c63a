"""Half precision computes in float32: what TVM generates for it is inaccurate, or calls no one has.

Sums of float16 lose terms, its transcendental functions are neither vectorised nor in the C
library, and oneDNN takes float32. Casts are fused into the kernels around them.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import relax

from top_tvm.compiler.onnx_import import casting
from top_tvm.compiler.onnx_import.node import Expr, Node, dtype_of

HALF = ("float16", "bfloat16")


def is_float(dtype: str) -> bool:
    """Whether a type is one of floating point numbers."""
    return dtype in (*HALF, "float32", "float64")


def cast(node: Node, value: Expr, dtype: str) -> Expr:
    """The value in a type; itself where it has it."""
    value = node.builder.normalize(value)
    return value if dtype_of(value) == dtype else node.emit(casting.cast(node, value, dtype))


def widened(node: Node, compute: Callable[..., Expr], *operands: Expr) -> Expr:
    """Result of a function of operands of one type, in float32 where that is a half one."""
    dtype = dtype_of(operands[0])
    if dtype not in HALF:
        return compute(*operands)
    return cast(node, compute(*(cast(node, operand, "float32") for operand in operands)), dtype)


def is_nan(node: Node, value: Expr) -> Expr:
    """Which elements are no numbers."""
    return relax.op.isnan(cast(node, value, "float32") if dtype_of(value) == "bfloat16" else value)
