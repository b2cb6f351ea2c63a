"""Precision bf16: whole models against ONNX Runtime, files, and machines that lack it."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from tvm import relax

import top_tvm
from bf16 import assert_close, needs_bf16, reference
from small_model import small_model
from top_tvm.bfloat16 import BFLOAT16
from top_tvm.compiler import precision
from top_tvm.compiler.build import compile_model, make_plan, measure_ops
from top_tvm.compiler.light_models import light_model
from top_tvm.compiler.lower import lower
from top_tvm.compiler.partition import PARTITIONERS
from top_tvm.weights import aligned

pytestmark = needs_bf16


def normal(*shape, seed=0):
    return aligned(np.random.default_rng(seed).standard_normal(shape).astype("float32"))


def onnx_model(nodes, inputs, outputs, initializers=()):
    """Model of float32 inputs by name and shape, and outputs by name and type."""
    graph = helper.make_graph(
        nodes,
        "bf16",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, t, None) for n, t in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in initializers],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("name", ["squeezenet", "inception_v1", "shufflenet", "resnet50"])
def test_every_partitioner_is_within_the_tolerance(name, streams):
    model = light_model(name, seed=5)
    x = normal(1, 3, 224, 224)
    expected = reference(model, x)
    compilation = compile_model(model, streams=streams, precision="bf16")
    (compiled,) = compilation.graphs
    problem = measure_ops(compilation, compiled)
    for partitioner, partition in PARTITIONERS.items():
        plan = make_plan(compiled, problem, partitioner, partition(problem))
        executor = compilation.session.executor(plan)
        for _ in range(2):  # the second run finds the arena dirty
            assert_close(executor.run([x]), expected)


@pytest.mark.parametrize("model", [small_model(), light_model("squeezenet")], ids=["small", "fire"])
def test_lowered_partition_gives_the_same_numbers_in_the_vm_of_tvm(model):
    compilation = compile_model(model, precision="bf16")
    (compiled,) = compilation.graphs
    problem = measure_ops(compilation, compiled)
    graph = compiled.extracted.graph
    x = normal(*graph.values[graph.inputs[0]].shape)
    lowered = lower(compiled.module, compiled.extracted, PARTITIONERS["greedy"](problem))
    executable = tvm.compile(lowered, target=tvm.target.Target({"kind": "llvm"}))
    result = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(x))
    assert_close([result.numpy()], reference(model, x))


def test_batches_share_weights_that_take_half_the_memory():
    model = small_model(batch="n")
    exe = top_tvm.build(model, batch_sizes=(1, 4), precision="bf16")
    for batch in (1, 4):
        x = normal(batch, 3, 16, 16)
        assert_close(list(exe.run({"data": x}).values()), reference(model, x))
    matrices = [array for array in exe.artifact.constants.values() if array.ndim > 1]
    assert len(matrices) == 4
    assert all(array.dtype == BFLOAT16 for array in matrices)
    assert all(spec.dtype == "float32" for spec in (*exe.inputs, *exe.outputs))


def transformer_block(tokens, width, heads):
    """Layer norm, attention, residual; layer norm, GELU by Erf, residual."""
    rng = np.random.default_rng(3)
    weights = {
        "heads": np.int64([1, tokens, heads, width // heads]),
        "flat": np.int64([1, tokens, width]),
        "scale": np.float32(np.sqrt(width // heads)),
        "sqrt2": np.float32(np.sqrt(2)),
        "one": np.float32(1),
        "half": np.float32(0.5),
    }
    for name, shape in {
        **{f"{part}_w": (width, width) for part in "qkvo"},
        **{"up_w": (width, 4 * width), "down_w": (4 * width, width)},
    }.items():
        weights[name] = (rng.standard_normal(shape) / np.sqrt(shape[0])).astype("float32")
        weights[f"{name[:-2]}_b"] = rng.standard_normal(shape[1]).astype("float32") / 10
    for norm in ("n1", "n2"):
        weights[f"{norm}_g"] = 1 + rng.standard_normal(width).astype("float32") / 10
        weights[f"{norm}_b"] = rng.standard_normal(width).astype("float32") / 10
    nodes = []

    def add(op, inputs, output, **attributes):
        nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def linear(x, name):
        return add("Add", [add("MatMul", [x, f"{name}_w"], f"{name}_p"), f"{name}_b"], name)

    def split(x, perm):
        return add("Transpose", [add("Reshape", [x, "heads"], f"{x}_h")], f"{x}_t", perm=perm)

    x = add("LayerNormalization", ["x", "n1_g", "n1_b"], "n1", axis=-1)
    q, v = (split(linear(x, part), [0, 2, 1, 3]) for part in "qv")
    k = split(linear(x, "k"), [0, 2, 3, 1])
    scores = add("Div", [add("MatMul", [q, k], "qk"), "scale"], "scores")
    mixed = add("MatMul", [add("Softmax", [scores], "p", axis=-1), v], "mixed")
    joined = add("Reshape", [add("Transpose", [mixed], "m_t", perm=[0, 2, 1, 3]), "flat"], "m_f")
    residual = add("Add", ["x", linear(joined, "o")], "r1")
    y = linear(add("LayerNormalization", [residual, "n2_g", "n2_b"], "n2", axis=-1), "up")
    erf = add("Add", [add("Erf", [add("Div", [y, "sqrt2"], "g1")], "g2"), "one"], "g3")
    gelu = add("Mul", [add("Mul", [y, erf], "g4"), "half"], "g5")
    add("Add", [residual, linear(gelu, "down")], "y")
    shape = (1, tokens, width)
    return onnx_model(nodes, {"x": shape}, {"y": TensorProto.FLOAT}, weights.items())


def test_transformer_block():
    model = transformer_block(tokens=37, width=96, heads=4)
    x = normal(1, 37, 96)
    exe = top_tvm.build(model, precision="bf16")
    assert_close(list(exe.run({"x": x}).values()), reference(model, x))


CONVOLUTIONS = st.fixed_dictionaries(
    {
        "batch": st.sampled_from([1, 2]),
        "inputs": st.sampled_from([1, 3, 8, 17]),
        "outputs": st.sampled_from([1, 5, 16, 33]),
        "kernel": st.sampled_from([(1, 1), (3, 3), (1, 7), (2, 3)]),
        "stride": st.sampled_from([1, 2, 5]),
        "dilation": st.sampled_from([1, 2]),
        "pads": st.tuples(*[st.integers(0, 2)] * 4),
        "depthwise": st.booleans(),
        "bias": st.booleans(),
        "relu": st.booleans(),
        "residual": st.booleans(),
    }
)


def convolution(case):
    """A convolution of the result of another, so that its data are bfloat16; two outputs."""
    rng = np.random.default_rng(1)
    middle = case["inputs"]
    groups = middle if case["depthwise"] else 1
    outputs = middle if case["depthwise"] else case["outputs"]
    shapes = {"first": (middle, 3, 1, 1), "w": (outputs, middle // groups, *case["kernel"])}
    weights = {
        name: (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype("float32")
        for name, shape in shapes.items()
    }
    weights["b"] = rng.standard_normal(outputs).astype("float32")
    attributes = {
        "strides": [case["stride"]] * 2,
        "dilations": [case["dilation"]] * 2,
        "pads": list(case["pads"]),
        "group": groups,
    }
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["m"]),
        helper.make_node("Conv", ["m", "w", *["b"] * case["bias"]], ["c"], **attributes),
        helper.make_node("Tanh", ["c"], ["t"]) if case["residual"] else None,
        helper.make_node("Conv", ["m", "w"], ["d"], **attributes) if case["residual"] else None,
        helper.make_node("Add", ["d", "t"], ["s"]) if case["residual"] else None,
        helper.make_node(
            "Relu" if case["relu"] else "Neg", ["s" if case["residual"] else "c"], ["y"]
        ),
    ]
    kinds = {"y": TensorProto.FLOAT}
    inputs = {"x": (case["batch"], 3, 13, 11)}
    return onnx_model([n for n in nodes if n], inputs, kinds, weights.items())


@settings(max_examples=25, deadline=None, derandomize=True)
@given(CONVOLUTIONS)
def test_convolutions_of_every_kind(case):
    model = convolution(case)
    x = normal(case["batch"], 3, 13, 11)
    exe = top_tvm.build(model, partitioner="sequential", precision="bf16")
    (output,), (expected,) = exe.run({"x": x}).values(), reference(model, x)
    assert output.shape == expected.shape
    assert np.abs(output - expected).max() <= 3e-2 * max(np.abs(expected).max(), 1e-3)


def test_indices_and_outputs_are_not_rounded():
    # 1 + k / 1000 has no bfloat16 of its own: rounded, the largest would not be unique.
    rows = np.float32(1 + np.random.default_rng(0).permutation(64).reshape(4, 16) / 1000)
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["doubled"]),
        helper.make_node("ArgMax", ["doubled"], ["index"], axis=1),
        helper.make_node("Transpose", ["doubled"], ["y"], perm=[1, 0]),
    ]
    outputs = {"index": TensorProto.INT64, "y": TensorProto.FLOAT}
    model = onnx_model(nodes, {"x": (4, 16)}, outputs, [("two", np.float32(2))])
    results = top_tvm.build(model, precision="bf16").run({"x": rows})
    np.testing.assert_array_equal(results["index"], reference(model, rows)[0])
    np.testing.assert_allclose(results["y"], 2 * rows.T, rtol=1e-2)


def assert_matrices_are_bfloat16(exe, count):
    matrices = [array for array in exe.artifact.constants.values() if array.ndim > 1]
    assert [array.dtype for array in matrices] == [BFLOAT16] * count
    assert all(spec.dtype == "float32" for spec in (*exe.inputs, *exe.outputs))


class Gated(nn.Module):
    """A convolution with a gate of its channels, and a classifier."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.convolution = nn.Conv2d(3, 16, 3, padding=1)
        self.gate = nn.Linear(16, 16)
        self.classifier = nn.Linear(16, 10)

    def forward(self, image):
        features = nn.functional.silu(self.convolution(image))
        gate = torch.sigmoid(self.gate(features.mean((2, 3))))
        gated = features * gate[:, :, None, None]
        return gated, self.classifier(gated.amax((2, 3)))


def test_an_exported_program():
    module, image = Gated().eval(), torch.from_numpy(normal(2, 3, 12, 12))
    program = torch.export.export(module, (image,))
    exe = top_tvm.build(program, precision="bf16", partitioner="greedy")
    assert_matrices_are_bfloat16(exe, 3)
    expected = [output.detach().numpy() for output in module(image)]
    assert_close(list(exe.run({"image": image.numpy()}).values()), expected)


def test_a_relax_module():
    weights = [normal(*shape, seed=s) / 4 for s, shape in enumerate([(16, 3, 3, 3), (16, 10)])]
    builder = relax.BlockBuilder()
    image = relax.Var("image", relax.TensorType((2, 3, 12, 12), "float32"))
    with builder.function("main", [image]):
        with builder.dataflow():
            features = builder.emit(relax.op.nn.conv2d(image, relax.const(weights[0]), padding=1))
            active = builder.emit(relax.op.nn.relu(features))
            pooled = builder.emit(relax.op.max(active, [2, 3]))
            scores = builder.emit(relax.op.matmul(pooled, relax.const(weights[1])))
            output = builder.emit_output(relax.Tuple([active, scores]))
        builder.emit_func_output(output)
    module, data = builder.finalize(), normal(2, 3, 12, 12, seed=7)
    exe = top_tvm.build(module, precision="bf16", partitioner="greedy")
    assert_matrices_are_bfloat16(exe, 2)
    executable = tvm.compile(module, target=tvm.target.Target({"kind": "llvm"}))
    expected = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(data))
    outputs = list(exe.run({"image": data}).values())
    assert_close(outputs, [tensor.numpy() for tensor in expected])


def test_a_file_runs_where_ml_dtypes_is_missing(tmp_path):
    executable = top_tvm.build(small_model(), precision="bf16", partitioner="greedy")
    assert set(executable.artifact.metadata.cpu_features) & precision.BF16_FEATURES
    path, x, y = tmp_path / "m.top", tmp_path / "x.npy", tmp_path / "y.npy"
    executable.save(path)
    data = normal(1, 3, 16, 16)
    np.save(x, data)
    code = (
        "import sys; sys.modules['ml_dtypes'] = None\n"
        "import numpy, top_tvm\n"
        "exe = top_tvm.load(sys.argv[1])\n"
        "exe.save(sys.argv[1] + '.again')\n"
        "numpy.save(sys.argv[3], exe.run({'data': numpy.load(sys.argv[2])})['scores'])"
    )
    subprocess.run([sys.executable, "-c", code, path, x, y], check=True)
    np.testing.assert_array_equal(np.load(y), executable.run({"data": data})["scores"])
    assert path.with_name("m.top.again").read_bytes() == path.read_bytes()


def test_a_file_names_the_instructions_that_a_machine_lacks(tmp_path, monkeypatch):
    path = tmp_path / "m.top"
    top_tvm.build(small_model(), precision="bf16", partitioner="greedy").save(path)
    lacking = top_tvm.device.host_features() - precision.BF16_FEATURES
    monkeypatch.setattr(top_tvm.device, "host_features", lambda: lacking)
    with pytest.raises(top_tvm.ArtifactError, match=r"this machine's CPU lacks a.*_bf16"):
        top_tvm.load(path)
