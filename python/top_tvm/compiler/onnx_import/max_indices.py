"""Maxima with their places, and the way back from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from top_tvm.compiler.onnx_import.node import Converted, Expr, Node, shape_of
from top_tvm.compiler.onnx_import.windows import Windows, spatial


def max_pool_indices(node: Node, windows: Windows, maxima: Expr, *, column_major: bool) -> Expr:
    """Where in the flattened data the maxima of windows come from: the first of equal ones.

    Parameters
    ----------
    node : Node
        Whose first input is the data.
    windows : Windows
        Of the pool.
    maxima : Expr
        Its result.
    column_major : bool
        Whether the first spatial axis is the one that counts by one in the indices.
    """
    shape = node.shape(0)
    size, rank = math.prod(windows.size), len(windows.size)
    steps = _steps(shape[2:], column_major=column_major)

    def place(position: Any, offset: Any, axis: int) -> Any:
        moved = position * windows.strides[axis] + offset * windows.dilations[axis]
        return moved - windows.begins[axis]

    def find(data: te.Tensor, largest: te.Tensor) -> te.Tensor:
        offsets = [te.reduce_axis((0, extent), name="offset") for extent in windows.size]

        def number(*axes: Any) -> Any:
            """The first element of a window, counted within it, that is the maximum."""
            spots = [place(axes[2 + axis], offsets[axis], axis) for axis in range(rank)]
            bounds = [s >= 0 for s in spots]
            bounds += [s < extent for s, extent in zip(spots, windows.data, strict=True)]
            count: Any = 0
            for offset, extent in zip(offsets, windows.size, strict=True):
                count = count * extent + offset
            source = [*axes[:2], *spots]
            found = tirx.if_then_else(
                tirx.all(*bounds), data[tuple(source)] == largest[axes], tirx.const(False, "bool")
            )
            return te.min(tirx.Select(found, count, tirx.const(size, "int32")), axis=offsets)

        numbers = te.compute((*shape[:2], *windows.output), number, name="number")

        def index(*axes: Any) -> Any:
            # A maximum that is not a number equals none: its index is that of some element.
            left = te.min(numbers[axes], size - 1)
            flat = (axes[0] * shape[1] + axes[1]) * math.prod(windows.data)
            for axis in range(rank)[::-1]:
                spot = place(axes[2 + axis], tirx.indexmod(left, windows.size[axis]), axis)
                spot = te.min(te.max(spot, 0), windows.data[axis] - 1)
                left = tirx.indexdiv(left, windows.size[axis])
                flat = flat + spot * steps[axis]
            return flat.astype("int64")

        return te.compute(numbers.shape, index, name="index")

    return node.builder.emit_te(find, node.input(0), maxima, primfunc_name_hint="max_pool_indices")


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


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {"MaxUnpool": convert_max_unpool}
