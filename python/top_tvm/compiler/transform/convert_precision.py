"""Store in bfloat16 what kernels hand to each other, and compute in float32 inside them.

After fusion the arguments and results of the kernels are exactly what goes through memory, so this
is where precision is decided. A kernel that TVM generates reads bfloat16, computes in float32 as
before and rounds what it writes; nothing inside of it is rounded, however delicate it is. oneDNN's
primitives do the same by themselves: they take bfloat16, accumulate and apply their epilogue in
float32, and round once. Their weights are converted here; biases and other vectors stay float32.

Some values stay float32: inputs and outputs of the model; what a kernel turns into integers or
booleans, where rounding could change an index; and what the last kernels read: all that primitives
other than products do, and what generated kernels turn into an output of no smaller size. The last
are logits for the most part, and a softmax turns the absolute error of large logits into a relative
one, with nothing behind it to average that out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import prod
from typing import Any

import ml_dtypes
import numpy as np
import tvm
import tvm_ffi
from tvm import relax, topi
from tvm.ir import GenericConst
from tvm.relax.expr_functor import PyExprMutator, mutator

from top_tvm.compiler.transform.library_function import KERNEL_ATTRIBUTE
from top_tvm.compiler.transform.lower_concat import CONCAT_ATTRIBUTE, concat_kernel
from top_tvm.compiler.transform.rewriter import (
    Expr,
    as_constant,
    constant,
    is_call,
    shape_of,
    substitute,
    variables_in,
)

_LARGEST = np.float32(ml_dtypes.finfo(ml_dtypes.bfloat16).max)
# Primitives that multiply bfloat16 and may write either type. All others write what they read.
_PRODUCTS = {"conv2d", "deconv2d", "matmul"}
_FLOATS = {"float16", "float32", "float64"}


@tvm.transform.module_pass(opt_level=0, name="ConvertPrecision")
def ConvertPrecision(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """Make float32 values between kernels bfloat16; runs between ``FuseOps`` and ``FuseTIR``."""
    converter = _Converter(module, _wide_values(module))
    main = module.get_global_var("main")
    converter.builder_.update_func(main, converter.visit_expr(module["main"]))
    return relax.transform.Normalize()(converter.builder_.get())


def _wide_values(module: tvm.IRModule) -> set[relax.Var]:
    """Kernel results that must stay float32."""
    main = module["main"]
    wide: set[relax.Var] = set()
    memory: dict[relax.Var, set[relax.Var]] = {}  # kernel results in whose memory a variable lies

    def read(expr: Expr) -> set[relax.Var]:
        return {result for var in variables_in(expr) for result in memory.get(var, ())}

    for block in main.body.blocks:
        for binding in block.bindings:
            var, value = binding.var, binding.value
            is_kernel = _is_kernel(module, value)
            memory[var] = {var} if is_kernel else read(value)
            if is_kernel:
                exact = not _all_floats(module, binding)
            else:  # an operator that is neither has no kernel, as extraction will say
                exact = isinstance(value, relax.Call) and not _is_view(module, value)
            if exact:
                wide |= read(value)
    outputs = read(main.body.body)
    wide |= outputs
    bindings = [binding for block in main.body.blocks for binding in block.bindings]
    for binding in reversed(bindings):
        var, primitive = binding.var, _primitive(module, binding.value)
        if var not in wide or primitive in _PRODUCTS:
            continue
        if primitive is not None:
            wide |= read(binding.value)
        elif var in outputs:
            wide |= {
                source for source in read(binding.value) if _elements(source) <= _elements(var)
            }
    return wide


def _is_function_call(value: Expr) -> bool:
    return isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.GlobalVar)


def _is_view(module: tvm.IRModule, value: Expr) -> bool:
    return _is_function_call(value) and module[value.op].attrs.get("Codegen") == "view"


def _primitive(module: tvm.IRModule, value: Expr) -> str | None:
    """Symbol of the library primitive that is called, if one is."""
    text = module[value.op].attrs.get(KERNEL_ATTRIBUTE) if _is_function_call(value) else None
    return str(json.loads(text)["symbol"]) if text else None


def _is_kernel(module: tvm.IRModule, value: Expr) -> bool:
    if is_call(value, "call_tir"):
        return True
    return _is_function_call(value) and not _is_view(module, value)


def _all_floats(module: tvm.IRModule, binding: relax.VarBinding) -> bool:
    """Whether a kernel computes nothing but floating point numbers."""
    variables = [binding.var]
    if isinstance(binding.value.op, tvm.ir.GlobalVar):
        blocks = module[binding.value.op].body.blocks
        variables += [inner.var for block in blocks for inner in block.bindings]
    types = [type_ for var in variables for type_ in _fields(var.ty)]
    return all(str(t.dtype) in _FLOATS for t in types if isinstance(t, relax.TensorType))


@mutator
class _Converter(PyExprMutator):
    """Rewrites ``main``; converted kernels become new functions of the module."""

    def __init__(self, module: tvm.IRModule, wide: set[relax.Var]) -> None:
        super().__init__(module)
        self.module = module
        self.wide = wide
        self.functions: dict[tuple[str, str], tvm.ir.GlobalVar] = {}
        self.constants: dict[GenericConst, GenericConst] = {}
        self.copies: dict[Expr, relax.Var] = {}  # in the other type

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        value = self._convert(binding.var, binding.value)
        output = not isinstance(binding.var, relax.DataflowVar)
        var = self.builder_.emit_output(value) if output else self.builder_.emit(value)
        self.set_var_remap(binding.var, var)

    def _convert(self, var: relax.Var, value: Expr) -> Expr:
        if not is_call(value, "call_tir") and not _is_function_call(value):
            return self.visit_expr(value)
        type_ = var.ty if var in self.wide else _narrow(var.ty)
        if is_call(value, "call_tir"):
            arguments = [self._operand(argument) for argument in value.args[1].fields]
            return self._tir_call(var, value, arguments, type_)
        function = self.module[value.op]
        codegen = function.attrs.get("Codegen")
        if codegen == "view":
            arguments = [self.visit_expr(argument) for argument in value.args]
            type_ = _with_dtype(var.ty, arguments[0].ty.dtype)
        elif codegen is None:
            arguments = [self._operand(argument) for argument in value.args]
        else:
            described = json.loads(function.attrs[KERNEL_ATTRIBUTE])
            is_product = described["symbol"] in _PRODUCTS
            operands = described["arguments"][:2] if is_product else []
            dtype = "bfloat16" if is_product else str(type_.dtype)
            arguments = [
                self._library_operand(argument, dtype, index in operands)
                for index, argument in enumerate(value.args)
            ]
        return self._call(value.op, function, arguments, type_)

    # --- Arguments ---

    def _operand(self, expr: Expr) -> Expr:
        """Argument of a generated kernel: matrices become bfloat16, vectors are not worth it."""
        value = constant(expr)
        if value is not None:
            matrix = sum(extent > 1 for extent in value.shape) > 1
            return self._narrow_constant(expr) if matrix else expr
        return self.visit_expr(expr)

    def _library_operand(self, expr: Expr, dtype: str, multiplied: bool) -> Expr:
        """Argument of a primitive; ``multiplied`` for the operands of a product."""
        value = constant(expr)
        if value is not None:
            return self._narrow_constant(expr) if multiplied and value.ndim > 1 else expr
        return self._in_dtype(self.visit_expr(expr), dtype)

    def _narrow_constant(self, expr: GenericConst) -> GenericConst:
        if str(expr.ty.dtype) != "float32":
            return expr
        if expr not in self.constants:
            value = expr.value.numpy()
            # Masks hold the least float32, which would round to infinity, and rows of it to NaN.
            finite = np.clip(value, -_LARGEST, _LARGEST)
            value = np.where(np.isfinite(value), finite, value).astype(ml_dtypes.bfloat16)
            self.constants[expr] = as_constant(value)
        return self.constants[expr]

    def _in_dtype(self, expr: Expr, dtype: str) -> Expr:
        """Argument in one of the two types, converted by a kernel of its own where it is not."""
        if str(expr.ty.dtype) == dtype or str(expr.ty.dtype) not in ("float32", "bfloat16"):
            return expr
        if expr not in self.copies:  # there are two types, so the other one is wanted
            self.copies[expr] = self.builder_.emit(self.builder_.call_te(topi.cast, expr, dtype))
        return self.copies[expr]

    # --- Kernels ---

    def _tir_call(
        self, var: relax.Var, call: relax.Call, arguments: list[Expr], type_: Any
    ) -> relax.Call:
        name = call.args[0]
        kernel = self.module[name]
        if kernel.attrs and kernel.attrs.get(CONCAT_ATTRIBUTE):
            return self._concat(arguments, type_)
        params = [relax.Var(f"p{i}", expr.ty) for i, expr in enumerate(call.args[1].fields)]
        result = relax.Var("result", var.ty)
        inner = relax.call_tir(name, relax.Tuple(params), _fields(var.ty))
        function = relax.Function(
            params,
            relax.SeqExpr([relax.DataflowBlock([relax.VarBinding(result, inner)])], result),
            var.ty,
        ).with_attr("Primitive", 1)
        if _unchanged(function, [argument.ty for argument in arguments], type_):
            return relax.call_tir(name, relax.Tuple(arguments), _fields(type_))
        return self._call(name, function, arguments, type_)

    def _concat(self, arguments: list[Expr], type_: Any) -> relax.Call:
        """Concatenation only copies, so its inputs take the type of its result."""
        dtype = str(type_.dtype)
        inputs = [self._in_dtype(argument, dtype) for argument in arguments]
        rows, widths = shape_of(inputs[0])[0], tuple(shape_of(field)[1] for field in inputs)
        kernel = self.builder_.add_func(concat_kernel(rows, widths, dtype), "concat")
        return relax.call_tir(kernel, relax.Tuple(inputs), type_)

    def _call(
        self, name: tvm.ir.GlobalVar, function: relax.Function, arguments: list[Expr], type_: Any
    ) -> relax.Call:
        """Call of the function in its form for these types."""
        types = [argument.ty for argument in arguments]
        if _unchanged(function, types, type_):
            return relax.Call(name, arguments)
        key = (name.name_hint, str([types, type_]))
        if key not in self.functions:
            converted = self._with_casts(function, types, type_)
            self.functions[key] = self.builder_.add_func(converted, name.name_hint)
        return relax.Call(self.functions[key], arguments)

    def _with_casts(
        self, function: relax.Function, types: Sequence[Any], type_: Any
    ) -> relax.Function:
        """The function with casts behind its parameters and before its results."""
        params = [relax.Var(p.name, t) for p, t in zip(function.params, types, strict=True)]
        bindings: list[relax.VarBinding] = []

        def bind(name: str, type_: Any, value: Expr) -> relax.Var:
            bindings.append(relax.VarBinding(relax.Var(name, type_), value))
            return bindings[-1].var

        def cast(var: relax.Var, type_: Any) -> relax.Var:
            if _same([var.ty], [type_]):
                return var
            dtype = str(type_.dtype)
            return bind(f"{var.name}_{dtype}", type_, self.builder_.call_te(topi.cast, var, dtype))

        env: dict[Expr, Expr] = {}
        for old, new in zip(function.params, params, strict=True):
            env[old] = cast(new, old.ty)
        for block in function.body.blocks:
            for binding in block.bindings:
                value = substitute(binding.value, env)
                env[binding.var] = bind(binding.var.name, binding.var.ty, value)
        result = substitute(function.body.body, env)
        if isinstance(result.ty, relax.TupleType) and isinstance(result, relax.Var):
            fields = [
                bind(f"{result.name}_{index}", field, relax.TupleGetItem(result, index))
                for index, field in enumerate(result.ty.fields)
            ]
            result = relax.Tuple(fields)
        if isinstance(result, relax.Tuple):
            pairs = zip(result.fields, type_.fields, strict=True)
            result = relax.Tuple([cast(field, wanted) for field, wanted in pairs])
        else:
            result = cast(result, type_)
        body = relax.SeqExpr([relax.DataflowBlock(bindings)], result)
        return relax.Function(params, body, type_, attrs=function.attrs)


# --- Types ---


def _fields(type_: Any) -> list[Any]:
    return list(type_.fields) if isinstance(type_, relax.TupleType) else [type_]


def _elements(var: relax.Var) -> int:
    """Number of elements of a kernel's results."""
    return sum(prod(int(extent) for extent in field.shape) for field in _fields(var.ty))


def _with_dtype(type_: Any, dtype: str) -> Any:
    return relax.TensorType(type_.shape, dtype)


def _narrow(type_: Any) -> Any:
    """The type with bfloat16 instead of float32."""
    if isinstance(type_, relax.TupleType):
        return relax.TupleType([_narrow(field) for field in type_.fields])
    return _with_dtype(type_, "bfloat16") if str(type_.dtype) == "float32" else type_


def _unchanged(function: relax.Function, types: Sequence[Any], type_: Any) -> bool:
    return _same([*types, type_], [*(param.ty for param in function.params), function.ret_ty])


def _same(left: Sequence[Any], right: Sequence[Any]) -> bool:
    return len(left) == len(right) and all(
        tvm_ffi.structural_equal(a, b) for a, b in zip(left, right, strict=True)
    )
