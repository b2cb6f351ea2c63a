"""A partition written back into Relax: ``main`` calls one private function per group, in order.

The result runs in TVM's own VM. Nothing of the executor takes part in that, so equal results prove
that the partition kept the semantics of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tvm
from tvm import relax

from top_tvm.compiler.extract import Extracted
from top_tvm.compiler.partition import Placement

Expr = Any


def lower(
    module: tvm.IRModule, extracted: Extracted, schedule: Sequence[Placement]
) -> tvm.IRModule:
    """Write a schedule as a Relax module.

    Parameters
    ----------
    module : tvm.IRModule
        What the pipeline returned.
    extracted : Extracted
        What :func:`top_tvm.compiler.extract.extract` read off that module.
    schedule : sequence of Placement
        Stage and group of every op, in issue order.

    Returns
    -------
    tvm.IRModule
        Well-formed; ``main`` has the parameters and results of the original.
    """
    return _Lowering(module, extracted).run(schedule)


class _Lowering:
    def __init__(self, module: tvm.IRModule, extracted: Extracted) -> None:
        self.module = module
        self.variables = extracted.variables
        self.definitions: dict[Expr, Expr] = {
            binding.var: binding.value
            for block in module["main"].body.blocks
            for binding in block.bindings
        }
        self.op_variables = set(self.variables)
        self.builder = relax.BlockBuilder()
        self.called: dict[str, Any] = {}  # functions of the old module, by name, once carried over

    def run(self, schedule: Sequence[Placement]) -> tvm.IRModule:
        groups: dict[tuple[int, int], list[relax.Var]] = {}
        for placement in schedule:
            key = (placement.stage, placement.group)
            groups.setdefault(key, []).append(self.variables[placement.op])
        main = self.module["main"]
        needed_later = self._needed_outside(groups, main.body.body)
        functions = {
            key: self._group_function(key, members, needed_later[key])
            for key, members in groups.items()
        }
        env: dict[Expr, Expr] = {param: param for param in main.params}
        with self.builder.function("main", list(main.params)):
            with self.builder.dataflow():
                for key in groups:
                    name, inputs, outputs = functions[key]
                    call = self.builder.emit(relax.Call(name, [env[var] for var in inputs]))
                    if len(outputs) == 1:
                        env[outputs[0]] = call
                    else:
                        for index, var in enumerate(outputs):
                            env[var] = self.builder.emit(relax.TupleGetItem(call, index))
                result = self._emit(main.body.body, env)
                fields = result.fields if isinstance(result, relax.Tuple) else [result]
                emitted = [self.builder.emit_output(field) for field in fields]
            output = relax.Tuple(emitted) if isinstance(result, relax.Tuple) else emitted[0]
            self.builder.emit_func_output(output)
        lowered = self.builder.finalize()
        relax.analysis.well_formed(lowered)
        return lowered

    def _group_function(
        self, key: tuple[int, int], members: list[relax.Var], outputs: list[relax.Var]
    ) -> tuple[Any, list[relax.Var], list[relax.Var]]:
        inside = set(members)
        inputs: list[relax.Var] = []
        for var in members:
            for source in self._sources(self.definitions[var]):
                if source not in inside and source not in inputs:
                    inputs.append(source)
        params = [relax.Var(f"in{index}", var.ty) for index, var in enumerate(inputs)]
        env: dict[Expr, Expr] = dict(zip(inputs, params, strict=True))
        name = f"stage{key[0]}_group{key[1]}"
        with self.builder.function(name, params, private=True):
            with self.builder.dataflow():
                for var in members:
                    env[var] = self._emit(self.definitions[var], env)
                results = [self.builder.emit_output(env[var]) for var in outputs]
            self.builder.emit_func_output(results[0] if len(results) == 1 else relax.Tuple(results))
        return self.builder.get().get_global_var(name), inputs, outputs

    def _needed_outside(
        self, groups: Mapping[tuple[int, int], list[relax.Var]], result: Expr
    ) -> dict[tuple[int, int], list[relax.Var]]:
        home = {var: key for key, members in groups.items() for var in members}
        needed = set(self._sources(result))
        for var in self.variables:
            needed.update(
                source
                for source in self._sources(self.definitions[var])
                if source in home and home[source] != home[var]
            )
        return {key: [var for var in members if var in needed] for key, members in groups.items()}

    def _sources(self, expr: Expr) -> list[relax.Var]:
        """Op results and parameters that an expression reads, looking through views and aliases."""
        if isinstance(expr, relax.Var):
            definition = self.definitions.get(expr)
            if expr in self.op_variables or definition is None:
                return [expr]
            return self._sources(definition)
        if isinstance(expr, relax.Tuple):
            return [var for field in expr.fields for var in self._sources(field)]
        if isinstance(expr, relax.TupleGetItem):
            return self._sources(expr.tuple_value)
        if isinstance(expr, relax.Call):
            return [var for argument in expr.args for var in self._sources(argument)]
        return []

    def _emit(self, expr: Expr, env: dict[Expr, Expr]) -> Expr:
        """Re-create an expression in the current function; repeat views where they are read."""
        if isinstance(expr, relax.Var):
            if expr not in env:
                env[expr] = self._emit(self.definitions[expr], env)
            return env[expr]
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._emit(field, env) for field in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            return self.builder.emit(
                relax.TupleGetItem(self._emit(expr.tuple_value, env), expr.index)
            )
        if isinstance(expr, relax.Call):
            return self._emit_call(expr, env)
        return expr

    def _emit_call(self, call: relax.Call, env: dict[Expr, Expr]) -> relax.Var:
        arguments = [
            self._emit(argument, env) for argument in call.args if not _is_global(argument)
        ]
        if isinstance(call.op, tvm.ir.Op):  # call_tir(kernel, arguments, out_ty)
            kernel = self._carry(call.args[0].name_hint, self.module[call.args[0]])
            types = list(call.ty_args)
            return self.builder.emit(relax.Call(call.op, [kernel, *arguments], call.attrs, types))
        target = self._carry(call.op.name_hint, self._plain(self.module[call.op]))
        return self.builder.emit(relax.Call(target, arguments))

    def _plain(self, function: relax.Function) -> relax.Function:
        """A library function as an ordinary private one over carried-over kernels."""
        for block in function.body.blocks:
            for binding in block.bindings:
                kernel = binding.value.args[0]
                self._carry(kernel.name_hint, self.module[kernel])
        body = _Renamed(self.called).visit_expr(function.body)
        return relax.Function(function.params, body, function.ret_ty, is_pure=True)

    def _carry(self, name: str, function: Any) -> Any:
        if name not in self.called:
            self.called[name] = self.builder.add_func(function, name)
        return self.called[name]


@relax.expr_functor.mutator
class _Renamed(relax.PyExprMutator):
    """Point ``call_tir`` at the functions of the new module."""

    def __init__(self, called: Mapping[str, Any]) -> None:
        super().__init__()
        self.called = called

    def visit_call_(self, call: relax.Call) -> Expr:
        kernel = self.called[call.args[0].name_hint]
        return relax.Call(call.op, [kernel, *call.args[1:]], call.attrs, list(call.ty_args))


def _is_global(expr: Expr) -> bool:
    return isinstance(expr, tvm.ir.GlobalVar)
