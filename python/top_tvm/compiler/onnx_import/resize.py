"""``Resize`` and ``Upsample``: axis by axis, since shapes and scales are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from tvm import relax

from top_tvm.compiler.onnx_import.node import (
    Array,
    Converted,
    Expr,
    Node,
    constant,
    dtype_of,
    shape_of,
)
from top_tvm.compiler.onnx_import.resize_weights import (
    COORDINATES,
    ROUNDINGS,
    Axis,
    Interpolation,
    matrix,
    outside,
    taps,
)

# More taps than this are a product with a matrix rather than a sum.
_MOST_TAPS = 4
# Coordinate transformations by their names in Relax: those that take only extents.
_OF_RELAX = {
    "half_pixel": "half_pixel",
    "half_pixel_symmetric": "half_pixel",  # the same where scales are exact
    "pytorch_half_pixel": "half_pixel",  # the same for more than one element
    "align_corners": "align_corners",
    "asymmetric": "asymmetric",
}


def convert_resize(node: Node) -> Converted:
    """``Resize`` of all opsets from 10 on."""
    shape = node.shape(0)
    if node.opset < 11:  # scales are the second input
        how = _interpolation(node, "asymmetric", "shrinking_ceil")
        return _resize(node, _scaled(node, node.constant(1, "scales"), shape), how)
    how = _interpolation(node, "half_pixel", "round_prefer_floor")
    if how.coordinates == "tf_half_pixel_for_nn" and node.opset >= 13:
        node.refuse("coordinate transformation tf_half_pixel_for_nn exists in opset 11 only")
    if _given(node, 3):
        axes = _sized(node, shape)
    elif _given(node, 2):
        axes = _scaled(node, _along_axes(node, node.constant(2, "scales"), 1.0, len(shape)), shape)
    else:
        node.refuse("it has neither scales nor sizes")
    if how.coordinates == "tf_crop_and_resize":
        axes = _cropped(node, axes)
    return _resize(node, axes, how)


def convert_upsample(node: Node) -> Converted:
    """``Upsample``: ``Resize`` by factors of at least 1, rounding down."""
    shape = node.shape(0)
    if node.opset >= 9:
        scales = node.constant(1, "scales")
    else:
        scales = np.asarray(node.attribute("scales", []), np.float32)
    how = _interpolation(node, "asymmetric", "floor")
    return _resize(node, _scaled(node, scales, shape), how)


def _given(node: Node, index: int) -> bool:
    """Empty tensors stand for inputs that are left out."""
    return node.has(index) and math.prod(node.shape(index)) > 0


def _interpolation(node: Node, coordinates: str, rounding: str) -> Interpolation:
    mode = str(node.attribute("mode", "nearest"))
    mode = {"bilinear": "linear", "trilinear": "linear"}.get(mode, mode)
    coordinates = str(node.attribute("coordinate_transformation_mode", coordinates))
    rounding = str(node.attribute("nearest_mode", rounding))
    if mode not in ("nearest", "linear", "cubic"):
        node.refuse(f"mode {mode!r} does not exist")
    if coordinates not in COORDINATES:
        node.refuse(f"coordinate transformation {coordinates!r} does not exist")
    if rounding not in (*ROUNDINGS, "shrinking_ceil"):
        node.refuse(f"nearest_mode {rounding!r} does not exist")
    return Interpolation(
        mode,  # type: ignore[arg-type]
        coordinates,
        rounding,
        float(node.attribute("cubic_coeff_a", -0.75)),
        bool(node.attribute("exclude_outside", 0)),
        bool(node.attribute("antialias", 0)) and mode != "nearest",
    )


def _along_axes(node: Node, values: Array, default: float, rank: int) -> Array:
    """A value for every axis of the data, from values for some."""
    axes = node.attribute("axes")
    axes = list(range(rank)) if axes is None else node.axes(axes, rank)
    if len(values) != len(axes):
        node.refuse(f"{len(values)} scales or sizes for {len(axes)} axes")
    whole = np.full(rank, default, values.dtype)
    whole[axes] = values
    return whole


def _scaled(node: Node, scales: Array, shape: Sequence[int]) -> list[Axis]:
    if len(scales) != len(shape):
        node.refuse(f"{len(scales)} scales for {len(shape)} dimensions")
    if not all(math.isfinite(scale) and scale > 0 for scale in scales):
        node.refuse(f"its scales {scales.tolist()} must be positive")
    axes = []
    for extent, scale in zip(shape, scales, strict=True):
        # In float32, as shape inference does it: 10 * 0.7 is 7.
        result = math.floor(np.float32(extent) * np.float32(scale))
        axes.append(Axis(extent, result, float(scale)))
    return axes


def _sized(node: Node, shape: Sequence[int]) -> list[Axis]:
    rank = len(shape)
    sizes = node.constant(3, "sizes")
    whole = _along_axes(node, sizes, -1, rank)
    policy = str(node.attribute("keep_aspect_ratio_policy", "stretch"))
    ratios = [
        wanted / extent if extent else 1.0
        for extent, wanted in zip(shape, whole.tolist(), strict=True)
        if wanted >= 0
    ]
    axes = []
    for extent, wanted in zip(shape, whole.tolist(), strict=True):
        if wanted < 0 or not extent:
            axes.append(Axis(extent, extent, 1.0))
        elif policy == "stretch":
            axes.append(Axis(extent, wanted, wanted / extent))
        elif policy in ("not_larger", "not_smaller"):
            scale = min(ratios) if policy == "not_larger" else max(ratios)
            axes.append(Axis(extent, math.floor(scale * extent + 0.5), scale))
        else:
            node.refuse(f"keep_aspect_ratio_policy {policy!r} does not exist")
    return axes


def _cropped(node: Node, axes: Sequence[Axis]) -> list[Axis]:
    if not _given(node, 1):
        node.refuse("its roi is missing, which tf_crop_and_resize crops to")
    rank = len(axes)
    roi = node.constant(1, "roi").astype(np.float64)
    if len(roi) % 2:
        node.refuse(f"its roi has {len(roi)} numbers, which are no begins and ends")
    begins = _along_axes(node, roi[: len(roi) // 2], 0.0, rank)
    ends = _along_axes(node, roi[len(roi) // 2 :], 1.0, rank)
    return [
        Axis(axis.data, axis.result, axis.scale, (float(begin), float(end)))
        for axis, begin, end in zip(axes, begins, ends, strict=True)
    ]


def _resize(node: Node, axes: Sequence[Axis], how: Interpolation) -> Expr:
    data = node.input(0)
    if any(not axis.data or not axis.result for axis in axes):
        node.refuse(f"resizing {[a.data for a in axes]} to {[a.result for a in axes]} is empty")
    dtype = dtype_of(data)
    floating = dtype.startswith(("float", "bfloat"))
    changed = [
        index
        for index, axis in enumerate(axes)
        if (axis.data, axis.scale, axis.roi) != (axis.result, 1.0, (0.0, 1.0))
    ]
    if dtype not in ("float32", "float64") and how.mode != "nearest":
        data = node.emit(relax.op.astype(data, "float32"))
    if _is_plain(axes, how) and dtype_of(data) in ("float16", "float32"):
        data = node.emit(_resize2d(data, axes, how))
    else:
        # Shrinking first: the fewer elements there are behind each step, the better.
        for index in sorted(changed, key=lambda index: axes[index].result / axes[index].data):
            data = _along(node, data, index, axes[index], how)
        data = _extrapolated(node, data, axes, how)
    if dtype_of(data) == dtype:
        return data
    if not floating:  # towards zero, as ONNX Runtime rounds
        limits = np.iinfo(dtype)
        data = node.emit(relax.op.clip(data, int(limits.min), int(limits.max)))
    return relax.op.astype(data, dtype)


def _is_plain(axes: Sequence[Axis], how: Interpolation) -> bool:
    """Whether one kernel of Relax does it: height and width of images, by exact scales."""
    if len(axes) != 4 or any(a.data != a.result or a.scale != 1 for a in axes[:2]):
        return False
    smooth = how.mode != "nearest"
    if smooth and (how.exclude_outside or how.antialias or how.coordinates not in _OF_RELAX):
        return False
    for axis in axes[2:]:
        if how.mode == "nearest":
            repeated = np.arange(axis.result) * axis.data // axis.result
            if axis.result % axis.data or (taps(axis, how)[0][:, 0] != repeated).any():
                return False
        elif abs(axis.scale * axis.data - axis.result) > 1e-5 or min(axis.data, axis.result) < 2:
            return False
    return how.coordinates != "tf_crop_and_resize"


def _resize2d(data: Expr, axes: Sequence[Axis], how: Interpolation) -> Expr:
    size = [axis.result for axis in axes[2:]]
    if how.mode == "nearest":
        return relax.op.image.resize2d(
            data,
            relax.ShapeExpr(size),
            method="nearest_neighbor",
            coordinate_transformation_mode="asymmetric",
            rounding_method="floor",
        )
    return relax.op.image.resize2d(
        data,
        relax.ShapeExpr(size),
        method=how.mode,
        coordinate_transformation_mode=_OF_RELAX[how.coordinates],
        cubic_alpha=how.cubic_coefficient,
    )


def _along(node: Node, data: Expr, index: int, axis: Axis, how: Interpolation) -> Expr:
    """Resize one axis."""
    rank, dtype = len(shape_of(data)), dtype_of(data)
    indices, weights = taps(axis, how)
    if indices.shape[1] > _MOST_TAPS:
        return _multiply(node, data, index, matrix(axis, how))
    if indices.shape[1] == 1:
        return _take(node, data, indices[:, 0], index)
    turned = [1] * rank
    turned[index] = -1
    total: Expr | None = None
    for tap in range(indices.shape[1]):
        taken = _take(node, data, indices[:, tap], index)
        weight = constant(weights[:, tap].reshape(turned).astype(dtype))
        product = node.emit(relax.op.multiply(taken, weight))
        total = product if total is None else node.emit(relax.op.add(total, product))
    assert total is not None
    return total


def _take(node: Node, data: Expr, indices: Array, index: int) -> Expr:
    """Elements along an axis; indices are constants within bounds."""
    if indices.tolist() == list(range(shape_of(data)[index])):
        return data
    return node.emit(relax.op.take(data, constant(indices), axis=index, mode="fast"))


def _multiply(node: Node, data: Expr, index: int, product: Array) -> Expr:
    """Product of a matrix with the data along an axis."""
    dtype, rank = dtype_of(data), len(shape_of(data))
    if index == rank - 1:
        return node.emit(relax.op.matmul(data, constant(product.T.astype(dtype))))
    order = [*(axis for axis in range(rank) if axis != index), index]
    back = [order.index(axis) for axis in range(rank)]
    moved = node.emit(relax.op.permute_dims(data, order))
    multiplied = node.emit(relax.op.matmul(moved, constant(product.T.astype(dtype))))
    return node.emit(relax.op.permute_dims(multiplied, back))


def _extrapolated(node: Node, data: Expr, axes: Sequence[Axis], how: Interpolation) -> Expr:
    """A constant where the crop reaches beyond the data."""
    rank = len(axes)
    beyond: Array = np.zeros([1] * rank, bool)
    for index, axis in enumerate(axes):
        turned = [1] * rank
        turned[index] = -1
        marked = outside(axis, how.coordinates)
        if marked.any():
            beyond = beyond | marked.reshape(turned)
    if not beyond.any():
        return data
    value = node.scalar(float(node.attribute("extrapolation_value", 0.0)), dtype_of(data))
    return node.emit(relax.op.where(constant(beyond), value, data))


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "Resize": convert_resize,
    "Upsample": convert_upsample,
}
