"""Building: options, batch sizes, outputs of every kind, and the choice of the plan."""

import threading

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import top_tvm
from small_model import small_model
from top_tvm.compiler import build as build_module
from top_tvm.compiler import choose_plan

PARTITIONERS = ("sequential", "greedy", "list", "ios", "gpg")


def reference(model, inputs):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def assert_same(outputs, expected):
    assert list(outputs) == list(expected)
    for name, value in expected.items():
        assert outputs[name].dtype == value.dtype
        np.testing.assert_allclose(outputs[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


@pytest.mark.parametrize("streams", [1, 2, 3])
@pytest.mark.parametrize("partitioner", PARTITIONERS)
def test_partitioners_and_streams(partitioner, streams):
    model = small_model()
    exe = top_tvm.build(model, partitioner=partitioner, streams=streams)
    x = random(1, 3, 16, 16)
    assert_same(exe.run({"data": x}), reference(model, {"data": x}))
    plan = exe.artifact.plans[1]
    assert (plan.partitioner, plan.streams) == (partitioner, streams)
    assert plan.measured_us > 0
    assert plan.predicted_us > 0


def test_batch_sizes_share_weights_and_choose_their_plan_by_shape():
    model = small_model(batch="n")
    exe = top_tvm.build(model, batch_sizes=(1, 4, 4))
    assert exe.batch_sizes == (1, 4)
    single = top_tvm.build(model)
    size = sum(array.nbytes for array in exe.artifact.constants.values())
    assert size == sum(array.nbytes for array in single.artifact.constants.values())
    for batch in (1, 4):
        x = random(batch, 3, 16, 16)
        assert_same(exe.run({"data": x}), reference(model, {"data": x}))
    with pytest.raises(top_tvm.InputError, match="data"):
        exe.run({"data": random(2, 3, 16, 16)})


def make(nodes, outputs, initializers=()):
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 6))]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "outputs", inputs, values, list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_outputs_that_share_memory_or_pass_through():
    shape = numpy_helper.from_array(np.int64([3, 4]), "shape")
    nodes = [
        helper.make_node("Exp", ["x"], ["exp"]),
        helper.make_node("Reshape", ["exp", "shape"], ["exp_view"]),
        helper.make_node("Reshape", ["x", "shape"], ["x_view"]),
        helper.make_node("Relu", ["exp_view"], ["relu"]),
    ]
    model = make(nodes, ["exp", "exp_view", "x_view", "relu"], [shape])
    exe = top_tvm.build(model)
    x = random(2, 6)
    outputs = exe.run({"x": x})
    assert_same(outputs, reference(model, {"x": x}))
    outputs["exp"][:] = 0  # results are the caller's: writing to one changes no other
    assert outputs["exp_view"].min() > 0
    again = exe.run({"x": x})
    assert_same(again, reference(model, {"x": x}))


def test_matrix_products_of_every_kind():
    weight = numpy_helper.from_array(random(6, 5), "w")
    bias = numpy_helper.from_array(np.float32([2.0]), "b")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["biased"]),  # one bias for all channels
        helper.make_node("Relu", ["biased"], ["y"]),
        helper.make_node("Transpose", ["x"], ["xt"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "xt"], ["gram"]),  # no operand is constant
        helper.make_node("Gemm", ["gram", "gram", "gram"], ["z"], alpha=0.5, beta=2.0, transA=1),
    ]
    model = make(nodes, ["y", "z"], [weight, bias])
    x = random(2, 6)
    assert_same(top_tvm.build(model).run({"x": x}), reference(model, {"x": x}))


def test_equal_constants_are_stored_once():
    first, second = (numpy_helper.from_array(random(6, 6), name) for name in ("v", "w"))
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["left"]),
        helper.make_node("Relu", ["left"], ["middle"]),
        helper.make_node("MatMul", ["middle", "w"], ["y"]),
    ]
    model = make(nodes, ["y"], [first, second])
    exe = top_tvm.build(model)
    x = random(2, 6)
    assert_same(exe.run({"x": x}), reference(model, {"x": x}))
    assert sum(array.shape == (6, 6) for array in exe.artifact.constants.values()) == 1


def test_old_model_that_lists_its_weights_as_inputs():
    model = make(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        ["y"],
        [numpy_helper.from_array(random(6, 3), "w")],
    )
    model.ir_version = 3
    model.opset_import[0].version = 8
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, (6, 3)))
    x = random(2, 6)
    exe = top_tvm.build(model)
    assert [spec.name for spec in exe.inputs] == ["x"]
    assert_same(exe.run({"x": x}), reference(model, {"x": x}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "cuda"}, "target 'cuda' is not supported; there is: 'cpu'"),
        ({"precision": "int8"}, "precision 'int8' is not supported; there are: 'fp32', 'bf16'"),
        ({"partitioner": "best"}, "no partitioner 'best'; there are: auto, sequential"),
        ({"streams": 0}, "streams must be 1 to 1024, not 0"),
        ({"streams": 1025}, "streams must be 1 to 1024, not 1025"),
        ({"batch_sizes": (0,)}, "batch sizes must be at least 1, not 0"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(top_tvm.PartitionError, match=message):
        top_tvm.build(small_model(), **options)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (MemoryError(), "^not enough memory is left to build the model$"),
        (RuntimeError("LLVM gave up"), "^the build failed: LLVM gave up$"),
    ],
)
def test_failures_below_the_compiler_are_told(monkeypatch, failure, message):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(build_module, "build", fail)
    with pytest.raises(top_tvm.DeviceError, match=message):
        top_tvm.build(small_model())


def test_a_failure_of_a_pass_is_told_by_its_last_line(monkeypatch):
    def fail(*_):
        raise ValueError("Traceback:\n  frame\nthe shapes do not fit\n")

    monkeypatch.setattr(build_module, "extract", fail)
    with pytest.raises(top_tvm.ModelError, match=r": cannot be compiled: the shapes do not fit$"):
        top_tvm.build(small_model())


@pytest.mark.parametrize("partitioner", ["auto", "sequential", "greedy", "list", "ios"])
def test_model_without_any_call(partitioner, tmp_path):
    """Outputs that are an input, twice, in another shape, or a constant."""
    nodes = [
        helper.make_node("Identity", ["x"], ["y"]),
        helper.make_node("Identity", ["x"], ["again"]),
        helper.make_node("Flatten", ["x"], ["flat"], axis=0),
        helper.make_node("Shape", ["x"], ["shape"]),
    ]
    model = make(nodes, ["y", "again", "flat", "shape", "x"])
    model.graph.output[3].type.tensor_type.elem_type = TensorProto.INT64
    executable = top_tvm.build(model, partitioner=partitioner)
    executable.save(tmp_path / "copy.top")
    x = random(2, 6)
    for built in (executable, top_tvm.load(tmp_path / "copy.top")):
        results = built.run({"x": x})
        for name in ("y", "again", "x"):
            np.testing.assert_array_equal(results[name], x)
        np.testing.assert_array_equal(results["flat"], x.reshape(1, 12))
        np.testing.assert_array_equal(results["shape"], [2, 6])
        assert results["shape"].dtype == np.int64


def test_auto_never_keeps_a_plan_that_measured_slower_than_sequential(monkeypatch):
    seen = {}
    measure = choose_plan.measure_plans

    def spy(plans, session, report):
        seen.update(measure(plans, session, report))
        return seen

    monkeypatch.setattr(choose_plan, "measure_plans", spy)
    plan = top_tvm.build(small_model(), partitioner="auto").artifact.plans[1]
    assert seen["sequential"] > 0
    assert plan.measured_us <= seen["sequential"]
    assert plan.measured_us == seen[plan.partitioner]


def test_a_stale_profile_is_measured_again(monkeypatch, tmp_path):
    monkeypatch.setenv("TOP_TVM_CACHE_DIR", str(tmp_path))
    top_tvm.build(small_model(), partitioner="sequential")
    (file,) = tmp_path.glob("*.json")
    cache = build_module.MeasurementCache(build_module.host_name())
    slow = {
        key: [1e6, 1e6, 1e6, 99]
        for key, entry in cache.entries.items()
        if isinstance(entry, list) and not key.startswith("kernels/")
    }
    assert slow
    cache.update(slow)
    exe = top_tvm.build(small_model(), partitioner="sequential")
    assert all(op.single_us < 1e5 for op in exe.artifact.profiles[1])
    assert file.exists()


def test_concurrent_builds():
    model = small_model()
    x = random(1, 3, 16, 16)
    expected = reference(model, {"data": x})
    results = []

    def work():
        results.append(top_tvm.build(model, partitioner="greedy").run({"data": x}))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    for outputs in results:
        assert_same(outputs, expected)


def test_progress_is_reported_to_the_end():
    steps = []
    top_tvm.build(small_model(), progress=lambda *step: steps.append(step))
    last = {what: (done, total) for what, done, total in steps}
    assert {"optimise the graph", "compile kernels", "partition", "measure plans"} <= set(last)
    assert all(done == total for done, total in last.values())
