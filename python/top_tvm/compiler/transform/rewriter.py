"""One walk over the dataflow block of ``main``, re-emitting every binding.

Relax's ``PyExprMutator`` visits expressions; the passes here think in bindings (who feeds a call,
how often is a result used), so they share this walk instead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax
from tvm.ir import GenericConst

from top_tvm.errors import ModelError

Array = npt.NDArray[Any]
Expr = Any


def as_constant(array: Array) -> GenericConst:
    """Constant of exactly the array's dtype (``relax.const`` alone narrows 64-bit ones)."""
    contiguous = np.ascontiguousarray(array).reshape(array.shape)  # which has an axis at least
    return relax.const(contiguous, str(array.dtype))


def constant(expr: Expr) -> Array | None:
    """Value of a constant expression, or None."""
    return expr.value.numpy() if isinstance(expr, GenericConst) else None


def scalar(expr: Expr) -> float | None:
    """Value of a constant with one element, or None."""
    value = constant(expr)
    return float(value.reshape(())) if value is not None and value.size == 1 else None


def uniform(expr: Expr) -> float | None:
    """Value of a constant whose elements are all equal, or None."""
    value = constant(expr)
    if value is None or value.size == 0:
        return None
    first = value.reshape(-1)[0]
    return float(first) if np.all(value == first) else None


def shape_of(expr: Expr) -> tuple[int, ...]:
    """Static shape of a tensor expression."""
    return tuple(int(size) for size in expr.ty.shape)


def is_tensor(expr: Expr) -> bool:
    """Whether the expression is a single tensor (not a tuple, shape or scalar)."""
    return isinstance(getattr(expr, "ty", None), relax.TensorType)


def is_call(expr: Expr, name: str) -> bool:
    """Whether the expression is a call of the Relax operator ``relax.<name>``."""
    return (
        isinstance(expr, relax.Call)
        and isinstance(expr.op, tvm.ir.Op)
        and expr.op.name == f"relax.{name}"
    )


def substitute(
    expr: Expr, env: Mapping[Any, Expr], functions: Mapping[str, tvm.ir.GlobalVar] | None = None
) -> Expr:
    """Replace variables, and global functions by their name, inside an expression."""

    def new(part: Expr) -> Expr:
        return substitute(part, env, functions)

    if isinstance(expr, relax.Var):
        return env.get(expr, expr)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([new(field) for field in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        fields = new(expr.tuple_value)
        if isinstance(fields, relax.Tuple):
            return fields.fields[expr.index]
        return relax.TupleGetItem(fields, expr.index)
    if isinstance(expr, relax.Call):
        arguments = [new(argument) for argument in expr.args]
        return relax.Call(new(expr.op), arguments, expr.attrs, expr.ty_args)
    if isinstance(expr, tvm.ir.GlobalVar):
        return (functions or {}).get(expr.name_hint, expr)
    return expr


class Rewriter(ABC):
    """Base of passes that replace calls; subclasses override :meth:`rewrite`."""

    def __init__(self) -> None:
        self.builder: relax.BlockBuilder = relax.BlockBuilder()
        self.env: dict[Any, Expr] = {}
        self.producer: dict[Any, Expr] = {}
        self.uses: Counter[Any] = Counter()
        self.functions: dict[str, Expr] = {}  # of the new module, but for main

    @abstractmethod
    def rewrite(self, call: relax.Call, original: relax.Var) -> Expr:
        """Return the expression to bind instead of ``call`` (its arguments already replaced)."""

    def finish(self, output: Expr) -> Expr:
        """Last word on each output of the function, in terms of the new variables."""
        return output

    def emit(self, expr: Expr) -> relax.Var:
        """Bind an expression in the new block and remember what produced the variable."""
        var = self.builder.emit(expr)
        self.producer[var] = self.builder.lookup_binding(var)
        return var

    def source(self, expr: Expr) -> Expr | None:
        """Call that produced a new variable."""
        return self.producer.get(expr) if isinstance(expr, relax.Var) else None

    def replace(self, expr: Expr) -> Expr:
        """Map variables of the old function inside an expression to the new ones."""
        return substitute(expr, self.env, self.functions)

    def __call__(self, module: tvm.IRModule) -> tvm.IRModule:
        """Rewrite ``main``; every other function stays."""
        function = module["main"]
        bindings = bindings_of(function)
        self.uses = Counter(var for binding in bindings for var in variables_in(binding.value))
        self.uses.update(variables_in(function.body.body))
        for name, other in module.functions.items():
            if name.name_hint != "main":
                function_name = name.name_hint
                self.functions[function_name] = self.builder.add_func(other, function_name)
        params = list(function.params)
        attributes = dict(function.attrs) if function.attrs else {}
        with self.builder.function("main", params, attrs=attributes):
            with self.builder.dataflow():
                for binding in bindings:
                    self.env[binding.var] = self._rebind(binding)
                output = self._output(function.body.body)
            self.builder.emit_func_output(output)
        return self.builder.finalize()

    def _rebind(self, binding: relax.VarBinding) -> Expr:
        value = binding.value
        if isinstance(value, relax.Call):
            result = self.rewrite(self.replace(value), binding.var)
        else:
            result = self.replace(value)
        if isinstance(result, (relax.Var, GenericConst, relax.Tuple)):
            return result
        return self.emit(result)

    def _output(self, output: Expr) -> Expr:
        fields = output.fields if isinstance(output, relax.Tuple) else [output]
        new = [self.finish(self.replace(field)) for field in fields]
        emitted = [self.builder.emit_output(field) for field in new]
        return relax.Tuple(emitted) if isinstance(output, relax.Tuple) else emitted[0]


def bindings_of(function: relax.Function) -> list[relax.VarBinding]:
    """All bindings of a function; raises :class:`ModelError` at dynamic shape checks."""
    blocks = function.body.blocks
    bindings = [binding for block in blocks for binding in block.bindings]
    for binding in bindings:
        if not isinstance(binding, relax.VarBinding):
            raise ModelError(
                "dynamic shape checks (match_cast) are left in the model; fix its shapes"
            )
    return bindings


def variables_in(expr: Expr) -> list[relax.Var]:
    """Variables that an expression reads, as often as it does."""
    if isinstance(expr, relax.Var):
        return [expr]
    if isinstance(expr, relax.Tuple):
        return [var for field in expr.fields for var in variables_in(field)]
    if isinstance(expr, relax.TupleGetItem):
        return variables_in(expr.tuple_value)
    if isinstance(expr, relax.Call):
        return [var for argument in expr.args for var in variables_in(argument)]
    return []


def per_channel(expr: Expr, channels: int, axis: int, rank: int) -> Array | None:
    """Constant that broadcasts along one axis only, as a vector of ``channels``, or None."""
    value = constant(expr)
    if value is None or value.ndim > rank:
        return None
    aligned: Array = value.reshape((1,) * (rank - value.ndim) + value.shape)
    if any(size != 1 for index, size in enumerate(aligned.shape) if index != axis):
        return None
    return np.ascontiguousarray(np.broadcast_to(aligned.reshape(-1), (channels,)))
