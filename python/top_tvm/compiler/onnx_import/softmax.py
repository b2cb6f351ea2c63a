"""Softmax and its kin: over all axes from one on before version 13, over one axis since then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np
from tvm import relax

from top_tvm.compiler.onnx_import.node import Converted, Expr, Node, constant, dtype_of, shape_of
from top_tvm.compiler.onnx_import.widening import widened


def along(operator: Callable[[Expr, int], Expr]) -> Callable[[Node], Converted]:
    """Converter of a function of the elements along an axis."""

    def convert(node: Node) -> Converted:
        data, shape = node.input(0), node.shape(0)
        if not shape:
            node.refuse("a scalar has no axis")
        if 0 in shape:
            return data
        axis = int(node.attribute("axis", 1 if node.opset < 13 else -1))
        if node.opset >= 13:
            axis = node.axis(axis, len(shape))
            return widened(node, lambda x: operator(x, axis), data)
        if axis != len(shape):  # which stands for rows of one element
            axis = node.axis(axis, len(shape))
        if axis == len(shape) - 1:
            return widened(node, lambda x: operator(x, axis), data)
        rows = relax.op.reshape(data, (prod(shape[:axis]), prod(shape[axis:])))
        result = widened(node, lambda x: operator(x, 1), node.emit(rows))
        return relax.op.reshape(result, shape)

    return convert


def _hardmax(data: Expr, axis: int) -> Expr:
    """1 at the first of the greatest elements."""
    shape = shape_of(data)
    positions = np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    greatest = relax.op.argmax(data, axis, keepdims=True)
    hit = relax.op.equal(constant(positions.astype("int64")), greatest)
    return relax.op.astype(hit, dtype_of(data))


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "Softmax": along(relax.op.nn.softmax),
    "LogSoftmax": along(relax.op.nn.log_softmax),
    "Hardmax": along(_hardmax),
}
