"""Pools over windows and over whole images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from tvm import relax

from top_tvm.compiler.onnx_import.max_indices import max_pool_indices
from top_tvm.compiler.onnx_import.node import Array, Converted, Expr, Node, constant
from top_tvm.compiler.onnx_import.windows import Windows, windows_of

_POOLS = {
    1: (relax.op.nn.max_pool1d, relax.op.nn.avg_pool1d),
    2: (relax.op.nn.max_pool2d, relax.op.nn.avg_pool2d),
    3: (relax.op.nn.max_pool3d, relax.op.nn.avg_pool3d),
}


def convert_max_pool(node: Node) -> Converted:
    """``MaxPool``: with the indices of the maxima, if they are asked for."""
    windows = _windows(node)
    # Padding is smaller than any value: windows beyond it need no other treatment.
    maxima = _POOLS[len(windows.size)][0](
        node.input(0),
        pool_size=list(windows.size),
        strides=list(windows.strides),
        padding=windows.covering,
        dilation=list(windows.dilations),
    )
    if not node.wants(1):
        return maxima
    maxima = node.emit(maxima)
    column_major = bool(node.attribute("storage_order", 0))
    return [maxima, max_pool_indices(node, windows, maxima, column_major=column_major)]


def convert_average_pool(node: Node) -> Converted:
    """``AveragePool``: windows divide by the elements that count."""
    windows = _windows(node)
    include = bool(node.attribute("count_include_pad", 0))
    rounded_up = windows.covering != windows.padding
    if any(step != 1 for step in windows.dilations) or (include and rounded_up):
        counts = _counts(windows, include_padding=include)
        shares = math.prod(windows.size) / np.maximum(counts, 1)
        average = node.emit(_average(node, node.input(0), windows, include=True))
        return relax.op.multiply(average, constant(shares.astype(node.dtype(0))))
    return _average(node, node.input(0), windows, include=include)


def convert_lp_pool(node: Node) -> Converted:
    """``LpPool``: the p-th root of the sum of p-th powers."""
    windows = _windows(node)
    power = float(node.attribute("p", 2))
    raised = node.emit(raise_magnitude(node, node.input(0), power))
    average = node.emit(_average(node, raised, windows, include=True))
    size = node.scalar(math.prod(windows.size), node.dtype(0))
    total = node.emit(relax.op.multiply(average, size))
    return take_root(node, total, power)


def convert_global_average_pool(node: Node) -> Converted:
    """``GlobalAveragePool``: the mean over all spatial axes."""
    return relax.op.mean(node.input(0), axis=_spatial_axes(node), keepdims=True)


def convert_global_max_pool(node: Node) -> Converted:
    """``GlobalMaxPool``: the maximum over all spatial axes."""
    return relax.op.max(node.input(0), axis=_spatial_axes(node), keepdims=True)


def convert_global_lp_pool(node: Node) -> Converted:
    """``GlobalLpPool``: the norm over all spatial axes."""
    power = float(node.attribute("p", 2))
    raised = node.emit(raise_magnitude(node, node.input(0), power))
    total = node.emit(relax.op.sum(raised, axis=_spatial_axes(node), keepdims=True))
    return take_root(node, total, power)


def raise_magnitude(node: Node, value: Expr, power: float) -> Expr:
    """``abs(value) ** power``."""
    if power == 2:
        return relax.op.multiply(value, value)
    magnitude = relax.op.abs(value)
    if power == 1:
        return magnitude
    return relax.op.power(node.emit(magnitude), node.scalar(power, node.dtype(0)))


def take_root(node: Node, value: Expr, power: float) -> Expr:
    """``value ** (1 / power)``, of a value that is not negative."""
    if power == 1:
        return value
    if power == 2:
        return relax.op.sqrt(value)
    return relax.op.power(value, node.scalar(1 / power, node.dtype(0)))


def _windows(node: Node) -> Windows:
    shape = node.shape(0)
    rank = len(shape) - 2
    if rank not in _POOLS:
        node.refuse(f"pools of {rank} spatial dimensions are not supported, but of 1 to 3")
    if 0 in shape:
        node.refuse("pools of empty tensors are not supported")
    size = node.attribute("kernel_shape")
    if not size:
        node.refuse("its kernel_shape is missing")
    windows = windows_of(node, shape[2:], size)
    spans = [(s - 1) * d + 1 for s, d in zip(windows.size, windows.dilations, strict=True)]
    pads = zip(windows.begins, windows.ends, spans, strict=True)
    if any(max(begin, end) >= span for begin, end, span in pads):
        node.refuse(f"its pads {windows.padding} leave windows {spans} that hold padding only")
    return windows


def _average(node: Node, data: Expr, windows: Windows, *, include: bool) -> Expr:
    return _POOLS[len(windows.size)][1](
        data,
        pool_size=list(windows.size),
        strides=list(windows.strides),
        padding=windows.covering,
        dilation=list(windows.dilations),
        count_include_pad=include,
    )


def _counts(windows: Windows, *, include_padding: bool) -> Array:
    """Number of elements that count in every window."""
    counts: Array = np.ones((1, 1), np.int64)
    for axis in range(len(windows.size)):
        first = np.arange(windows.output[axis])[:, None] * windows.strides[axis]
        places = first + np.arange(windows.size[axis]) * windows.dilations[axis]
        places -= windows.begins[axis]
        low, high = 0, windows.data[axis]
        if include_padding:
            low, high = -windows.begins[axis], high + windows.ends[axis]
        counts = counts[..., None] * ((places >= low) & (places < high)).sum(axis=1)
    return counts


def _spatial_axes(node: Node) -> list[int]:
    shape = node.shape(0)
    if len(shape) < 3:
        node.refuse(f"data of {len(shape)} dimensions has no spatial ones")
    if 0 in shape:
        node.refuse("pools of empty tensors are not supported")
    return list(range(2, len(shape)))


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "AveragePool": convert_average_pool,
    "GlobalAveragePool": convert_global_average_pool,
    "GlobalLpPool": convert_global_lp_pool,
    "GlobalMaxPool": convert_global_max_pool,
    "LpPool": convert_lp_pool,
    "MaxPool": convert_max_pool,
}
