"""Operators that write elements at places that are computed at run time.

Indices out of range, which the standard leaves undefined, are clamped as in ``gathering``. Updates
of one place happen in the order of the indices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from tvm import relax, te, tirx
from tvm.script.ir_builder import tirx as T

from top_tvm.compiler.onnx_import.gathering import within
from top_tvm.compiler.onnx_import.loops import loop_kernel, loops
from top_tvm.compiler.onnx_import.node import Converted, Node

_REDUCTIONS = ("none", "add", "mul", "min", "max")


def convert_scatter_elements(node: Node) -> Converted:
    """Write single elements, each at an index of its own along one axis."""
    data, indices, updates = node.shape(0), node.shape(1), node.shape(2)
    axis = node.axis(node.attribute("axis", 0), len(data))
    if indices != updates or len(indices) != len(data):
        node.refuse(f"indices of shape {indices} and updates of shape {updates} do not fit {data}")
    if any(indices[i] > data[i] for i in range(len(data)) if i != axis):
        node.refuse(f"indices of shape {indices} exceed data of shape {data}")
    return node.builder.emit_te(
        _scatter_elements,
        *(node.input(0), node.input(1), node.input(2), axis, _reduction(node)),
        primfunc_name_hint="scatter_elements",
    )


def _scatter_elements(
    data: te.Tensor, indices: te.Tensor, updates: te.Tensor, axis: int, reduction: str
) -> te.Tensor:
    def body(data: Any, indices: Any, updates: Any, out: Any) -> None:
        _copy(data, out)
        with ExitStack() as stack:
            # Along the axis, updates may meet: that loop is never the parallel one.
            place = loops(stack, indices.shape, parallel=axis > 0)
            target = list(place)
            target[axis] = within(indices[tuple(place)], data.shape[axis])
            _update(out, target, updates[tuple(place)], reduction)

    return loop_kernel(
        "scatter_elements", [data, indices, updates], [(data.shape, data.dtype)], body
    )


def convert_scatter_nd(node: Node) -> Converted:
    """Write slices at places that the last axis of the indices describes."""
    data, indices, updates = node.shape(0), node.shape(1), node.shape(2)
    depth = indices[-1] if indices else 0
    if not indices or depth > len(data) or updates != (*indices[:-1], *data[depth:]):
        node.refuse(f"indices of shape {indices} and updates of shape {updates} do not fit {data}")
    tuples, width = math.prod(indices[:-1]), math.prod(data[depth:])
    operands = [
        node.emit(relax.op.reshape(node.input(0), [*data[:depth], width])),
        node.emit(relax.op.reshape(node.input(1), [tuples, depth])),
        node.emit(relax.op.reshape(node.input(2), [tuples, width])),
    ]
    scattered = node.builder.emit_te(
        _scatter_nd, *operands, _reduction(node), primfunc_name_hint="scatter_nd"
    )
    return relax.op.reshape(scattered, data)


def _scatter_nd(
    data: te.Tensor, indices: te.Tensor, updates: te.Tensor, reduction: str
) -> te.Tensor:
    def body(data: Any, indices: Any, updates: Any, out: Any) -> None:
        _copy(data, out)
        tuples, depth = indices.shape
        with T.serial(0, tuples) as row, T.serial(0, updates.shape[1]) as column:
            target = [within(indices[row, i], data.shape[i]) for i in range(int(depth))]
            _update(out, [*target, column], updates[row, column], reduction)

    return loop_kernel("scatter_nd", [data, indices, updates], [(data.shape, data.dtype)], body)


def _reduction(node: Node) -> str:
    reduction = str(node.attribute("reduction", "none"))
    if reduction not in _REDUCTIONS:
        node.refuse(f"its reduction {reduction!r} is none of {', '.join(_REDUCTIONS)}")
    if node.dtype(0) == "bool" and reduction != "none":
        node.refuse(f"booleans have no reduction {reduction!r}")
    return reduction


def _copy(data: Any, out: Any) -> None:
    with ExitStack() as stack:
        place = loops(stack, data.shape)
        T.buffer_store(out, data[tuple(place)], place)


def _update(out: Any, place: list[Any], update: Any, reduction: str) -> None:
    old = out[tuple(place)]
    is_float = str(old.ty.dtype).startswith(("float", "bfloat"))
    new = update
    if reduction == "add":
        new = old + update
    elif reduction == "mul":
        new = old * update
    elif reduction in ("min", "max"):
        better = update < old if reduction == "min" else update > old
        if is_float:  # NaN wins, from either side
            better = tirx.any(better, tirx.isnan(update))
        new = tirx.Select(better, update, old)
    T.buffer_store(out, new, place)


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "Scatter": convert_scatter_elements,
    "ScatterElements": convert_scatter_elements,
    "ScatterND": convert_scatter_nd,
}
