"""Operators that read elements at places that are computed at run time.

The standard leaves undefined what happens for an index out of range. Here negative ones count from
the end, and all are clamped to the range: a kernel never reads what is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from top_tvm.compiler.onnx_import.node import Converted, Node, constant, constant_of, shape_of
from top_tvm.compiler.onnx_import.slicing import slice_of


def convert_gather(node: Node) -> Converted:
    """Slices along one axis; those at constant indices are known to other passes."""
    shape, axis = node.shape(0), node.axis(node.attribute("axis", 0), node.rank(0))
    indices = constant_of(node.input(1))
    if indices is None:
        return node.builder.emit_te(
            _gather, node.input(0), node.input(1), axis, primfunc_name_hint="gather"
        )
    extent = shape[axis]
    if indices.size and not (-extent <= indices.min() and indices.max() < extent):
        node.refuse(
            f"its indices go from {indices.min()} to {indices.max()}, but axis {axis} has "
            f"{extent} elements"
        )
    indices = np.where(indices < 0, indices + extent, indices).astype(np.int64)
    first = int(indices.flat[0]) if indices.size else 0
    run = range(first, first + indices.size)
    if not np.array_equal(indices.ravel(), run):
        return relax.op.take(node.input(0), constant(indices), axis, mode="clip")
    ranges = [range(size) for size in shape]
    ranges[axis] = run
    taken = slice_of(node, node.input(0), ranges)
    result = [*shape[:axis], *indices.shape, *shape[axis + 1 :]]
    if indices.ndim == 0:
        return relax.op.squeeze(node.emit(taken), [axis])
    return taken if indices.ndim == 1 else relax.op.reshape(node.emit(taken), result)


def _gather(data: te.Tensor, indices: te.Tensor, axis: int) -> te.Tensor:
    rank, shape = len(indices.shape), [*data.shape]
    shape[axis : axis + 1] = indices.shape

    def element(*place: Any) -> Any:
        index = within(indices(*place[axis : axis + rank]), data.shape[axis])
        return data(*place[:axis], index, *place[axis + rank :])

    return te.compute(shape, element, name="gather")


def convert_gather_elements(node: Node) -> Converted:
    """Elements along one axis, each at an index of its own."""
    axis = node.axis(node.attribute("axis", 0), node.rank(0))
    if node.rank(1) != node.rank(0):
        node.refuse(f"its indices have {node.rank(1)} dimensions, its data {node.rank(0)}")
    others = [index for index in range(node.rank(0)) if index != axis]
    if any(node.shape(1)[index] > node.shape(0)[index] for index in others):
        node.refuse(f"indices of shape {node.shape(1)} exceed data of shape {node.shape(0)}")
    return node.builder.emit_te(
        _gather_elements, node.input(0), node.input(1), axis, primfunc_name_hint="gather_elements"
    )


def _gather_elements(data: te.Tensor, indices: te.Tensor, axis: int) -> te.Tensor:
    def element(*place: Any) -> Any:
        index = within(indices(*place), data.shape[axis])
        return data(*place[:axis], index, *place[axis + 1 :])

    return te.compute(indices.shape, element, name="gather_elements")


def convert_gather_nd(node: Node) -> Converted:
    """Slices at places that the last axis of the indices describes."""
    batch, shape, indices = int(node.attribute("batch_dims", 0)), node.shape(0), node.shape(1)
    if not indices or not 0 <= batch < len(indices) or batch + indices[-1] > len(shape):
        node.refuse(f"indices of shape {indices} do not fit data of shape {shape}")
    if shape[:batch] != indices[:batch]:
        node.refuse(f"its first {batch} axes are {shape[:batch]} and {indices[:batch]}")
    return node.builder.emit_te(
        _gather_nd, node.input(0), node.input(1), batch, primfunc_name_hint="gather_nd"
    )


def _gather_nd(data: te.Tensor, indices: te.Tensor, batch: int) -> te.Tensor:
    depth, tuples = int(indices.shape[-1]), len(indices.shape) - 1
    shape = [*indices.shape[:-1], *data.shape[batch + depth :]]

    def element(*place: Any) -> Any:
        found = [
            within(indices(*place[:tuples], position), data.shape[batch + position])
            for position in range(depth)
        ]
        return data(*place[:batch], *found, *place[tuples:])

    return te.compute(shape, element, name="gather_nd")


def within(index: Any, extent: Any) -> Any:
    """An index of an axis, whatever the value: negative ones count from the end."""
    wide = index.astype("int64")
    counted = tirx.Select(wide < 0, wide + extent, wide)
    return tirx.max(tirx.min(counted, tirx.const(int(extent) - 1, "int64")), tirx.const(0, "int64"))


def convert_compress(node: Node) -> Converted:
    """Slices, or elements, where a condition holds; how many decides the shape."""
    chosen = np.flatnonzero(node.constant(1, "condition")).astype(np.int64)
    data, axis = node.input(0), node.attribute("axis")
    if axis is None:
        data = node.emit(relax.op.reshape(data, [int(np.prod(node.shape(0)))]))
    axis = node.axis(axis or 0, len(shape_of(data)))
    chosen = chosen[chosen < shape_of(data)[axis]]
    return relax.op.take(data, constant(chosen), axis, mode="clip")


def convert_reverse_sequence(node: Node) -> Converted:
    """The first elements of every sequence of a batch in reverse order."""
    time, batch = int(node.attribute("time_axis", 0)), int(node.attribute("batch_axis", 1))
    if {time, batch} != {0, 1} or node.rank(0) < 2:
        node.refuse(f"its time axis is {time} and its batch axis {batch}; one must be 0, one 1")
    return node.builder.emit_te(
        _reverse_sequence,
        *(node.input(0), node.input(1), time, batch),
        primfunc_name_hint="reverse_sequence",
    )


def _reverse_sequence(data: te.Tensor, lengths: te.Tensor, time: int, batch: int) -> te.Tensor:
    def element(*place: Any) -> Any:
        extent = tirx.const(int(data.shape[time]), "int64")
        length = tirx.min(lengths(place[batch]).astype("int64"), extent)
        step = place[time].astype("int64")
        reverse = tirx.Select(step < length, length - 1 - step, step)
        return data(*(reverse if axis == time else index for axis, index in enumerate(place)))

    return te.compute(data.shape, element, name="reverse_sequence")


def convert_one_hot(node: Node) -> Converted:
    """A new axis with one value at the index and another elsewhere."""
    depth = int(node.constant(1, "depth").ravel()[0])
    axis = node.axis(node.attribute("axis", -1), node.rank(0) + 1)
    return node.builder.emit_te(
        *(_one_hot, node.input(0), node.input(2), depth, axis), primfunc_name_hint="one_hot"
    )


def _one_hot(indices: te.Tensor, values: te.Tensor, depth: int, axis: int) -> te.Tensor:
    shape = [*indices.shape]
    shape.insert(axis, tirx.const(depth, "int64"))

    def element(*place: Any) -> Any:
        index = indices(*place[:axis], *place[axis + 1 :]).astype("int64")
        counted = tirx.Select(index < 0, index + depth, index)
        return tirx.Select(counted == place[axis].astype("int64"), values(1), values(0))

    return te.compute(shape, element, name="one_hot")


def convert_tensor_scatter(node: Node) -> Converted:
    """Write updates into a cache, from an index of each batch on; circular ones wrap around."""
    axis = node.axis(node.attribute("axis", -2), node.rank(0))
    mode = node.attribute("mode", "linear")
    if axis == 0 or mode not in ("linear", "circular"):
        node.refuse(f"it cannot write along axis {axis} in mode {mode!r}")
    start = node.input(2) if node.has(2) else constant(np.zeros(node.shape(0)[0], np.int64))
    return node.builder.emit_te(
        *(_tensor_scatter, node.input(0), node.input(1), start, axis, mode == "circular"),
        primfunc_name_hint="tensor_scatter",
    )


def _tensor_scatter(
    cache: te.Tensor, updates: te.Tensor, starts: te.Tensor, axis: int, circular: bool
) -> te.Tensor:
    """As a gather: each element of the cache finds its update, if there is one."""
    extent, count = int(cache.shape[axis]), int(updates.shape[axis])

    def element(*place: Any) -> Any:
        step = place[axis].astype("int64") - starts(place[0]).astype("int64")
        if circular:
            step = tirx.floormod(step, tirx.const(extent, "int64"))
        source = tirx.max(tirx.min(step, tirx.const(count - 1, "int64")), tirx.const(0, "int64"))
        update = updates(*place[:axis], source, *place[axis + 1 :])
        return tirx.Select(tirx.all(step >= 0, step < count), update, cache(*place))

    return te.compute(cache.shape, element, name="tensor_scatter")


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "Compress": convert_compress,
    "Gather": convert_gather,
    "GatherElements": convert_gather_elements,
    "GatherND": convert_gather_nd,
    "OneHot": convert_one_hot,
    "ReverseSequence": convert_reverse_sequence,
    "TensorScatter": convert_tensor_scatter,
}
