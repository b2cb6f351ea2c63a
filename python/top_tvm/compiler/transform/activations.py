"""Which activation a chain of elementwise operators computes, told by its values.

Exporters write one function in many ways: GELU alone comes with ``x / sqrt(2)``, ``x * 0.7071``,
the factor 0.5 in front or behind, ``x ** 3`` or ``x * x * x``. A chain whose only inputs are one
tensor and scalars is a function of one number, so it is evaluated, in double precision, at some
hundred points of the range of float32, and compared with the functions that oneDNN has. Two
functions of the kind that networks use and that agree at all of them are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx

from top_tvm.compiler.transform.rewriter import Array, Expr, uniform

Operation = tuple[str, tuple[float, ...]]

_SMALL = np.concatenate([np.linspace(-12, 12, 241), np.geomspace(1e-4, 1e-1, 20)])
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_LARGE = np.geomspace(13, _FLOAT32_MAX, 60)
POINTS: Array = np.sort(np.concatenate([-_LARGE, _SMALL, _LARGE]))
_TOLERANCE = 2e-6


def _erf(x: Array) -> Array:
    """Abramowitz and Stegun 7.1.5 near zero (a Taylor series), 7.1.14's continued fraction else."""
    near = np.clip(x, -3, 3)
    term, total = near, near.copy()
    for n in range(1, 80):
        term = term * -(near**2) / n
        total = total + term / (2 * n + 1)
    far = np.clip(np.abs(x), 3, 30)
    fraction = far
    for n in range(60, 0, -1):
        fraction = far + n / 2 / fraction
    tail = np.sign(x) * (1 - np.exp(-(far**2)) / fraction / np.sqrt(np.pi))
    return np.asarray(np.where(np.abs(x) <= 3, total * 2 / np.sqrt(np.pi), tail))


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _gelu_tanh(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


def _gelu_erf(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + _erf(x / np.sqrt(2))))


_UNARY: dict[str, Callable[[Array], Array]] = {
    "relax.abs": np.abs,
    "relax.erf": _erf,
    "relax.exp": np.exp,
    "relax.log": np.log,
    "relax.negative": np.negative,
    "relax.nn.gelu": _gelu_erf,
    "relax.nn.gelu_tanh": _gelu_tanh,
    "relax.nn.relu": lambda x: np.maximum(x, 0),
    "relax.nn.relu6": lambda x: np.clip(x, 0, 6),
    "relax.nn.silu": lambda x: x * _sigmoid(x),
    "relax.sigmoid": _sigmoid,
    "relax.sqrt": np.sqrt,
    "relax.square": np.square,
    "relax.tanh": np.tanh,
}
_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "relax.add": np.add,
    "relax.divide": np.divide,
    "relax.maximum": np.maximum,
    "relax.minimum": np.minimum,
    "relax.multiply": np.multiply,
    "relax.power": np.power,
    "relax.subtract": np.subtract,
}


def evaluate(call: Expr, values: Mapping[Any, Array]) -> Array | None:
    """Values of an elementwise call at the points, or None where it is none.

    Parameters
    ----------
    call : relax.Call
        Its arguments are constants with equal elements or keys of ``values``.
    values : mapping of variable to array
        Values of variables at :data:`POINTS`.
    """
    if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op):
        return None
    arguments = [_argument(argument, values) for argument in call.args]
    if any(argument is None for argument in arguments):
        return None
    name = call.op.name
    if name in _UNARY and len(arguments) == 1:
        return _UNARY[name](arguments[0])
    if name in _BINARY and len(arguments) == 2:
        return _BINARY[name](*arguments)
    if name == "relax.clip":
        return np.asarray(np.clip(*arguments))
    if name == "relax.nn.leakyrelu":
        slope = np.where(arguments[0] < 0, float(call.attrs.alpha), 1)
        return np.asarray(slope * arguments[0])
    return None


def _argument(argument: Expr, values: Mapping[Any, Array]) -> Any:
    if isinstance(argument, (tirx.IntImm, tirx.FloatImm)):
        return np.float64(argument.value)
    value = uniform(argument)
    return values.get(argument) if value is None else np.float64(value)


def recognise(values: Array) -> Operation | None:
    """Operation of oneDNN, and its parameters, that has the given values at the points.

    Returns
    -------
    tuple of str and tuple of float, or None
        Named and parametrised as in ``runtime/onednn/epilogue.cc``.
    """
    with np.errstate(all="ignore"):
        for name, parameters in _candidates(values):
            expected = _FUNCTIONS[name](POINTS, *parameters)
            close = np.abs(values - expected) <= _TOLERANCE * np.maximum(1, np.abs(expected))
            if np.all(close):
                return name, tuple(_rounded(parameter) for parameter in parameters)
    return None


_FUNCTIONS: dict[str, Callable[..., Array]] = {
    "relu": lambda x, alpha: np.where(x < 0, alpha, 1) * x,
    "linear": lambda x, alpha, beta: alpha * x + beta,
    "clip": np.clip,
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "gelu_erf": _gelu_erf,
    "gelu_tanh": _gelu_tanh,
    "swish": lambda x, alpha: x * _sigmoid(alpha * x),
    "hardsigmoid": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    "hardswish": lambda x, alpha, beta: x * np.clip(alpha * x + beta, 0, 1),
}


def _candidates(values: Array) -> list[Operation]:
    """Each function with the parameters that it would need, read off a few points."""

    def at(x: float) -> float:
        return float(np.interp(x, POINTS, values))

    # 0.1 and 0.2 are points; hard sigmoids are linear between them.
    slope, value = (at(0.2) - at(0.1)) / 0.1, at(0.1)
    gate = at(0.1) / 0.1
    gate_slope = (at(0.2) / 0.2 - gate) / 0.1
    weight = min(max(at(1.0), 1e-9), 1 - 1e-9)
    return [
        ("relu", (-at(-1.0),)),
        ("clip", (float(np.min(values)), float(np.max(values)))),
        ("linear", (slope, at(0.0))),
        ("sigmoid", ()),
        ("tanh", ()),
        ("gelu_erf", ()),
        ("gelu_tanh", ()),
        ("swish", (float(np.log(weight / (1 - weight))),)),
        ("hardsigmoid", (slope, value - 0.1 * slope)),
        ("hardswish", (gate_slope, gate - 0.1 * gate_slope)),
    ]


def _rounded(parameter: float) -> float:
    """Fitted parameters without the noise of fitting; finite in float32."""
    nearest = np.float32(np.clip(parameter, -_FLOAT32_MAX, _FLOAT32_MAX))
    return float(str(nearest)) + 0.0  # no negative zero
