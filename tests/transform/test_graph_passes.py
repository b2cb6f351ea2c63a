"""Before / Expected of the passes that work on operators."""

import numpy as np
import pytest
import tvm
from tvm import relax, topi
from tvm.script import ir as I
from tvm.script import relax as R

from top_tvm.compiler.transform.convert_to_nhwc import ConvertToNHWC
from top_tvm.compiler.transform.decompose_batch_norm import DecomposeBatchNorm
from top_tvm.compiler.transform.fold_constants import FoldConstants
from top_tvm.compiler.transform.fold_scale_shift import FoldScaleShift
from top_tvm.compiler.transform.lift_to_2d import LiftTo2D
from top_tvm.compiler.transform.remove_dropout import RemoveDropout
from top_tvm.compiler.transform.restore_clip import RestoreClip
from top_tvm.compiler.transform.rewriter import bindings_of
from top_tvm.compiler.transform.sink_reshapes import SinkReshapes
from top_tvm.compiler.transform.stack_sum_to_add import StackSumToAdd
from top_tvm.errors import ModelError

RNG = np.random.default_rng(7)


def module(shape, body, dtype="float32"):
    """One-input module: ``body(builder, x)`` emits and returns the result."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, dtype))
    with builder.function("main", [x]):
        with builder.dataflow():
            output = builder.emit_output(body(builder, x))
        builder.emit_func_output(output)
    return builder.finalize()


def calls(mod):
    names = []
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            if isinstance(binding.value, relax.Call):
                names.append(binding.value.op.name.removeprefix("relax."))
    return names


def run(mod, x):
    executable = tvm.compile(mod, target=tvm.target.Target({"kind": "llvm"}))
    vm = relax.VirtualMachine(executable, tvm.cpu())
    return vm["main"](tvm.runtime.tensor(x)).numpy()


def assert_same_numbers(before, after, shape):
    x = RNG.standard_normal(shape).astype("float32")
    np.testing.assert_allclose(run(after, x), run(before, x), rtol=1e-4, atol=1e-4)


def test_sum_of_stack_becomes_additions():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 4, 5), "float32"), y: R.Tensor((1, 4, 5), "float32")):
            with R.dataflow():
                a = R.broadcast_to(x, R.shape([1, 4, 5]))
                b = R.broadcast_to(y, R.shape([1, 4, 5]))
                stacked = R.stack((a, b), axis=0)
                gv = R.sum(stacked, axis=[0], keepdims=False)
                R.output(gv)
            return gv

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 4, 5), "float32"), y: R.Tensor((1, 4, 5), "float32")):
            with R.dataflow():
                gv = R.add(x, y)
                R.output(gv)
            return gv

    after = relax.transform.CanonicalizeBindings()(StackSumToAdd(Before))
    tvm.ir.assert_structural_equal(after, Expected)


def clipped(b, x, *bounds):
    return b.emit_te(topi.minimum, b.emit_te(topi.maximum, x, bounds[0]), bounds[1])


@pytest.mark.parametrize("as_tensors", [False, True])
def test_clip_is_made_of_operators(as_tensors):
    bounds = (-1.0, 6.0)
    if as_tensors:
        bounds = tuple(relax.const(np.float32(bound)) for bound in bounds)
    after = RestoreClip(module((2, 3), lambda b, x: clipped(b, x, *bounds)))

    def expected(b, x):
        y = b.emit(relax.op.maximum(x, relax.const(np.float32(-1))))
        return b.emit(relax.op.minimum(y, relax.const(np.float32(6))))

    tvm.ir.assert_structural_equal(
        relax.transform.CanonicalizeBindings()(after),
        relax.transform.CanonicalizeBindings()(module((2, 3), expected)),
    )


def test_maximum_of_tensors_stays():
    mod = module((2, 3), lambda b, x: b.emit_te(topi.maximum, x, b.emit(relax.op.exp(x))))
    assert calls(RestoreClip(mod)) == ["exp", "call_tir"]


ONE_DIMENSIONAL = {
    "conv1d": lambda x: relax.op.nn.conv1d(
        x, relax.const(random(6, 2, 3)), strides=2, padding=(1, 2), dilation=2, groups=2
    ),
    "conv1d_transpose": lambda x: relax.op.nn.conv1d_transpose(
        x, relax.const(random(4, 3, 3)), strides=2, padding=(1, 0), output_padding=1
    ),
    "max_pool1d": lambda x: relax.op.nn.max_pool1d(
        x, pool_size=3, strides=2, padding=(1, 1), ceil_mode=True
    ),
    "avg_pool1d": lambda x: relax.op.nn.avg_pool1d(
        x, pool_size=3, strides=2, padding=(1, 0), count_include_pad=True
    ),
}


def random(*shape):
    return RNG.standard_normal(shape).astype("float32")


@pytest.mark.parametrize("name", ONE_DIMENSIONAL)
def test_one_dimension_becomes_two(name):
    mod = module((2, 4, 9), lambda b, x: b.emit(ONE_DIMENSIONAL[name](x)))
    after = LiftTo2D(mod)
    assert f"nn.{name.replace('1d', '2d')}" in calls(after)
    assert f"nn.{name}" not in calls(after)
    assert_same_numbers(mod, after, (2, 4, 9))


def test_one_dimensional_network_keeps_its_layout():
    def body(b, x):
        for _ in range(2):
            y = b.emit(relax.op.nn.conv1d(x, relax.const(random(4, 4, 3)), padding=1))
            y = b.emit(relax.op.add(y, relax.const(random(1, 4, 1))))
            x = b.emit(relax.op.clip(b.emit(relax.op.nn.relu(y)), 0, 1))
        return x

    mod = module((2, 4, 9), body)
    after = ConvertToNHWC(FoldConstants(LiftTo2D(mod)))
    names = calls(after)
    assert names.count("permute_dims") == 2  # on the way in and out
    first = names.index("nn.conv2d")
    block = ["nn.conv2d", "add", "nn.relu", "clip"]
    assert names[first : first + 8] == block * 2
    assert_same_numbers(mod, after, (2, 4, 9))


def test_transposed_convolution_runs_between_permutations():
    def body(b, x):
        weight = relax.const(random(4, 3, 2, 2))
        return b.emit(relax.op.nn.conv2d_transpose(x, weight, strides=(2, 2)))

    mod = module((1, 4, 5, 6), body)
    after = ConvertToNHWC(mod)
    assert calls(after) == [*["permute_dims"] * 2, "nn.conv2d_transpose", *["permute_dims"] * 2]
    assert_same_numbers(mod, after, (1, 4, 5, 6))


def test_kernels_survive_passes_over_operators():
    mod = module((2, 3), lambda b, x: b.emit_te(topi.maximum, x, b.emit(relax.op.exp(x))))
    after = FoldConstants(RestoreClip(mod))
    relax.analysis.well_formed(after)
    assert_same_numbers(mod, after, (2, 3))


def gemm(b, x, rows, weight, bias):
    """A product with merged rows, as tools that slim models write it."""
    merged = b.emit(relax.op.reshape(x, (rows, weight.shape[0])))
    product = b.emit(relax.op.matmul(merged, relax.const(weight)))
    return b.emit(relax.op.add(product, relax.const(bias)))


def test_reshapes_around_products_disappear():
    first, second, bias = random(4, 6), random(6, 4), random(6)

    def body(b, x):
        y = b.emit(relax.op.reshape(gemm(b, x, 6, first, bias), (2, 3, 6)))
        y = b.emit(relax.op.nn.gelu(y))
        y = b.emit(relax.op.reshape(gemm(b, y, 6, second, bias[:4]), (2, 3, 4)))
        return b.emit(relax.op.add(x, y))

    mod = module((2, 3, 4), body)
    after = SinkReshapes(mod)
    assert calls(after) == ["matmul", "add", "nn.gelu", "matmul", "add", "add"]
    assert_same_numbers(mod, after, (2, 3, 4))


def test_residual_reaches_the_product_behind_a_reshape():
    """With merged rows where the data of the product are no reshape, as behind attention."""

    def body(b, x):
        turned = b.emit(relax.op.permute_dims(x, [1, 0, 2]))
        y = b.emit(relax.op.reshape(gemm(b, turned, 6, random(4, 4), random(4)), (2, 3, 4)))
        y = b.emit(relax.op.multiply(y, relax.const(random(1, 1, 4))))
        return b.emit(relax.op.add(x, b.emit(relax.op.nn.relu(y))))

    mod = module((2, 3, 4), body)
    after = SinkReshapes(mod)
    names = [name for name in calls(after) if name != "reshape"]
    assert names == ["permute_dims", "matmul", "add", "multiply", "nn.relu", "add"]
    assert_same_numbers(mod, after, (2, 3, 4))


def test_reshapes_that_mix_rows_and_columns_stay():
    def body(b, x):
        y = b.emit(relax.op.reshape(x, (2, 12)))
        y = b.emit(relax.op.matmul(y, relax.const(random(12, 12))))
        y = b.emit(relax.op.add(y, relax.const(random(2, 12))))
        return b.emit(relax.op.reshape(y, (2, 3, 4)))

    mod = module((2, 3, 4), body)
    assert calls(SinkReshapes(mod)) == ["reshape", "matmul", "add", "reshape"]


def test_dropout_disappears():
    def body(b, x):
        kept = b.emit(relax.TupleGetItem(b.emit(relax.op.nn.dropout(x, 0.5)), 0))
        return b.emit(relax.op.nn.relu(kept))

    before = module((2, 3), body)
    expected = module((2, 3), lambda b, x: b.emit(relax.op.nn.relu(x)))
    tvm.ir.assert_structural_equal(RemoveDropout(before), expected)


def test_sum_over_another_axis_stays():
    mod = module(
        (2, 3), lambda b, x: b.emit(relax.op.sum(b.emit(relax.op.stack([x, x], axis=1)), axis=[1]))
    )
    tvm.ir.assert_structural_equal(StackSumToAdd(mod), mod)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (lambda c: relax.op.reshape(c, (3, 2)), lambda a: a.reshape(3, 2)),
        (lambda c: relax.op.permute_dims(c), lambda a: a.T),
        (lambda c: relax.op.expand_dims(c, [0]), lambda a: a[None]),
        (lambda c: relax.op.add(c, relax.const(np.float32(2))), lambda a: a + np.float32(2)),
        (lambda c: relax.op.broadcast_to(c, (4, 2, 3)), lambda a: np.broadcast_to(a, (4, 2, 3))),
        (lambda c: relax.op.sqrt(c), np.sqrt),
        (
            lambda c: relax.op.where(relax.const(np.bool_([True, False, True])), c, c * c),
            lambda a: np.where([True, False, True], a, a * a),
        ),
    ],
)
def test_constants_fold_to_what_numpy_says(expression, value):
    array = RNG.random((2, 3)).astype("float32")
    mod = module((1,), lambda b, x: b.emit(relax.op.add(b.emit(expression(relax.const(array))), x)))
    folded = FoldConstants(mod)
    assert calls(folded) == ["add"]
    constant = folded["main"].body.blocks[0].bindings[0].value.args[0]
    np.testing.assert_array_equal(constant.value.numpy(), value(array))


def test_integer_division_is_not_folded():
    seven, two = relax.const(-7, "int64"), relax.const(2, "int64")
    mod = module(
        (1,), lambda b, x: b.emit(relax.op.add(b.emit(relax.op.divide(seven, two)), x)), "int64"
    )
    assert calls(FoldConstants(mod)) == ["divide", "add"]


def batch_norm(b, x, channels, seed=3):
    generator = np.random.default_rng(seed)
    gamma, beta, mean = (generator.standard_normal(channels).astype("float32") for _ in range(3))
    variance = (1 + generator.random(channels)).astype("float32")
    parameters = [relax.const(array) for array in (gamma, beta, mean, variance)]
    return b.emit(
        relax.TupleGetItem(
            b.emit(relax.op.nn.batch_norm(x, *parameters, axis=1, training=False)), 0
        )
    )


def test_batch_norm_becomes_scale_and_shift():
    mod = module((1, 4, 5, 5), lambda b, x: batch_norm(b, x, 4))
    after = DecomposeBatchNorm(mod)
    assert calls(after) == ["multiply", "add"]
    assert_same_numbers(mod, after, (1, 4, 5, 5))


def conv(b, x, out, inputs, **attributes):
    weight = relax.const(RNG.standard_normal((out, inputs, 3, 3)).astype("float32"))
    return b.emit(relax.op.nn.conv2d(x, weight, padding=(1, 1, 1, 1), **attributes))


def channel_const(channels):
    return relax.const(RNG.standard_normal((channels, 1, 1)).astype("float32"))


def test_chain_behind_a_convolution_folds_into_it():
    def body(b, x):
        y = batch_norm(b, conv(b, x, 6, 4), 6)
        y = b.emit(relax.op.multiply(y, channel_const(6)))
        return b.emit(relax.op.add(channel_const(6), y))

    mod = module((1, 4, 7, 7), body)
    after = FoldScaleShift(DecomposeBatchNorm(mod))
    assert calls(after) == ["nn.conv2d", "add"]
    assert_same_numbers(mod, after, (1, 4, 7, 7))


def test_pre_activation_chain_becomes_one_scale_shift():
    def body(b, x):
        y = batch_norm(b, b.emit(relax.op.nn.relu(x)), 4)
        y = b.emit(relax.op.multiply(y, channel_const(4)))
        return b.emit(relax.op.subtract(y, channel_const(4)))

    mod = module((2, 4, 3, 3), body)
    after = FoldScaleShift(DecomposeBatchNorm(mod))
    assert calls(after) == ["nn.relu", "multiply", "add"]
    assert_same_numbers(mod, after, (2, 4, 3, 3))


def test_convolution_with_a_second_reader_keeps_its_weights():
    def body(b, x):
        y = conv(b, x, 4, 4)
        return b.emit(relax.op.add(b.emit(relax.op.multiply(y, channel_const(4))), y))

    mod = module((1, 4, 5, 5), body)
    after = FoldScaleShift(mod)
    assert calls(after) == ["nn.conv2d", "multiply", "add"]
    assert_same_numbers(mod, after, (1, 4, 5, 5))


def test_branchy_network_has_transposes_only_at_its_edges():
    def body(b, x):
        y = b.emit(relax.op.nn.relu(b.emit(relax.op.add(conv(b, x, 16, 3), channel_const(16)))))
        pooled = b.emit(relax.op.nn.max_pool2d(y, (3, 3), (1, 1), (1, 1, 1, 1)))
        left = conv(b, pooled, 8, 16, groups=1)
        right = b.emit(relax.op.nn.avg_pool2d(y, (3, 3), (1, 1), (1, 1, 1, 1)))
        joined = b.emit(relax.op.concat([left, right], axis=1))
        return b.emit(relax.op.mean(joined, axis=[2, 3], keepdims=True))

    mod = module((1, 3, 8, 8), body)
    after = FoldConstants(ConvertToNHWC(mod))
    assert calls(after).count("permute_dims") == 1  # the input; the 1x1 output is a reshape
    assert calls(after)[-1] == "reshape"
    assert_same_numbers(mod, after, (1, 3, 8, 8))


def test_local_response_normalisation_stays_channels_last():
    def body(b, x):
        y = conv(b, x, 16, 3)
        square = b.emit(relax.op.expand_dims(b.emit(relax.op.multiply(y, y)), [1]))
        pool = b.emit(
            relax.op.nn.avg_pool3d(
                square, (5, 1, 1), (1, 1, 1), (2, 0, 0, 2, 0, 0), count_include_pad=True
            )
        )
        norm = b.emit(relax.op.add(b.emit(relax.op.squeeze(pool, [1])), relax.const(np.float32(1))))
        return b.emit(relax.op.divide(y, norm))

    mod = module((1, 3, 6, 6), body)
    after = ConvertToNHWC(mod)
    assert calls(after).count("permute_dims") == 2
    assert_same_numbers(mod, after, (1, 3, 6, 6))


def test_reshape_in_the_middle_sees_the_original_layout():
    def body(b, x):
        y = conv(b, x, 8, 4)
        y = b.emit(relax.op.reshape(y, (1, 4, 2, 6, 6)))
        y = b.emit(relax.op.permute_dims(y, [0, 2, 1, 3, 4]))
        return conv(b, b.emit(relax.op.reshape(y, (1, 8, 6, 6))), 4, 8)

    mod = module((1, 4, 6, 6), body)
    assert_same_numbers(mod, ConvertToNHWC(mod), (1, 4, 6, 6))


def test_dynamic_shape_checks_are_refused():
    before = module((4,), lambda builder, x: builder.match_cast(x, relax.TensorType((4,))))
    with pytest.raises(ModelError, match=r"dynamic shape checks .* are left in the model; fix its"):
        bindings_of(before["main"])
