"""Polynomials against the functions that they replace."""

import math

import numpy as np
import pytest
from tvm import relax

from kernels import assembly, call, kernel
from top_tvm.compiler.transform.expand_math import expand_math

RELATIVE_ERROR = 1e-6
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 88.7, 89.5, -103.5, -110.0], "float32")
EXACT = {
    "exp": np.exp,
    "tanh": np.tanh,
    "erf": np.vectorize(math.erf, otypes=["float64"]),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def points():
    wide = np.linspace(-87, 88.5, 40_000)
    near = np.geomspace(1e-30, 10, 12_000)
    return np.concatenate([wide, near, -near]).astype("float32")


@pytest.mark.parametrize("name", EXACT)
def test_functions_are_within_their_relative_error(name):
    x = points()
    function = kernel(x.shape, lambda emit, v: emit(getattr(relax.op, name)(v)))
    with np.errstate(under="ignore"):
        expected = EXACT[name](x.astype("float64"))
    normal = np.abs(expected) > np.finfo("float32").tiny
    result = call(function, x)
    np.testing.assert_allclose(result[normal], expected[normal], rtol=RELATIVE_ERROR)
    assert np.all(np.abs(result[~normal]) <= 2 * np.finfo("float32").tiny)


@pytest.mark.parametrize("name", EXACT)
def test_infinities_nan_and_the_range_of_float32(name):
    function = kernel(SPECIAL.shape, lambda emit, v: emit(getattr(relax.op, name)(v)))
    with np.errstate(over="ignore", under="ignore"):
        expected = EXACT[name](SPECIAL.astype("float64")).astype("float32")
    result = call(function, SPECIAL)
    np.testing.assert_allclose(result, expected, rtol=RELATIVE_ERROR, atol=1e-44)
    np.testing.assert_array_equal(np.signbit(result[3:5]), np.signbit(expected[3:5]))


@pytest.mark.parametrize("exponent", [0.75, -0.75, 0.5, 0.25, 2.0, -1.0, 3.25])
def test_powers_of_quarters(exponent):
    x = np.geomspace(1e-6, 1e6, 1024).astype("float32")
    power = kernel(
        x.shape, lambda emit, v: emit(relax.op.power(v, relax.const(np.float32(exponent))))
    )
    np.testing.assert_allclose(call(power, x), x.astype("float64") ** exponent, rtol=RELATIVE_ERROR)
    assert "powf" not in assembly(power)


def test_other_powers_stay_exact():
    x = np.geomspace(1e-3, 1e3, 64).astype("float32")
    power = kernel(x.shape, lambda emit, v: emit(relax.op.power(v, relax.const(np.float32(0.3)))))
    np.testing.assert_allclose(call(power, x), x.astype("float64") ** 0.3, rtol=RELATIVE_ERROR)


def test_other_types_stay():
    plain = kernel(
        (8,),
        lambda emit, x: emit(relax.op.exp(emit(relax.op.astype(x, "float64")))),
        scheduled=False,
    )
    assert expand_math(plain).script() == plain.script()


@pytest.mark.parametrize("name", ["nn.gelu", "nn.gelu_tanh", "nn.silu", "sigmoid", "nn.softmax"])
def test_no_kernel_calls_the_scalar_library(name):
    operator = relax.op
    for part in name.split("."):
        operator = getattr(operator, part)
    text = assembly(kernel((4, 64), lambda emit, x: emit(operator(x))))
    assert not [line for line in text.splitlines() if "call" in line and "f@" in line]
    for function in ("expf", "tanhf", "erff", "powf"):
        assert function not in text
