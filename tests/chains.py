"""Execute the plans of a model's segments one after the other, linked by the names of tensors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from top_tvm.plan import Plan


def run_chain(
    plans: Sequence[Plan], executor: Callable[[Plan], Any], inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Inputs, boundary values and outputs by name, after a run of every plan."""
    values = dict(inputs)
    for plan in plans:
        given = [values[plan.tensors[index].name] for index in plan.inputs]
        names = [plan.tensors[index].name for index in plan.outputs]
        results = executor(plan).run(given)
        assert not (values.keys() - inputs.keys()) & set(names), "written twice"
        values |= dict(zip(names, results, strict=True))
    return values
