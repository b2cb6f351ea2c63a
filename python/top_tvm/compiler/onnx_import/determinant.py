"""Determinants by elimination with partial pivoting, one column after the other.

No element is looked up: the pivot's row is the sum over all rows of which but one are masked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np
from tvm import relax

from top_tvm.compiler.onnx_import.node import Converted, Expr, Node, constant, dtype_of, shape_of
from top_tvm.compiler.onnx_import.widening import widened

_MAX_ROWS = 32  # each is some kernels


def convert_det(node: Node) -> Converted:
    """Determinants of matrices, which are the last two axes."""
    *batch, rows, columns = node.shape(0) if node.rank(0) > 1 else (0, 1)
    if rows != columns:
        node.refuse(f"its operand of shape {node.shape(0)} consists of no square matrices")
    if rows > _MAX_ROWS:
        node.refuse(f"its matrices have {rows} rows, more than {_MAX_ROWS}")
    if rows == 0 or prod(batch) == 0:
        return constant(np.ones(batch, node.dtype(0)))

    def compute(data: Expr) -> Expr:
        matrices = node.emit(relax.op.reshape(data, (prod(batch), rows, rows)))
        return relax.op.reshape(_determinant(node, matrices), batch)

    return widened(node, compute, node.input(0))


def _determinant(node: Node, matrices: Expr) -> Expr:
    result: Expr | None = None
    zero, one = (relax.const(value, dtype_of(matrices)) for value in (0, 1))
    for rows in range(shape_of(matrices)[1], 0, -1):
        column = node.emit(_slice(matrices, 2, 0, 1))
        best = node.emit(relax.op.argmax(relax.op.abs(column), 1, keepdims=True))
        numbers = constant(np.arange(rows, dtype="int64").reshape(1, rows, 1))
        chosen = node.emit(relax.op.equal(numbers, best))
        row = node.emit(relax.op.sum(relax.op.where(chosen, matrices, zero), 1, keepdims=True))
        pivot = node.emit(_slice(row, 2, 0, 1))
        first = relax.op.equal(best, relax.const(0, "int64"))
        factor = node.emit(relax.op.where(first, pivot, relax.op.negative(pivot)))
        result = factor if result is None else node.emit(relax.op.multiply(result, factor))
        if rows == 1:
            break
        # The first row takes the place of the pivot's, which is done with.
        swapped = node.emit(relax.op.where(chosen, _slice(matrices, 1, 0, 1), matrices))
        below = node.emit(_slice(swapped, 1, 1, rows))
        # A column of zeros has no pivot; the determinant is 0 then.
        divisor = relax.op.where(relax.op.equal(pivot, zero), one, pivot)
        multiples = relax.op.divide(_slice(below, 2, 0, 1), divisor)
        change = relax.op.multiply(multiples, _slice(row, 2, 1, rows))
        matrices = node.emit(relax.op.subtract(_slice(below, 2, 1, rows), change))
    return result


def _slice(data: Expr, axis: int, begin: int, end: int) -> Expr:
    return relax.op.strided_slice(data, [axis], [begin], [end])


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {"Det": convert_det}
