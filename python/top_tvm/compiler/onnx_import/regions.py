"""Pools over regions of interest, whose places are computed at run time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from top_tvm.compiler.onnx_import.node import Converted, Expr, Node


def convert_roi_align(node: Node) -> Converted:
    """``RoiAlign``: mean or maximum of samples in every bin of a region.

    With ``sampling_ratio`` 0 the number of samples per bin depends on the size of the region. It is
    limited to what a region needs that covers the whole image.
    """
    shape, count = node.shape(0), node.shape(1)[0]
    mode = str(node.attribute("mode", "avg"))
    default = "half_pixel" if node.opset >= 16 else "output_half_pixel"
    coordinates = str(node.attribute("coordinate_transformation_mode", default))
    if mode not in ("avg", "max"):
        node.refuse(f"mode {mode!r} does not exist")
    if coordinates not in ("half_pixel", "output_half_pixel"):
        node.refuse(f"coordinate transformation {coordinates!r} does not exist")
    bins = [int(node.attribute(name, 1)) for name in ("output_height", "output_width")]
    if len(shape) != 4 or 0 in shape or not count or min(bins) < 1:
        node.refuse(f"{count} regions of data of shape {list(shape)} are not supported")
    ratio = int(node.attribute("sampling_ratio", 0))
    limits = [ratio or math.ceil((shape[2 + a] + 1) / bins[a]) + 1 for a in range(2)]
    scale = float(node.attribute("spatial_scale", 1.0))
    moved = coordinates == "half_pixel"
    dtype = node.dtype(0)
    rois = node.emit(relax.op.astype(node.input(1), "float32"))
    batches = _instances(node, node.input(2), shape[0])

    def align(data: te.Tensor, regions: te.Tensor, instances: te.Tensor) -> te.Tensor:
        steps = [te.reduce_axis((0, limits[a]), name=f"s{a}") for a in range(2)]

        def body(region: Any, channel: Any, *position: Any) -> Any:
            lines, used, counts = [], [], []
            for axis in range(2):
                begin = regions[region, 1 - axis] * _number(scale)
                end = regions[region, 3 - axis] * _number(scale)
                if moved:
                    begin, end = begin - _number(0.5), end - _number(0.5)
                length = end - begin
                if not moved:
                    length = te.max(length, _number(1))
                width = length / _number(bins[axis])
                samples = _number(ratio)
                if not ratio:
                    samples = te.max(te.min(te.ceil(width), _number(limits[axis])), _number(0))
                step = steps[axis].astype("float32")
                place = (
                    begin
                    + position[axis].astype("float32") * width
                    + (step + _number(0.5)) * width / te.max(samples, _number(1))
                )
                lines.append(_corners(place, shape[2 + axis]))
                used.append(step < samples)
                counts.append(samples)
            corners = [
                data[instances[region], channel, row, column].astype("float32") * (above * left)
                for row, above in lines[0]
                for column, left in lines[1]
            ]
            if mode == "avg":
                total = sum(corners[1:], corners[0])
                share = total / te.max(counts[0] * counts[1], _number(1))
                return te.sum(tirx.Select(tirx.all(*used), share, _number(0)), axis=steps)
            largest = te.max(te.max(corners[0], corners[1]), te.max(corners[2], corners[3]))
            none = tirx.min_value("float32")
            return te.max(tirx.Select(tirx.all(*used), largest, none), axis=steps)

        return te.compute((count, shape[1], *bins), body, name="roi_align")

    pooled = node.builder.emit_te(
        align, node.input(0), rois, batches, primfunc_name_hint="roi_align"
    )
    if mode == "max" and not ratio:  # regions without samples
        none = node.emit(relax.op.equal(pooled, _smallest(node, "float32")))
        pooled = node.emit(relax.op.where(none, node.scalar(0, "float32"), pooled))
    return pooled if dtype == "float32" else relax.op.astype(pooled, dtype)


def convert_max_roi_pool(node: Node) -> Converted:
    """``MaxRoiPool``: the maximum in every bin of a region; empty bins are 0."""
    shape, count = node.shape(0), node.shape(1)[0]
    bins = [int(size) for size in node.attribute("pooled_shape", [])]
    if len(shape) != 4 or 0 in shape or not count or len(bins) != 2 or min(bins) < 1:
        node.refuse(f"{count} regions of data of shape {list(shape)} in bins of {bins} make none")
    if node.shape(1)[1] != 5:
        node.refuse(f"its regions have {node.shape(1)[1]} numbers instead of 5")
    scale, dtype = float(node.attribute("spatial_scale", 1.0)), node.dtype(0)
    rois = node.emit(relax.op.astype(node.input(1), "float32"))
    first = node.emit(relax.op.strided_slice(rois, [1], [0], [1], assume_inbound=True))
    batches = _instances(node, node.emit(relax.op.reshape(first, [count])), shape[0])

    def pool(data: te.Tensor, regions: te.Tensor, instances: te.Tensor) -> te.Tensor:
        steps = [te.reduce_axis((0, shape[2 + a]), name=f"s{a}") for a in range(2)]

        def inside(region: Any, position: Any, axis: int) -> Any:
            """Whether a row or column belongs to a bin."""
            place = steps[axis].astype("float32")
            begin, end = (
                te.floor(regions[region, column - axis] * _number(scale) + _number(0.5))
                for column in (2, 4)
            )
            width = te.max(end - begin + _number(1), _number(1)) / _number(bins[axis])
            bin_begin = te.floor(position.astype("float32") * width) + begin
            bin_end = te.ceil((position + 1).astype("float32") * width) + begin
            return tirx.all(place >= bin_begin, place < bin_end)

        def body(region: Any, channel: Any, *position: Any) -> Any:
            counts = tirx.all(*[inside(region, position[axis], axis) for axis in range(2)])
            element = data[instances[region], channel, steps[0], steps[1]]
            return te.max(tirx.Select(counts, element, tirx.min_value(dtype)), axis=steps)

        return te.compute((count, shape[1], *bins), body, name="max_roi_pool")

    pooled = node.builder.emit_te(
        pool, node.input(0), rois, batches, primfunc_name_hint="max_roi_pool"
    )
    none = node.emit(relax.op.equal(pooled, _smallest(node, dtype)))
    return relax.op.where(none, node.scalar(0, dtype), pooled)


def _instances(node: Node, numbers: Expr, count: int) -> Expr:
    """Numbers of instances within bounds, whatever they are at run time."""
    clipped = node.emit(relax.op.clip(numbers, 0, count - 1))
    return node.emit(relax.op.astype(clipped, "int32"))


def _smallest(node: Node, dtype: str) -> Expr:
    """What the maximum of nothing is."""
    return node.scalar(float(np.finfo(dtype).min), dtype)


def _number(value: float) -> Any:
    return tirx.const(float(value), "float32")


def _corners(place: Any, extent: int) -> list[tuple[Any, Any]]:
    """Indices within bounds and weights of the two elements around a place."""
    outside = tirx.any(place < _number(-1), place > _number(extent))
    bounded = te.min(te.max(place, _number(0)), _number(extent - 1))
    bounded = tirx.Select(place == place, bounded, _number(0))
    low = te.floor(bounded)
    high = te.min(low + _number(1), _number(extent - 1))
    part = bounded - low
    return [
        (low.astype("int32"), tirx.Select(outside, _number(0), _number(1) - part)),
        (high.astype("int32"), tirx.Select(outside, _number(0), part)),
    ]


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "MaxRoiPool": convert_max_roi_pool,
    "RoiAlign": convert_roi_align,
}
