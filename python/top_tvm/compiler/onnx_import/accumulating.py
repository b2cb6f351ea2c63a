"""Sums and products of all elements before each one of an axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from tvm import relax, te, tirx
from tvm.script.ir_builder import tirx as T

from top_tvm.compiler.onnx_import.loops import loop_kernel, loops
from top_tvm.compiler.onnx_import.node import Converted, Node


def convert_cumulative(node: Node) -> Converted:
    """CumSum and CumProd: the axis is a constant input."""
    shape = node.shape(0)
    axis = node.axis(int(node.constant(1, "axis").reshape(()).item()), len(shape))
    flat = [math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])]
    accumulated = node.builder.emit_te(
        _accumulate,
        node.emit(relax.op.reshape(node.input(0), flat)),
        node.op_type == "CumProd",
        bool(node.attribute("exclusive", 0)),
        bool(node.attribute("reverse", 0)),
        primfunc_name_hint="cumprod" if node.op_type == "CumProd" else "cumsum",
    )
    return relax.op.reshape(accumulated, shape)


def _accumulate(data: te.Tensor, product: bool, exclusive: bool, reverse: bool) -> te.Tensor:
    """Along the middle one of three axes."""
    before, extent, after = (int(size) for size in data.shape)
    dtype = str(data.dtype)

    def place(step: Any) -> Any:
        return extent - 1 - step if reverse else step

    def body(data: Any, out: Any) -> None:
        with ExitStack() as stack:
            (row,) = loops(stack, [before])
            with T.serial(0, after) as column:
                first = (
                    tirx.const(int(product), dtype) if exclusive else data[row, place(0), column]
                )
                T.buffer_store(out, first, [row, place(0), column])
            with T.serial(0, extent - 1) as step, T.serial(0, after) as column:
                old = out[row, place(step), column]
                new = data[row, place(step if exclusive else step + 1), column]
                total = old * new if product else old + new
                T.buffer_store(out, total, [row, place(step + 1), column])

    return loop_kernel("accumulate", [data], [(data.shape, dtype)], body)


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "CumProd": convert_cumulative,
    "CumSum": convert_cumulative,
}
