"""Sequences of tensors and optional values: gone when the model is imported.

Their lengths and positions must be known by then; each tensor is a value like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from top_tvm.compiler.onnx_import.node import Array, LabelledNode, TensorSequence, Value, shape_of


@dataclass(frozen=True)
class SequenceNode(LabelledNode):
    """A node with sequences as operands or results.

    Attributes
    ----------
    operands : sequence of array, Expr, TensorSequence or None
        Arrays are known now; None is left out.
    apply : callable
        Results of an operator of opset 18: called with its type, its operands, the number of
        results and its attributes.
    """

    operands: Sequence[Value | None]
    apply: Callable[..., list[Value]]

    def has(self, index: int) -> bool:
        """Whether an operand is given."""
        return index < len(self.operands) and self.operands[index] is not None

    def tensor(self, index: int) -> Value:
        """An operand that is a tensor."""
        if not self.has(index) or isinstance(self.operands[index], TensorSequence):
            self.refuse(f"input {index} is no tensor")
        return self.operands[index]

    def tensors(self) -> tuple[Value, ...]:
        """The first operand, which is a sequence."""
        sequence = self.operands[0] if self.operands else None
        if not isinstance(sequence, TensorSequence):
            self.refuse("its input is no sequence")
        return sequence.tensors

    def known(self, index: int, what: str) -> Array:
        """An operand whose value is known."""
        value = self.tensor(index)
        if not isinstance(value, np.ndarray):
            self.refuse(f"its {what} is computed at run time; make it a constant")
        return value

    def position(self, index: int, count: int) -> int:
        """An operand that is a position among ``count``."""
        place = int(self.known(index, "position").item())
        if not -count <= place < count:
            self.refuse(f"position {place} does not exist in a sequence of {count}")
        return place % count


def _construct(node: SequenceNode) -> Value:
    return TensorSequence(tuple(node.tensor(index) for index in range(len(node.operands))))


def _empty(node: SequenceNode) -> Value:
    return TensorSequence(())


def _insert(node: SequenceNode) -> Value:
    tensors = node.tensors()
    place = len(tensors)
    if node.has(2):  # also behind the last one
        place = int(node.known(2, "position").item())
        if not -len(tensors) <= place <= len(tensors):
            node.refuse(f"position {place} does not exist in a sequence of {len(tensors)}")
        place += len(tensors) if place < 0 else 0
    return TensorSequence((*tensors[:place], node.tensor(1), *tensors[place:]))


def _erase(node: SequenceNode) -> Value:
    tensors = node.tensors()
    place = node.position(1, len(tensors)) if node.has(1) else len(tensors) - 1
    if not tensors:
        node.refuse("the sequence is empty")
    return TensorSequence((*tensors[:place], *tensors[place + 1 :]))


def _at(node: SequenceNode) -> Value:
    tensors = node.tensors()
    return tensors[node.position(1, len(tensors))]


def _length(node: SequenceNode) -> Value:
    return np.asarray(len(node.tensors()), np.int64)


def _concat(node: SequenceNode) -> Value:
    tensors, axis = node.tensors(), int(node.attribute("axis", 0))
    if not tensors:
        node.refuse("the sequence is empty")
    if node.attribute("new_axis", 0):
        place = np.asarray([axis], np.int64)
        tensors = tuple(node.apply("Unsqueeze", [tensor, place])[0] for tensor in tensors)
    return node.apply("Concat", tensors, axis=axis)[0]


def _split(node: SequenceNode) -> Value:
    data = node.tensor(0)
    shape = data.shape if isinstance(data, np.ndarray) else shape_of(data)
    axis = int(node.attribute("axis", 0))
    if not -len(shape) <= axis < len(shape):
        node.refuse(f"axis {axis} does not exist in {len(shape)} dimensions")
    extent = shape[axis]
    sizes = [1] * extent
    if node.has(1):
        given = node.known(1, "split")
        sizes = [int(size) for size in given.ravel()]
        if given.ndim == 0:
            size = max(sizes[0], 1)
            sizes = [min(size, extent - start) for start in range(0, extent, size)]
    if not sizes:
        return TensorSequence(())
    split = np.asarray(sizes, np.int64)
    parts = node.apply("Split", [data, split], len(sizes), axis=axis)
    if not node.has(1) and not node.attribute("keepdims", 1):
        place = np.asarray([axis], np.int64)
        parts = [node.apply("Squeeze", [part, place])[0] for part in parts]
    return TensorSequence(tuple(parts))


def _same(node: SequenceNode) -> Value:
    if not node.has(0):
        node.refuse("it is empty; only optional values that are there are supported")
    return node.operands[0]


def _has_element(node: SequenceNode) -> Value:
    return np.asarray(node.has(0))


SEQUENCES: Mapping[str, Callable[[SequenceNode], Value]] = {
    "ConcatFromSequence": _concat,
    "Optional": _same,
    "OptionalGetElement": _same,
    "OptionalHasElement": _has_element,
    "SequenceAt": _at,
    "SequenceConstruct": _construct,
    "SequenceEmpty": _empty,
    "SequenceErase": _erase,
    "SequenceInsert": _insert,
    "SequenceLength": _length,
    "SplitToSequence": _split,
}
