"""Reductions: axes are an attribute or, in newer versions, an input, and may be empty sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from tvm import relax, te, tirx

from top_tvm.compiler.onnx_import.node import Converted, Expr, Node, constant, dtype_of
from top_tvm.compiler.onnx_import.widening import cast, is_float, widened


@dataclass(frozen=True)
class _Extent:
    """What a reduction runs over."""

    node: Node
    axes: tuple[int, ...]
    keepdims: bool
    count: int

    def apply(self, operator: Callable[..., Expr], data: Expr) -> Expr:
        """The reduction by a Relax operator; of no axis, the data."""
        if not self.axes:
            return data
        return self.node.emit(operator(data, list(self.axes), self.keepdims))

    def kept(self, operator: Callable[..., Expr], data: Expr) -> Expr:
        """The same with the reduced axes, of extent 1, in place."""
        if not self.axes:
            return data
        return self.node.emit(operator(data, list(self.axes), True))

    def squeezed(self, data: Expr) -> Expr:
        """Without the reduced axes, unless they shall stay."""
        if self.keepdims or not self.axes:
            return data
        return relax.op.squeeze(data, list(self.axes))


Reduction = Callable[[Expr, _Extent], Expr]


def reduction(compute: Reduction, empty: float) -> Callable[[Node], Converted]:
    """Converter of a reduction.

    Parameters
    ----------
    compute : callable
        Of the data, which is not of half precision, and what to reduce.
    empty : float
        Result of no elements.
    """

    def convert(node: Node) -> Converted:
        data, shape = node.input(0), node.shape(0)
        axes = _axes(node)
        keepdims = bool(node.attribute("keepdims", 1))
        count = prod(shape[axis] for axis in axes)
        extent = _Extent(node, axes, keepdims, count)
        if 0 in shape:
            left = [1 if i in axes else n for i, n in enumerate(shape) if keepdims or i not in axes]
            value = _within(empty, node.dtype(0))
            return constant(np.full(left, value, node.dtype(0)))
        return widened(node, lambda x: compute(x, extent), data)

    return convert


def _axes(node: Node) -> tuple[int, ...]:
    rank = node.rank(0)
    axes = node.attribute("axes")
    if axes is None and node.has(1):
        axes = node.integers(1, "axes")
    if not axes:
        return () if node.attribute("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted(set(node.axes(axes, rank))))


def _within(value: float, dtype: str) -> float:
    """The value, or where that is infinite and the type has no infinity, the last one it has."""
    if is_float(dtype) or np.isfinite(value):
        return value
    if dtype == "bool":
        return value > 0
    limits = np.iinfo(dtype)
    return int(limits.max if value > 0 else limits.min)


def _sum(data: Expr, extent: _Extent) -> Expr:
    return extent.apply(relax.op.sum, data)


def _product(data: Expr, extent: _Extent) -> Expr:
    return extent.apply(relax.op.prod, data)


def _mean(data: Expr, extent: _Extent) -> Expr:
    if is_float(dtype_of(data)):
        return extent.apply(relax.op.mean, data)
    total = _sum(data, extent)
    if extent.count == 1:
        return total
    count = tirx.const(extent.count, dtype_of(total))

    def divide(x: te.Tensor) -> te.Tensor:
        return te.compute(x.shape, lambda *i: tirx.truncdiv(x(*i), count), name="divide")

    return extent.node.builder.emit_te(divide, total)


def _extremum(operator: Callable[..., Expr]) -> Reduction:
    def compute(data: Expr, extent: _Extent) -> Expr:
        if is_float(dtype_of(data)):
            return _float_extremum(data, extent, operator is relax.op.max)
        if dtype_of(data) != "bool":
            return extent.apply(operator, data)
        numbers = cast(extent.node, data, "uint8")
        return cast(extent.node, extent.apply(operator, numbers), "bool")

    return compute


def _float_extremum(data: Expr, extent: _Extent, greatest: bool) -> Expr:
    """Of infinities an infinity, where Relax's reductions stop at the last finite number."""
    if not extent.axes:
        return data
    dtype = dtype_of(data)
    none = tirx.const(-np.inf if greatest else np.inf, dtype)
    choose = tirx.max if greatest else tirx.min
    reducer = te.comm_reducer(lambda a, b: choose(a, b), lambda _: none)
    shape = [int(n) for n in data.ty.shape]
    kept = [1 if i in extent.axes else n for i, n in enumerate(shape)]

    def reduce(x: te.Tensor) -> te.Tensor:
        runs = {i: te.reduce_axis((0, shape[i]), f"k{i}") for i in extent.axes}
        return te.compute(
            kept,
            lambda *at: reducer(
                x(*(runs.get(i, a) for i, a in enumerate(at))), axis=[*runs.values()]
            ),
            name="max" if greatest else "min",
        )

    found = extent.node.builder.emit_te(reduce, data)
    return extent.squeezed(found)


def _sum_of_magnitudes(data: Expr, extent: _Extent) -> Expr:
    unsigned = dtype_of(data).startswith("uint")
    return _sum(data if unsigned else relax.op.abs(data), extent)


def _sum_of_squares(data: Expr, extent: _Extent) -> Expr:
    return _sum(relax.op.multiply(data, data), extent)


def _length(data: Expr, extent: _Extent) -> Expr:
    return _in_floats(relax.op.sqrt, _sum_of_squares(data, extent), extent)


def _log_of_sum(data: Expr, extent: _Extent) -> Expr:
    return _in_floats(relax.op.log, _sum(data, extent), extent)


def _log_of_sum_of_exponentials(data: Expr, extent: _Extent) -> Expr:
    """With the greatest exponent taken out, so that nothing overflows."""
    dtype, node = dtype_of(data), extent.node
    data = data if is_float(dtype) else cast(node, data, "float64")
    zero = relax.const(0, dtype_of(data))
    greatest = extent.kept(relax.op.max, data)
    shift = node.emit(relax.op.where(relax.op.isinf(greatest), zero, greatest))
    total = extent.kept(relax.op.sum, relax.op.exp(relax.op.subtract(data, shift)))
    result = relax.op.add(relax.op.log(total), shift)
    return cast(node, extent.squeezed(result), dtype)


def _in_floats(function: Callable[[Expr], Expr], data: Expr, extent: _Extent) -> Expr:
    data = extent.node.builder.normalize(data)
    dtype = dtype_of(data)
    if is_float(dtype):
        return function(data)
    return cast(extent.node, function(cast(extent.node, data, "float64")), dtype)


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "ReduceL1": reduction(_sum_of_magnitudes, 0),
    "ReduceL2": reduction(_length, 0),
    "ReduceLogSum": reduction(_log_of_sum, -np.inf),
    "ReduceLogSumExp": reduction(_log_of_sum_of_exponentials, -np.inf),
    "ReduceMax": reduction(_extremum(relax.op.max), -np.inf),
    "ReduceMean": reduction(_mean, np.nan),
    "ReduceMin": reduction(_extremum(relax.op.min), np.inf),
    "ReduceProd": reduction(_product, 1),
    "ReduceSum": reduction(_sum, 0),
    "ReduceSumSquare": reduction(_sum_of_squares, 0),
}
