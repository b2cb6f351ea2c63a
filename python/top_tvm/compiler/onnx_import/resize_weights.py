"""Where the elements of a resized axis come from: the arithmetic of ONNX ``Resize`` in NumPy.

A resized axis is a sum of a few taps: element ``i`` of the result is the sum over ``t`` of
``weights[i, t] * data[indices[i, t]]``. Coordinates are computed in float32, as ONNX Runtime
computes them, because rounding decides which element is the nearest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from top_tvm.compiler.onnx_import.node import Array

ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
COORDINATES = (
    *("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"),
    *("tf_half_pixel_for_nn", "tf_crop_and_resize"),
)


@dataclass(frozen=True)
class Axis:
    """How one axis is resized.

    Attributes
    ----------
    data, result : int
        Extents before and after.
    scale : float
        Ratio between them, before the extent of the result was rounded.
    roi : tuple of float
        Begin and end of the part that ``tf_crop_and_resize`` crops, from 0 to 1.
    """

    data: int
    result: int
    scale: float
    roi: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Interpolation:
    """How elements are computed from their neighbours: attributes of ONNX ``Resize``."""

    mode: Literal["nearest", "linear", "cubic"]
    coordinates: str
    rounding: str = "round_prefer_floor"
    cubic_coefficient: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False


def coordinates_of(axis: Axis, mode: str) -> Array:
    """Place in the data of every element of the result, in float64."""
    place = np.arange(axis.result, dtype=np.float32)
    scale, half = np.float32(axis.scale), np.float32(0.5)
    last = np.float32(axis.data - 1)
    resized = scale * np.float32(axis.data)
    if mode == "align_corners":
        found = place * last / (resized - 1) if resized != 1 else 0 * place
    elif mode == "asymmetric":
        found = place / scale
    elif mode == "tf_half_pixel_for_nn":
        found = (place + half) / scale
    elif mode == "tf_crop_and_resize":
        begin, end = np.float32(axis.roi[0]), np.float32(axis.roi[1])
        if axis.result == 1:
            found = half * (begin + end) * last + 0 * place
        else:
            found = begin * last + place * (end - begin) * last / np.float32(axis.result - 1)
    else:
        found = (place + half) / scale - half
        if mode == "pytorch_half_pixel" and axis.result == 1:
            found = -half + 0 * place
        if mode == "half_pixel_symmetric":
            found += np.float32(axis.data / 2) * (1 - np.float32(axis.result) / resized)
    return found.astype(np.float64)


def outside(axis: Axis, mode: str) -> Array:
    """Which elements of the result lie outside of the data, in ``tf_crop_and_resize``."""
    found = coordinates_of(axis, mode)
    if mode != "tf_crop_and_resize":
        return np.zeros(axis.result, bool)
    return (found < 0) | (found > axis.data - 1)


def taps(axis: Axis, how: Interpolation) -> tuple[Array, Array]:
    """Indices and weights of the elements that each element of the result is the sum of.

    Parameters
    ----------
    axis : Axis
        Extents and scale.
    how : Interpolation
        Mode and its parameters.

    Returns
    -------
    indices : array of int64, shape (result, taps)
        All from 0 to ``data - 1``.
    weights : array of float64, shape (result, taps)
        Their sum along the taps is 1.
    """
    found = coordinates_of(axis, how.coordinates)
    if how.mode == "nearest":
        if how.rounding == "shrinking_ceil":  # opset 10
            how = replace(how, rounding="ceil" if axis.scale < 1 else "floor")
        nearest = np.clip(_round(found, how.rounding), 0, axis.data - 1).astype(np.int64)
        return nearest[:, None], np.ones((axis.result, 1))
    reach = 1 if how.mode == "linear" else 2
    stretch = min(axis.scale, 1.0) if how.antialias else 1.0
    floor = np.floor(found)
    offsets = np.arange(math.floor(-reach / stretch) + 1, math.ceil(reach / stretch) + 1)
    indices = floor[:, None] + offsets
    distance = np.abs(indices - found[:, None]) * stretch
    weights = _hat(distance) if how.mode == "linear" else _keys(distance, how.cubic_coefficient)
    if how.exclude_outside:
        weights = np.where((indices < 0) | (indices >= axis.data), 0, weights)
    if how.exclude_outside or how.antialias:
        total = weights.sum(axis=1, keepdims=True)
        weights /= np.where(total == 0, 1, total)
    used = (weights != 0).any(axis=0)
    used[np.argmax(weights != 0, axis=1)[0]] = True
    return np.clip(indices[:, used], 0, axis.data - 1).astype(np.int64), weights[:, used]


def matrix(axis: Axis, how: Interpolation) -> Array:
    """Interpolation as a matrix: the result is its product with the data, along the axis."""
    indices, weights = taps(axis, how)
    product = np.zeros((axis.result, axis.data))
    rows = np.arange(axis.result)[:, None]
    np.add.at(product, (rows, indices), weights)
    return product


def _round(found: Array, rounding: str) -> Array:
    if rounding == "floor":
        return np.floor(found)
    if rounding == "ceil":
        return np.ceil(found)
    if rounding == "round_prefer_ceil":
        return np.floor(found + 0.5)
    return np.ceil(found - 0.5)


def _hat(distance: Array) -> Array:
    weights: Array = np.maximum(1 - distance, 0)
    return weights


def _keys(distance: Array, a: float) -> Array:
    """Cubic convolution (Keys, 1981, doi:10.1109/TASSP.1981.1163711)."""
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))
