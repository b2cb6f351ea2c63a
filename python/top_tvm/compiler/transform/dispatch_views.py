"""Wrap reshapes into private functions that only rename memory."""

from __future__ import annotations

import tvm

from top_tvm.compiler.transform.dataflow import Dataflow
from top_tvm.compiler.transform.library_function import Match, outline
from top_tvm.compiler.transform.rewriter import is_call

RESHAPES = ("reshape", "squeeze", "expand_dims", "flatten")


@tvm.transform.module_pass(opt_level=0, name="DispatchViews")
def DispatchViews(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """Make reshapes views, which need no kernel at all."""
    graph = Dataflow(module)
    matches = [
        Match("view", name, [binding.value.args[0]], [binding.var])
        for binding in graph.bindings
        for name in RESHAPES
        if is_call(binding.value, name)
    ]
    return outline(module, graph, matches)
