"""Recurrent networks: LSTM, GRU, RNN, unrolled over time.

One product makes the input's part of the gates of all steps; a step adds the state's part, one more
product, and computes the new state in one kernel. The directions are independent chains.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from top_tvm.compiler.onnx_import.node import (
    Array,
    Converted,
    Expr,
    Node,
    constant,
    constant_of,
    dtype_of,
    shape_of,
)
from top_tvm.compiler.onnx_import.recurrent_cells import Cell, activations

MAX_STEPS = 2048
_DEFAULT_ACTIVATIONS = {
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
    "GRU": ("Sigmoid", "Tanh"),
    "RNN": ("Tanh",),
}


def convert_recurrent(node: Node) -> Converted:
    """Any of the three, in any direction."""
    layer = _layer(node)
    chains = [_DIRECTIONS[node.op_type](layer, direction) for direction in range(layer.directions)]
    for direction, chain in enumerate(chains):
        order = range(layer.steps)
        for step in reversed(order) if layer.backwards(direction) else order:
            chain.advance(step)
    results = [
        _all_steps(layer, chains) if node.wants(0) else None,
        _states(layer, [chain.hidden for chain in chains]),
    ]
    if node.op_type == "LSTM":
        results.append(_states(layer, [chain.cell_state for chain in chains]))
    dtype = node.dtype(0)
    return [None if r is None else layer.cast(r, dtype) for r in results]


@dataclass(frozen=True)
class _Layer:
    """A node with its sizes; ``data`` is (steps, batch, inputs), of the type to compute in."""

    node: Node
    data: Expr
    dtype: str
    steps: int
    batch: int
    hidden: int
    directions: int
    lengths: Expr | None

    def backwards(self, direction: int) -> bool:
        return direction == 1 or self.node.attribute("direction", "forward") == "reverse"

    def cast(self, value: Expr, dtype: str) -> Expr:
        if dtype_of(value) == dtype:
            return value
        return self.node.emit(relax.op.astype(value, dtype))

    def weights(self, index: int, direction: int, name: str, shape: Sequence[int]) -> Expr | None:
        """A direction's part of an optional operand, which is known in most models."""
        node = self.node
        if not node.has(index):
            return None
        if node.shape(index) != (self.directions, *shape):
            expected = (self.directions, *shape)
            node.refuse(f"its {name} has shape {node.shape(index)} instead of {expected}")
        known = constant_of(node.input(index))
        if known is not None:
            return constant(known[direction].astype(self.dtype))
        part = node.input(index)
        if self.directions > 1:
            part = node.emit(relax.op.strided_slice(part, [0], [direction], [direction + 1]))
        return self.cast(node.emit(relax.op.reshape(part, tuple(shape))), self.dtype)

    def state(self, index: int, direction: int, name: str) -> Expr:
        """An initial state, zero where it is left out."""
        node, shape = self.node, (self.batch, self.hidden)
        if not node.has(index):
            return constant(np.zeros(shape, self.dtype))
        if not node.attribute("layout", 0):
            found = self.weights(index, direction, name, shape)
            assert found is not None, "it is there"
            return found
        if node.shape(index) != (self.batch, self.directions, self.hidden):
            node.refuse(f"its {name} has shape {node.shape(index)}")
        part = node.input(index)
        if self.directions > 1:
            part = node.emit(relax.op.strided_slice(part, [1], [direction], [direction + 1]))
        return self.cast(node.emit(relax.op.reshape(part, shape)), self.dtype)

    def columns(self, value: Expr, start: int, stop: int, axis: int = -1) -> Expr:
        """A part of an operand along an axis."""
        known = constant_of(value)
        axis %= len(shape_of(value))
        if known is not None:
            return constant(np.take(known, range(start, stop), axis))
        return self.node.emit(relax.op.strided_slice(value, [axis], [start], [stop]))

    def transposed(self, value: Expr) -> Expr:
        known = constant_of(value)
        return self.node.emit(relax.op.permute_dims(value)) if known is None else constant(known.T)

    def sum(self, one: Expr, other: Expr) -> Expr:
        known = constant_of(one), constant_of(other)
        if known[0] is not None and known[1] is not None:
            return constant(known[0] + known[1])
        return self.node.emit(relax.op.add(one, other))

    def product_of_all(self, weights: Expr, bias: Expr | None) -> list[Expr]:
        """Input part of gates by step; ``weights`` are (gates, inputs)."""
        product = self.node.emit(relax.op.matmul(self.data, self.transposed(weights)))
        if bias is not None:
            product = self.sum(product, bias)
        shape = (self.batch, shape_of(weights)[0])
        if self.steps == 1:
            return [self.node.emit(relax.op.reshape(product, shape))]
        rows = [
            self.node.emit(relax.op.strided_slice(product, [0], [step], [step + 1]))
            for step in range(self.steps)
        ]
        return [self.node.emit(relax.op.reshape(row, shape)) for row in rows]

    def product(self, state: Expr, weights: Expr) -> Expr | None:
        """State part of gates; ``weights`` are (hidden, gates). None where the state is zero."""
        known = constant_of(state)
        if known is not None and not known.any():
            return None
        return self.node.emit(relax.op.matmul(state, weights))


class _Chain(ABC):
    """A direction: its state, and what it puts out by step."""

    gates = 0  # of the operator

    def __init__(self, layer: _Layer, direction: int) -> None:
        self.layer = layer
        hidden, inputs = layer.hidden, shape_of(layer.data)[2]
        rows = self.gates * hidden
        weights = layer.weights(1, direction, "W", (rows, inputs))
        recurrent = layer.weights(2, direction, "R", (rows, hidden))
        if weights is None or recurrent is None:
            layer.node.refuse("its weights W or R are missing")
        bias = layer.weights(3, direction, "B", (2 * rows,))
        self.hidden = layer.state(5, direction, "initial_h")
        self.cell_state = self.hidden  # only an LSTM has another
        self.outputs: dict[int, Expr] = {}
        self.kernels: dict[str, tuple[Any, Any]] = {}
        self.cell = self.make_cell(direction)
        self.prepare(direction, weights, recurrent, bias)

    def make_cell(self, direction: int) -> Cell:
        node, layer = self.layer.node, self.layer
        defaults = _DEFAULT_ACTIVATIONS[node.op_type]
        names = node.attribute("activations") or [*defaults] * layer.directions
        if len(names) != len(defaults) * layer.directions:
            node.refuse(f"it has {len(names)} activations for {layer.directions} directions")
        alphas = node.attribute("activation_alpha", [])
        betas = node.attribute("activation_beta", [])
        try:
            functions = activations(names, alphas, betas)
        except KeyError as error:
            node.refuse(f"activation {error} does not exist")
        first = direction * len(defaults)
        return Cell(
            tuple(functions[first : first + len(defaults)]),
            float(node.attribute("clip", 0)),
            layer.lengths is not None,
            peepholes=node.op_type == "LSTM" and node.has(7),
            coupled=bool(node.attribute("input_forget", 0)),
        )

    @abstractmethod
    def prepare(self, direction: int, weights: Expr, recurrent: Expr, bias: Expr | None) -> None:
        """Compute what does not depend on the state."""

    @abstractmethod
    def advance(self, step: int) -> None:
        """Compute a step."""

    def call(
        self, name: str, function: Callable[..., Any], arguments: Sequence[Expr]
    ) -> list[Expr]:
        """Emit a kernel of one of the cell's functions; all steps share it."""
        builder = self.layer.node.builder
        if name not in self.kernels:
            var = builder.emit_te(function, *arguments, primfunc_name_hint=name)
            self.kernels[name] = builder.lookup_binding(var).args[0], var.ty
        else:
            kernel, type_ = self.kernels[name]
            types = list(type_.fields) if isinstance(type_, relax.TupleType) else type_
            var = builder.emit(relax.call_tir(kernel, list(arguments), types))
        if not isinstance(var.ty, relax.TupleType):
            return [var]
        return [builder.emit(relax.TupleGetItem(var, i)) for i in range(len(var.ty.fields))]

    def both_biases(self, bias: Expr | None) -> Expr | None:
        if bias is None:
            return None
        half = shape_of(bias)[0] // 2
        layer = self.layer
        return layer.sum(layer.columns(bias, 0, half), layer.columns(bias, half, 2 * half))

    def gates_of(self, inputs: Expr, state: Expr, weights: Expr) -> Expr:
        product = self.layer.product(state, weights)
        return inputs if product is None else self.layer.node.emit(relax.op.add(product, inputs))

    def end(self, step: int) -> list[Expr]:
        """Operands of a step's kernel that are there only with lengths."""
        if self.layer.lengths is None:
            return []
        return [self.layer.lengths, constant(np.asarray([step], np.int32))]

    def keep(self, step: int, results: Sequence[Expr]) -> None:
        """New hidden state and, with lengths, the output."""
        self.hidden = results[0]
        self.outputs[step] = results[-1]


class _RNN(_Chain):
    gates = 1

    def prepare(self, direction: int, weights: Expr, recurrent: Expr, bias: Expr | None) -> None:
        self.recurrent = self.layer.transposed(recurrent)
        self.inputs = self.layer.product_of_all(weights, self.both_biases(bias))
        names = self.layer.node.attribute("activations") or ["Tanh"] * 2
        # What a product can do along with it needs no kernel of its own.
        plain = self.layer.lengths is None and not self.cell.clip
        self.operator = _OPERATORS.get(names[direction].lower()) if plain else None

    def advance(self, step: int) -> None:
        gates = self.gates_of(self.inputs[step], self.hidden, self.recurrent)
        if self.operator is not None:
            self.keep(step, [self.layer.node.emit(self.operator(gates))])
            return
        ends = [self.hidden, *self.end(step)] if self.layer.lengths is not None else []
        self.keep(step, self.call("rnn", self.cell.rnn, [gates, *ends]))


class _LSTM(_Chain):
    gates = 4

    def prepare(self, direction: int, weights: Expr, recurrent: Expr, bias: Expr | None) -> None:
        layer = self.layer
        self.recurrent = layer.transposed(recurrent)
        self.inputs = layer.product_of_all(weights, self.both_biases(bias))
        self.cell_state = layer.state(6, direction, "initial_c")
        peepholes = layer.weights(7, direction, "P", (3 * layer.hidden,))
        self.peepholes = [] if peepholes is None else [peepholes]

    def advance(self, step: int) -> None:
        gates = self.gates_of(self.inputs[step], self.hidden, self.recurrent)
        ends = [self.hidden, *self.end(step)] if self.layer.lengths is not None else []
        arguments = [gates, self.cell_state, *self.peepholes, *ends]
        self.cell_state, *rest = self.call("lstm", self.cell.lstm, arguments)
        self.keep(step, rest)


class _GRU(_Chain):
    gates = 3

    def prepare(self, direction: int, weights: Expr, recurrent: Expr, bias: Expr | None) -> None:
        layer, size = self.layer, self.layer.hidden
        self.linear = bool(layer.node.attribute("linear_before_reset", 0))
        self.recurrent_bias: Expr | None = None
        both = self.both_biases(bias)
        if self.linear:
            if bias is not None and both is not None:
                # The candidate's second bias is behind the reset gate.
                last = layer.columns(bias, 5 * size, 6 * size)
                first = layer.columns(bias, 2 * size, 3 * size)
                both = self._joined(layer.columns(both, 0, 2 * size), first)
                self.recurrent_bias = self._joined(constant(np.zeros(2 * size, layer.dtype)), last)
            self.recurrent = layer.transposed(recurrent)
            self.inputs = layer.product_of_all(weights, both)
            return
        split = [(0, 2 * size), (2 * size, 3 * size)]
        recurrents = [layer.transposed(layer.columns(recurrent, *part, 0)) for part in split]
        self.recurrent, self.candidate_recurrent = recurrents
        self.inputs, self.candidates = (
            layer.product_of_all(
                layer.columns(weights, *part, 0),
                None if both is None else layer.columns(both, *part),
            )
            for part in split
        )

    def _joined(self, one: Expr, other: Expr) -> Expr:
        known = constant_of(one), constant_of(other)
        if known[0] is not None and known[1] is not None:
            return constant(np.concatenate([known[0], known[1]]))
        return self.layer.node.emit(relax.op.concat([one, other], 0))

    def advance(self, step: int) -> None:
        old = self.hidden
        if self.linear:
            operands = [self.inputs[step], self._linear_part(old), old, *self.end(step)]
            self.keep(step, self.call("gru", self.cell.gru_linear, operands))
            return
        gates = self.gates_of(self.inputs[step], old, self.recurrent)
        (left,) = self.call("reset", self.cell.gru_reset, [gates, old])
        candidate = self.gates_of(self.candidates[step], left, self.candidate_recurrent)
        operands = [gates, candidate, old, *self.end(step)]
        self.keep(step, self.call("gru", self.cell.gru, operands))

    def _linear_part(self, old: Expr) -> Expr:
        layer = self.layer
        product = layer.product(old, self.recurrent)
        if product is None:
            product = constant(np.zeros((layer.batch, 3 * layer.hidden), layer.dtype))
        return product if self.recurrent_bias is None else layer.sum(product, self.recurrent_bias)


_DIRECTIONS: Mapping[str, type[_Chain]] = {"LSTM": _LSTM, "GRU": _GRU, "RNN": _RNN}
_OPERATORS: Mapping[str, Callable[[Expr], Expr]] = {
    "relu": relax.op.nn.relu,
    "sigmoid": relax.op.sigmoid,
    "tanh": relax.op.tanh,
}


def _layer(node: Node) -> _Layer:
    """Sizes of a node, and its input in time order."""
    if node.opset < 7:
        node.refuse("recurrent operators before opset 7 are not supported; convert the model")
    shape, layout = node.shape(0), int(node.attribute("layout", 0))
    if len(shape) != 3 or node.rank(2) != 3:
        node.refuse(f"its input has shape {shape}, its R {node.shape(2)}: both need 3 dimensions")
    direction = node.attribute("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        node.refuse(f"direction {direction!r} does not exist")
    steps, batch = (shape[1], shape[0]) if layout else (shape[0], shape[1])
    if steps > MAX_STEPS:
        node.refuse(f"it is unrolled over time, and {steps} steps are more than {MAX_STEPS}")
    if 0 in shape:
        node.refuse(f"its input has no elements: its shape is {shape}")
    dtype = "float64" if node.dtype(0) == "float64" else "float32"
    data = node.input(0)
    if layout:
        data = node.emit(relax.op.permute_dims(data, [1, 0, 2]))
    if dtype_of(data) != dtype:
        data = node.emit(relax.op.astype(data, dtype))
    hidden = node.shape(2)[2]
    if int(node.attribute("hidden_size", hidden)) != hidden:
        node.refuse(f"its hidden_size is {node.attribute('hidden_size')}, but R has {hidden}")
    lengths = _lengths(node, steps, batch)
    directions = 2 if direction == "bidirectional" else 1
    return _Layer(node, data, dtype, steps, batch, hidden, directions, lengths)


def _lengths(node: Node, steps: int, batch: int) -> Expr | None:
    """Lengths of the sequences, unless all are known to be full."""
    if not node.has(4):
        return None
    if node.shape(4) != (batch,):
        node.refuse(f"its sequence_lens have shape {node.shape(4)} instead of {(batch,)}")
    known: Array | None = constant_of(node.input(4))
    if known is not None and (known >= steps).all():
        return None
    lengths = node.input(4)
    return lengths if node.dtype(4) == "int32" else node.emit(relax.op.astype(lengths, "int32"))


def _all_steps(layer: _Layer, chains: Sequence[_Chain]) -> Expr:
    """Outputs of all steps: (steps, directions, batch, hidden), or (batch, steps, ...)."""
    parts = [chain.outputs[step] for step in range(layer.steps) for chain in chains]
    whole = parts[0] if len(parts) == 1 else layer.node.emit(relax.op.concat(parts, 0))
    shape = (layer.steps, layer.directions, layer.batch, layer.hidden)
    result = layer.node.emit(relax.op.reshape(whole, shape))
    if not layer.node.attribute("layout", 0):
        return result
    return layer.node.emit(relax.op.permute_dims(result, [2, 0, 1, 3]))


def _states(layer: _Layer, states: Sequence[Expr]) -> Expr:
    """Last states: (directions, batch, hidden), or (batch, directions, hidden)."""
    whole = states[0] if len(states) == 1 else layer.node.emit(relax.op.concat(list(states), 0))
    shape = (layer.directions, layer.batch, layer.hidden)
    result = layer.node.emit(relax.op.reshape(whole, shape))
    if not layer.node.attribute("layout", 0):
        return result
    return layer.node.emit(relax.op.permute_dims(result, [1, 0, 2]))


CONVERTERS: Mapping[str, Callable[[Node], Converted]] = dict.fromkeys(
    ("LSTM", "GRU", "RNN"), convert_recurrent
)
