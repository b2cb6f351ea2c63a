"""``DeformConv``: a convolution whose windows are moved, element by element, at run time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from tvm import relax, te, tirx

from top_tvm.compiler.onnx_import.node import Converted, Expr, Node, constant, constant_of
from top_tvm.compiler.onnx_import.windows import Windows, windows_of


def convert_deform_conv(node: Node) -> Converted:
    """``DeformConv``: samples of the data, then a matrix product with the weights."""
    data, weight = node.shape(0), node.shape(1)
    group, offset_group = (int(node.attribute(n, 1)) for n in ("group", "offset_group"))
    if len(data) != 4 or len(weight) != 4:
        node.refuse(f"data of {len(data) - 2} spatial dimensions is not supported, but of 2")
    if 0 in data or 0 in weight or data[1] != weight[1] * group or data[1] % offset_group:
        node.refuse(
            f"data of {data[1]} channels does not fit weights of shape {list(weight)} in {group} "
            f"groups, moved in {offset_group} groups"
        )
    windows = windows_of(node, data[2:], weight[2:])
    size, output = math.prod(windows.size), windows.output
    _check_shape(node, 2, [data[0], 2 * offset_group * size, *output], "offsets")
    if node.has(4):
        _check_shape(node, 4, [data[0], offset_group * size, *output], "mask")
    columns = _columns(node, windows, offset_group)
    rows = weight[1] * size
    split = [data[0], group, rows, math.prod(output)]
    columns = node.emit(relax.op.reshape(columns, split))
    matrix = [1, group, weight[0] // group, rows]
    product = node.emit(relax.op.matmul(_reshape(node, node.input(1), matrix), columns))
    result = node.emit(relax.op.reshape(product, [data[0], weight[0], *output]))
    if not node.has(3):
        return result
    return relax.op.add(result, _reshape(node, node.input(3), [1, weight[0], 1, 1]))


def _columns(node: Node, windows: Windows, offset_group: int) -> Expr:
    """What every window sees: (instances, channels, height, width of a window, windows)."""
    instances, channels, *extents = node.shape(0)
    size, dtype = windows.size, node.dtype(0)
    wide = "float64" if dtype == "float64" else "float32"
    per_group = channels // offset_group
    masked = node.has(4)

    def sample(data: te.Tensor, offsets: te.Tensor, *masks: te.Tensor) -> te.Tensor:
        def body(instance: Any, channel: Any, *where: Any) -> Any:
            inside, position = where[:2], where[2:]
            element = (channel // per_group) * math.prod(size) + inside[0] * size[1] + inside[1]
            corners = []
            for axis in range(2):
                fixed = position[axis] * windows.strides[axis] - windows.begins[axis]
                fixed = fixed + inside[axis] * windows.dilations[axis]
                moved = offsets[tuple([instance, element * 2 + axis, *position])].astype(wide)
                corners.append(_corners(fixed.astype(wide) + moved, extents[axis], wide))
            total: Any = tirx.const(0.0, wide)
            for row, above in corners[0]:
                for column, left in corners[1]:
                    value = data[instance, channel, row, column].astype(wide)
                    total = total + value * above * left
            if masks:
                total = total * masks[0][tuple([instance, element, *position])].astype(wide)
            return total.astype(dtype)

        return te.compute((instances, channels, *size, *windows.output), body, name="columns")

    arguments = [node.input(0), node.input(2), *([node.input(4)] if masked else [])]
    return node.builder.emit_te(sample, *arguments, primfunc_name_hint="deformed_columns")


def _corners(place: Any, extent: int, dtype: str) -> list[tuple[Any, Any]]:
    """Indices within bounds of the two elements around a place; weights, 0 beyond the data."""
    zero, last = tirx.const(0.0, dtype), tirx.const(extent - 1.0, dtype)
    floor = te.floor(place)
    part = place - floor
    corners = []
    for whole, weight in ((floor, 1.0 - part), (floor + 1.0, part)):
        inside = tirx.all(whole >= zero, whole <= last)  # false for what is not a number
        index = tirx.Select(inside, whole, zero).astype("int32")
        corners.append((index, tirx.Select(inside, weight, zero)))
    return corners


def _check_shape(node: Node, index: int, expected: list[int], what: str) -> None:
    if list(node.shape(index)) != expected:
        node.refuse(f"its {what} have shape {list(node.shape(index))} instead of {expected}")


def _reshape(node: Node, value: Expr, shape: list[int]) -> Expr:
    known = constant_of(value)
    if known is not None:
        return constant(known.reshape(shape))
    return node.emit(relax.op.reshape(value, shape))


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {"DeformConv": convert_deform_conv}
