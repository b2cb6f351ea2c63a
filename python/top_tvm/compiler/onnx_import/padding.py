"""Padding, by a value or by what is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from tvm import relax, te, topi

from top_tvm.compiler.onnx_import.node import (
    Array,
    Converted,
    Expr,
    Node,
    constant,
    constant_of,
    dtype_of,
    shape_of,
)
from top_tvm.compiler.onnx_import.slicing import slice_of


def convert_pad(node: Node) -> Converted:
    """Pad, or crop where a width is negative."""
    shape, mode = node.shape(0), node.attribute("mode", "constant")
    if mode not in ("constant", "reflect", "edge", "wrap"):
        node.refuse(f"there is no mode {mode!r}")
    widths = node.attribute("pads") if node.opset < 11 else node.integers(1, "pads")
    axes: Sequence[int] = range(len(shape))
    if node.has(3):
        axes = node.axes(node.integers(3, "axes"), len(shape))
    if len(widths) != 2 * len(axes):
        node.refuse(f"it has {len(widths)} pads for {len(axes)} axes")
    before, after = [0] * len(shape), [0] * len(shape)
    for index, axis in enumerate(axes):
        before[axis], after[axis] = int(widths[index]), int(widths[index + len(axes)])
    cropped = [
        range(max(-low, 0), max(extent - max(-high, 0), 0))
        for extent, low, high in zip(shape, before, after, strict=True)
    ]
    data = node.emit(slice_of(node, node.input(0), cropped))
    low, high = [max(width, 0) for width in before], [max(width, 0) for width in after]
    if not any(low + high):
        return data
    if mode == "constant":
        return _pad_with(node, data, low, high)
    if 0 in shape_of(data):
        node.refuse("nothing is left of its input that could be repeated")
    for axis, extent in enumerate(shape_of(data)):
        if low[axis] + high[axis]:
            sources = _sources(mode, extent, low[axis], high[axis])
            data = node.emit(relax.op.take(data, constant(sources), axis, mode="clip"))
    return data


def _sources(mode: str, extent: int, low: int, high: int) -> Array:
    """Index of the element that is repeated at each place of a padded axis."""
    places = np.arange(-low, extent + high, dtype=np.int64)
    if mode == "edge":
        return np.clip(places, 0, extent - 1)
    if mode == "wrap":
        return places % extent
    period = max(2 * (extent - 1), 1)
    return np.minimum(places % period, -places % period)


def _pad_with(node: Node, data: Expr, low: list[int], high: list[int]) -> Converted:
    """Pad with one value, which may be known only at run time."""
    dtype = dtype_of(data)
    value = node.scalar(node.attribute("value", 0.0) if node.opset < 11 else 0, dtype)
    if node.opset >= 11 and node.has(2):
        value = node.input(2)
    known = constant_of(value)
    # The attribute of Relax's operator is a double, which has not every integer.
    if known is not None and dtype != "bool" and abs(known.item()) < 2**53:
        widths = [width for pair in zip(low, high, strict=True) for width in pair]
        return relax.op.nn.pad(data, widths, "constant", float(known.item()))
    return node.builder.emit_te(_padded, data, value, low, high, primfunc_name_hint="pad")


def _padded(
    data: te.Tensor, value: te.Tensor, low: Sequence[int], high: Sequence[int]
) -> te.Tensor:
    return topi.nn.pad(data, low, high, value(*[0] * len(value.shape)))


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {"Pad": convert_pad}
