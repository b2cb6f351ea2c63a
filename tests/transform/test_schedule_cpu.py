"""Schedules against NumPy: rows, reductions, transposes, padding, at even and odd extents."""

import numpy as np
import pytest
import tvm
from tvm import relax, te

from kernels import assembly, call, compiled, kernel
from top_tvm.compiler.extract import _is_parallel
from top_tvm.compiler.transform.schedule_cpu import schedule_prim_func

RNG = np.random.default_rng(5)
op = relax.op


def random(*shape):
    return RNG.standard_normal(shape).astype("float32")


def check(shape, body, reference, *, weights=(), parallel=True, vector=True):
    x = random(*shape)
    function = kernel(shape, body)
    np.testing.assert_allclose(call(function, x, *weights), reference(x), rtol=2e-5, atol=2e-5)
    assert _is_parallel(function.body) == parallel
    assert ("T.vectorized" in function.script()) == vector


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize(
    ("shape", "vector"),
    [((3, 4, 64), True), ((2, 197), True), ((3, 31), False), ((1, 1000), True), ((7, 36), True)],
)
def test_softmax_runs_row_by_row(shape, vector):
    check(
        shape,
        lambda emit, x: emit(op.nn.softmax(x, -1)),
        softmax,
        parallel=np.prod(shape[:-1]) > 1,
        vector=vector,
    )


def test_exponentials_are_computed_once():
    function = kernel((8, 64), lambda emit, x: emit(op.nn.softmax(x, -1)))
    assert function.script().count("T.floor") == 1


@pytest.mark.parametrize("width", [48, 768, 50])
def test_layer_norm(width):
    gamma, beta = random(width), random(width)

    def reference(x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * gamma + beta

    check(
        (3, 5, width),
        lambda emit, x: emit(op.nn.layer_norm(x, relax.const(gamma), relax.const(beta), axes=[-1])),
        reference,
        weights=(gamma, beta),
    )


@pytest.mark.parametrize("width", [64, 20, 33, 31, 197, 1])
@pytest.mark.parametrize("name", ["mean", "max", "sum", "min"])
def test_reduction_of_the_last_axis(name, width):
    check(
        (6, 7, width),
        lambda emit, x: emit(getattr(op, name)(x, [-1])),
        lambda x: getattr(x, name)(-1),
        vector=width % 4 == 0 or width > 32,
    )


@pytest.mark.parametrize("channels", [64, 24, 1000, 17])
def test_mean_over_pixels(channels):
    check(
        (2, 5, 3, channels),
        lambda emit, x: emit(op.mean(x, [1, 2], keepdims=True)),
        lambda x: x.mean((1, 2), keepdims=True),
        vector=channels % 4 == 0,
    )


@pytest.mark.parametrize("channels", [64, 24, 136, 17])
def test_channels_last_pooling_with_padding(channels):
    def reference(x):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
        windows = [padded[:, y : y + 7 : 2, z : z + 7 : 2] for y in range(3) for z in range(3)]
        return np.max(windows, axis=0)

    check(
        (1, 7, 7, channels),
        lambda emit, x: emit(op.nn.max_pool2d(x, (3, 3), (2, 2), (1, 1, 1, 1), layout="NHWC")),
        reference,
        vector=channels % 4 == 0,
    )


def test_window_along_the_vector_has_no_condition_in_each_lane():
    def body(emit, x):
        pads = (0, 0, 2, 0, 0, 2)
        return emit(op.nn.avg_pool3d(x, (1, 1, 5), (1, 1, 1), pads, count_include_pad=True))

    def reference(x):
        padded = np.pad(x, ((0, 0),) * 4 + ((2, 2),))
        return sum(padded[..., i : i + x.shape[-1]] for i in range(5)) / 5

    check((1, 1, 3, 4, 32), body, reference)
    function = kernel((1, 1, 3, 4, 32), body)
    lines = function.script().splitlines()
    padding = next(index for index, line in enumerate(lines) if "T.if_then_else" in line)
    pooling = next(index for index, line in enumerate(lines) if "pool_sum_update" in line)
    assert padding < pooling
    assert sum("T.if_then_else" in line for line in lines) == 1


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((1, 3, 20, 24), (0, 2, 3, 1)),  # an image
        ((2, 5, 5, 48), (0, 3, 1, 2)),
        ((2, 6, 6, 4, 28), (0, 1, 2, 4, 3)),  # channel shuffle
        ((3, 4, 34), (0, 2, 1)),
        ((1, 17, 3, 32), (0, 2, 1, 3)),  # attention heads
        ((1, 17, 3, 32), (0, 2, 3, 1)),
        ((33, 35), (1, 0)),
        ((7, 2), (1, 0)),
    ],
)
def test_transposes(shape, axes):
    x = random(*shape)
    function = kernel(shape, lambda emit, v: emit(op.permute_dims(v, axes)))
    np.testing.assert_array_equal(call(function, x), x.transpose(axes))


def test_channel_shuffle_stores_whole_vectors():
    function = kernel((8, 4, 32), lambda emit, x: emit(op.permute_dims(x, [0, 2, 1])))
    assert _is_parallel(function.body)
    moves = [line for line in assembly(function).splitlines() if "mov" in line]
    assert any(register in line for line in moves for register in ("ymm", "zmm", "q0", "v0"))


def test_long_vector_is_cut_for_parallel_work():
    check((8192,), lambda emit, x: emit(op.nn.relu(x)), lambda x: np.maximum(x, 0))
    check((64,), lambda emit, x: emit(op.nn.relu(x)), lambda x: np.maximum(x, 0), parallel=False)


def test_gate_of_channel_means():
    check(
        (1, 6, 6, 24),
        lambda emit, x: emit(op.multiply(x, emit(op.mean(x, [1, 2], keepdims=True)))),
        lambda x: x * x.mean((1, 2), keepdims=True),
    )


def test_padded_rows_do_not_read_behind_the_last_one():
    x = random(3, 35)
    surrounded = np.full((5, 35), np.inf, "float32")
    surrounded[1:4] = x
    function = kernel((3, 35), lambda emit, v: emit(op.max(v, [-1])))
    np.testing.assert_array_equal(call(function, surrounded[1:4]), x.max(-1))
    total = kernel((3, 35), lambda emit, v: emit(op.sum(v, [-1])))
    np.testing.assert_allclose(call(total, surrounded[1:4]), x.sum(-1), rtol=1e-5, atol=1e-5)


def test_expensive_value_with_two_readers_stays_a_vector():
    def body(emit, x):
        y = emit(op.exp(x))
        return emit(op.multiply(emit(op.add(y, relax.const(np.float32(1)))), y))

    check((4, 5, 32), body, lambda x: (np.exp(x) + 1) * np.exp(x))


def test_a_kernel_of_several_results():
    function = kernel((3, 32), lambda emit, x: emit(op.split(x, 2, axis=1)))
    x = random(3, 32)
    parts = [tvm.runtime.tensor(np.zeros((3, 16), "float32")) for _ in range(2)]
    compiled(function)["kernel"](tvm.runtime.tensor(x), *parts)
    np.testing.assert_array_equal(np.concatenate([part.numpy() for part in parts], 1), x)


def test_a_result_that_is_read_for_the_next_one():
    """As the cell state of an LSTM: a result cannot move into the loop of another."""

    def cell(x):
        state = te.compute(x.shape, lambda *i: x[i] * 2 + 1, "state")
        return [state, te.compute(x.shape, lambda *i: te.tanh(state[i]), "hidden")]

    x = random(3, 32)
    function = schedule_prim_func(te.create_prim_func([(a := te.placeholder(x.shape)), *cell(a)]))
    parts = [tvm.runtime.tensor(np.zeros((3, 32), "float32")) for _ in range(2)]
    compiled(function)["kernel"](tvm.runtime.tensor(x), *parts)
    np.testing.assert_allclose(parts[0].numpy(), x * 2 + 1, rtol=1e-5)
    np.testing.assert_allclose(parts[1].numpy(), np.tanh(x * 2 + 1), rtol=1e-5)


def test_a_value_that_several_results_read_stays():
    """TVM would merge it with the first of them, and leave the others without it."""

    def results(x):
        value = te.compute(x.shape, lambda i, j: te.tanh(x[i, j]), "value")
        second = te.compute((3,), lambda i: value[i, 1] + 1, "second")
        return [second, te.compute((3,), lambda i: value[i, 0], "first")]

    x = random(3, 2)
    function = schedule_prim_func(
        te.create_prim_func([(a := te.placeholder(x.shape)), *results(a)])
    )
    parts = [tvm.runtime.tensor(np.zeros(3, "float32")) for _ in range(2)]
    compiled(function)["kernel"](tvm.runtime.tensor(x), *parts)
    np.testing.assert_allclose(parts[0].numpy(), np.tanh(x[:, 1]) + 1, rtol=1e-5)
    np.testing.assert_allclose(parts[1].numpy(), np.tanh(x[:, 0]), rtol=1e-5)
