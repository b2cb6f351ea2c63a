"""Operators that compare, accumulate or convert elements; refusals of what cannot be planned."""

import numpy as np
import pytest
from node_batch import NodeBatch
from onnx import TensorProto, helper
from test_movement import ints, numbers

import top_tvm
from top_tvm.compiler import kernel_library
from top_tvm.compiler.onnx_import.graph import convert_graph


def with_ties(*shape, dtype="float32"):
    return np.random.default_rng(0).integers(-3, 4, shape).astype(dtype)


@pytest.mark.parametrize("opset", [9, 10, 11])
def test_top_k(opset):
    batch = NodeBatch(opset)
    x, y = batch.given(with_ties(3, 40, 2)), batch.given(with_ties(2, 300))
    for data, axis, count in ((x, 1, 1), (x, 1, 7), (x, 1, 40), (x, 0, 2), (y, -1, 33)):
        operands, attributes = ([data], {"k": count}) if opset < 10 else ([data, ints(count)], {})
        batch.add("TopK", *operands, axis=axis, results=2, **attributes)
    if opset == 11:
        for dtype in ("float32", "float64", "int64", "int32"):
            x = batch.given(with_ties(3, 40, 2, dtype=dtype))
            batch.add("TopK", x, ints(9), axis=1, results=2, largest=0)
    batch.check()


def test_top_k_takes_nan_for_the_largest():
    values = np.float32([1, np.nan, np.inf, -2, np.nan, -np.inf])
    batch = NodeBatch(11)
    x = batch.given(values)
    batch.add("TopK", x, ints(6), results=2)
    batch.add("TopK", x, ints(6), results=2, largest=0)
    _, down, _, up = batch.run().values()
    np.testing.assert_array_equal(down, [1, 4, 2, 0, 3, 5])
    np.testing.assert_array_equal(up, [5, 3, 0, 2, 1, 4])


def test_index_of_the_extreme_element():
    batch = NodeBatch(13)
    x = batch.given(with_ties(2, 16, 33))
    for axis, last, keep in ((0, 0, 1), (1, 1, 0), (-1, 0, 1), (2, 1, 1)):
        for operator in ("ArgMax", "ArgMin"):
            kinds = {"axis": axis, "select_last_index": last, "keepdims": keep}
            batch.add(operator, x, **kinds)
    for dtype in ("int32", "int8", "float64"):
        x = batch.given(with_ties(2, 7, 64, dtype=dtype))
        batch.add("ArgMax", x, axis=-1)
        batch.add("ArgMin", x, axis=1)
    batch.add("Hardmax", batch.given(with_ties(3, 20, 5)), axis=1)
    batch.check()
    batch = NodeBatch(11)
    batch.add("Hardmax", batch.given(with_ties(3, 20, 5)), axis=1)
    batch.check()


def test_index_is_in_range_even_among_nan():
    batch = NodeBatch(13)
    x = batch.given(np.full((2, 20), np.nan, np.float32))
    batch.add("ArgMax", x, axis=1)
    batch.add("ArgMin", x, axis=1, select_last_index=1)
    for result in batch.run().values():
        assert ((result >= 0) & (result < 20)).all()


def test_cumulative_sums_and_products():
    batch = NodeBatch(26)
    for dtype, axis in (("float32", 1), ("float64", 0), ("int32", -1), ("int64", 2)):
        x = batch.given(with_ties(3, 4, 5, dtype=dtype))
        for operator in ("CumSum", "CumProd"):
            for kinds in ({}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}):
                batch.add(operator, x, np.asarray(axis, np.int64), **kinds)
    batch.check(batch.reference(), rtol=1e-6)


def test_casts():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[~np.isnan(halves)]  # whose bits are anybody's choice
    exact = np.sort(halves[np.isfinite(halves)]).astype(np.float64)
    between = (exact[1:] + exact[:-1]) / 2  # ties to even
    special = [np.nan, np.inf, -np.inf, 65519.999, 65520, 1e9, -1e300, 1e-300, -0.0]
    doubles = np.concatenate([between, np.nextafter(between, 1e9), between * (1 - 1e-15), special])
    with np.errstate(over="ignore", invalid="ignore"):
        singles = np.concatenate([doubles.astype(np.float32), np.float32([1e-45, 3e38])])
    whole = np.arange(-300, 70000)
    cases = [
        (halves, ["float32", "float64", "bool"]),
        (singles, ["float16", "float64", "bool"]),
        (doubles, ["float16", "float32", "bool"]),
        (whole, ["float16", "float32", "int8", "uint8", "bool", "float64"]),
        (np.float32([-1.9, -0.5, 0.5, 1.9, 100.7]), ["int32", "int64", "int8"]),
        (np.asarray([True, False]), ["float16", "float32", "int64", "uint8"]),
        (np.uint8([0, 1, 128, 255]), ["int8", "int64", "float32", "bool"]),
    ]
    batch, expected = NodeBatch(19), {}
    for values, targets in cases:
        x = batch.given(values)
        for target in targets:
            dtype = np.dtype(target)
            (name,) = batch.add("Cast", x, to=helper.np_dtype_to_tensor_dtype(dtype))
            (like,) = batch.add("CastLike", x, np.zeros(1, dtype))
            with np.errstate(all="ignore"):
                expected[name] = expected[like] = values.astype(dtype)
    batch.check(expected)


def test_kernels_of_casts_need_nothing_of_the_c_library(monkeypatch):
    """Whatever the CPU: without F16C, LLVM calls functions."""
    monkeypatch.setenv(kernel_library.MCPU_VARIABLE, "x86-64")
    batch = NodeBatch(19)
    for source in ("float16", "float32", "float64", "int64", "uint8"):
        x = batch.given(np.arange(3).astype(source))
        for target in ("float16", "float32", "float64", "int64", "bool"):
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(target))
            batch.add("Cast", x, to=kind)
    compilation = top_tvm.compiler.build.compile_model(batch.model())
    for name in (b"__truncdfhf2", b"GCC_12"):
        assert name not in compilation.kernels


def test_bit_cast():
    pairs = [("float32", "int32"), ("float32", "uint32"), ("float64", "int64"), ("bool", "uint8")]
    pairs += [("float16", "uint16"), ("int8", "uint8"), ("int64", "float64")]
    batch, expected = NodeBatch(26), {}
    for source, target in pairs:
        values = numbers(3, 5, dtype=source)
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(target))
        (name,) = batch.add("BitCast", batch.given(values), to=kind)
        expected[name] = values.view(target)
    batch.check(expected)


def test_blocks_become_images_and_caches_take_updates():
    batch = NodeBatch(24)
    x = batch.given(numbers(2, 3 * 6, 16))
    batch.add("Col2Im", x, ints(5, 6), ints(2, 3))
    x = batch.given(numbers(1, 2 * 4, 9))
    kinds = {"strides": [2, 2], "pads": [0, 1, 1, 0], "dilations": [1, 2]}
    batch.add("Col2Im", x, ints(5, 6), ints(2, 2), **kinds)
    cache, update = batch.given(numbers(2, 3, 8, 4)), batch.given(numbers(2, 3, 2, 4) + 1)
    batch.add("TensorScatter", cache, update, batch.given([0, 6]))
    batch.add("TensorScatter", cache, update, batch.given([7, 3]), mode="circular")
    batch.add("TensorScatter", cache, update)
    batch.check(batch.reference(), rtol=1e-5)


def test_bfloat16_between_kernels():
    """Indices and order of elements survive; values are rounded where they are handed on."""
    batch = NodeBatch(18)
    x, weight = batch.given(numbers(16, 32)), numbers(32, 32)
    (product,) = batch.add("MatMul", x, weight)
    rows = batch.given([3, 1, -1])
    (taken,) = batch.add("Gather", product, rows)
    (written,) = batch.add("ScatterND", product, batch.given([[0], [5]]), numbers(2, 32))
    (summed,) = batch.add("CumSum", written, np.asarray(0, np.int64))
    top, _ = batch.add("TopK", taken, ints(4), results=2)
    for value in (top, summed, written):
        batch.add("MatMul", value, np.eye(32, dtype="float32")[: 4 if value == top else 32])
    expected = batch.expected()
    results = batch.run(precision="bf16")
    for name, value in expected.items():
        if value.dtype == np.float32:
            scale = np.abs(value).max()
            np.testing.assert_allclose(results[name], value, rtol=0.02, atol=0.02 * scale)


REFUSED = [
    ("Reshape", ["x", "n"], {}, "its shape .input 'n'. is computed at run time"),
    ("Reshape", ["x", [5, -1]], {}, r"shape \(3, 4\) cannot have the shape \[5, -1\]"),
    ("Squeeze", ["x", [0]], {}, "axis 0 of a tensor of shape .* is not of extent 1"),
    ("Unsqueeze", ["x", [5]], {}, "axis 5 does not exist in 3 dimensions"),
    ("Slice", ["x", "n", [1]], {}, "its starts .input 'n'. is computed at run time"),
    ("Slice", ["x", [0], [1], [0], [0]], {}, "a step is 0"),
    ("Gather", ["x", [3]], {}, "its indices go from 3 to 3, but axis 0 has 3 elements"),
    ("Split", ["x", [1, 1]], {"axis": 0}, "do not add up to the extent 3 of axis 0"),
    ("Pad", ["x", [1, 1]], {}, "it has 2 pads for 2 axes"),
    ("Expand", ["x", [2, 4]], {}, "do not broadcast"),
    ("TopK", ["x", [5]], {}, "it wants 5 of the 4 elements of axis 1"),
    ("NonZero", ["x"], {}, "the size of its result depends on values that are computed at run"),
    ("Unique", ["x"], {}, "the size of its result depends"),
    ("Range", ["n", [1], [1]], {}, "the size of its result depends"),
    ("Compress", ["x", "m"], {}, "its condition .input 'm'. is computed at run time"),
    ("Cast", ["x"], {"to": TensorProto.FLOAT8E4M3FN}, "values of type FLOAT8E4M3FN are not supp"),
    ("Cast", ["x"], {"to": TensorProto.INT4}, "values of type INT4 are not supported"),
    ("Cast", ["x"], {"to": TensorProto.STRING}, "values of type STRING are not supported"),
    ("ScatterND", ["x", "n", "x"], {}, "do not fit"),
    ("ScatterElements", ["x", "x", "x"], {"reduction": "mean"}, "its reduction 'mean' is none of"),
]


@pytest.mark.parametrize(("operator", "operands", "attributes", "reason"), REFUSED)
def test_what_cannot_be_planned_is_refused(operator, operands, attributes, reason):
    batch = NodeBatch(20)
    batch.inputs = {
        "x": numbers(3, 4),
        "n": ints(2),
        "m": np.asarray([True, False, True]),
    }
    items = [item if isinstance(item, str) else ints(*item) for item in operands]
    batch.add(operator, *items, results=2 if operator in ("Split", "TopK") else 1, **attributes)
    # Much of it is found before any conversion, but by less helpful messages.
    with pytest.raises(top_tvm.ModelError, match=reason) as caught:
        convert_graph(batch.model(), "model")
    assert f"node 'y0' ({operator})" in str(caught.value)


def test_neighbours_of_kernels_with_several_loops():
    """What fusion makes of them, between elementwise operators and reductions."""
    batch = NodeBatch(18)
    x = batch.given(numbers(2, 24, 9, 10))
    weight = numbers(24, 24, 1, 1) / 8
    (image,) = batch.add("Conv", x, weight)
    (positive,) = batch.add("Relu", image)
    (classes,) = batch.add("ArgMax", positive, axis=1, keepdims=0)
    (one,) = batch.add("Add", classes, ints(1))
    batch.add("Cast", one, to=TensorProto.FLOAT)
    (exponential,) = batch.add("Exp", batch.given(numbers(3, 20) / 8))
    values, places = batch.add("TopK", exponential, ints(4), results=2)
    batch.add("Mul", values, np.float32(2))
    batch.add("GatherElements", exponential, places, axis=1)
    (likely,) = batch.add("Softmax", exponential, axis=-1)
    batch.add("ArgMin", likely, axis=-1)
    (total,) = batch.add("CumSum", exponential, np.asarray(1, np.int64))
    batch.add("Div", total, np.float32(3))
    (padded,) = batch.add("Pad", positive, ints(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect")
    batch.add("Conv", padded, numbers(8, 24, 3, 3))
    (scattered,) = batch.add("ScatterND", exponential, batch.given([[1]]), numbers(1, 20))
    (halved,) = batch.add("Mul", scattered, np.float32(0.5))
    batch.add("ScatterElements", halved, places, values, axis=1)
    batch.check(rtol=2e-3)
