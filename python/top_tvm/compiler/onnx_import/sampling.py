"""Samples of images at places that are computed at run time: ``GridSample``, ``AffineGrid``."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from top_tvm.compiler.onnx_import.node import Array, Converted, Node, constant, dtype_of

_MODES = {"bilinear": "linear", "bicubic": "cubic"}  # names before opset 20
_TAPS = {"nearest": 1, "linear": 2, "cubic": 4}
_CUBIC = -0.75
_FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True)
class Sampling:
    """Attributes of ``GridSample``.

    Attributes
    ----------
    mode : str
        ``nearest``, ``linear`` or ``cubic``.
    padding : str
        ``zeros``, ``border`` or ``reflection``.
    aligned : bool
        Whether -1 and 1 are the centers of the outer elements, rather than their outer borders.
    """

    mode: str
    padding: str
    aligned: bool

    def borders(self, extent: int) -> tuple[float, float]:
        """Where the data begin and end along an axis."""
        return (0.0, extent - 1.0) if self.aligned else (-0.5, extent - 0.5)


@dataclass(frozen=True)
class Tap:
    """One of the elements along an axis that a sample is made of.

    Attributes
    ----------
    index : tirx.Expr
        Within bounds, whatever the place is.
    weight : tirx.Expr
        Zero where padding by zeros is hit.
    """

    index: Any
    weight: Any


def convert_grid_sample(node: Node) -> Converted:
    """``GridSample``: of one to three spatial dimensions."""
    how = _sampling(node)
    shape, grid, dtype = node.shape(0), node.shape(1), node.dtype(0)
    wide = "float64" if "float64" in (dtype, node.dtype(1)) else "float32"
    whole = dtype not in _FLOATS
    spatial = range(len(shape) - 2)

    def table(places: te.Tensor, axis: int, number: int, field: str) -> te.Tensor:
        def body(*where: Any) -> Any:
            # The last number of the grid is the place along the first spatial axis.
            source = (*where, len(spatial) - 1 - axis)
            normal = places[source].astype(wide)
            place = _denormalise(normal, shape[2 + axis], aligned=how.aligned)
            return getattr(_taps(place, shape[2 + axis], how)[number], field)

        return te.compute(grid[:-1], body, name=field)

    def locate(places: te.Tensor) -> list[te.Tensor]:
        """Index and weight of every tap of every axis, for all channels."""
        return [
            table(places, axis, number, field)
            for axis in spatial
            for number in range(_TAPS[how.mode])
            for field in ("index", "weight")
        ]

    def sample(data: te.Tensor, *tables: te.Tensor) -> te.Tensor:
        def body(instance: Any, channel: Any, *position: Any) -> Any:
            where = (instance, *position)
            found = [table[where] for table in tables]
            pairs = [Tap(*found[index : index + 2]) for index in range(0, len(found), 2)]
            count = _TAPS[how.mode]
            total: Any = None
            for chosen in itertools.product(*[pairs[a * count : (a + 1) * count] for a in spatial]):
                index = (instance, channel, *(tap.index for tap in chosen))
                weight: Any = math.prod([tap.weight for tap in chosen])
                if whole:  # there is one, and its weight is 0 or 1
                    return tirx.Select(weight > 0, data[index], tirx.const(0, dtype))
                product = data[index].astype(wide) * weight
                total = product if total is None else total + product
            return total.astype(dtype)

        return te.compute((*shape[:2], *grid[1:-1]), body, name="grid_sample")

    located = node.builder.emit_te(locate, node.input(1), primfunc_name_hint="grid_places")
    tables = [
        node.emit(relax.TupleGetItem(located, index))
        for index in range(2 * len(spatial) * _TAPS[how.mode])
    ]
    return node.builder.emit_te(sample, node.input(0), *tables, primfunc_name_hint="grid_sample")


def _sampling(node: Node) -> Sampling:
    """Attributes of a ``GridSample``, checked with the shapes of its inputs."""
    shape, grid, dtype = node.shape(0), node.shape(1), node.dtype(0)
    rank = len(shape) - 2
    mode = str(node.attribute("mode", "linear"))
    mode = _MODES.get(mode, mode)
    padding = str(node.attribute("padding_mode", "zeros"))
    if mode not in ("nearest", "linear", "cubic"):
        node.refuse(f"mode {mode!r} does not exist")
    if padding not in ("zeros", "border", "reflection"):
        node.refuse(f"padding_mode {padding!r} does not exist")
    if rank not in (1, 2, 3) or len(grid) != rank + 2 or (grid[0], grid[-1]) != (shape[0], rank):
        node.refuse(f"a grid of shape {list(grid)} does not fit data of shape {list(shape)}")
    if mode == "cubic" and rank == 3:
        node.refuse("cubic samples of three spatial dimensions are not supported")
    if 0 in shape or 0 in grid:
        node.refuse("samples of empty tensors are not supported")
    if dtype not in _FLOATS and mode != "nearest":
        node.refuse(f"{mode} samples of {dtype} are not supported")
    return Sampling(mode, padding, bool(node.attribute("align_corners", 0)))


def convert_affine_grid(node: Node) -> Converted:
    """``AffineGrid``: the product of a constant grid with each transformation."""
    theta, size = node.input(0), node.integers(1, "size")
    dtype, rank = dtype_of(theta), len(size) - 2
    if rank not in (2, 3) or node.shape(0) != (size[0], rank, rank + 1) or min(size) < 1:
        node.refuse(f"transformations of shape {node.shape(0)} do not fit a size of {size}")
    grid = constant(_grid(size[2:], aligned=bool(node.attribute("align_corners", 0))).astype(dtype))
    turned = node.emit(relax.op.permute_dims(theta, [0, 2, 1]))
    places = node.emit(relax.op.matmul(grid, turned))
    return relax.op.reshape(places, [size[0], *size[2:], rank])


def _grid(extents: Sequence[int], *, aligned: bool) -> Array:
    """Places of all elements from -1 to 1, the last axis first, and a one: (elements, rank + 1)."""
    lines = [
        np.linspace(-1, 1, extent)
        if aligned and extent > 1
        else (2 * np.arange(extent) + 1) / extent - 1
        for extent in extents
    ]
    meshes = np.meshgrid(*lines, indexing="ij")
    columns = [*[mesh.ravel() for mesh in meshes[::-1]], np.ones(math.prod(extents))]
    return np.stack(columns, axis=1)


def _denormalise(normal: Any, extent: int, *, aligned: bool) -> Any:
    """From -1 ... 1 to 0 ... extent - 1, respectively to the outer borders of these elements."""
    one = _like(normal, 1.0)
    half = _like(normal, 0.5)
    if aligned:
        return (normal + one) * half * _like(normal, extent - 1)
    return ((normal + one) * _like(normal, extent) - one) * half


def _taps(place: Any, extent: int, how: Sampling) -> list[Tap]:
    """Elements and weights for a place along an axis."""
    low, high = how.borders(extent)
    if how.mode == "nearest":
        place = tirx.nearbyint(place)
    beyond = tirx.any(place < _like(place, low), place > _like(place, high))
    if how.padding == "border" and how.mode != "cubic":  # like PyTorch and ONNX Runtime
        place = tirx.Select(beyond, _clamp(place, extent), place)
    elif how.padding == "reflection":
        place = tirx.Select(beyond, _reflect(place, low, high), place)
    if how.mode == "nearest":
        return [_tap(place, _like(place, 1), extent, how)]
    floor = te.floor(place)
    part, one = place - floor, _like(place, 1)
    if how.mode == "linear":
        return [_tap(floor, one - part, extent, how), _tap(floor + one, part, extent, how)]
    weights = [_far(part + one), _near(part), _near(one - part), _far(one + one - part)]
    return [
        _tap(floor + _like(place, step - 1), weight, extent, how)
        for step, weight in enumerate(weights)
    ]


def _tap(place: Any, weight: Any, extent: int, how: Sampling) -> Tap:
    """An element at a whole place, which may lie outside of the data."""
    if how.padding == "zeros":
        inside = tirx.all(place >= _like(place, 0), place <= _like(place, extent - 1))
        weight = tirx.Select(inside, weight, _like(place, 0))
    elif how.padding == "reflection":
        low, high = how.borders(extent)
        beyond = tirx.any(place < _like(place, low), place > _like(place, high))
        place = tirx.Select(beyond, _reflect(place, low, high), place)
    return Tap(_clamp(place, extent).astype("int32"), weight)


def _clamp(place: Any, extent: int) -> Any:
    """Within bounds; what is not a number is taken for the first element."""
    zero, last = _like(place, 0.0), _like(place, extent - 1)
    bounded = te.min(te.max(place, zero), last)
    return tirx.Select(place == place, bounded, zero)


def _reflect(place: Any, low: float, high: float) -> Any:
    """Mirrored at the borders, as often as it takes."""
    begin, length = _like(place, low), _like(place, high - low)
    if high == low:
        return begin
    distance = te.abs(place - begin)
    turns = te.floor(distance / length)
    rest = distance - turns * length
    half = _like(place, 0.5)
    odd = turns - te.floor(turns * half) * _like(place, 2.0)
    return begin + tirx.Select(odd > half, length - rest, rest)


def _like(other: Any, value: float) -> Any:
    """A constant of the type of another number."""
    return tirx.const(float(value), other.ty.dtype)


def _near(x: Any) -> Any:
    """Cubic convolution (Keys, 1981, doi:10.1109/TASSP.1981.1163711) up to a distance of 1."""
    a = _CUBIC
    inner = x * _like(x, a + 2) - _like(x, a + 3)
    return inner * x * x + _like(x, 1)


def _far(x: Any) -> Any:
    """The same from a distance of 1 to one of 2."""
    a = _CUBIC
    inner = x * _like(x, a) - _like(x, 5 * a)
    return (inner * x + _like(x, 8 * a)) * x - _like(x, 4 * a)


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "AffineGrid": convert_affine_grid,
    "GridSample": convert_grid_sample,
}
