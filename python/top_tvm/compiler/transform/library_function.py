"""What is executed by a library as one kernel, or needs none, as a private function.

The body of such a function is still made of operators: legalised, they are the same computation in
TIR, which is how a lowered module runs in TVM's own VM. The attribute ``Codegen`` keeps passes from
fusing across its border, and ``top_tvm.kernel`` says in JSON which primitive stands for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax

from top_tvm.compiler.transform.dataflow import Dataflow
from top_tvm.compiler.transform.rewriter import Expr

KERNEL_ATTRIBUTE = "top_tvm.kernel"

Numbers = list[int] | list[float]


@dataclass
class Match:
    """Bindings that become one library call.

    Attributes
    ----------
    library : {"onednn", "view"}
        Who executes it.
    symbol : str
        Primitive.
    arguments : list of expression
        What the kernel is called with, without its output.
    members : list of relax.Var
        The bindings that it replaces, in the order of the dataflow; the last one is the result.
    attributes : dict of str to list of numbers
        Parameters of the primitive.
    inside : dict of expression to expression
        What the operators read instead of their constants, e.g. the bias as a vector.
    neutral : dict of expression to function
        Arguments that no operator reads: what is done with the result and them, which leaves it as
        it is. Parameters that a body does not use would be removed.
    prologue : list of relax.Var
        Bindings in front of the members that it computes inside, whoever reads them, too.
    flops : int
        Floating point operations, multiplications and additions counted separately.
    label : str
        Says in a word which instance of the primitive it is, e.g. ``"3x3 64->64"``.
    """

    library: str
    symbol: str
    arguments: list[Expr]
    members: list[relax.Var]
    attributes: dict[str, Numbers] = field(default_factory=dict)
    inside: dict[Expr, Expr] = field(default_factory=dict)
    neutral: dict[Expr, Callable[[Expr, Expr], Expr]] = field(default_factory=dict)
    prologue: list[relax.Var] = field(default_factory=list)
    flops: int = 0
    label: str = ""

    @property
    def result(self) -> relax.Var:
        """Variable that the call defines."""
        return self.members[-1]


def outline(module: tvm.IRModule, graph: Dataflow, matches: Sequence[Match]) -> tvm.IRModule:
    """Replace each match by the call of a private function.

    Parameters
    ----------
    module : tvm.IRModule
        Its ``main`` is what ``graph`` was made of.
    graph : Dataflow
        Bindings of ``main``.
    matches : sequence of Match
        No binding is the result of two of them.
    """
    by_result = {match.result: match for match in matches}
    builder = relax.BlockBuilder(module)
    bindings = []
    for binding in graph.bindings:
        if binding.var in by_result:
            match = by_result[binding.var]
            function = builder.add_func(_function(graph, match), f"{match.library}_{match.symbol}")
            call = builder.normalize(relax.Call(function, _distinct(match.arguments)))
            bindings.append(relax.VarBinding(binding.var, call))
        else:  # dead code, unless others read it
            bindings.append(binding)
    main = module["main"]
    body = relax.SeqExpr([relax.DataflowBlock(bindings)], main.body.body)
    outlined = builder.get()
    outlined.update_func(
        outlined.get_global_var("main"),
        relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs),
    )
    return relax.transform.DeadCodeElimination()(outlined)


def _function(graph: Dataflow, match: Match) -> relax.Function:
    builder = relax.BlockBuilder()
    # Parameters that the body does not use would be removed, so equal arguments share one.
    distinct = _distinct(match.arguments)
    params = [relax.Var(f"arg{index}", argument.ty) for index, argument in enumerate(distinct)]
    env: dict[Expr, Expr] = dict(zip(distinct, params, strict=True))
    attributes: dict[str, Any] = {"Codegen": match.library}
    if match.library != "view" or match.attributes:
        attributes[KERNEL_ATTRIBUTE] = json.dumps(
            {
                "symbol": match.symbol,
                "arguments": [distinct.index(argument) for argument in match.arguments],
                "attributes": match.attributes,
                "flops": match.flops,
                "label": match.label,
            }
        )
    with builder.function("kernel", params, attrs=attributes, private=True):
        with builder.dataflow():
            for original, replacement in match.inside.items():
                inner = env[replacement]
                if inner.ty.dtype != original.ty.dtype:
                    inner = builder.emit(relax.op.astype(inner, str(original.ty.dtype)))
                env[original] = inner
            for var in (*match.prologue, *match.members):
                env[var] = builder.emit(_substituted(graph.values[var], env))
            whole = env[match.result]
            for argument, operator in match.neutral.items():
                whole = builder.emit(operator(whole, env[argument]))
            result = builder.emit_output(whole)
        builder.emit_func_output(result)
    return builder.finalize()["kernel"]


def _distinct(expressions: Sequence[Expr]) -> list[Expr]:
    return list(dict.fromkeys(expressions))


def _substituted(expr: Expr, env: Mapping[Expr, Expr]) -> Expr:
    if not isinstance(expr, relax.Call):
        return env.get(expr, expr)
    arguments = [env.get(argument, argument) for argument in expr.args]
    return relax.Call(expr.op, arguments, expr.attrs, expr.ty_args)
