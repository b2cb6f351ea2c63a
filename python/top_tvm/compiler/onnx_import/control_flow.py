"""Nodes with graphs inside: branches are chosen and loops unrolled while the model is imported."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from tvm import relax

from top_tvm.compiler.onnx_import.node import Expr, LabelledNode, Value, as_expression, shape_of

MAX_ITERATIONS = 1024
MAX_UNROLLED_NODES = 20_000


@dataclass
class UnrolledNodes:
    """How many nodes the loops of a model became so far, nested ones together."""

    count: int = 0


@dataclass(frozen=True)
class FlowNode(LabelledNode):
    """A node with graphs as attributes.

    Attributes
    ----------
    opset : int
        Version of the standard operator set.
    builder : relax.BlockBuilder
        Where expressions are emitted.
    operands : sequence of array, Expr or None
        Arrays are known now; None is left out.
    run : callable
        Converts a graph for the values of its inputs, and returns those of its outputs.
    unrolled : UnrolledNodes
        Of the whole model.
    """

    opset: int
    builder: relax.BlockBuilder
    operands: Sequence[Value | None]
    run: Callable[[onnx.GraphProto, Sequence[Value]], list[Value]]
    unrolled: UnrolledNodes

    def operand(self, index: int) -> Value | None:
        """An operand, or None."""
        return self.operands[index] if index < len(self.operands) else None

    def graph(self, name: str, outputs: int) -> onnx.GraphProto:
        """A graph that has this many outputs at least."""
        graph = next((item.g for item in self.proto.attribute if item.name == name), None)
        if graph is None or len(graph.output) < outputs:
            self.refuse(f"its {name} is missing or has too few outputs")
        return graph

    def integers(self, name: str, count: int) -> list[int]:
        """An attribute with one integer for each of ``count`` things; zeros if it is left out."""
        values = self.attribute(name)
        if values is None:
            return [0] * count
        if len(values) != count:
            self.refuse(f"its {name} has {len(values)} values instead of {count}")
        return [int(value) for value in values]

    def iterate(self, body: onnx.GraphProto, inputs: Sequence[Value]) -> list[Value]:
        """One iteration of a loop.

        Raises
        ------
        ModelError
            If the loops of the model become too many nodes.
        """
        if len(body.input) != len(inputs):
            self.refuse(f"its body has {len(body.input)} inputs instead of {len(inputs)}")
        self.unrolled.count += len(body.node)
        if self.unrolled.count > MAX_UNROLLED_NODES:
            self.refuse(f"loops are unrolled, and become more than {MAX_UNROLLED_NODES} nodes here")
        return self.run(body, inputs)


def _convert_if(node: FlowNode) -> list[Value]:
    condition = node.operand(0)
    if not isinstance(condition, np.ndarray) or condition.size != 1:
        node.refuse(
            "its condition is computed at run time; only branches that are known "
            "when the model is built are supported"
        )
    branch = node.graph(
        "then_branch" if condition.item() else "else_branch", len(node.proto.output)
    )
    return node.run(branch, [])


def _convert_loop(node: FlowNode) -> list[Value]:
    """Inputs: trip count, condition, states; the body maps (iteration, condition, *states)."""
    states = _given(node, node.operands[2:])
    body = node.graph("body", 1 + len(states))
    scans = len(body.output) - 1 - len(states)
    trip_count, condition = node.operand(0), node.operand(1)
    if trip_count is not None and not isinstance(trip_count, np.ndarray):
        node.refuse("its trip count is computed at run time; make it a constant")
    limit = None if trip_count is None else int(trip_count.item())
    going = np.asarray(True) if condition is None else condition
    collected: list[list[Value]] = [[] for _ in range(scans)]
    for iteration in itertools.count():
        if not isinstance(going, np.ndarray):
            node.refuse("its condition is computed at run time; only counted loops are supported")
        if not going.item() or (limit is not None and iteration >= limit):
            break
        if iteration >= MAX_ITERATIONS:
            node.refuse(f"loops are unrolled, and this one has more than {MAX_ITERATIONS} turns")
        number = np.asarray(iteration, np.int64)
        going, *values = node.iterate(body, [number, going, *states])
        states = values[: len(states)]
        for column, value in zip(collected, values[len(states) :], strict=True):
            column.append(value)
    return [*states, *(_stack(node, column, 0) for column in collected)]


def _convert_scan(node: FlowNode) -> list[Value]:
    """The body maps (*states, *one slice of each scan input) to the same of the outputs."""
    if node.opset < 9:
        node.refuse("Scan before opset 9 has another meaning; convert the model to a later opset")
    count = next((int(i.i) for i in node.proto.attribute if i.name == "num_scan_inputs"), 0)
    operands = _given(node, node.operands)
    if not 0 < count <= len(operands):
        node.refuse(f"its num_scan_inputs is {count}, with {len(operands)} inputs")
    states, scanned = operands[:-count], operands[-count:]
    body = node.graph("body", len(states))
    outputs = len(body.output) - len(states)
    columns = [
        _slices(node, value, axis, bool(backwards))
        for value, axis, backwards in zip(
            scanned,
            node.integers("scan_input_axes", count),
            node.integers("scan_input_directions", count),
            strict=True,
        )
    ]
    if len({len(column) for column in columns}) != 1:
        node.refuse(f"its inputs have different lengths: {[len(column) for column in columns]}")
    collected: list[list[Value]] = [[] for _ in range(outputs)]
    for slices in zip(*columns, strict=True):
        values = node.iterate(body, [*states, *slices])
        states = values[: len(states)]
        for column, value in zip(collected, values[len(states) :], strict=True):
            column.append(value)
    results = list(states)
    axes = node.integers("scan_output_axes", outputs)
    directions = node.integers("scan_output_directions", outputs)
    for column, axis, backwards in zip(collected, axes, directions, strict=True):
        results.append(_stack(node, column[::-1] if backwards else column, axis))
    return results


def _given(node: FlowNode, operands: Sequence[Value | None]) -> list[Value]:
    values = [value for value in operands if value is not None]
    if len(values) != len(operands):
        node.refuse("one of its states is left out")
    return values


def _slices(node: FlowNode, value: Value, axis: int, backwards: bool) -> list[Value]:
    """Slices of a tensor along an axis, without that axis."""
    shape = value.shape if isinstance(value, np.ndarray) else shape_of(value)
    if not -len(shape) <= axis < len(shape):
        node.refuse(f"it scans axis {axis} of {len(shape)} dimensions")
    axis %= len(shape)
    order = range(shape[axis])[:: -1 if backwards else 1]
    if shape[axis] > MAX_ITERATIONS:
        node.refuse(f"scans are unrolled, and this one has more than {MAX_ITERATIONS} steps")
    if isinstance(value, np.ndarray):
        return [np.take(value, index, axis) for index in order]
    return [_slice(node, value, axis, index) for index in order]


def _slice(node: FlowNode, value: Expr, axis: int, index: int) -> Expr:
    part = relax.op.strided_slice(value, [axis], [index], [index + 1])
    return node.builder.emit(relax.op.squeeze(node.builder.emit(part), [axis]))


def _stack(node: FlowNode, values: Sequence[Value], axis: int) -> Value:
    """What the iterations put out, along a new axis."""
    if not values:
        node.refuse("it has no iterations: the shape of what they would put out is not known")
    shapes = {v.shape if isinstance(v, np.ndarray) else shape_of(v) for v in values}
    if len(shapes) != 1:
        node.refuse("what its iterations put out has different shapes")
    rank = len(shapes.pop()) + 1
    if not -rank <= axis < rank:
        node.refuse(f"it puts out along axis {axis} of {rank} dimensions")
    axis %= rank
    arrays = [value for value in values if isinstance(value, np.ndarray)]
    if len(arrays) == len(values):
        return np.stack(arrays, axis)
    parts = [as_expression(value, node.label) for value in values]
    parts = [node.builder.emit(relax.op.expand_dims(part, [axis])) for part in parts]
    return node.builder.emit(relax.op.concat(parts, axis))


CONTROL_FLOW: Mapping[str, Callable[[FlowNode], list[Value]]] = {
    "If": _convert_if,
    "Loop": _convert_loop,
    "Scan": _convert_scan,
}
