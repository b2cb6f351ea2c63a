"""Pools that oneDNN executes, in the forms in which they stand in the module."""

from __future__ import annotations

from math import prod

from tvm import relax

from top_tvm.compiler.transform.dataflow import Dataflow
from top_tvm.compiler.transform.library_function import Match
from top_tvm.compiler.transform.onednn_products import are_floats, integers
from top_tvm.compiler.transform.rewriter import shape_of


def match_pool2d(graph: Dataflow, var: relax.Var) -> Match | None:
    """Maximum or average over windows, NHWC.

    Maxima over disjoint windows of whole vectors stay with TVM, which takes 191 us for 2x2 on
    224x224x64 where oneDNN takes 257 us; oneDNN is as fast or faster on all others, but has only
    reference code for dilated windows.
    """
    for symbol in ("max_pool2d", "avg_pool2d"):
        call = graph.source(var, f"nn.{symbol}")
        if call is None or call.attrs.layout != "NHWC" or not are_floats(call.args[0], var):
            continue
        window, strides = integers(call.attrs.pool_size), integers(call.attrs.strides)
        padding, dilation = integers(call.attrs.padding), integers(call.attrs.dilation)
        disjoint = all(step >= size for step, size in zip(strides, window, strict=True))
        if symbol == "max_pool2d" and disjoint and shape_of(var)[-1] % 16 == 0:
            return None
        if dilation != [1, 1]:
            return None
        include_padding = symbol == "avg_pool2d" and bool(call.attrs.count_include_pad)
        data_shape, shape = shape_of(call.args[0]), shape_of(var)
        # Where the last window ends, counted from the end of the data.
        overhang = [
            (shape[1 + axis] - 1) * strides[axis]
            + window[axis]
            - data_shape[1 + axis]
            - padding[axis]
            for axis in range(2)
        ]
        # What lies beyond the padding counts for nobody, but oneDNN would count it.
        if include_padding and any(overhang[axis] > padding[2 + axis] for axis in range(2)):
            return None
        reach = [max(overhang[axis], padding[axis], padding[2 + axis]) for axis in range(2)]
        if 0 in shape or any(reach[axis] >= window[axis] for axis in range(2)):
            return None
        attributes = {
            "window": window,
            "strides": strides,
            "padding": padding,
            "dilation": dilation,
            "include_padding": [int(include_padding)],
        }
        return _pool(graph, var, symbol, attributes)
    return None


def match_global_average(graph: Dataflow, var: relax.Var) -> Match | None:
    """The mean over height and width, NHWC, which is what the importer makes of global pooling."""
    call = graph.source(var, "mean")
    if call is None or not are_floats(call.args[0], var):
        return None
    shape = shape_of(call.args[0])
    if len(shape) != 4 or 0 in shape or not call.attrs.keepdims:
        return None
    if sorted(axis % 4 for axis in integers(call.attrs.axis or [])) != [1, 2]:
        return None
    return _pool(
        graph,
        var,
        "avg_pool2d",
        {
            "window": list(shape[1:3]),
            "strides": [1, 1],
            "padding": [0, 0, 0, 0],
            "dilation": [1, 1],
            "include_padding": [0],
        },
    )


def _pool(graph: Dataflow, var: relax.Var, symbol: str, attributes: dict[str, list[int]]) -> Match:
    height, width = attributes["window"]
    return Match(
        "onednn",
        symbol,
        [graph.values[var].args[0]],
        [var],
        {**attributes},
        flops=prod(shape_of(var)) * height * width,
        label=f"{height}x{width}",
    )
