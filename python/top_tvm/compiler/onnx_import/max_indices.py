"""Maxima with their places, and the way back from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from top_tvm.compiler.onnx_import.node import Converted, Expr, Node, shape_of
from top_tvm.compiler.onnx_import.windows import Windows, spatial


def max_pool_with_indices(node: Node, windows: Windows, *, column_major: bool) -> tuple[Expr, Expr]:
    """Maxima of windows, and where in the flattened data they come from.

    Parameters
    ----------
    node : Node
        Whose first input is the data.
    windows : Windows
        Of the pool.
    column_major : bool
        Whether the first spatial axis is the one that counts by one in the indices.
    """
    shape = node.shape(0)
    rank = len(windows.size)
    steps = _steps(shape[2:], column_major=column_major)

    def places(axes: Sequence[Any], offsets: Sequence[Any]) -> list[Any]:
        return [
            axes[2 + axis] * windows.strides[axis]
            + offsets[axis] * windows.dilations[axis]
            - windows.begins[axis]
            for axis in range(rank)
        ]

    def larger(left: Any, right: Any) -> Any:
        """The larger value; of equal ones the first of the window."""
        first = tirx.any(left[1] > right[1], tirx.all(left[1] == right[1], left[2] <= right[2]))
        # A place of -1 is none: the start, or padding.
        left_wins = tirx.all(left[0] >= 0, tirx.any(right[0] < 0, first))
        return tuple(tirx.Select(left_wins, a, b) for a, b in zip(left, right, strict=True))

    def identity(place: Any, value: Any, number: Any) -> Any:
        return tirx.const(-1, place), tirx.min_value(value), tirx.const(-1, number)

    reducer = te.comm_reducer(larger, identity, name="first_maximum")

    def pool(data: te.Tensor) -> list[te.Tensor]:
        offsets = [te.reduce_axis((0, size), name=f"w{i}") for i, size in enumerate(windows.size)]

        def body(*axes: Any) -> Any:
            spots = places(axes, offsets)
            inside = tirx.all(
                *[
                    condition
                    for spot, extent in zip(spots, windows.data, strict=True)
                    for condition in (spot >= 0, spot < extent)
                ]
            )
            plane = (axes[0] * shape[1] + axes[1]) * math.prod(windows.data)
            place = plane + sum(spot * step for spot, step in zip(spots, steps, strict=True))
            number: Any = 0
            for offset, size in zip(offsets, windows.size, strict=True):
                number = number * size + offset
            source = [*axes[:2], *spots]
            value = tirx.if_then_else(inside, data[tuple(source)], tirx.min_value(data.dtype))
            place = tirx.Select(inside, place.astype("int64"), tirx.const(-1, "int64"))
            return reducer((place, value, number.astype("int32")), axis=offsets)

        indices, maxima, _ = te.compute((*shape[:2], *windows.output), body, name="max_pool")
        return [maxima, indices]

    return _pair(node, node.builder.emit_te(pool, node.input(0), primfunc_name_hint="max_pool"))


def convert_max_unpool(node: Node) -> Converted:
    """``MaxUnpool``: values go where they come from, zeros elsewhere."""
    shape, size = node.shape(0), node.attribute("kernel_shape")
    rank = len(shape) - 2
    if not size or len(size) != rank:
        node.refuse(f"its kernel_shape {size} does not fit {rank} spatial dimensions")
    strides = spatial(node, "strides", rank, 1)
    pads = spatial(node, "pads", 2 * rank, 0)
    inferred = [
        (shape[2 + axis] - 1) * strides[axis] + size[axis] - pads[axis] - pads[rank + axis]
        for axis in range(rank)
    ]
    full = [*shape[:2], *inferred]
    if min(full) < 1 or 0 in shape:
        node.refuse(f"its output of shape {full} would be empty")
    elements = math.prod(full)
    indices = node.emit(relax.op.astype(node.input(1), "int64"))
    indices = node.emit(relax.op.reshape(indices, [-1]))
    # Whatever the indices are, nothing is written elsewhere.
    indices = node.emit(relax.op.clip(indices, 0, elements - 1))
    zeros = node.emit(relax.op.zeros([elements], node.dtype(0)))
    values = node.emit(relax.op.reshape(node.input(0), [-1]))
    flat = node.emit(relax.op.scatter_elements(zeros, indices, values, axis=0))
    result = node.emit(relax.op.reshape(flat, full))
    if not node.has(2):
        return result
    wanted = node.integers(2, "output shape")
    return _fit(node, result, full, wanted)


def _fit(node: Node, result: Expr, full: Sequence[int], wanted: Sequence[int]) -> Expr:
    """Zeros behind the result, or its first elements, to a wanted shape."""
    if len(wanted) != len(full) or list(wanted[:2]) != list(full[:2]) or min(wanted) < 1:
        node.refuse(f"its output shape {list(wanted)} does not fit data of {list(full)}")
    widths = np.zeros((len(full), 2), np.int64)
    widths[:, 1] = np.maximum(np.subtract(wanted, full), 0)
    if widths.any():
        result = node.emit(relax.op.nn.pad(result, widths.ravel().tolist()))
    if list(wanted) == list(shape_of(result)):
        return result
    axes = list(range(len(full)))
    return relax.op.strided_slice(result, axes, [0] * len(full), list(wanted))


def _steps(extents: Sequence[int], *, column_major: bool) -> list[int]:
    """How far apart neighbours along each axis are in flattened data."""
    if column_major:
        return [math.prod(extents[:axis]) for axis in range(len(extents))]
    return [math.prod(extents[axis + 1 :]) for axis in range(len(extents))]


def _pair(node: Node, whole: Expr) -> tuple[Expr, Expr]:
    return node.emit(relax.TupleGetItem(whole, 0)), node.emit(relax.TupleGetItem(whole, 1))


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {"MaxUnpool": convert_max_unpool}
