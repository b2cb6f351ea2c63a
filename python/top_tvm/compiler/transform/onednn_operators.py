"""Operators that oneDNN has primitives for, in the forms in which they stand in the module."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from tvm import relax

from top_tvm.compiler.transform.dataflow import Dataflow
from top_tvm.compiler.transform.epilogue import FLOATS
from top_tvm.compiler.transform.library_function import Match
from top_tvm.compiler.transform.rewriter import (
    Expr,
    constant,
    is_tensor,
    shape_of,
    uniform,
)


def _integers(values: Sequence[object]) -> list[int]:
    return [int(value) for value in values]  # type: ignore[call-overload]  # IntImm


def _floats(*tensors: Expr) -> bool:
    return all(is_tensor(tensor) and tensor.ty.dtype in FLOATS for tensor in tensors)


def match_conv2d(graph: Dataflow, var: relax.Var) -> Match | None:
    """NHWC convolution with constant weights."""
    call = graph.source(var, "nn.conv2d")
    if call is None or (call.attrs.data_layout, call.attrs.kernel_layout) != ("NHWC", "OIHW"):
        return None
    data, weight = call.args
    if constant(weight) is None or not _floats(data, weight, var):
        return None
    out_channels, in_channels, height, width = shape_of(weight)
    groups = int(call.attrs.groups)
    return Match(
        "onednn",
        "conv2d",
        [data, weight],
        [var],
        {
            "strides": _integers(call.attrs.strides),
            "padding": _integers(call.attrs.padding),
            "dilation": _integers(call.attrs.dilation),
            "groups": [groups],
        },
        flops=2 * prod(shape_of(var)) * in_channels * height * width,
        label=f"{height}x{width} {in_channels * groups}->{out_channels}",
    )


def match_matmul(graph: Dataflow, var: relax.Var) -> Match | None:
    """Matrix product; batches may broadcast, permutations of the operands become strides."""
    call = graph.source(var, "matmul")
    if call is None or not _floats(*call.args, var):
        return None
    shapes = [shape_of(argument) for argument in call.args]
    if any(len(shape) < 2 or 0 in shape for shape in shapes):
        return None
    match = Match(
        "onednn",
        "matmul",
        list(call.args),
        [var],
        flops=2 * prod(shape_of(var)) * shapes[0][-1],
        label=f"{shapes[1][-2]}->{shapes[1][-1]}",
    )
    for index, name in enumerate(("permute_a", "permute_b")):
        permuted = call.args[index]
        source = graph.source(permuted, "permute_dims")
        if source is not None and constant(source.args[0]) is None:
            match.attributes[name] = _axes(source)
            match.arguments[index] = source.args[0]
            if permuted not in match.members:
                match.members.insert(0, permuted)
    return match


def permute_product(graph: Dataflow, match: Match, taken: set[object]) -> None:
    """Let a product store its result with permuted axes."""
    var = graph.only_reader(match.result)
    added = any(name.endswith(".residual") for name in match.attributes)
    if var is None or var in taken or added:
        return
    call = graph.source(var, "permute_dims")
    if call is not None:
        match.attributes["permute_out"] = _axes(call)
        match.members.append(var)


def _axes(permute: relax.Call) -> list[int]:
    rank = len(shape_of(permute.args[0]))
    return _integers(permute.attrs.axes or range(rank)[::-1])


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
    if size is None or alpha is None or beta is None or k is None or not _floats(data, var):
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
    window, strides = _integers(pool.attrs.pool_size), _integers(pool.attrs.strides)
    size = window[-1]
    padding = [0, 0, size // 2] * 2
    plain = (
        len(shape) == 4
        and _integers(expanded.attrs.axis) == [1]
        and window[:2] == [1, 1]
        and strides == [1, 1, 1]
        and _integers(pool.attrs.dilation) == [1, 1, 1]
        and _integers(pool.attrs.padding) == padding
        and bool(pool.attrs.count_include_pad)
    )
    return size if plain and size % 2 == 1 else None
