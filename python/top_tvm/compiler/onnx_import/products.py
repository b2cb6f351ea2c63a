"""Matrix products.

Those of floating point numbers become ``matmul`` of float32 or float64, which oneDNN executes for
float32 together with what follows; those of integers accumulate in int32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from tvm import relax

from top_tvm.compiler.onnx_import.node import (
    Converted,
    Expr,
    Node,
    constant,
    constant_of,
    dtype_of,
    shape_of,
)
from top_tvm.compiler.onnx_import.widening import cast, is_float, widened


def convert_matmul(node: Node) -> Converted:
    """NumPy's matmul."""
    return matmul(node, node.input(0), node.input(1))


def matmul(node: Node, left: Expr, right: Expr) -> Expr:
    """Matrix product of operands of one type; vectors become matrices of one row or column."""
    return widened(node, lambda a, b: _matmul(node, a, b), left, right)


def _matmul(node: Node, left: Expr, right: Expr) -> Expr:
    shapes = shape_of(left), shape_of(right)
    if () in shapes:
        node.refuse("a scalar is no operand of a matrix product")
    rows, columns = len(shapes[0]) > 1, len(shapes[1]) > 1
    if not rows:
        left = node.emit(relax.op.expand_dims(left, 0))
    if not columns:
        right = node.emit(relax.op.expand_dims(right, 1))
    product = node.builder.normalize(relax.op.matmul(left, right))
    if shapes[0][-1] == 0:
        product = constant(np.zeros(shape_of(product), dtype_of(product)))
    unit = [] if rows else [-2]
    unit += [] if columns else [-1]
    return relax.op.squeeze(node.emit(product), unit) if unit else product


def transposed(node: Node, matrix: Expr) -> Expr:
    """The operand with its last two axes swapped."""
    *batch, rows, columns = range(len(shape_of(matrix)))
    return node.emit(relax.op.permute_dims(matrix, [*batch, columns, rows]))


def convert_gemm(node: Node) -> Converted:
    """Alpha A B + beta C, of which A and B may be transposed and C may be missing or broadcast."""
    operands = [node.input(0), node.input(1)]
    if any(len(shape_of(operand)) != 2 for operand in operands):
        node.refuse("its operands are no matrices")
    for index, name in enumerate(("transA", "transB")):
        if node.attribute(name, 0):
            operands[index] = transposed(node, operands[index])
    has_addend = node.has(2) and float(node.attribute("beta", 1.0)) != 0
    addend = [_addend(node)] if has_addend else []

    def compute(a: Expr, b: Expr, *c: Expr) -> Expr:
        if constant_of(node.input(1)) is not None:  # then its multiple is one, too
            product = _matmul(node, a, node.emit(scaled(node, b, "alpha")))
        else:
            product = scaled(node, node.emit(_matmul(node, a, b)), "alpha")
        return relax.op.add(product, scaled(node, c[0], "beta")) if c else product

    return widened(node, compute, *operands, *addend)


def _addend(node: Node) -> Expr:
    if node.opset < 7 and not node.attribute("broadcast", 0) and node.rank(2) != 2:
        node.refuse("its input C is no matrix, and its attribute broadcast is not set")
    return node.input(2)


def scaled(node: Node, value: Expr, name: str) -> Expr:
    """The value times an attribute, 1 by default."""
    factor, dtype = float(node.attribute(name, 1.0)), dtype_of(node.builder.normalize(value))
    if factor == 1:
        return value
    if not is_float(dtype) and not factor.is_integer():
        node.refuse(f"its {name} is {factor}, and its operands are integers")
    return relax.op.multiply(value, relax.const(factor if is_float(dtype) else int(factor), dtype))


def convert_matmul_integer(node: Node) -> Converted:
    """Product of 8-bit matrices minus their zero points."""
    return integer_product(node, (0, 2), (1, 3))


def integer_product(node: Node, left: tuple[int, int], right: tuple[int, int]) -> Expr:
    """Product in int32 of two operands, given by the inputs for their values and zero points."""
    a, b = _shifted(node, *left, axis=-2), _shifted(node, *right, axis=-1)
    return node.emit(_matmul(node, a, b))


def _shifted(node: Node, data: int, zero_point: int, axis: int) -> Expr:
    value = cast(node, node.input(data), "int32")
    if not node.has(zero_point):
        return value
    zero = cast(node, along_axis(node, zero_point, node.rank(data), axis), "int32")
    return node.emit(relax.op.subtract(value, zero))


def along_axis(node: Node, index: int, rank: int, axis: int) -> Expr:
    """An input of one number, or of one for each row or column, so that it broadcasts."""
    shape = node.shape(index)
    if len(shape) > 1:
        return node.input(index)
    if rank < 2 and shape not in ((), (1,)):
        node.refuse("its zero points or scales are more than one, but its operand is a vector")
    if shape in ((), (1,)):
        return relax.op.reshape(node.input(index), ()) if shape else node.input(index)
    return relax.op.reshape(node.input(index), (shape[0], *(1,) * (-1 - axis)))


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "Gemm": convert_gemm,
    "MatMul": convert_matmul,
    "MatMulInteger": convert_matmul_integer,
}
