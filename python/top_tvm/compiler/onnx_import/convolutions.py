"""Convolutions, of floating-point and of quantised tensors, and transposed ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from tvm import relax

from top_tvm.compiler.onnx_import.node import (
    Converted,
    Expr,
    Node,
    constant,
    constant_of,
    shape_of,
)
from top_tvm.compiler.onnx_import.windows import Windows, spatial, windows_of

_CONV = {
    1: (relax.op.nn.conv1d, relax.op.nn.conv1d_transpose),
    2: (relax.op.nn.conv2d, relax.op.nn.conv2d_transpose),
    3: (relax.op.nn.conv3d, relax.op.nn.conv3d_transpose),
}


def convert_conv(node: Node) -> Converted:
    """``Conv``: of one, two or three spatial dimensions."""
    data, weight = node.input(0), node.input(1)
    windows = _windows(node, data, weight)
    result = _convolve(data, weight, windows, int(node.attribute("group", 1)))
    return _with_bias(node, result, 2)


def convert_conv_integer(node: Node) -> Converted:
    """``ConvInteger``: of 8-bit integers, to 32 bits."""
    data = _centred(node, 0, 2, 0)
    weight = _centred(node, 1, 3, 0)
    windows = _windows(node, data, weight)
    return _convolve(data, weight, windows, int(node.attribute("group", 1)))


def convert_qlinear_conv(node: Node) -> Converted:
    """``QLinearConv``: quantised data and weights, quantised result."""
    data = _centred(node, 0, 2, 0)
    weight = _centred(node, 3, 5, 0)
    windows = _windows(node, data, weight)
    total = _convolve(data, weight, windows, int(node.attribute("group", 1)))
    total = node.emit(_with_bias(node, total, 8))
    scale = relax.op.multiply(node.input(1), _per_channel(node, 4, 1, len(shape_of(total))))
    scale = node.emit(relax.op.divide(scale, node.input(6)))
    scaled = relax.op.multiply(relax.op.astype(total, "float32"), scale)
    zero = relax.op.astype(node.input(7), "float32")
    moved = node.emit(relax.op.add(relax.op.round(scaled), zero))
    dtype = node.dtype(7)
    limits = np.iinfo(dtype)
    return relax.op.astype(relax.op.clip(moved, int(limits.min), int(limits.max)), dtype)


def convert_conv_transpose(node: Node) -> Converted:
    """``ConvTranspose``: directly where Relax has it, else a convolution of spread data."""
    data, weight = node.input(0), node.input(1)
    rank = len(shape_of(data)) - 2
    _check(node, data, weight)
    group = int(node.attribute("group", 1))
    size = shape_of(weight)[2:]
    strides = spatial(node, "strides", rank, 1)
    dilations = spatial(node, "dilations", rank, 1)
    extra = spatial(node, "output_padding", rank, 0)
    spans = [(window - 1) * step + 1 for window, step in zip(size, dilations, strict=True)]
    begins, ends = _transposed_padding(node, spans, strides, extra)
    plain = all(step == 1 for step in dilations) and all(
        0 <= begin < span and 0 <= end < span and added < stride
        for begin, end, span, added, stride in zip(begins, ends, spans, extra, strides, strict=True)
    )
    if plain:
        result = _CONV[rank][1](
            data,
            weight,
            strides=strides,
            padding=[*begins, *ends],
            output_padding=extra,
            dilation=dilations,
            groups=group,
        )
        return _with_bias(node, result, 2)
    for axis, stride in enumerate(strides, start=2):
        data = _spread(node, data, axis, stride)
    # The output has its windows at every place: a convolution with the weights turned around.
    front = [span - 1 - begin for span, begin in zip(spans, begins, strict=True)]
    back = [span - 1 - end + added for span, end, added in zip(spans, ends, extra, strict=True)]
    data = _pad_or_crop(node, data, front, back)
    turned = _turned(node, weight, group)
    padding = [0] * (2 * rank)
    result = _CONV[rank][0](data, turned, padding=padding, dilation=dilations, groups=group)
    return _with_bias(node, result, 2)


def _check(node: Node, data: Expr, weight: Expr) -> None:
    rank = len(shape_of(data)) - 2
    if rank not in _CONV:
        node.refuse(f"convolutions of {rank} spatial dimensions are not supported, but of 1 to 3")
    if len(shape_of(weight)) != rank + 2:
        node.refuse(f"weights of {len(shape_of(weight))} dimensions for data of {rank + 2}")
    kernel = node.attribute("kernel_shape")
    if kernel and tuple(kernel) != shape_of(weight)[2:]:
        node.refuse(f"kernel_shape {kernel} is not the shape of its weights {shape_of(weight)}")
    group = int(node.attribute("group", 1))
    transposed = node.op_type == "ConvTranspose"
    channels = shape_of(weight)[0] if transposed else shape_of(weight)[1] * group
    if group < 1 or shape_of(weight)[0] % group or shape_of(data)[1] != channels:
        node.refuse(
            f"data of {shape_of(data)[1]} channels does not fit weights of shape "
            f"{shape_of(weight)} in {group} groups"
        )
    if 0 in shape_of(data) or 0 in shape_of(weight):
        node.refuse("convolutions of empty tensors are not supported")


def _windows(node: Node, data: Expr, weight: Expr) -> Windows:
    _check(node, data, weight)
    return windows_of(node, shape_of(data)[2:], shape_of(weight)[2:])


def _convolve(data: Expr, weight: Expr, windows: Windows, group: int) -> Expr:
    return _CONV[len(windows.size)][0](
        data,
        weight,
        strides=list(windows.strides),
        padding=windows.padding,
        dilation=list(windows.dilations),
        groups=group,
    )


def _with_bias(node: Node, result: Expr, index: int) -> Expr:
    if not node.has(index):
        return result
    result = node.emit(result)
    return relax.op.add(result, _per_channel(node, index, 1, len(shape_of(result))))


def _per_channel(node: Node, index: int, axis: int, rank: int) -> Expr:
    """A scalar, or a vector turned along an axis."""
    value = node.input(index)
    if len(shape_of(value)) == 0:
        return value
    shape = [1] * rank
    shape[axis] = -1
    known = constant_of(value)
    return constant(known.reshape(shape)) if known is not None else relax.op.reshape(value, shape)


def _centred(node: Node, index: int, zero: int, axis: int) -> Expr:
    """Integers less their zero point, in 32 bits."""
    value = relax.op.astype(node.input(index), "int32")
    if not node.has(zero):
        return node.emit(value)
    point = node.emit(_per_channel(node, zero, axis, node.rank(index)))
    if int(np.prod(shape_of(point))) == 1:
        point = relax.op.reshape(point, ())
    return node.emit(relax.op.subtract(value, relax.op.astype(point, "int32")))


def _transposed_padding(
    node: Node, spans: Sequence[int], strides: Sequence[int], extra: Sequence[int]
) -> tuple[list[int], list[int]]:
    """What is cut off in front of and behind the full result, as ONNX Runtime divides it."""
    rank = len(spans)
    data = node.shape(0)[2:]
    mode = node.attribute("auto_pad", "NOTSET")
    wanted = node.attribute("output_shape")
    if mode == "VALID" and not wanted:
        return [0] * rank, [0] * rank
    if mode == "NOTSET" and not wanted:
        pads = spatial(node, "pads", 2 * rank, 0)
        return pads[:rank], pads[rank:]
    extents = list(wanted or [e * s for e, s in zip(data, strides, strict=True)])[-rank:]
    begins, ends = [], []
    for axis, extent in enumerate(extents):
        full = (data[axis] - 1) * strides[axis] + spans[axis] + extra[axis]
        total = max(full - extent, 0)
        begins.append(total // 2 if mode == "SAME_UPPER" else total - total // 2)
        # Negative where zeros follow, which are only added to reach an output_shape.
        ends.append((full - extent if wanted else total) - begins[-1])
    return begins, ends


def _spread(node: Node, data: Expr, axis: int, stride: int) -> Expr:
    """Zeros between the elements along an axis."""
    if stride == 1:
        return data
    shape = list(shape_of(data))
    extent = shape[axis]
    rank = len(shape)
    tall = relax.op.reshape(data, [*shape[: axis + 1], 1, *shape[axis + 1 :]])
    widths = [0] * (2 * rank + 2)
    widths[2 * axis + 3] = stride - 1
    padded = relax.op.nn.pad(tall, widths)
    shape[axis] = extent * stride
    flat = relax.op.reshape(padded, shape)
    end = (extent - 1) * stride + 1
    return node.emit(relax.op.strided_slice(flat, [axis], [0], [end], assume_inbound=True))


def _pad_or_crop(node: Node, data: Expr, front: Sequence[int], back: Sequence[int]) -> Expr:
    """Zeros around the spatial axes; negative widths cut off."""
    shape = shape_of(data)
    widths = [0, 0, 0, 0]
    for begin, end in zip(front, back, strict=True):
        widths += [max(begin, 0), max(end, 0)]
    padded = node.emit(relax.op.nn.pad(data, widths))
    axes = list(range(2, len(shape)))
    begins = [max(-begin, 0) for begin in front]
    stops = [
        extent + widths[2 * axis] + widths[2 * axis + 1] - max(-end, 0)
        for axis, extent, end in zip(axes, shape[2:], back, strict=True)
    ]
    if not any(begins) and stops == list(shape_of(padded)[2:]):
        return padded
    if any(stop <= begin for begin, stop in zip(begins, stops, strict=True)):
        node.refuse("its pads leave nothing of its output")
    return node.emit(relax.op.strided_slice(padded, axes, begins, stops, assume_inbound=True))


def _turned(node: Node, weight: Expr, group: int) -> Expr:
    """Weights of a transposed convolution as those of a convolution."""
    inputs, outputs, *size = shape_of(weight)
    rank = len(size)
    grouped = [group, inputs // group, outputs, *size]
    order = [0, 2, 1, *range(3, 3 + rank)]
    shape = [group * outputs, inputs // group, *size]
    known = constant_of(weight)
    if known is not None:
        turned = np.flip(known, tuple(range(2, 2 + rank)))
        return constant(turned.reshape(grouped).transpose(order).reshape(shape))
    for axis in range(2, 2 + rank):
        weight = relax.op.flip(weight, axis)
    moved = relax.op.permute_dims(relax.op.reshape(weight, grouped), order)
    return node.emit(relax.op.reshape(moved, shape))


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "Conv": convert_conv,
    "ConvInteger": convert_conv_integer,
    "ConvTranspose": convert_conv_transpose,
    "QLinearConv": convert_qlinear_conv,
}
