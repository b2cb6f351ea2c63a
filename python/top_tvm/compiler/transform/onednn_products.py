"""Products that oneDNN executes, in the forms in which they stand in the module."""

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
)


def integers(values: Sequence[object]) -> list[int]:
    """Plain numbers of an attribute."""
    return [int(value) for value in values]  # type: ignore[call-overload]  # IntImm


def are_floats(*tensors: Expr) -> bool:
    """Whether all are tensors of types that oneDNN computes with."""
    return all(is_tensor(tensor) and tensor.ty.dtype in FLOATS for tensor in tensors)


def match_conv2d(graph: Dataflow, var: relax.Var) -> Match | None:
    """NHWC convolution with constant weights."""
    call = graph.source(var, "nn.conv2d")
    if call is None or (call.attrs.data_layout, call.attrs.kernel_layout) != ("NHWC", "OIHW"):
        return None
    data, weight = call.args
    if constant(weight) is None or not are_floats(data, weight, var):
        return None
    out_channels, in_channels, height, width = shape_of(weight)
    groups = int(call.attrs.groups)
    return Match(
        "onednn",
        "conv2d",
        [data, weight],
        [var],
        {
            "strides": integers(call.attrs.strides),
            "padding": integers(call.attrs.padding),
            "dilation": integers(call.attrs.dilation),
            "groups": [groups],
        },
        flops=2 * prod(shape_of(var)) * in_channels * height * width,
        label=f"{height}x{width} {in_channels * groups}->{out_channels}",
    )


def match_matmul(graph: Dataflow, var: relax.Var) -> Match | None:
    """Matrix product; batches may broadcast, permutations of the operands become strides."""
    call = graph.source(var, "matmul")
    if call is None or not are_floats(*call.args, var):
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
            if permuted not in match.prologue:
                match.prologue.append(permuted)
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
    return integers(permute.attrs.axes or range(rank)[::-1])


def match_deconv2d(graph: Dataflow, var: relax.Var) -> Match | None:
    """Transposed convolution in NCHW between permutations from and to NHWC."""
    back = graph.source(var, "permute_dims")
    product = back.args[0] if back is not None else None
    call = graph.source(product, "nn.conv2d_transpose") if product is not None else None
    if call is None or (call.attrs.data_layout, call.attrs.kernel_layout) != ("NCHW", "IOHW"):
        return None
    permuted, weight = call.args
    source = graph.source(permuted, "permute_dims")
    if source is None or constant(weight) is None or not are_floats(permuted, weight, var):
        return None
    if (_axes(source), _axes(back)) != ([0, 3, 1, 2], [0, 2, 3, 1]):
        return None
    if not graph.hidden([product, var]):
        return None
    groups = int(call.attrs.groups)
    in_channels, out_channels, height, width = shape_of(weight)
    return Match(
        "onednn",
        "deconv2d",
        [source.args[0], weight],
        [product, var],
        {
            "strides": integers(call.attrs.strides),
            "padding": integers(call.attrs.padding),
            "dilation": integers(call.attrs.dilation),
            "groups": [groups],
        },
        prologue=[permuted],
        flops=2 * prod(shape_of(source.args[0])) * out_channels * height * width,
        label=f"{height}x{width} {in_channels}->{out_channels * groups}",
    )
