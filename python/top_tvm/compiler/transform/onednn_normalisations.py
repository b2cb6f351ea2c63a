"""Normalisations that oneDNN executes, in the forms in which they stand in the module."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from tvm import relax

from top_tvm.compiler.transform.dataflow import Dataflow
from top_tvm.compiler.transform.library_function import Match
from top_tvm.compiler.transform.onednn_products import are_floats, integers
from top_tvm.compiler.transform.rewriter import (
    Expr,
    as_constant,
    per_channel,
    shape_of,
    uniform,
)


def match_lrn(graph: Dataflow, var: relax.Var) -> Match | None:
    """The importer's local response normalisation, in NHWC.

    ``x / (k + alpha * mean) ** beta``, where a 3-D pooling with a unit axis inserted computes
    the mean of the squares of neighbouring channels.
    """
    division = graph.source(var, "divide")
    if division is None:
        return None
    data = division.args[0]
    chain = _chain(
        graph,
        division.args[1],
        ("power", "add", "multiply", "squeeze", "nn.avg_pool3d", "expand_dims", "multiply"),
    )
    if chain is None:
        return None
    power, total, scaled, _, pool, expanded, square = (graph.values[member] for member in chain)
    members = [*reversed(chain), var]
    if not all(argument.same_as(data) for argument in square.args) or not graph.hidden(members):
        return None
    size = _channel_window(pool, expanded, shape_of(data))
    alpha, beta, k = (uniform(call.args[1]) for call in (scaled, power, total))
    if size is None or alpha is None or beta is None or k is None or not are_floats(data, var):
        return None
    return Match(
        "onednn",
        "lrn",
        [data],
        members,
        {"size": [size], "alpha": [alpha], "beta": [beta], "k": [k]},
        flops=prod(shape_of(var)) * (2 * size + 4),
        label=f"over {size} channels",
    )


def _chain(graph: Dataflow, var: Expr, names: Sequence[str]) -> list[relax.Var] | None:
    """Variables from ``var`` upwards, through calls of these names by their first arguments."""
    found: list[relax.Var] = []
    for name in names:
        call = graph.source(var, name)
        if call is None:
            return None
        found.append(var)
        var = call.args[0]
    return found


def _channel_window(pool: relax.Call, expanded: relax.Call, shape: tuple[int, ...]) -> int | None:
    """Size of a window over the last of four axes, of odd size and as centred as can be."""
    window, strides = integers(pool.attrs.pool_size), integers(pool.attrs.strides)
    size = window[-1]
    padding = [0, 0, size // 2] * 2
    plain = (
        len(shape) == 4
        and integers(expanded.attrs.axis) == [1]
        and window[:2] == [1, 1]
        and strides == [1, 1, 1]
        and integers(pool.attrs.dilation) == [1, 1, 1]
        and integers(pool.attrs.padding) == padding
        and bool(pool.attrs.count_include_pad)
    )
    return size if plain and size % 2 == 1 else None


def match_softmax(graph: Dataflow, var: relax.Var) -> Match | None:
    """Softmax over the last axis."""
    call = graph.source(var, "nn.softmax")
    if call is None or not are_floats(call.args[0], var):
        return None
    shape = shape_of(var)
    if int(call.attrs.axis) % len(shape) != len(shape) - 1 or 0 in shape:
        return None
    return Match(
        "onednn", "softmax", [call.args[0]], [var], flops=5 * prod(shape), label=f"of {shape[-1]}"
    )


def match_layer_norm(graph: Dataflow, var: relax.Var) -> Match | None:
    """Layer normalisation over the last axis: the operator, or its parts as exporters write them.

    The parts are ``d / sqrt(mean(d ** 2) + epsilon)`` with ``d = x - mean(x)``, and then, where
    they follow, the multiplication by a scale and the addition of a shift.
    """
    found = _layer_norm_operator(graph, var) or _layer_norm_of_parts(graph, var)
    if found is None or 0 in shape_of(var):
        return None
    data, members, epsilon, constants = found
    if not are_floats(data, var):
        return None
    columns = shape_of(var)[-1]
    arguments, inside, neutral = [data], {}, {}
    defaults = ((1.0, relax.op.multiply), (0.0, relax.op.add))
    for expr, (default, operator) in zip(constants, defaults, strict=True):
        if expr is None:
            vector = as_constant(np.full(columns, default, np.float32))
            neutral[vector] = operator
        else:
            value = per_channel(expr, columns, len(shape_of(var)) - 1, len(shape_of(var)))
            if value is None:
                return None
            vector = as_constant(value.astype(np.float32))
            inside[expr] = vector
        arguments.append(vector)
    return Match(
        "onednn",
        "layer_norm",
        arguments,
        members,
        {"epsilon": [epsilon]},
        inside,
        neutral,
        flops=8 * prod(shape_of(var)),
        label=f"over {columns}",
    )


_Parts = tuple[Expr, list[relax.Var], float, tuple[Expr | None, Expr | None]]


def _layer_norm_operator(graph: Dataflow, var: relax.Var) -> _Parts | None:
    call = graph.source(var, "nn.layer_norm")
    rank = len(shape_of(var)) if call is not None else 0
    if call is None or [axis % rank for axis in integers(call.attrs.axes)] != [rank - 1]:
        return None
    if not (call.attrs.center and call.attrs.scale):
        return None
    data, scale, shift = call.args
    return data, [var], float(call.attrs.epsilon), (scale, shift)


def _layer_norm_of_parts(graph: Dataflow, var: relax.Var) -> _Parts | None:
    division = graph.source(var, "divide")
    if division is None:
        return None
    centred, deviation = division.args
    chain = _chain(graph, deviation, ("sqrt", "add", "mean"))
    subtraction = graph.source(centred, "subtract")
    if chain is None or subtraction is None:
        return None
    data, average = subtraction.args
    total, variance = (graph.values[member] for member in chain[1:])
    square, mean = variance.args[0], graph.source(average, "mean")
    epsilon = uniform(total.args[1])
    if mean is None or not mean.args[0].same_as(data) or epsilon is None:
        return None
    if not (_over_last_axis(mean) and _over_last_axis(variance)):
        return None
    if not _is_square(graph, square, centred):
        return None
    members = [average, centred, square, *reversed(chain), var]
    if not graph.hidden(members):
        return None
    scale, shift = (_take_constant(graph, members, name) for name in ("multiply", "add"))
    return data, members, epsilon, (scale, shift)


def _take_constant(graph: Dataflow, members: list[relax.Var], name: str) -> Expr | None:
    """Append the multiplication by, or addition of, a constant that alone reads the result."""
    result = members[-1]
    reader = graph.only_reader(result)
    call = graph.source(reader, name) if reader is not None else None
    if call is None or shape_of(reader) != shape_of(result):
        return None
    left, right = call.args
    other = right if left.same_as(result) else left
    shape = shape_of(result)
    if per_channel(other, shape[-1], len(shape) - 1, len(shape)) is None:
        return None
    members.append(reader)
    return other


def _over_last_axis(mean: relax.Call) -> bool:
    rank = len(shape_of(mean.args[0]))
    axes = [axis % rank for axis in integers(mean.attrs.axis or [])]
    return axes == [rank - 1] and bool(mean.attrs.keepdims)


def _is_square(graph: Dataflow, expr: Expr, data: Expr) -> bool:
    product = graph.source(expr, "multiply")
    if product is not None:
        return all(argument.same_as(data) for argument in product.args)
    power = graph.source(expr, "power")
    return power is not None and bool(power.args[0].same_as(data)) and uniform(power.args[1]) == 2
