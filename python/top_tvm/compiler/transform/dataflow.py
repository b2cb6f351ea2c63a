"""Who defines and who reads the variables of ``main``, for passes that gather several bindings."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from top_tvm.compiler.transform.rewriter import Expr, bindings_of, is_call, variables_in


class Dataflow:
    """The bindings of ``main``, by variable."""

    def __init__(self, module: tvm.IRModule) -> None:
        function = module["main"]
        self.bindings: list[relax.VarBinding] = bindings_of(function)
        self.values: dict[Any, Expr] = {}
        self.position: dict[Any, int] = {}
        self.readers: dict[Any, list[relax.Var]] = {}
        self.depth: dict[Any, int] = {}  # calls on the longest path that leads to a variable
        self.outputs: set[Any] = set(variables_in(function.body.body))
        for position, binding in enumerate(self.bindings):
            self.values[binding.var] = binding.value
            self.position[binding.var] = position
            sources = variables_in(binding.value)
            for source in sources:
                self.readers.setdefault(source, []).append(binding.var)
            deepest = max((self.depth.get(source, 0) for source in sources), default=0)
            self.depth[binding.var] = deepest + isinstance(binding.value, relax.Call)

    def source(self, expr: Expr, name: str) -> relax.Call | None:
        """The call of ``relax.<name>`` that defines a variable, or None."""
        value = self.values.get(expr) if isinstance(expr, relax.Var) else None
        return value if value is not None and is_call(value, name) else None

    def only_reader(self, var: relax.Var) -> relax.Var | None:
        """The variable whose binding alone reads ``var``, be it more than once."""
        readers = set(self.readers.get(var, []))
        return next(iter(readers)) if len(readers) == 1 and var not in self.outputs else None

    def hidden(self, members: list[relax.Var]) -> bool:
        """Whether nobody else reads any of the variables, but for the last one."""
        inside = set(members)
        return all(
            var not in self.outputs and inside.issuperset(self.readers.get(var, []))
            for var in members[:-1]
        )
