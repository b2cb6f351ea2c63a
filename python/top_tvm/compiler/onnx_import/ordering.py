"""Operators that compare the elements of an axis: the largest ones, and where they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from tvm import relax, te, tirx, topi
from tvm.script.ir_builder import tirx as T

from top_tvm.compiler.onnx_import.loops import Variable, loop_kernel, loops
from top_tvm.compiler.onnx_import.node import Converted, Expr, Node


def convert_arg_extreme(node: Node) -> Converted:
    """ArgMax and ArgMin: the first index of the extreme element, or the last one."""
    axis = node.axis(node.attribute("axis", 0), node.rank(0))
    return node.builder.emit_te(
        _arg_extreme,
        node.input(0),
        axis,
        node.op_type == "ArgMax",
        bool(node.attribute("select_last_index", 0)),
        bool(node.attribute("keepdims", 1)),
        primfunc_name_hint="argmax" if node.op_type == "ArgMax" else "argmin",
    )


def _arg_extreme(data: te.Tensor, axis: int, largest: bool, last: bool, keep: bool) -> te.Tensor:
    """Two reductions, which vectorise: the extreme element, and an index that has it."""
    extent = int(data.shape[axis])
    extreme = (topi.max if largest else topi.min)(data, axis, keepdims=True)
    reduce, nowhere = (tirx.max, -1) if last else (tirx.min, extent)

    def candidate(*place: Any) -> Any:
        found = data(*place) == extreme(*(0 if i == axis else p for i, p in enumerate(place)))
        return tirx.Select(found, place[axis].astype("int32"), tirx.const(nowhere, "int32"))

    indices = te.compute(data.shape, candidate, name="candidate")
    index = (topi.max if reduce is tirx.max else topi.min)(indices, axis, keepdims=keep)
    # NaN equals nothing: where nothing else is, its index is one of the axis all the same.
    return te.compute(
        index.shape,
        lambda *place: tirx.max(
            tirx.min(index(*place), tirx.const(extent - 1, "int32")), tirx.const(0, "int32")
        ).astype("int64"),
        name="index",
    )


def convert_top_k(node: Node) -> Converted:
    """The k largest or smallest elements in order; of equal ones the first."""
    shape = node.shape(0)
    axis = node.axis(node.attribute("axis", -1), len(shape))
    count = int(node.attribute("k") if node.opset < 10 else node.constant(1, "k").item())
    if not 0 <= count <= shape[axis]:
        node.refuse(f"it wants {count} of the {shape[axis]} elements of axis {axis}")
    flat = [math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])]
    found = node.builder.emit_te(
        _top_k,
        node.emit(relax.op.reshape(node.input(0), flat)),
        count,
        bool(node.attribute("largest", 1)),
        primfunc_name_hint="topk",
    )
    result = [*shape[:axis], count, *shape[axis + 1 :]]
    return [_reshaped(node, found, index, result) for index in range(2)]


def _reshaped(node: Node, both: Expr, index: int, shape: list[int]) -> Expr:
    return relax.op.reshape(node.emit(relax.TupleGetItem(both, index)), shape)


def _top_k(data: te.Tensor, count: int, largest: bool) -> list[te.Tensor]:
    """Of the middle one of three axes: a heap whose root ranks last, and which is then sorted.

    Heapsort (Williams, CACM 7(6), 1964) in the memory of the results: O(n log k) whatever the data.
    """
    before, extent, after = (int(size) for size in data.shape)
    dtype = str(data.dtype)

    def body(data: Any, values: Any, indices: Any) -> None:
        with ExitStack() as stack:
            row, column = loops(stack, [before, after])
            heap = _Heap(values, indices, (row, column), dtype, largest)
            with T.serial(0, count) as step:
                heap.put(step, data[row, step, column], step.astype("int64"))
            with T.serial(0, count // 2) as step:
                root = count // 2 - 1 - step
                heap.item.set(heap.value(root))
                heap.index.set(heap.position(root))
                heap.sift(root, count)
            with T.serial(0, extent - count) as step:
                candidate = data[row, step + count, column]
                better = _outranks(candidate, heap.value(0), dtype, largest)
                with T.If(better), T.Then():
                    heap.item.set(candidate)
                    heap.index.set((step + count).astype("int64"))
                    heap.sift(0, count)
            with T.serial(0, count - 1) as step:
                last = count - 1 - step
                heap.item.set(heap.value(last))
                heap.index.set(heap.position(last))
                heap.put(last, heap.value(0), heap.position(0))
                heap.sift(0, last)

    shape = [before, count, after]
    return list(loop_kernel("topk", [data], [(shape, dtype), (shape, "int64")], body))


class _Heap:
    """A heap in a column of the results; ``item`` and ``index`` are what sinks into it."""

    def __init__(
        self, values: Any, indices: Any, column: tuple[Any, Any], dtype: str, largest: bool
    ) -> None:
        self.values, self.indices = values, indices
        self.row, self.column = column
        self.dtype, self.largest = dtype, largest
        self.item, self.index = Variable(dtype), Variable("int64")
        self.hole, self.child, self.sinks = Variable("int32"), Variable("int32"), Variable("bool")

    def value(self, place: Any) -> Any:
        return self.values[self.row, place, self.column]

    def position(self, place: Any) -> Any:
        return self.indices[self.row, place, self.column]

    def put(self, place: Any, value: Any, position: Any) -> None:
        T.buffer_store(self.values, value, [self.row, place, self.column])
        T.buffer_store(self.indices, position, [self.row, place, self.column])

    def sift(self, root: Any, size: Any) -> None:
        """Emit: the item sinks from the root of a subtree to its place in the first elements."""
        self.hole.set(root)
        self.sinks.set(tirx.const(True, "bool"))
        with T.While(tirx.all(self.sinks.value, 2 * self.hole.value + 1 < size)):
            self.child.set(2 * self.hole.value + 1)
            with T.If(self.child.value + 1 < size), T.Then():
                left, right = self.child.value, self.child.value + 1
                ranks = [(self.value(place), self.position(place)) for place in (right, left)]
                with T.If(self._ranks_behind(*ranks[0], *ranks[1])), T.Then():
                    self.child.set(right)
            child = self.child.value
            rank = (self.value(child), self.position(child))
            self.sinks.set(self._ranks_behind(*rank, self.item.value, self.index.value))
            with T.If(self.sinks.value), T.Then():
                self.put(self.hole.value, self.value(child), self.position(child))
                self.hole.set(child)
        self.put(self.hole.value, self.item.value, self.index.value)

    def _ranks_behind(self, value: Any, position: Any, other: Any, other_position: Any) -> Any:
        """Whether an element comes behind another one: by value, then by position."""
        same = value == other
        if "float" in self.dtype:
            same = tirx.any(same, tirx.all(tirx.isnan(value), tirx.isnan(other)))
        outranked = _outranks(other, value, self.dtype, self.largest)
        return tirx.any(outranked, tirx.all(same, position > other_position))


def _outranks(value: Any, other: Any, dtype: str, largest: bool) -> Any:
    """Strict order of elements; NaN is larger than all others, as it is to NumPy.

    Without negations: TVM takes the opposite of "greater" for "less or equal".
    """
    if not largest:
        value, other = other, value
    larger = value > other
    if "float" in dtype:
        is_number = other <= tirx.const(math.inf, dtype)
        larger = tirx.any(larger, tirx.all(tirx.isnan(value), is_number))
    return larger


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = {
    "ArgMax": convert_arg_extreme,
    "ArgMin": convert_arg_extreme,
    "TopK": convert_top_k,
}
