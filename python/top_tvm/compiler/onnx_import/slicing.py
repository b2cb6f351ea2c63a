"""Operators that take parts of tensors or put them together, at places known when built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from tvm import relax

from top_tvm.compiler.onnx_import.node import Converted, Expr, Node, constant, dtype_of, shape_of


def convert_slice(node: Node) -> Converted:
    """Slice: attributes before opset 10, inputs since then."""
    shape = node.shape(0)
    if node.opset < 10:
        starts, ends = node.attribute("starts"), node.attribute("ends")
        axes, steps = node.attribute("axes"), None
    else:
        starts, ends = node.integers(1, "starts"), node.integers(2, "ends")
        axes = node.integers(3, "axes") if node.has(3) else None
        steps = node.integers(4, "steps") if node.has(4) else None
    axes = node.axes(axes if axes is not None else range(len(starts)), len(shape))
    steps = steps if steps is not None else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        node.refuse("its starts, ends, axes and steps differ in length")
    if 0 in steps:
        node.refuse("a step is 0")
    ranges = [range(extent) for extent in shape]
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # Python's slices begin and end as the standard says, but that a start of -1 - extent or
        # less means the first element for a negative step, too.
        if step < 0 and start < -shape[axis]:
            start = -shape[axis]
        ranges[axis] = ranges[axis][start:end:step]
    return slice_of(node, node.input(0), ranges)


def slice_of(node: Node, data: Expr, ranges: Sequence[range]) -> Expr:
    """Elements of a tensor at these indices of each axis."""
    shape = shape_of(data)
    if any(not taken for taken in ranges):
        return constant(np.empty([len(taken) for taken in ranges], dtype_of(data)))
    axes = [axis for axis, taken in enumerate(ranges) if taken != range(shape[axis])]
    if not axes:
        return data
    forward = {axis: ranges[axis] if ranges[axis].step > 0 else ranges[axis][::-1] for axis in axes}
    result = relax.op.strided_slice(
        data,
        axes,
        [taken.start for taken in forward.values()],
        [taken[-1] + 1 for taken in forward.values()],
        [taken.step for taken in forward.values()],
        assume_inbound=True,
    )
    for axis in axes:
        if ranges[axis].step < 0:
            result = relax.op.flip(node.emit(result), axis)
    return result


def convert_split(node: Node) -> Converted:
    """Split into parts of given or equal sizes; the last equal part may be smaller."""
    shape = node.shape(0)
    axis = node.axis(node.attribute("axis", 0), len(shape))
    extent, count = shape[axis], len(node.proto.output)
    if node.opset < 13:
        sizes = node.attribute("split")
    else:
        sizes = node.integers(1, "split") if node.has(1) else None
    if sizes is None:
        count = int(node.attribute("num_outputs", count))
        size = -(-extent // count)
        sizes = [max(min(size, extent - index * size), 0) for index in range(count)]
    if sum(sizes) != extent or min(sizes, default=0) < 0:
        node.refuse(f"its parts {sizes} do not add up to the extent {extent} of axis {axis}")
    ends = np.cumsum(sizes)
    if min(sizes) > 0:
        parts = node.emit(relax.op.split(node.input(0), [int(end) for end in ends[:-1]], axis))
        return [relax.TupleGetItem(parts, index) for index in range(len(sizes))]
    whole = [range(size) for size in shape]
    return [
        slice_of(node, node.input(0), [*whole[:axis], range(end - size, end), *whole[axis + 1 :]])
        for size, end in zip(sizes, map(int, ends), strict=True)
    ]


def convert_concat(node: Node) -> Converted:
    """Concatenate; empty parts add nothing."""
    parts = [node.input(index) for index in range(len(node.inputs))]
    axis = node.axis(node.attribute("axis", 1 if node.opset < 4 else 0), node.rank(0))
    parts = [part for part in parts if shape_of(part)[axis]] or parts[:1]
    return parts[0] if len(parts) == 1 else relax.op.concat(parts, axis)


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "Concat": convert_concat,
    "Slice": convert_slice,
    "Split": convert_split,
}
