"""Without oneDNN, and for CPUs with less than this one has: right numbers and plain words."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import top_tvm
from top_tvm.compiler.assemble import assemble
from top_tvm.compiler.extract import extract
from top_tvm.compiler.frontend import import_onnx
from top_tvm.compiler.kernel_library import (
    MCPU_VARIABLE,
    compile_kernels,
    host_target,
    used_features,
)
from top_tvm.compiler.light_models import light_model
from top_tvm.compiler.partition import Placement
from top_tvm.compiler.pipeline import cpu_pipeline
from top_tvm.compiler.session import Session
from top_tvm.compiler.transform.schedule_contraction import Registers, choose_tile
from top_tvm.device import missing_features
from top_tvm.errors import DeviceError, ModelError
from top_tvm.runtime import native
from top_tvm.weights import aligned

# A process of its own: what is loaded is decided once per process.
BUILD = """
import sys, numpy as np, top_tvm
executable = top_tvm.build(sys.argv[1], partitioner="sequential")
executable.save(sys.argv[2])
x = np.load(sys.argv[3])
np.save(sys.argv[4], next(iter(executable.run({executable.inputs[0].name: x}).values())))
"""


def build_elsewhere(model, folder, **environment):
    """Compile and run a model in a process with these variables; its output, file and stderr."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    spec = session.get_inputs()[0]
    x = np.random.default_rng(2).standard_normal(spec.shape).astype("float32")
    onnx.save(model, folder / "model.onnx")
    np.save(folder / "x.npy", x)
    names = ("model.onnx", "model.top", "x.npy", "y.npy")
    process = subprocess.run(
        [sys.executable, "-c", BUILD, *(str(folder / name) for name in names)],
        env={**os.environ, "TOP_TVM_CACHE_DIR": str(folder / "cache"), **environment},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    expected = session.run(None, {spec.name: x})[0]
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(np.load(folder / "y.npy"), expected, rtol=1e-3, atol=1e-4 * scale)
    return folder / "model.top", process.stderr


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_light_models_without_onednn(name, tmp_path):
    path, _ = build_elsewhere(light_model(name, seed=4), tmp_path, TOP_TVM_ONEDNN="0")
    artifact = top_tvm.load(path).artifact
    assert artifact.metadata.libraries == {}
    assert {k.library for plan in artifact.plans.values() for k in plan.kernels} == {"tvm"}


def test_light_model_for_a_cpu_without_avx512(tmp_path):
    if "avx2" not in native_features():
        pytest.skip("x86-64-v3 is a level of x86")
    path, _ = build_elsewhere(
        light_model("squeezenet", seed=4), tmp_path, TOP_TVM_ONEDNN="0", TOP_TVM_MCPU="x86-64-v3"
    )
    features = top_tvm.load(path).artifact.metadata.cpu_features
    assert "avx2" in features
    assert not [feature for feature in features if feature.startswith("avx512")]


def native_features():
    return used_features(host_target())


@pytest.fixture
def fresh_native():
    """Lets a test decide again whether oneDNN is there; everything after it as before."""
    native.onednn_module.cache_clear()
    yield
    native.onednn_module.cache_clear()


@pytest.mark.usefixtures("fresh_native")
def test_one_warning_where_the_wheel_is_missing(monkeypatch, caplog):
    if native.onednn_module() is None:
        pytest.skip("built without oneDNN")
    native.onednn_module.cache_clear()
    monkeypatch.setattr(native, "_find_onednn", lambda: None)
    with caplog.at_level(logging.WARNING, "top_tvm"):
        assert [native.onednn_module() for _ in range(3)] == [None] * 3
    (record,) = caplog.records
    assert "pip install onednn-cpu-gomp==2023.2.0" in record.getMessage()
    assert "half as fast" in record.getMessage()


@pytest.mark.usefixtures("fresh_native")
def test_one_warning_where_the_module_was_not_built(monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(native, "__file__", str(tmp_path / "runtime" / "native.py"))
    with caplog.at_level(logging.WARNING, "top_tvm"):
        assert [native.onednn_module() for _ in range(3)] == [None] * 3
    (record,) = caplog.records
    assert "built without oneDNN" in record.getMessage()


@pytest.mark.usefixtures("fresh_native")
def test_switching_it_off_is_no_surprise(monkeypatch, caplog):
    monkeypatch.setenv(native.ONEDNN_SWITCH, "0")
    with caplog.at_level(logging.WARNING, "top_tvm"):
        assert native.onednn_module() is None
    assert not caplog.records


@pytest.mark.usefixtures("fresh_native")
def test_file_that_needs_onednn_says_so(monkeypatch):
    if native.onednn_module() is None:
        pytest.skip("built without oneDNN")
    executable = top_tvm.build(convolution(4, 4, 3, 1, 1, 1, 6), partitioner="sequential")
    native.onednn_module.cache_clear()
    monkeypatch.setenv(native.ONEDNN_SWITCH, "0")
    with pytest.raises(DeviceError, match=r"compiled for oneDNN.*build the model on this machine"):
        type(executable)(executable.artifact)


def test_libraries_that_cannot_be_loaded_are_named(monkeypatch, tmp_path):
    (tmp_path / "libx.so").write_text("no library")
    with pytest.raises(DeviceError, match=r"^cannot load libx.so of some-wheel: .*libx.so: "):
        native._load(tmp_path / "libx.so", "some-wheel", 0)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(
        DeviceError, match=r"^libtvm_ffi.so is missing: pip install apache-tvm-ffi$"
    ):
        native._load_tvm_ffi()


class FakeExecutable:
    """What TVM would have compiled, with a symbol that is not known."""

    def export_library(self, path, workspace_dir):
        assert str(path).startswith(workspace_dir)
        Path(path).write_bytes(b"\x7fELF\0__TVMNews\0")


@pytest.mark.parametrize(
    ("made", "kind", "message"),
    [
        (RuntimeError("LLVM: no"), ModelError, r"^the kernels cannot be compiled for .*: LLVM: no"),
        (
            OSError(28, "No space left on device"),
            DeviceError,
            r"^the kernels cannot be compiled: .*No space left on device; set TMPDIR to a writable",
        ),
        (
            FakeExecutable(),
            ModelError,
            r"^kernels need functions of TVM's runtime that top_tvm lacks: __TVMNews$",
        ),
    ],
)
def test_kernels_that_cannot_be_made_or_called(monkeypatch, made, kind, message):
    def compile_instead(*_, **__):
        if isinstance(made, Exception):
            raise made
        return made

    monkeypatch.setattr(tvm, "compile", compile_instead)
    function = tvm.tirx.PrimFunc([], tvm.tirx.Evaluate(0))
    with pytest.raises(kind, match=message):
        compile_kernels({"f": function}, host_target())


def test_unknown_cpu_is_named(monkeypatch):
    monkeypatch.setenv(MCPU_VARIABLE, "z80")
    with pytest.raises(DeviceError, match=r"TOP_TVM_MCPU=z80: LLVM knows no such CPU"):
        host_target()


def test_features_are_those_of_the_target_alone(monkeypatch):
    assert not missing_features(native_features())
    if "avx2" in native_features():
        monkeypatch.setenv(MCPU_VARIABLE, "x86-64-v2")
        assert native_features() == ("sse4_2",)


def convolution(inputs, outputs, size, groups, stride, dilation, extent):
    generator = np.random.default_rng(inputs * 31 + outputs)
    shape = (outputs, inputs // groups, size, size)
    weight = generator.standard_normal(shape).astype("float32")
    bias = generator.standard_normal(outputs).astype("float32")
    pad = dilation * (size - 1) // 2
    nodes = [
        helper.make_node(
            "Conv",
            ["x", "w", "b"],
            ["c"],
            group=groups,
            strides=[stride, stride],
            dilations=[dilation, dilation],
            pads=[pad, pad, pad, 0 if extent > pad else pad],
        ),
        helper.make_node("HardSwish", ["c"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, inputs, extent, extent + 1))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs = groups * draw(st.sampled_from([1, 2, 3, 8]))
    outputs = groups * draw(st.sampled_from([1, 2, 5, 8, 16, 17, 34]))
    if draw(st.booleans()):  # depthwise
        groups = inputs = outputs = draw(st.sampled_from([3, 16, 20, 17]))
    size, stride, dilation = (draw(st.sampled_from(c)) for c in ([1, 3], [1, 2], [1, 2]))
    return inputs, outputs, size, groups, stride, dilation, draw(st.integers(4, 9))


def run_kernels(model, x):
    """Output of a model without oneDNN, every kernel that can on two threads."""
    imported = import_onnx(model)
    module = cpu_pipeline(onednn=False)(imported.module)
    extracted = extract(module, imported.inputs, imported.outputs)
    assert all(op.kernel.library == "tvm" for op in extracted.graph.ops)
    schedule = tuple(
        Placement(index, index, 0, 0, 2 if op.kernel.moldable else 1)
        for index, op in enumerate(extracted.graph.ops)
    )
    plan = assemble(extracted.graph, schedule, streams=2, partitioner="test")
    kernels = compile_kernels(extracted.prim_funcs, host_target())
    return Session.open(kernels, extracted.constants).executor(plan).run([aligned(x)])[0]


@given(convolutions())
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_odd_convolutions_without_onednn(case):
    model = convolution(*case)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    shape = session.get_inputs()[0].shape
    x = np.random.default_rng(1).standard_normal(shape).astype("float32")
    (expected,) = session.run(None, {"x": x})
    np.testing.assert_allclose(run_kernels(model, x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 64, 10), (7, 33, 48), (5, 6, 17), (128, 24, 64)])
def test_matrix_products_without_onednn(shape):
    rows, depth, columns = shape
    generator = np.random.default_rng(6)
    weight = generator.standard_normal((depth, columns)).astype("float32")
    bias = generator.standard_normal(columns).astype("float32")
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        "gemm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (rows, depth))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (rows, columns))],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = generator.standard_normal((rows, depth)).astype("float32")
    np.testing.assert_allclose(run_kernels(model, x), x @ weight + bias, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("columns", [64, 24, 34, 256])
@pytest.mark.parametrize("rows", [1, 7, 13, 56])
@pytest.mark.parametrize("registers", [Registers(16, 24), Registers(8, 12), Registers(4, 24)])
def test_tiles_divide_the_result_and_fit_the_registers(rows, columns, registers):
    tile = choose_tile(rows, columns, registers)
    assert rows % tile.rows == 0
    assert columns % (tile.vectors * tile.lanes) == 0
    assert tile.lanes <= registers.lanes
    assert tile.rows * tile.vectors <= registers.accumulators


def test_no_tile_for_odd_columns():
    assert choose_tile(8, 17, Registers(16, 24)) is None


def test_kernels_hold_no_instruction_beyond_the_target(monkeypatch):
    if "avx512f" not in native_features():
        pytest.skip("nothing beyond x86-64-v3 here")
    imported = import_onnx(light_model("squeezenet"))
    monkeypatch.setenv(MCPU_VARIABLE, "x86-64-v3")
    module = cpu_pipeline(onednn=False)(imported.module)
    kernels = extract(module, imported.inputs, imported.outputs).prim_funcs
    functions = {s: f.with_attr("global_symbol", s) for s, f in kernels.items()}
    compiled = tvm.compile(tvm.IRModule(functions), target=host_target())
    assembly = compiled.mod.inspect_source("asm")
    assert "%ymm" in assembly
    assert not re.search(r"%zmm|%k[1-7]", assembly)
