"""One ONNX node while it is converted: its operands, its attributes, and how it is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import tvm
from onnx import helper
from tvm import relax

from top_tvm.errors import ModelError
from top_tvm.plan import DTYPE_BYTES

Array: TypeAlias = npt.NDArray[Any]
Expr: TypeAlias = relax.Expr


@dataclass(frozen=True)
class TensorSequence:
    """A value that is a sequence of tensors; see ``sequences``."""

    tensors: tuple[Value, ...]


# Constants stay arrays until a converter needs them as expressions: folding never leaves NumPy.
Value: TypeAlias = Array | Expr | TensorSequence
# A converter returns one expression, or one per output: None for those that nobody asked for.
Converted: TypeAlias = Expr | Sequence[Expr | None]


@dataclass(frozen=True)
class LabelledNode:
    """What all converters need of a node: its attributes, and how it is refused.

    Attributes
    ----------
    proto : onnx.NodeProto
        Attributes, names of inputs and outputs.
    label : str
        Model, node and operator type, for messages.
    """

    proto: onnx.NodeProto
    label: str

    def attribute(self, name: str, default: Any = None) -> Any:
        """Value of an attribute: number, string, list of these, array or graph."""
        for attribute in self.proto.attribute:
            if attribute.name == name:
                return _attribute_value(attribute)
        return default

    def refuse(self, reason: str) -> NoReturn:
        """Say that this node cannot be converted."""
        raise ModelError(f"{self.label}: {reason}")


@dataclass(frozen=True)
class Node(LabelledNode):
    """A node whose operands are known; all shapes are static.

    Attributes
    ----------
    opset : int
        Version of the operator set of the node's domain.
    builder : relax.BlockBuilder
        Where expressions are emitted.
    inputs : tuple of Expr or None
        Operands; None where an optional one is left out. See :meth:`input` for those behind.
    """

    opset: int
    builder: relax.BlockBuilder
    inputs: tuple[Expr | None, ...]

    @property
    def op_type(self) -> str:
        """Operator type, e.g. ``"Conv"``."""
        return str(self.proto.op_type)

    def has(self, index: int) -> bool:
        """Whether an optional input is given."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def wants(self, index: int) -> bool:
        """Whether somebody uses an output."""
        return index < len(self.proto.output) and bool(self.proto.output[index])

    def input(self, index: int) -> Expr:
        """An input that must be there."""
        value = self.inputs[index] if index < len(self.inputs) else None
        if value is None:
            self.refuse(f"input {index} is missing")
        return value

    def shape(self, index: int) -> tuple[int, ...]:
        """Shape of an input."""
        return shape_of(self.input(index))

    def rank(self, index: int) -> int:
        """Number of dimensions of an input."""
        return len(self.shape(index))

    def dtype(self, index: int) -> str:
        """NumPy name of the element type of an input."""
        return dtype_of(self.input(index))

    def constant(self, index: int, what: str) -> Array:
        """An input whose value must be known when the model is built.

        Raises
        ------
        ModelError
            Naming the input, if its value comes only at run time.
        """
        value = constant_of(self.input(index))
        if value is None:
            self.refuse(
                f"its {what} (input {self.proto.input[index]!r}) is computed at run time; "
                "shapes must be known when the model is built: make it a constant"
            )
        return value

    def integers(self, index: int, what: str) -> list[int]:
        """A constant input as a list of integers."""
        return [int(value) for value in self.constant(index, what).ravel()]

    def axis(self, value: int, rank: int) -> int:
        """A possibly negative axis as one from 0 to rank - 1."""
        if not -rank <= value < rank:
            self.refuse(f"axis {value} does not exist in {rank} dimensions")
        return value % rank

    def axes(self, values: Sequence[int], rank: int) -> list[int]:
        """Possibly negative axes as ones from 0 to rank - 1."""
        return [self.axis(int(value), rank) for value in values]

    def emit(self, expression: Expr) -> Expr:
        """Bind an expression to a variable, so that several users share it."""
        return self.builder.emit(expression)

    def scalar(self, value: float | bool, dtype: str) -> Expr:
        """A constant of rank 0."""
        return relax.const(np.asarray(value).astype(dtype), dtype)


def constant(array: Array) -> Expr:
    """A constant expression of an array, of its type: left alone, TVM narrows 64-bit ones."""
    return relax.const(np.ascontiguousarray(array).reshape(array.shape), array.dtype.name)


def as_expression(value: Value, place: str) -> Expr:
    """A value as Relax sees it."""
    if isinstance(value, TensorSequence):
        raise ModelError(f"{place}: is a sequence of tensors where a tensor is wanted")
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.name not in DTYPE_BYTES:
        raise ModelError(f"{place}: values of type {value.dtype.name} are not supported")
    return constant(value)


def constant_of(value: Expr) -> Array | None:
    """The value of an expression, where it is a constant."""
    return value.value.numpy() if isinstance(value, tvm.ir.GenericConst) else None


def shape_of(value: Expr) -> tuple[int, ...]:
    """Static shape of a tensor expression."""
    return tuple(int(extent) for extent in value.ty.shape)


def dtype_of(value: Expr) -> str:
    """NumPy name of the element type of a tensor expression."""
    return str(value.ty.dtype.dtype)


def _attribute_value(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, (onnx.GraphProto, onnx.TypeProto)):
        return value
    if attribute.type == onnx.AttributeProto.STRINGS:
        return [item.decode() for item in value]
    return list(value) if attribute.type in _LISTS else value


_LISTS = (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS)
