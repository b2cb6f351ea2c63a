"""Which kernel an op gets, with measurements that the test decides."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from top_tvm.compiler.assemble import assemble
from top_tvm.compiler.build import compile_model
from top_tvm.compiler.cache import MeasurementCache
from top_tvm.compiler.choose_kernels import choose_kernels
from top_tvm.compiler.extract import extract
from top_tvm.compiler.frontend import import_onnx
from top_tvm.compiler.kernel_library import compile_kernels, host_target
from top_tvm.compiler.partition import Placement
from top_tvm.compiler.pipeline import cpu_pipeline
from top_tvm.compiler.profile import ignore_progress
from top_tvm.compiler.session import Session
from top_tvm.runtime.native import onednn_module
from top_tvm.weights import aligned

needs_onednn = pytest.mark.skipif(onednn_module() is None, reason="only oneDNN has rivals")


def pooled_concat():
    """Two pools that are written side by side."""
    nodes = [
        helper.make_node("Conv", ["image", "v"], ["x"]),
        helper.make_node(
            "MaxPool", ["x"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1]
        ),
        helper.make_node(
            "AveragePool", ["x"], ["b"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1]
        ),
        helper.make_node("Concat", ["a", "b"], ["ab"], axis=1),
        helper.make_node("Conv", ["ab", "w"], ["y"]),
    ]
    generator = np.random.default_rng(0)
    weights = {
        name: generator.standard_normal(shape).astype("float32")
        for name, shape in (("v", (16, 4, 1, 1)), ("w", (8, 32, 1, 1)))
    }
    graph = helper.make_graph(
        nodes,
        "pools",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 4, 9, 9))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8, 9, 9))],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def compiled():
    imported = import_onnx(pooled_concat())
    module = cpu_pipeline(onednn=True)(imported.module)
    extracted = extract(module, imported.inputs, imported.outputs)
    kernels = compile_kernels(extracted.prim_funcs, host_target())
    return extracted.graph, Session.open(kernels, extracted.constants)


class Decided(MeasurementCache):
    """Knows a time for every kernel of an op."""

    def __init__(self, directory, times_us):
        super().__init__("decided", directory)
        self.times_us = times_us

    def get(self, key):
        return self.times_us


@needs_onednn
@pytest.mark.parametrize(
    ("times_us", "library"),
    [([10.0, 9.0], "tvm"), ([10.0, 9.8], "onednn"), ([10.0, 20.0], "onednn")],
)
def test_the_clearly_fastest_kernel_is_taken(tmp_path, times_us, library):
    graph, session = compiled()
    pools = [index for index, op in enumerate(graph.ops) if op.alternatives]
    assert [graph.ops[index].kernel.symbol for index in pools] == ["max_pool2d", "avg_pool2d"]
    chosen = choose_kernels(graph, session, 2, Decided(tmp_path, times_us), ignore_progress)
    assert [chosen.ops[index].kernel.library for index in pools] == [library] * 2
    assert not any(op.alternatives for op in chosen.ops)


@needs_onednn
@pytest.mark.parametrize("times_us", [[2.0, 1.0], [1.0, 2.0]])
def test_every_choice_gives_the_numbers_of_onnx_runtime(tmp_path, times_us):
    graph, session = compiled()
    chosen = choose_kernels(graph, session, 2, Decided(tmp_path, times_us), ignore_progress)
    x = aligned(np.random.default_rng(1).standard_normal((1, 4, 9, 9)).astype("float32"))
    reference = onnxruntime.InferenceSession(pooled_concat().SerializeToString())
    (expected,) = reference.run(None, {"image": x})
    for threads in (1, 2):
        schedule = tuple(Placement(i, i, 0, 0, threads) for i in range(len(chosen.ops)))
        plan = assemble(chosen, schedule, streams=2, partitioner="test")
        (output,) = session.executor(plan).run([x])
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


@needs_onednn
def test_a_choice_is_measured_once(tmp_path, monkeypatch):
    graph, session = compiled()
    cache = MeasurementCache("machine", tmp_path)
    first = choose_kernels(graph, session, 2, cache, ignore_progress)

    def fail(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr("top_tvm.compiler.choose_kernels.measure_form", fail)
    again = choose_kernels(
        graph, session, 2, MeasurementCache("machine", tmp_path), ignore_progress
    )
    assert again == first


def test_a_compiled_model_has_decided():
    (pooled,) = compile_model(pooled_concat()).graphs
    assert not any(op.alternatives for op in pooled.extracted.graph.ops)
