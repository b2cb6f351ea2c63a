"""The nine light models: every partitioner gives ONNX Runtime's numbers; so does the Relax form."""

import functools

import numpy as np
import onnxruntime
import pytest
import tvm
from tvm import relax

from top_tvm.compiler.build import compile_model, make_plan, measure_ops
from top_tvm.compiler.light_models import LIGHT_MODELS, light_model
from top_tvm.compiler.lower import lower
from top_tvm.compiler.partition import PARTITIONERS
from top_tvm.weights import aligned

BATCH_8 = ("squeezenet", "inception_v1", "shufflenet")
IN_VM = ("squeezenet", "resnet50", "shufflenet")


@functools.lru_cache(maxsize=1)
def compilation_of(name, batch):
    """Compilation, input, and ONNX Runtime's outputs; the tests of one model follow each other."""
    model = light_model(name, batch, seed=5)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    spec = session.get_inputs()[0]
    x = aligned(np.random.default_rng(1).standard_normal(spec.shape).astype("float32"))
    expected = session.run(None, {spec.name: x})
    compilation = compile_model(model)
    (compiled,) = compilation.graphs
    return compilation, compiled, measure_ops(compilation, compiled), x, expected


def assert_close(outputs, expected):
    """Within rtol 1e-3 and atol 1e-4 of the largest magnitude."""
    assert len(outputs) == len(expected)
    for output, reference in zip(outputs, expected, strict=True):
        scale = float(np.abs(reference).max())
        assert np.ptp(reference) > 0.01 * scale, "a constant output would hide wrong kernels"
        np.testing.assert_allclose(output, reference, rtol=1e-3, atol=1e-4 * scale)


CASES = [(name, 1) for name in LIGHT_MODELS] + [(name, 8) for name in BATCH_8]


@pytest.mark.parametrize(("name", "batch"), CASES)
def test_every_partitioner_gives_the_numbers_of_onnx_runtime(name, batch):
    compilation, compiled, problem, x, expected = compilation_of(name, batch)
    assert compiled.batch == batch
    for partitioner, partition in PARTITIONERS.items():
        plan = make_plan(compiled, problem, partitioner, partition(problem))
        executor = compilation.session.executor(plan)
        for _ in range(2):  # the second run finds the arena dirty
            assert_close(executor.run([x]), expected)


@pytest.mark.parametrize("name", IN_VM)
def test_lowered_partition_gives_the_same_numbers_in_the_vm_of_tvm(name):
    _, compiled, problem, x, expected = compilation_of(name, 1)
    lowered = lower(compiled.module, compiled.extracted, PARTITIONERS["greedy"](problem))
    executable = tvm.compile(lowered, target=tvm.target.Target({"kind": "llvm"}))
    result = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(x))
    assert_close([result.numpy()], expected)
