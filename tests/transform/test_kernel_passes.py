"""Dispatch to library primitives, lowering of concat, and schedules of generated kernels."""

import json

import numpy as np
import pytest
import tvm
from tvm import relax, te

from top_tvm.compiler.extract import _is_parallel, extract
from top_tvm.compiler.transform.dispatch_library import (
    KERNEL_ATTRIBUTE,
    DescribeLibraryCalls,
    DispatchOneDNN,
    DispatchViews,
)
from top_tvm.compiler.transform.lower_concat import LowerConcat, concat_kernel
from top_tvm.compiler.transform.schedule_cpu import schedule_prim_func

RNG = np.random.default_rng(11)


def const(*shape):
    return relax.const(RNG.standard_normal(shape).astype("float32"))


def module(shape, body):
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = body(builder, x)
            results = result if isinstance(result, tuple) else (result,)
            outputs = [builder.emit_output(var) for var in results]
        builder.emit_func_output(outputs[0] if len(outputs) == 1 else relax.Tuple(outputs))
    return builder.finalize()


def described(mod):
    """(symbol, flags) of the library functions, and the number of operators left in main."""
    mod = DescribeLibraryCalls(DispatchOneDNN(mod))
    found, left = [], 0
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            if not isinstance(binding.value, relax.Call):
                continue
            if isinstance(binding.value.op, tvm.ir.Op):
                left += 1
                continue
            record = json.loads(mod[binding.value.op].attrs[KERNEL_ATTRIBUTE])
            attributes = record["attributes"]
            flags = ["bias"] if attributes["bias"] == [1] else []
            flags += [name.partition(".")[2] for name in attributes if name.startswith("post")]
            found.append((record["symbol"], flags, record["arguments"]))
    return found, left


def conv(b, x, out=8, inputs=8):
    weight = const(out, inputs, 3, 3)
    return b.emit(
        relax.op.nn.conv2d(
            x, weight, padding=(1, 1, 1, 1), data_layout="NHWC", kernel_layout="OIHW"
        )
    )


def test_convolution_takes_bias_residual_and_relu():
    def body(b, x):
        y = b.emit(relax.op.add(conv(b, x), const(1, 1, 1, 8)))
        return b.emit(relax.op.nn.relu(b.emit(relax.op.add(x, y))))

    found, left = described(module((1, 6, 6, 8), body))
    # x is both the data and the residual: one parameter, named twice.
    assert found == [("conv2d", ["bias", "residual", "relu"], [0, 1, 2, 0])]
    assert left == 0


def test_two_convolutions_that_meet_in_an_addition():
    def body(b, x):
        left = b.emit(relax.op.add(conv(b, x), const(1, 1, 1, 8)))
        right = b.emit(relax.op.add(conv(b, x), const(1, 1, 1, 8)))
        return b.emit(relax.op.nn.relu(b.emit(relax.op.add(left, right))))

    found, left = described(module((1, 6, 6, 8), body))
    assert sorted(flags for _, flags, _ in found) == [["bias"], ["bias", "residual", "relu"]]
    assert left == 0


def test_intermediate_with_a_second_reader_is_not_swallowed():
    def body(b, x):
        y = b.emit(relax.op.add(conv(b, x), const(1, 1, 1, 8)))
        return b.emit(relax.op.nn.relu(y)), b.emit(relax.op.exp(y))

    found, left = described(module((1, 6, 6, 8), body))
    assert [flags for _, flags, _ in found] == [["bias"]]
    assert left == 2


def test_constant_that_is_no_bias_stays_outside():
    def body(b, x):
        return b.emit(relax.op.add(conv(b, x), const(1, 6, 1, 1)))

    found, left = described(module((1, 6, 6, 8), body))
    assert [flags for _, flags, _ in found] == [[]]
    assert left == 1


@pytest.mark.parametrize("rows", [1, 5])
def test_matmul_takes_its_bias_at_every_batch(rows):
    def body(b, x):
        return b.emit(relax.op.add(b.emit(relax.op.matmul(x, const(4, 3))), const(1, 3)))

    found, left = described(module((rows, 4), body))
    assert found == [("matmul", ["bias"], [0, 1, 2])]
    assert left == 0


def test_matmul_with_broadcast_batches_is_left_to_tvm():
    mod = module((2, 1, 4, 4), lambda b, x: b.emit(relax.op.matmul(x, const(2, 3, 4, 5))))
    assert described(mod) == ([], 1)


def test_nchw_convolution_is_left_to_tvm():
    mod = module((1, 4, 6, 6), lambda b, x: b.emit(relax.op.nn.conv2d(x, const(8, 4, 3, 3))))
    assert described(mod) == ([], 1)


def test_reshapes_become_views_of_one_storage():
    def body(b, x):
        return b.emit(relax.op.exp(b.emit(relax.op.reshape(b.emit(relax.op.exp(x)), (4, 6)))))

    mod = DescribeLibraryCalls(DispatchViews(module((2, 12), body)))
    for step in (relax.transform.LegalizeOps(), relax.transform.AnnotateTIROpPattern()):
        mod = step(mod)
    graph = extract(mod, ("x",), ("y",)).graph
    assert len(graph.ops) == 2
    first, second = graph.ops
    assert graph.values[first.outputs[0]].storage == graph.values[second.inputs[0]].storage
    assert graph.values[second.inputs[0]].shape == (4, 6)


def compiled(function, *arrays):
    library = tvm.compile(
        tvm.IRModule({"kernel": function.with_attr("global_symbol", "kernel")}),
        target=tvm.target.Target({"kind": "llvm"}),
    )
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    library["kernel"](*tensors)
    return tensors[-1].numpy()


def test_concat_kernel_copies_rows():
    parts = [RNG.standard_normal((5, width)).astype("float32") for width in (3, 16, 1)]
    result = compiled(concat_kernel(5, (3, 16, 1), "float32"), *parts, np.zeros((5, 20), "float32"))
    np.testing.assert_array_equal(result, np.concatenate(parts, axis=1))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat_is_lowered_along_any_axis(axis):
    mod = module((2, 3, 4), lambda b, x: b.emit(relax.op.concat([x, x, const(2, 3, 4)], axis=axis)))
    after = LowerConcat(mod)
    x = RNG.standard_normal((2, 3, 4)).astype("float32")

    def run(m):
        vm = relax.VirtualMachine(
            tvm.compile(m, target=tvm.target.Target({"kind": "llvm"})), tvm.cpu()
        )
        return vm["main"](tvm.runtime.tensor(x)).numpy()

    assert "concat(" not in after["main"].script().replace("cls.concat", "")
    np.testing.assert_array_equal(run(after), run(mod))


def has_vector_loop(function):
    return "T.vectorized" in function.script()


@pytest.mark.parametrize("shape", [(7, 32), (3, 5, 17), (64,), (5,), (1, 1)])
def test_elementwise_kernels_are_inlined_and_right(shape):
    source = te.placeholder(shape, "float32", name="source")
    middle = te.compute(shape, lambda *i: source(*i) + np.float32(1), name="middle")
    result = te.compute(shape, lambda *i: te.max(middle(*i), np.float32(0)), name="result")
    scheduled = schedule_prim_func(te.create_prim_func([source, result]))
    assert "alloc_buffer" not in scheduled.script()
    assert has_vector_loop(scheduled) == (max(shape) % 16 == 0)
    x = RNG.standard_normal(shape).astype("float32")
    np.testing.assert_allclose(compiled(scheduled, x, np.zeros_like(x)), np.maximum(x + 1, 0))


@pytest.mark.parametrize("channels", [32, 3])
def test_channels_last_pooling_is_vectorised_and_right(channels):
    source = te.placeholder((1, 8, 8, channels), "float32", name="source")
    dy, dx = te.reduce_axis((0, 2), "dy"), te.reduce_axis((0, 2), "dx")
    result = te.compute(
        (1, 4, 4, channels),
        lambda n, h, w, c: te.max(source[n, 2 * h + dy, 2 * w + dx, c], axis=[dy, dx]),
        name="result",
    )
    scheduled = schedule_prim_func(te.create_prim_func([source, result]))
    assert has_vector_loop(scheduled) == (channels == 32)
    assert _is_parallel(scheduled.body)
    x = RNG.standard_normal((1, 8, 8, channels)).astype("float32")
    expected = x.reshape(1, 4, 2, 4, 2, channels).max(axis=(2, 4))
    np.testing.assert_array_equal(compiled(scheduled, x, np.zeros_like(expected)), expected)
