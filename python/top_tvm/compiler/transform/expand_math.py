"""Replace transcendental functions by polynomials that vectorise.

LLVM has no vector form of ``exp`` and its kin without a vector maths library: a loop over one
becomes a libm call per element, 20 to 50 times slower than memory. The forms here are straight-line
float32 arithmetic with a relative error below 1e-6 (``tests/transform/test_expand_math.py``), for
infinities and NaN, too; functions of other types stay as they are.

Coefficients: ``exp`` after Cephes (Moshier, expf.c), ``tanh`` and ``erf`` rational after Eigen
(GenericPacketMathFunctions.h).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

Expr = Any

_LOG2_E = 1.44269504088896341
# ln 2 in two parts: n * _LN2_HIGH is exact for all n that occur.
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
_TANH_ODD = (
    *(-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08),
    *(1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03),
)
_TANH_EVEN = (
    1.19825839466702e-06,
    1.18534705686654e-04,
    2.26843463243900e-03,
    4.89352518554385e-03,
)
_ERF_ODD = (
    *(-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05),
    *(-7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02),
)
_ERF_EVEN = (
    *(-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03),
    *(-7.37332916720468e-03, -1.42647390514189e-02),
)


def _f32(value: float) -> Expr:
    return tirx.FloatImm("float32", value)


def _let(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """Compute a value once and use it several times."""
    var = tirx.Var("t", str(value.ty.dtype))
    return tirx.Let(var, value, body(var))


def _polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    """Horner's scheme, highest power first."""
    result: Expr = _f32(coefficients[0])
    for coefficient in coefficients[1:]:
        result = result * x + _f32(coefficient)
    return result


def _clamp(x: Expr, low: float, high: float) -> Expr:
    """Clamp a number; a comparison with NaN is false, so the last operand, NaN, survives."""
    return tirx.Max(_f32(low), tirx.Min(_f32(high), x))


def _power_of_two(n: Expr) -> Expr:
    return tirx.reinterpret("float32", (n + tirx.IntImm("int32", 127)) << tirx.IntImm("int32", 23))


def _exp(x: Expr) -> Expr:
    """Return e^x = 2^n e^r with |r| <= ln(2) / 2."""

    def scaled(n: Expr, r: Expr) -> Expr:
        mantissa = _polynomial(r, _EXP) * r * r + r + _f32(1.0)
        # In two steps: 2^n itself overflows before, and underflows after e^x does.
        half = n >> tirx.IntImm("int32", 1)
        return mantissa * _power_of_two(half) * _power_of_two(n - half)

    def reduced(clamped: Expr) -> Expr:
        nearest = tirx.floor(clamped * _f32(_LOG2_E) + _f32(0.5))

        def remainder(n: Expr) -> Expr:
            r = clamped - n * _f32(_LN2_HIGH) - n * _f32(_LN2_LOW)
            return _let(r, lambda r: scaled(tirx.Cast("int32", n), r))

        return _let(nearest, remainder)

    return _let(_clamp(x, -104.0, 89.0), reduced)


def _odd_rational(x: Expr, odd: Sequence[float], even: Sequence[float]) -> Expr:
    return _let(x * x, lambda s: x * _polynomial(s, odd) / _polynomial(s, even))


def _tanh(x: Expr) -> Expr:
    bound = 7.90531110763549805  # there tanh rounds to 1
    return _let(_clamp(x, -bound, bound), lambda t: _odd_rational(t, _TANH_ODD, _TANH_EVEN))


def _erf(x: Expr) -> Expr:
    return _let(_clamp(x, -4.0, 4.0), lambda t: _odd_rational(t, _ERF_ODD, _ERF_EVEN))


def _sigmoid(x: Expr) -> Expr:
    return _f32(1.0) / (_f32(1.0) + _exp(_f32(0.0) - x))


def _pow(base: Expr, exponent: Expr) -> Expr | None:
    """Multiples of 1/4 up to 4, e.g. the 3/4 of local response normalisation; others stay calls."""
    quarters = 4 * float(exponent.value) if isinstance(exponent, tirx.FloatImm) else 0.5
    if quarters != int(quarters) or not 0 < abs(quarters) <= 16:
        return None
    whole, rest = divmod(int(abs(quarters)), 4)

    def product(x: Expr) -> Expr:
        factors = [x] * whole
        if rest in (2, 3):
            factors.append(tirx.sqrt(x))
        if rest in (1, 3):
            factors.append(tirx.sqrt(tirx.sqrt(x)))
        result = factors[0]
        for factor in factors[1:]:
            result = result * factor
        return result if quarters > 0 else _f32(1.0) / result

    return _let(base, product)


_EXPANSIONS: dict[str, Callable[..., Expr | None]] = {
    "tirx.exp": _exp,
    "tirx.tanh": _tanh,
    "tirx.erf": _erf,
    "tirx.sigmoid": _sigmoid,
    "tirx.pow": _pow,
}


def is_transcendental(call: tvm.ir.Call) -> bool:
    """Whether a call costs so much that it should not be made twice."""
    return isinstance(call.op, tvm.ir.Op) and call.op.name in _EXPANSIONS


def expand_math(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Replace the transcendental functions of a kernel by vectorisable arithmetic."""

    def expand(call: Any) -> Any:
        if not is_transcendental(call) or str(call.ty.dtype) != "float32":
            return call
        expansion = _EXPANSIONS[call.op.name](*call.args)
        return call if expansion is None else expansion

    return function.with_body(tvm_ffi.structural_map(function.body, (tvm.ir.Call, expand)))
