"""Find what oneDNN executes as one primitive.

Each operator that has a primitive is a root. Products (convolutions, matrix products) take the
chain of bias, activations and residual behind them. The deepest roots choose first: where two
branches meet in an addition, the longer one takes it, and the shorter can run beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax

from top_tvm.compiler.transform.dataflow import Dataflow
from top_tvm.compiler.transform.epilogue import absorb_epilogue
from top_tvm.compiler.transform.library_function import Match, outline
from top_tvm.compiler.transform.onednn_normalisations import (
    match_layer_norm,
    match_lrn,
    match_softmax,
)
from top_tvm.compiler.transform.onednn_pools import match_global_average, match_pool2d
from top_tvm.compiler.transform.onednn_products import (
    match_conv2d,
    match_deconv2d,
    match_matmul,
    permute_product,
)

Matcher = Callable[[Dataflow, relax.Var], Match | None]

_PRODUCTS: tuple[Matcher, ...] = (match_conv2d, match_deconv2d, match_matmul)
_OTHERS: tuple[Matcher, ...] = (
    match_lrn,
    match_pool2d,
    match_global_average,
    match_softmax,
    match_layer_norm,
)


@tvm.transform.module_pass(opt_level=0, name="DispatchOneDNN")
def DispatchOneDNN(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """Wrap what oneDNN executes as one primitive into private functions."""
    graph = Dataflow(module)
    return outline(module, graph, find_matches(graph))


def find_matches(graph: Dataflow) -> list[Match]:
    """Matches without common members."""
    matches: list[Match] = []
    taken: set[Any] = set()  # members, and what a match computes inside, which nobody else stores
    roots = sorted(graph.bindings, key=lambda binding: -graph.depth[binding.var])
    for var in (binding.var for binding in roots):
        if var in taken:
            continue
        match = next(filter(None, (matcher(graph, var) for matcher in _PRODUCTS)), None)
        if match is not None:
            absorb_epilogue(graph, match, taken)
            if match.symbol == "matmul":
                permute_product(graph, match, taken)
        else:
            match = next(filter(None, (matcher(graph, var) for matcher in _OTHERS)), None)
        if match is not None and taken.isdisjoint(match.members):
            taken.update(match.members)
            matches.append(match)
    return matches
