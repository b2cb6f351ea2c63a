"""Inputs to measure and to try a plan with."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from top_tvm.plan import Plan
from top_tvm.weights import aligned

Array = npt.NDArray[Any]


def random_inputs(plan: Plan, seed: int = 0) -> dict[str, Array]:
    """Inputs for a plan: standard normal floats, and 0 or 1 for integers and booleans.

    Integer inputs are often indices, for which only small values are safe.
    """
    generator = np.random.default_rng(seed)
    inputs = {}
    for tensor in (plan.tensors[index] for index in plan.inputs):
        dtype = np.dtype(tensor.dtype)
        if dtype.kind == "f":
            values: Array = generator.standard_normal(tensor.shape)
        else:
            values = generator.integers(0, 2, tensor.shape)
        inputs[tensor.storage] = aligned(values.astype(dtype))
    return inputs
