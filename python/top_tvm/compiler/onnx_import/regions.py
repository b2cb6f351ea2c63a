"""Pools over regions of interest, whose places are computed at run time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from top_tvm.compiler.onnx_import.node import Converted, Expr, Node, dtype_of


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

    @property
    def limits(self) -> list[int]:
        """Most samples per bin, axis by axis."""
        pairs = zip(self.extents, self.bins, strict=True)
        return [self.samples or math.ceil((extent + 1) / count) + 1 for extent, count in pairs]

    def place(self, region: Sequence[Any], axis: int, position: Any, step: Any) -> tuple[Any, Any]:
        """Coordinate of a sample in its bin, and the number of samples there are."""
        begin, end = (region[column] * _number(self.scale) for column in (1 - axis, 3 - axis))
        if self.centred:
            begin, end = begin - _number(0.5), end - _number(0.5)
        length = end - begin if self.centred else te.max(end - begin, _number(1))
        width = length / _number(self.bins[axis])
        samples = _number(self.samples)
        if not self.samples:
            samples = te.max(te.min(te.ceil(width), _number(self.limits[axis])), _number(0))
        part = (step.astype("float32") + _number(0.5)) * width / te.max(samples, _number(1))
        return begin + position.astype("float32") * width + part, samples


def convert_roi_align(node: Node) -> Converted:
    """``RoiAlign``: mean or maximum of samples in every bin of a region.

    With ``sampling_ratio`` 0 the number of samples per bin depends on the size of the region. It is
    limited to what a region needs that covers the whole image.
    """
    how = _alignment(node)
    shape, count, dtype = node.shape(0), node.shape(1)[0], node.dtype(0)
    mean = node.attribute("mode", "avg") == "avg"
    rois = node.emit(relax.op.astype(node.input(1), "float32"))
    batches = _instances(node, node.input(2), shape[0])

    def align(data: te.Tensor, regions: te.Tensor, instances: te.Tensor) -> te.Tensor:
        steps = [te.reduce_axis((0, how.limits[axis]), name=f"s{axis}") for axis in range(2)]

        def body(region: Any, channel: Any, *position: Any) -> Any:
            bounds = [regions[region, column] for column in range(4)]
            lines, counts = [], []
            for axis in range(2):
                place, samples = how.place(bounds, axis, position[axis], steps[axis])
                lines.append(_corners(place, shape[2 + axis]))
                counts.append(samples)
            used = tirx.all(*[s.astype("float32") < n for s, n in zip(steps, counts, strict=True)])
            corners = [
                data[instances[region], channel, row, column].astype("float32") * (above * left)
                for row, above in lines[0]
                for column, left in lines[1]
            ]
            if mean:
                total = sum(corners[1:], corners[0])
                share = total / te.max(counts[0] * counts[1], _number(1))
                return te.sum(tirx.Select(used, share, _number(0)), axis=steps)
            # As the standard says: of the weighted corners, not of their sums.
            largest = te.max(te.max(corners[0], corners[1]), te.max(corners[2], corners[3]))
            return te.max(tirx.Select(used, largest, tirx.min_value("float32")), axis=steps)

        return te.compute((count, shape[1], *how.bins), body, name="roi_align")

    pooled = node.builder.emit_te(
        align, node.input(0), rois, batches, primfunc_name_hint="roi_align"
    )
    if not mean and not how.samples:
        pooled = node.emit(_zero_where_empty(node, pooled))
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
    return _zero_where_empty(node, pooled)


def _zero_where_empty(node: Node, pooled: Expr) -> Expr:
    """Zeros instead of what the maximum of nothing is."""
    dtype = dtype_of(pooled)
    smallest = node.scalar(float(np.finfo(dtype).min), dtype)
    none = node.emit(relax.op.equal(pooled, smallest))
    return relax.op.where(none, node.scalar(0, dtype), pooled)


def _instances(node: Node, numbers: Expr, count: int) -> Expr:
    """Numbers of instances within bounds, whatever they are at run time."""
    clipped = node.emit(relax.op.clip(numbers, 0, count - 1))
    return node.emit(relax.op.astype(clipped, "int32"))


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
