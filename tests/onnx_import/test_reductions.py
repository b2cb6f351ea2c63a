"""Reductions in all types and versions, of empty sets, too."""

import numpy as np
import pytest
from node_batch import NodeBatch

from top_tvm.compiler.onnx_import.graph import convert_graph
from top_tvm.errors import ModelError

DATA = np.random.default_rng(0).standard_normal((2, 3, 4))


def log_sum_exp(x, axis, keepdims):
    top = x.max(axis, keepdims=True)
    total = np.log(np.exp(x - top).sum(axis, keepdims=True)) + top
    return total if keepdims else total.squeeze(axis)


FUNCTIONS = {
    "ReduceL1": lambda x, **how: np.abs(x).sum(**how),
    "ReduceL2": lambda x, **how: np.sqrt((x * x).sum(**how)),
    "ReduceLogSum": lambda x, **how: np.log(x.sum(**how)),
    "ReduceLogSumExp": log_sum_exp,
    "ReduceMax": np.max,
    "ReduceMean": np.mean,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
    "ReduceSum": np.sum,
    "ReduceSumSquare": lambda x, **how: (x * x).sum(**how),
}


def check(batch, expected, rtol=0.0):
    batch.check(dict(zip(batch.outputs, expected, strict=True)), rtol)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("opset", [11, 18])
def test_axes_are_attributes_or_inputs(opset, dtype):
    data = (np.abs(DATA) + 0.5).astype(dtype)
    batch, expected = NodeBatch(opset=opset), []
    x = batch.given(data)
    for operator, function in FUNCTIONS.items():
        for axes, keepdims in (((-1,), 1), ((0, -2), 0), (None, 1)):
            if axes is None:
                batch.add(operator, x, keepdims=keepdims)
            elif opset < 13:
                batch.add(operator, x, axes=axes, keepdims=keepdims)
            else:
                batch.add(operator, x, np.array(axes, "int64"), keepdims=keepdims)
            everything = (0, 1, 2)
            how = {"axis": axes or everything, "keepdims": bool(keepdims)}
            expected.append(np.asarray(function(data.astype("float64"), **how)).astype(dtype))
    check(batch, expected, {"float16": 2e-3, "float32": 1e-5, "float64": 1e-12}[dtype])


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32", "uint64"])
def test_integers(dtype):
    data = np.arange(1, 9).reshape(2, 4)
    if np.dtype(dtype).kind == "i":
        data = data - 4
    data = data.astype(dtype)
    batch = NodeBatch(opset=20)
    x = batch.given(data)
    last = np.array([-1], "int64")
    names = ["ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd", "ReduceL1", "ReduceSumSquare"]
    for operator in names:
        batch.add(operator, x, last, keepdims=0)
    batch.add("ReduceMean", x, last, keepdims=0)
    wide = data.astype("int64")
    expected = [FUNCTIONS[name](wide, axis=-1).astype(dtype) for name in names]
    mean = np.trunc(wide.sum(-1) / 4).astype(dtype)
    check(batch, [*expected, mean])


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8"])
def test_extrema_of_bytes_and_truth_values(dtype):
    data = np.array([[1, 0], [1, 1], [0, 0]], dtype)
    batch = NodeBatch(opset=20)
    x = batch.given(data)
    for operator in ("ReduceMax", "ReduceMin"):
        batch.add(operator, x, np.array([1], "int64"), keepdims=0)
    check(batch, [data.max(1), data.min(1)])


def test_no_axes_and_scalars():
    data = DATA.astype("float32")
    none = np.array([], "int64")
    batch = NodeBatch(opset=18)
    x, scalar = batch.given(data), batch.given(np.float32(-3))
    batch.add("ReduceSumSquare", x, none, noop_with_empty_axes=1)
    batch.add("ReduceL1", x, noop_with_empty_axes=1)
    batch.add("ReduceLogSumExp", x, none, noop_with_empty_axes=1)
    batch.add("ReduceSum", x, none, keepdims=0)
    batch.add("ReduceL2", scalar)
    batch.add("ReduceMean", scalar, keepdims=0)
    expected = [data * data, np.abs(data), data, data.sum(), np.float32(3), np.float32(-3)]
    check(batch, expected, 1e-5)


def test_large_sums_of_half_precision():
    data = np.full((1, 5000), 2, "float16")
    batch = NodeBatch(opset=18)
    x = batch.given(data)
    batch.add("ReduceSum", x, np.array([1], "int64"))
    batch.add("ReduceMean", x, np.array([1], "int64"))
    batch.add("ReduceLogSumExp", batch.given(np.float32([[500, 500], [-np.inf, -np.inf]])))
    expected = [np.float16([[10000]]), np.float16([[2]]), np.float32(500 + np.log(2)).reshape(1, 1)]
    check(batch, expected, 1e-6)


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_empty_sets_reduce_to_the_identity(dtype):
    batch = NodeBatch(opset=20)
    x = batch.given(np.ones((2, 3), dtype))
    none, last = np.array([0], "int64"), np.array([1], "int64")
    (empty,) = batch.add("Slice", x, none, none, last)
    limits = np.iinfo(dtype) if dtype == "int32" else None
    identities = {
        "ReduceSum": 0,
        "ReduceProd": 1,
        "ReduceMax": limits.min if limits else -np.inf,
        "ReduceMin": limits.max if limits else np.inf,
    }
    outputs = []
    for operator in identities:
        (reduced,) = batch.add(operator, empty, last)
        outputs += batch.add("Add", x, reduced)
    batch.outputs = outputs  # an empty tensor is no output
    results = batch.run()
    for name, identity in zip(outputs, identities.values(), strict=True):
        expected = np.ones((2, 3), dtype) + np.array(identity, dtype)
        np.testing.assert_array_equal(results[name], expected)


def test_axes_that_do_not_exist_are_refused():
    batch = NodeBatch(opset=18)
    batch.add("ReduceSum", batch.given(np.ones((2, 3), "float32")), np.array([2], "int64"))
    with pytest.raises(ModelError, match="axis 2 does not exist in 2 dimensions"):
        convert_graph(batch.model(), "sum")
