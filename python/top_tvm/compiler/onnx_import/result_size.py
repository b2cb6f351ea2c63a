"""What the results of a node take, told before they exist.

A few bytes can ask for terabytes: the size of a ``Range`` or an ``Expand`` is a value, and two
vectors broadcast to a matrix. So this is asked before anything is computed, or an array made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError

from top_tvm.compiler.onnx_import.functions import find_schema
from top_tvm.compiler.onnx_import.node import Array, TensorSequence, Value, dtype_of, shape_of
from top_tvm.compiler.read_onnx import tensor_bytes
from top_tvm.errors import ModelError

Shape = tuple[int, ...]

# Sizes, axes, repeats, limits: what shapes follow from is small.
_SMALL_BYTES = 1024


@dataclass(frozen=True)
class SizeLimit:
    """Bytes that one tensor may take, and how a message about more ends."""

    nbytes: int
    text: str

    def check(self, shape: Shape, nbytes: int, label: str) -> None:
        """Refuse a result of a node that takes more."""
        if nbytes > self.nbytes:
            raise ModelError(
                f"{label}: its result of shape {shape!s:.200} takes {nbytes / 1e9:.1f} GB, "
                f"{self.text}"
            )


def check_results(
    node: onnx.NodeProto,
    opset: int,
    operands: Sequence[Value | None],
    label: str,
    limit: SizeLimit,
) -> None:
    """Refuse a node whose results would be too large, as far as their shapes can be told.

    Parameters
    ----------
    node : onnx.NodeProto
        Of any domain; only of those of the standard something is known.
    opset : int
        Version of the operator set.
    operands : sequence of array, Expr, TensorSequence or None
        Inputs; arrays where their values are known.
    label : str
        The node, for messages.
    limit : SizeLimit
        What one result may take.

    Raises
    ------
    ModelError
        Naming the node, the shape and what it takes.
    """
    known = any(isinstance(value, np.ndarray) for value in operands)
    if not known or any(isinstance(value, TensorSequence) for value in operands):
        return  # without constants, what a node is converted to tells its shape soon enough
    for shape, element_type in _results(node, opset, operands):
        if all(extent >= 0 for extent in shape):  # else the node is not valid
            limit.check(shape, tensor_bytes(element_type, shape), label)


def _results(
    node: onnx.NodeProto, opset: int, operands: Sequence[Value | None]
) -> list[tuple[Shape, int]]:
    """Shapes and ONNX's element types of the results, where they can be told."""
    exact = _EXACT.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if exact is None:
        return _inferred(node, opset, operands)
    try:
        found = exact(_Operands(node, operands))
    except (ValueError, IndexError, OverflowError, ZeroDivisionError):
        return []  # open, or not valid, which others say better
    return [found]


def _inferred(
    node: onnx.NodeProto, opset: int, operands: Sequence[Value | None]
) -> list[tuple[Shape, int]]:
    """What ONNX's own shape inference says."""
    schema = find_schema(node, opset)
    if schema is None:
        return []
    given = [(n, v) for n, v in zip(node.input, operands, strict=True) if v is not None]
    try:
        types = {name: type_of(value) for name, value in given}
        data = {
            name: numpy_helper.from_array(value, name)
            for name, value in given
            if isinstance(value, np.ndarray) and value.nbytes <= _SMALL_BYTES
        }
        found = onnx.shape_inference.infer_node_outputs(schema, node, types, data)
    except (InferenceError, ValidationError, RuntimeError, ValueError, TypeError, KeyError):
        return []
    tensors = [kind.tensor_type for kind in found.values() if kind.HasField("tensor_type")]
    return [
        (tuple(dim.dim_value for dim in tensor.shape.dim), tensor.elem_type)
        for tensor in tensors
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)
    ]


def type_of(value: Value) -> onnx.TypeProto:
    """ONNX's type of a tensor."""
    return helper.make_tensor_type_proto(_element_type(value), _shape(value))


def numpy_dtype(name: str) -> np.dtype[np.generic]:
    """NumPy's element type of Relax's name of it."""
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def _shape(value: Value) -> Shape:
    return value.shape if isinstance(value, np.ndarray) else shape_of(value)


def _element_type(value: Value) -> int:
    dtype = value.dtype if isinstance(value, np.ndarray) else numpy_dtype(dtype_of(value))
    return int(helper.np_dtype_to_tensor_dtype(dtype))


@dataclass(frozen=True)
class _Operands:
    """Inputs and attributes of a node. A ValueError says that something is not known."""

    node: onnx.NodeProto
    values: Sequence[Value | None]

    def given(self, index: int) -> Value:
        value = self.values[index]
        if value is None:
            raise ValueError(f"input {index} is left out")
        return value

    def known(self, index: int) -> Array:
        value = self.given(index)
        if not isinstance(value, np.ndarray):
            raise ValueError(f"input {index} is computed at run time")
        return value

    def integers(self, index: int) -> list[int]:
        return [int(value) for value in self.known(index).ravel()]

    def shape(self, index: int) -> Shape:
        return _shape(self.given(index))

    def element_type(self, index: int) -> int:
        return _element_type(self.given(index))

    def attribute(self, name: str, default: int) -> int:
        return next((int(a.i) for a in self.node.attribute if a.name == name), default)


_Result = tuple[Shape, int]


def _constant_of_shape(operands: _Operands) -> _Result:
    given = [item.t.data_type for item in operands.node.attribute if item.name == "value"]
    return tuple(operands.integers(0)), given[0] if given else onnx.TensorProto.FLOAT


def _expand(operands: _Operands) -> _Result:
    data, wanted = _aligned(operands.shape(0), operands.integers(1))
    shape = tuple(max(a, b) for a, b in zip(data, wanted, strict=True))
    return shape, operands.element_type(0)


def _tile(operands: _Operands) -> _Result:
    data, repeats = _aligned(operands.shape(0), operands.integers(1))
    return tuple(a * b for a, b in zip(data, repeats, strict=True)), operands.element_type(0)


def _pad(operands: _Operands) -> _Result:
    shape, pads = list(operands.shape(0)), operands.integers(1)
    given = len(operands.values) > 3 and operands.values[3] is not None
    axes: Sequence[int] = operands.integers(3) if given else range(len(shape))
    for index, axis in enumerate(axes):
        shape[axis] = max(shape[axis] + pads[index] + pads[index + len(axes)], 0)
    return tuple(shape), operands.element_type(0)


def _range(operands: _Operands) -> _Result:
    start, limit, delta = (operands.known(index).item() for index in range(3))
    if all(isinstance(value, int) for value in (start, limit, delta)):
        count = -((start - limit) // delta)  # exact beyond 2**53, where floats are not
    else:
        count = math.ceil((float(limit) - float(start)) / float(delta))
    return (max(count, 0),), operands.element_type(0)


def _one_hot(operands: _Operands) -> _Result:
    shape, depth = list(operands.shape(0)), int(operands.known(1).item())
    shape.insert(operands.attribute("axis", -1) % (len(shape) + 1), depth)
    return tuple(shape), operands.element_type(2)


def _window(operands: _Operands) -> _Result:
    element_type = operands.attribute("output_datatype", onnx.TensorProto.FLOAT)
    return (int(operands.known(0).item()),), element_type


def _aligned(shape: Sequence[int], values: Sequence[int]) -> tuple[list[int], list[int]]:
    """Both of the same length, with ones in front."""
    rank = max(len(shape), len(values))
    return [1] * (rank - len(shape)) + [*shape], [1] * (rank - len(values)) + [*values]


# Operators whose results have sizes that are values. Extents are exact: ONNX's shape inference
# computes with 64 bits, where what is far too large can become small.
_EXACT: dict[str, Callable[[_Operands], _Result]] = {
    **dict.fromkeys(("BlackmanWindow", "HammingWindow", "HannWindow"), _window),
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": _range,
    "Tile": _tile,
}
