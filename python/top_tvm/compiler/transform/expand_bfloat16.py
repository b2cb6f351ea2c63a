"""Write conversions from and to bfloat16 as integer arithmetic where TVM would lower them wrongly.

TVM 0.27 lowers casts by itself, but not inside the value of a ``Let``, where it takes the bits for
an integer; and where it rounds an expression that contains a ``Let``, it repeats the expression,
which its own passes then refuse. Kernels with transcendental functions have such values.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import relax, tirx

Expr = Any


@tvm.transform.module_pass(opt_level=0, name="ExpandBFloat16")
def ExpandBFloat16(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """Expand the conversions of scheduled kernels that bind values."""
    module = module.clone()
    for name, function in module.functions_items():
        if not isinstance(function, relax.Function) and _binds(function):
            module.update_func(name, expand_bfloat16(function))
    return module


def expand_bfloat16(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The kernel without casts between bfloat16 and float32."""
    for replace in (_fold, _expand):
        body = tvm_ffi.structural_map(function.body, (tirx.Cast, replace))
        function = function.with_body(body)
    return function


def _binds(function: tirx.PrimFunc) -> bool:
    found: list[Expr] = []
    tvm_ffi.structural_walk(function.body, (tirx.Let, found.append))
    return bool(found)


def _fold(cast: tirx.Cast) -> Expr:
    """What is only moved needs no conversion."""
    inner = cast.value
    moved = isinstance(inner, tirx.Cast) and _is(cast, "bfloat16") and _is(inner.value, "bfloat16")
    return inner.value if moved else cast


def _expand(cast: tirx.Cast) -> Expr:
    value = cast.value
    if _is(cast, "float32") and _is(value, "bfloat16"):
        bits = tirx.Cast("uint32", tirx.reinterpret("uint16", value))
        return tirx.reinterpret("float32", bits << _uint(16))
    if _is(cast, "bfloat16") and _is(value, "float32"):
        # To nearest, ties to even. A carry into the exponent is right, up to infinity; NaN stays
        # NaN, as arithmetic leaves its low bits zero.
        bits = tirx.Var("bits", "uint32")
        half = _uint(0x7FFF) + ((bits >> _uint(16)) & _uint(1))
        rounded = tirx.Let(bits, tirx.reinterpret("uint32", value), (bits + half) >> _uint(16))
        return tirx.reinterpret("bfloat16", tirx.Cast("uint16", rounded))
    return cast


def _is(expr: Expr, dtype: str) -> bool:
    return str(expr.ty.dtype) == dtype


def _uint(value: int) -> tirx.IntImm:
    return tirx.IntImm("uint32", value)
