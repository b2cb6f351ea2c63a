"""Nodes that ask for more than there is are refused by size, before anything is computed."""

import numpy as np
import pytest
from onnx import TensorProto
from refused_node import a_node, cases, check_refusal

import top_tvm
from top_tvm.compiler.onnx_import import graph

M = 1 << 20
FLAT, SQUARE = f"({M * M},)", f"({M}, {M})"
COLUMN, ROW = np.zeros((M, 1), np.float32), np.zeros((1, M), np.float32)
ONE = np.float32(1)


def constant(shape, gigabytes):
    return f"its result of shape {shape} takes {gigabytes} GB, a constant may take 2.1 GB"


# All operands are constants: as many elements as 2**40, from values or by broadcasting.
CONSTANTS = {
    constant(FLAT, 8796.1): [
        a_node("Range", np.int64(0), np.int64(M * M), np.int64(1)),
        a_node("Range", np.int64(2), np.int64(2 - M * M), np.int64(-1)),
    ],
    constant(FLAT, 4398.0): [
        a_node("Range", np.float32(0), np.float32(M), np.float32(1 / M)),
        a_node("HannWindow", np.int64(M * M)),
        a_node("HammingWindow", np.int64(M * M)),
        a_node("BlackmanWindow", np.int64(M * M)),
    ],
    constant(SQUARE, 4398.0): [
        a_node("ConstantOfShape", [M, M]),
        a_node("Expand", ONE, [M, M]),
        a_node("Expand", ROW, [M, 1]),
        a_node("Tile", np.float32([[1]]), [M, M]),
        a_node("Add", COLUMN, ROW),
        a_node("Max", COLUMN, ROW),
        a_node("MatMul", COLUMN, ROW),
        a_node("Where", np.zeros((M, 1), bool), ROW, ONE),
        a_node("Gather", ROW, np.zeros(M, np.int64)),
    ],
    constant(SQUARE, 1099.5): a_node("Less", COLUMN, ROW),
    constant(f"({M * M}, 1)", 4398.0): a_node(
        *("OneHot", np.int64([0]), np.int64(M * M), np.float32([0, 1])), axis=0
    ),
    constant(f"({M * M + 1},)", 4398.0): a_node("Pad", np.float32([0]), [0, M * M]),
    constant(f"(1, {M}, {M}, 2)", 8796.1): a_node(
        "AffineGrid", np.zeros((1, 2, 3), np.float32), [1, 1, M, M], opset=20
    ),
}


@pytest.mark.parametrize(("model", "text"), cases(CONSTANTS))
def test_constants(model, text):
    check_refusal(model, text)


# Sizes are scalars to ONNX's shape inference, but not to others.
VECTORS = {
    constant(FLAT, 8796.1): a_node("Range", np.int64([2]), np.int64([2 + M * M]), np.int64([1])),
    constant(FLAT, 4398.0): a_node("HannWindow", np.int64([M * M])),
}


@pytest.mark.parametrize(("model", "text"), cases(VECTORS))
def test_sizes_of_one_dimension(model, text):
    check_refusal(model, text)


@pytest.mark.parametrize("model", [case.values[0] for case in cases(CONSTANTS)])
def test_models_with_such_constants(model):
    """Whoever notices first, ONNX's shape inference or the import, tells the same."""
    kind = model.graph.node[0].op_type
    model.graph.output[0].ClearField("type")
    with pytest.raises(top_tvm.ModelError, match=rf"node 'n' \({kind}\).* of shape \(.* GB"):
        top_tvm.build(model)


# One operand comes at run time; the size of the result does not. Of an image they would need
# indices, weights or masks of that size.
IMAGE = (1, 1, 4, 4)
HUGE_IMAGE = f"(1, 1, {M}, {M})"
RUNTIME = {
    f"its result of shape {SQUARE} takes 4398.0 GB": [
        a_node("Expand", (1,), [M, M]),
        a_node("Tile", (1, 1), [M, M]),
        a_node("Add", ("float32", M, 1), ROW),
    ],
    f"its result of shape ({M * M}, 1) takes 4398.0 GB": a_node(
        *("OneHot", ("int64", 1), np.int64(M * M), np.float32([0, 1])), axis=0
    ),
    f"its result of shape ({M * M + 1},) takes 4398.0 GB": [
        a_node("Pad", (1,), [0, M * M]),
        a_node("Pad", (1,), [0, M * M], mode="edge"),
    ],
    f"its result of shape {HUGE_IMAGE} takes 4398.0 GB": [
        a_node("Resize", IMAGE, None, None, [1, 1, M, M]),
        a_node("Resize", IMAGE, None, np.float32([1, 1, M // 4, M // 4])),
        a_node("Upsample", IMAGE, np.float32([1, 1, M // 4, M // 4]), opset=9),
        a_node("CenterCropPad", IMAGE, [1, 1, M, M], opset=18),
    ],
    f"its result of shape (1, {M}, {M}, 2) takes 8796.1 GB": a_node(
        "AffineGrid", (1, 2, 3), [1, 1, M, M], opset=20
    ),
}


@pytest.mark.parametrize(("model", "text"), cases(RUNTIME))
def test_operands_of_run_time(model, text, monkeypatch):
    monkeypatch.setattr(graph, "memory_limit_bytes", lambda: 10**9)
    check_refusal(model, f"{text}, this machine has 1.0 GB of memory")


def test_what_fits_is_folded():
    model = a_node("Range", np.int64(3), np.int64(3 + (1 << 10)), np.int64(1))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    result = top_tvm.build(model, partitioner="sequential").run({})["y"]
    np.testing.assert_array_equal(result, np.arange(3, 3 + (1 << 10)))
