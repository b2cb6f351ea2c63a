"""Scans and selections along an axis, compiled as the pipeline compiles them."""

import numpy as np
import pytest
from tvm import relax

import top_tvm


def build(shape, operator, dtype="float32"):
    """Executable of ``operator`` on one input."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, dtype))
    with builder.function("main", [x]):
        with builder.dataflow():
            output = builder.emit_output(builder.emit(operator(x)))
        builder.emit_func_output(output)
    return top_tvm.build(builder.finalize(), partitioner="sequential")


def values(shape, dtype="float32", distinct=5):
    """Few different values, so that there are equal ones."""
    return np.random.default_rng(0).integers(1, distinct, shape).astype(dtype)


def run(shape, operator, dtype="float32"):
    return list(build(shape, operator, dtype).run({"x": values(shape, dtype)}).values())


@pytest.mark.parametrize(
    ("shape", "axis"), [((7,), 0), ((3, 7), 0), ((3, 7), -1), ((2, 3, 4, 5), 2), ((1, 8), 1)]
)
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_cumulative_sums_and_products(shape, axis, dtype):
    x = values(shape, dtype)
    (result,) = run(shape, lambda x: relax.op.cumsum(x, axis), dtype)
    np.testing.assert_array_equal(result, np.cumsum(x, axis))
    (result,) = run(shape, lambda x: relax.op.cumprod(x, axis), dtype)
    np.testing.assert_array_equal(result, np.cumprod(x, axis))


def test_exclusive_sums_flat_sums_and_sums_in_another_type():
    x = values((3, 7))
    (result,) = run((3, 7), lambda x: relax.op.cumsum(x, 1, exclusive=True))
    np.testing.assert_array_equal(result, np.cumsum(x, 1) - x)
    (result,) = run((3, 7), relax.op.cumsum)
    np.testing.assert_array_equal(result, np.cumsum(x))
    (result,) = run((3, 7), lambda x: relax.op.cumsum(x, 0, dtype="int64"), "int32")
    assert result.dtype == np.int64
    np.testing.assert_array_equal(result, np.cumsum(x, 0))


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize(("shape", "axis", "k"), [((9,), 0, 4), ((2, 9, 3), 1, 9), ((4, 5), -1, 1)])
def test_topk_takes_equal_elements_by_their_position(shape, axis, k, largest):
    x = values(shape)
    order = np.argsort(-x if largest else x, axis, kind="stable")
    expected = np.take(order, np.arange(k), axis)
    found, where = run(shape, lambda x: relax.op.topk(x, k, axis, largest=largest, dtype="int64"))
    np.testing.assert_array_equal(where, expected)
    np.testing.assert_array_equal(found, np.take_along_axis(x, expected, axis))


@pytest.mark.parametrize("descending", [True, False])
def test_sort_and_argsort(descending):
    x = values((3, 11))
    (result,) = run((3, 11), lambda x: relax.op.sort(x, 1, descending))
    np.testing.assert_array_equal(result, np.sort(x, 1)[:, :: -1 if descending else 1])
    (result,) = run((3, 11), lambda x: relax.op.argsort(x, 0, descending, "int64"))
    np.testing.assert_array_equal(result, np.argsort(-x if descending else x, 0, kind="stable"))


def test_positions_are_in_range_even_where_nothing_compares():
    exe = build((6,), lambda x: relax.op.topk(x, 3, 0, dtype="int64"))
    where = exe.run({"x": np.full(6, np.nan, "float32")})["output_1"]
    assert ((where >= 0) & (where < 6)).all()
