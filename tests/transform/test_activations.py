"""Activations are told from their values."""

import math

import numpy as np
import pytest

from top_tvm.compiler.transform.activations import POINTS, recognise


def sigmoid(x):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda x: np.maximum(x, 0), ("relu", (0.0,))),
        (lambda x: np.where(x < 0, 0.3 * x, x), ("relu", (0.3,))),
        (np.abs, ("relu", (-1.0,))),
        (lambda x: np.clip(x, -1e5, 1e5), ("clip", (-1e5, 1e5))),
        (lambda x: np.minimum(x, 2), ("clip", (-3.4028235e38, 2.0))),
        (lambda x: x / 3 - 1, ("linear", (float(str(np.float32(1 / 3))), -1.0))),
        (sigmoid, ("sigmoid", ())),
        (np.tanh, ("tanh", ())),
        (lambda x: x * sigmoid(1.702 * x), ("swish", (1.702,))),
        (lambda x: np.clip(0.3 * x + 0.25, 0, 1), ("hardsigmoid", (0.3, 0.25))),
        (lambda x: x * np.clip(x + 3, 0, 6) / 6, ("hardswish", (0.16666667, 0.5))),
        (
            lambda x: x / 2 * (1 + np.vectorize(math.erf)(x * math.sqrt(0.5))),
            ("gelu_erf", ()),
        ),
    ],
)
def test_known_functions(function, operation):
    assert recognise(function(POINTS)) == operation


@pytest.mark.parametrize(
    "function",
    [
        np.square,
        np.sign,
        lambda x: np.where(x > 1e10, 0, np.maximum(x, 0)),
        lambda x: np.where(x < 0, np.exp(np.minimum(x, 0)) - 1, x),  # ELU
        lambda x: np.clip(0.3 * x + 0.25, 0, 0.9),
        lambda x: np.full_like(x, np.nan),
    ],
)
def test_other_functions_are_not_mistaken_for_them(function):
    assert recognise(function(POINTS)) is None
