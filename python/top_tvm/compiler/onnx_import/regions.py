"""Pools over regions of interest, whose places are computed at run time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from top_tvm.compiler.onnx_import.node import Converted, Expr, Node


@dataclass(frozen=True)
class Alignment:
    """Attributes of ``RoiAlign``.

    Attributes
    ----------
    bins, extents : tuple of int
        Height and width of the result and of the data.
    samples : int
        Samples per bin and axis, or 0 where they follow from the size of the region.
    scale : float
        From the coordinates of the regions to those of the data.
    centred : bool
        Whether elements lie at their centers: ``half_pixel``.
    """

    bins: tuple[int, int]
    extents: tuple[int, int]
    samples: int
    scale: float
    centred: bool

    def line(self, region: Sequence[Any], axis: int, position: Any) -> tuple[Any, Any, Any, Any]:
        """Where the samples of a bin lie along an axis.

        Returns
        -------
        first : float32
            Coordinate of the first sample that is looked at.
        step : float32
            From one sample to the next.
        looked_at : int or int32
            Number of those: outside of the data all are 0, so that a few are enough.
        samples : float32
            Number of all samples.
        """
        begin, end = (region[column] * _number(self.scale) for column in (1 - axis, 3 - axis))
        if self.centred:
            begin, end = begin - _number(0.5), end - _number(0.5)
        length = end - begin if self.centred else te.max(end - begin, _number(1))
        width = length / _number(self.bins[axis])
        begin = begin + position.astype("float32") * width
        if self.samples:
            step = width / _number(self.samples)
            return begin + step * _number(0.5), step, self.samples, _number(self.samples)
        samples = _between(te.ceil(width), 0, 2**24)
        step = width / te.max(samples, _number(1))
        # Two samples in front of the data, and more than two behind, unless there are fewer.
        skipped = te.floor((_number(-3) - begin) / te.max(step, _number(0.5)))
        skipped = te.min(_between(skipped, 0, 2**24), samples)
        # A region without samples has one beyond the data: a reduction of nothing is undefined.
        looked_at = _between(samples - skipped, 1, self.extents[axis] + 8)
        first = begin + (skipped + _number(0.5)) * step
        first = tirx.Select(samples > _number(0), first, _number(-9))
        return first, step, looked_at.astype("int32"), samples


def convert_roi_align(node: Node) -> Converted:
    """``RoiAlign``: mean or maximum of samples in every bin of a region."""
    how = _alignment(node)
    shape, count, dtype = node.shape(0), node.shape(1)[0], node.dtype(0)
    mean = node.attribute("mode", "avg") == "avg"
    rois = node.emit(relax.op.astype(node.input(1), "float32"))
    batches = _instances(node, node.input(2), shape[0])

    def align(data: te.Tensor, regions: te.Tensor, instances: te.Tensor) -> te.Tensor:
        def body(region: Any, channel: Any, *position: Any) -> Any:
            bounds = [regions[region, column] for column in range(4)]
            lines, axes, samples = [], [], _number(1)
            for axis in range(2):
                first, step, looked_at, number = how.line(bounds, axis, position[axis])
                axes.append(te.reduce_axis((0, looked_at), name=f"s{axis}"))
                lines.append(_corners(first + axes[-1].astype("float32") * step, shape[2 + axis]))
                samples = samples * number
            corners = [
                data[instances[region], channel, row, column].astype("float32") * (above * left)
                for row, above in lines[0]
                for column, left in lines[1]
            ]
            if mean:
                total = sum(corners[1:], corners[0])
                return te.sum(total / te.max(samples, _number(1)), axis=axes)
            # As the standard says: of the weighted corners, not of their sums.
            largest = te.max(te.max(corners[0], corners[1]), te.max(corners[2], corners[3]))
            return te.max(largest, axis=axes)

        return te.compute((count, shape[1], *how.bins), body, name="roi_align")

    pooled = node.builder.emit_te(
        align, node.input(0), rois, batches, primfunc_name_hint="roi_align"
    )
    return pooled if dtype == "float32" else relax.op.astype(pooled, dtype)


def _alignment(node: Node) -> Alignment:
    """Attributes of a ``RoiAlign``, checked with the shapes of its inputs."""
    shape, regions = node.shape(0), node.shape(1)
    mode = str(node.attribute("mode", "avg"))
    default = "half_pixel" if node.opset >= 16 else "output_half_pixel"
    coordinates = str(node.attribute("coordinate_transformation_mode", default))
    if mode not in ("avg", "max"):
        node.refuse(f"mode {mode!r} does not exist")
    if coordinates not in ("half_pixel", "output_half_pixel"):
        node.refuse(f"coordinate transformation {coordinates!r} does not exist")
    bins = (int(node.attribute("output_height", 1)), int(node.attribute("output_width", 1)))
    samples = int(node.attribute("sampling_ratio", 0))
    if len(shape) != 4 or len(regions) != 2 or regions[1] != 4 or 0 in (*shape, *regions):
        node.refuse(f"regions of shape {list(regions)} do not fit data of shape {list(shape)}")
    if min(*bins, samples + 1) < 1:
        node.refuse(f"an output of {bins[0]} x {bins[1]} by {samples} samples does not exist")
    scale = float(node.attribute("spatial_scale", 1.0))
    return Alignment(bins, (shape[2], shape[3]), samples, scale, coordinates == "half_pixel")


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
    smallest = node.scalar(float(np.finfo(dtype).min), dtype)
    none = node.emit(relax.op.equal(pooled, smallest))
    return relax.op.where(none, node.scalar(0, dtype), pooled)


def _instances(node: Node, numbers: Expr, count: int) -> Expr:
    """Numbers of instances within bounds, whatever they are at run time."""
    clipped = node.emit(relax.op.clip(numbers, 0, count - 1))
    return node.emit(relax.op.astype(clipped, "int32"))


def _number(value: float) -> Any:
    return tirx.const(float(value), "float32")


def _between(value: Any, low: float, high: float) -> Any:
    """Within bounds; what is not a number is taken for the lower one."""
    bounded = te.min(te.max(value, _number(low)), _number(high))
    return tirx.Select(value == value, bounded, _number(low))


def _corners(place: Any, extent: int) -> list[tuple[Any, Any]]:
    """Indices within bounds and weights of the two elements around a place."""
    outside = tirx.any(place < _number(-1), place > _number(extent))
    bounded = _between(place, 0, extent - 1)
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
