"""Lets a product take what follows it: bias, activations, the addition of a residual."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from tvm import relax

from top_tvm.compiler.transform.activations import POINTS, Operation, evaluate, recognise
from top_tvm.compiler.transform.dataflow import Dataflow
from top_tvm.compiler.transform.library_function import Match
from top_tvm.compiler.transform.rewriter import (
    Array,
    Expr,
    as_constant,
    constant,
    is_call,
    is_tensor,
    per_channel,
    shape_of,
)

FLOATS = ("float32", "bfloat16")
# Bindings that one activation may consist of; the longest known (GELU by tanh) has ten.
_LONGEST = 14


def absorb_epilogue(graph: Dataflow, match: Match, taken: set[Any]) -> None:
    """Extend a match by the operators behind it, as far as oneDNN executes them along with it.

    Parameters
    ----------
    graph : Dataflow
        Bindings of ``main``.
    match : Match
        A convolution or product with the arguments data and weight.
    taken : set of relax.Var
        Bindings that belong to other matches.
    """
    match.attributes["bias"] = [0]
    _absorb_bias(graph, match, taken)
    operations: list[str] = []
    while True:
        found = _activation(graph, match.result, taken)
        if found is not None:
            (name, parameters), members = found
            match.members += members
        elif "residual" not in operations and _absorb_residual(graph, match, taken):
            name, parameters = "residual", ()
        else:
            return
        match.attributes[f"post{len(operations)}.{name}"] = list(parameters)
        operations.append(name)


def _absorb_bias(graph: Dataflow, match: Match, taken: set[Any]) -> None:
    for var, other in _additions(graph, match.result, taken):
        shape = shape_of(var)
        bias = per_channel(other, shape[-1], len(shape) - 1, len(shape))
        if bias is not None:
            vector = as_constant(bias.astype(np.float32))
            match.arguments.append(vector)
            match.inside[other] = vector
            match.members.append(var)
            match.attributes["bias"] = [1]
            return


def _absorb_residual(graph: Dataflow, match: Match, taken: set[Any]) -> bool:
    for var, other in _additions(graph, match.result, taken):
        if (
            constant(other) is None
            and is_tensor(other)
            and shape_of(other) == shape_of(var)
            and other.ty.dtype in FLOATS
        ):
            match.arguments.append(other)
            match.members.append(var)
            return True
    return False


def _additions(
    graph: Dataflow, data: relax.Var, taken: set[Any]
) -> Iterator[tuple[relax.Var, Expr]]:
    """The binding that alone reads ``data`` and adds something of no bigger shape to it."""
    var = graph.only_reader(data)
    if var is None or var in taken or not is_call(graph.values[var], "add"):
        return
    left, right = graph.values[var].args
    if shape_of(var) == shape_of(data) and not left.same_as(right):
        yield var, right if left.same_as(data) else left


def _activation(
    graph: Dataflow, data: relax.Var, taken: set[Any]
) -> tuple[Operation, list[relax.Var]] | None:
    """The longest chain behind ``data`` that is one known function of it."""
    cone, values = _function_of(graph, data, taken)
    for length in range(len(cone), 0, -1):
        if graph.hidden([data, *cone[:length]]):
            operation = recognise(values[length - 1])
            if operation is not None:
                return operation, cone[:length]
    return None


def _function_of(
    graph: Dataflow, data: relax.Var, taken: set[Any]
) -> tuple[list[relax.Var], list[Array]]:
    """Bindings that depend on ``data`` and scalars only, in order, and their values."""
    values: dict[Any, Array] = {data: POINTS}
    cone: list[relax.Var] = []
    pending = set(graph.readers.get(data, []))
    with np.errstate(all="ignore"):
        while pending and len(cone) < _LONGEST:
            var = min(pending, key=lambda reader: graph.position[reader])
            pending.remove(var)
            if var in taken or not is_tensor(var) or shape_of(var) != shape_of(data):
                continue
            result = evaluate(graph.values[var], values)
            if result is not None and var.ty.dtype == data.ty.dtype:
                values[var] = np.broadcast_to(result, POINTS.shape)
                cone.append(var)
                pending.update(graph.readers.get(var, []))
    return cone, [values[var] for var in cone]
