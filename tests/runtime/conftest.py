"""A mix of three small models with all of its variants, and what a lone run of each gives."""

import numpy as np
import pytest

from small_model import small_model
from top_tvm.compiler.build_mix import build_mix

SIZES = {"a": 12, "b": 16, "c": 20}


@pytest.fixture(scope="session")
def mix():
    """No variant is dropped: they are all to be tested."""
    models = {name: small_model("n", size=size, seed=size) for name, size in SIZES.items()}
    return build_mix(models, batch_sizes=(1, 4), lanes=(1, 2), segments=(1, 2, 3), every=True)


@pytest.fixture(scope="session")
def questions(mix):
    """Per model: 40 inputs, and the outputs of a lone run of each."""
    random = np.random.default_rng(0)
    asked = {}
    for name, exe in mix.models.items():
        spec = exe.inputs[0]
        inputs = [random.standard_normal(spec.shape, dtype=np.float32) for _ in range(40)]
        asked[name] = [(x, exe.run({spec.name: x})["scores"]) for x in inputs]
    return asked
