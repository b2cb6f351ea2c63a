"""Layouts of stored tensors against NumPy, and networks that stay channels-last from end to end."""

import itertools
import math
import re

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from top_tvm.compiler.frontend import import_onnx
from top_tvm.compiler.light_models import light_model
from top_tvm.compiler.pipeline import cpu_pipeline
from top_tvm.compiler.transform.convert_to_nhwc import ConvertToNHWC
from top_tvm.compiler.transform.fold_constants import FoldConstants
from top_tvm.compiler.transform.layout import reduced, reshape_layouts, same_order

RNG = np.random.default_rng(3)


@st.composite
def reshapes(draw):
    """Two shapes of equally many elements, and a layout of the first."""
    factors = draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=6))

    def merged():
        cuts = draw(st.lists(st.integers(0, len(factors)), max_size=4))
        bounds = [0, *sorted(cuts), len(factors)]
        return tuple(math.prod(factors[a:b]) for a, b in itertools.pairwise(bounds))

    source, target = merged(), merged()
    return source, target, tuple(draw(st.permutations(range(len(source)))))


@given(reshapes())
@settings(max_examples=300, deadline=None)
def test_reshape_of_a_stored_tensor_is_the_reshape(case):
    source, target, layout = case
    array = np.arange(math.prod(source)).reshape(source)
    needed, result = reshape_layouts(source, target, layout)
    stored = array.transpose(needed).reshape([target[axis] for axis in result])
    np.testing.assert_array_equal(stored, array.reshape(target).transpose(result))


def test_channel_axis_splits_and_merges_in_place():
    shape, nhwc = (2, 8, 5, 6), (0, 2, 3, 1)
    split = (2, 4, 2, 5, 6)
    assert reshape_layouts(shape, split, nhwc) == (nhwc, (0, 3, 4, 1, 2))
    swapped = (0, 3, 4, 2, 1)  # after permute_dims(0, 2, 1, 3, 4), as it is stored
    needed, result = reshape_layouts((2, 2, 4, 5, 6), shape, swapped)
    assert needed == (0, 3, 4, 1, 2)
    assert result == nhwc


def test_axes_of_extent_one_may_lie_anywhere():
    assert same_order((1, 3, 1, 4), (0, 1, 2, 3), (2, 1, 0, 3))
    assert not same_order((2, 3), (0, 1), (1, 0))
    assert reduced((0, 2, 3, 1), [2, 3]) == (0, 1)
    assert reduced((0, 2, 3, 1), [1]) == (0, 1, 2)


def module(shape, body):
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = body(builder.emit, x)
            results = result if isinstance(result, tuple) else (result,)
            outputs = [builder.emit_output(var) for var in results]
        builder.emit_func_output(outputs[0] if len(outputs) == 1 else relax.Tuple(outputs))
    return builder.finalize()


def weights(*shape):
    return relax.const(RNG.standard_normal(shape).astype("float32"))


def conv(emit, x, out, inputs, size=1, **attributes):
    attributes.setdefault("padding", size // 2)
    return emit(relax.op.nn.conv2d(x, weights(out, inputs, size, size), **attributes))


def transposes(mod):
    names = [
        binding.value.op.name
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call)
    ]
    return names.count("relax.permute_dims")


def run(mod, x):
    executable = tvm.compile(mod, target=tvm.target.Target({"kind": "llvm"}))
    result = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(x))
    results = [result] if hasattr(result, "numpy") else list(result)
    return [part.numpy() for part in results]


def check(shape, body, expected_transposes):
    """Same numbers, and no more transposes than the edges of the network need."""
    mod = module(shape, body)
    after = FoldConstants(ConvertToNHWC(mod))
    x = RNG.standard_normal(shape).astype("float32")
    for result, expected in zip(run(after, x), run(mod, x), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)
    assert transposes(after) == expected_transposes


def test_squeeze_excite_with_hard_swish():
    def body(emit, x):
        y = conv(emit, x, 16, 3, 3)
        gate = emit(relax.op.nn.relu(conv(emit, emit(relax.op.mean(y, [2, 3], True)), 4, 16)))
        gate = emit(relax.op.add(conv(emit, gate, 16, 4), relax.const(np.float32(3))))
        gate = emit(relax.op.clip(gate, 0.0, 6.0))
        y = emit(relax.op.multiply(y, emit(relax.op.divide(gate, relax.const(np.float32(6))))))
        half = emit(relax.op.clip(emit(relax.op.add(y, relax.const(np.float32(3)))), 0.0, 6.0))
        return emit(relax.op.mean(conv(emit, emit(relax.op.multiply(y, half)), 8, 16), [2, 3]))

    check((1, 3, 8, 8), body, 1)


def test_gate_of_a_fully_connected_layer():
    def body(emit, x):
        y = conv(emit, x, 16, 3, 3)
        gate = emit(relax.op.matmul(emit(relax.op.mean(y, [2, 3])), weights(16, 16)))
        gate = emit(relax.op.reshape(emit(relax.op.sigmoid(gate)), (2, 16, 1, 1)))
        return emit(relax.op.mean(emit(relax.op.multiply(y, gate)), [2, 3], keepdims=True))

    check((2, 3, 6, 6), body, 1)


def test_detector_head_with_upsampling_and_concat():
    def body(emit, x):
        fine = emit(relax.op.nn.leakyrelu(conv(emit, x, 8, 3, 3), 0.1))
        coarse = conv(emit, emit(relax.op.nn.max_pool2d(fine, (2, 2), (2, 2))), 8, 8, 3)
        up = relax.op.image.resize2d(
            coarse, (8, 8), method="nearest_neighbor", coordinate_transformation_mode="asymmetric"
        )
        joined = emit(relax.op.concat([emit(up), fine], axis=1))
        padded = emit(relax.op.nn.pad(joined, [0, 0, 0, 0, 1, 1, 1, 1]))
        return emit(relax.op.max(conv(emit, padded, 4, 16, 3, padding=0), [2, 3]))

    check((1, 3, 8, 8), body, 1)


def test_channel_split_slice_and_gather():
    def body(emit, x):
        y = conv(emit, x, 12, 3)
        parts = emit(relax.op.split(y, 3, axis=1))
        left, right = (emit(relax.TupleGetItem(parts, index)) for index in (0, 2))
        sliced = emit(relax.op.strided_slice(y, [1], [1], [9], [2]))
        taken = emit(relax.op.take(y, relax.const(np.array([3, 0, 7, 5])), axis=1))
        total = emit(relax.op.concat([left, right, sliced, taken], axis=1))
        alpha = weights(16)
        total = emit(relax.op.nn.prelu(total, alpha, axis=1))
        total = emit(relax.op.nn.softmax(total, axis=1))
        return emit(relax.op.sum(conv(emit, total, 4, 16, 3), [3])), emit(
            relax.op.take(total, relax.const(np.int64(3)), axis=1)
        )

    check((2, 3, 5, 5), body, 2)  # (N, C, H) does not end channels-last


@pytest.mark.parametrize("groups", [2, 4])
def test_channel_shuffle_is_one_transpose(groups):
    def body(emit, x):
        y = conv(emit, x, 16, 4)
        y = emit(relax.op.reshape(y, (2, groups, 16 // groups, 6, 6)))
        y = emit(relax.op.permute_dims(y, [0, 2, 1, 3, 4]))
        y = conv(emit, emit(relax.op.reshape(y, (2, 16, 6, 6))), 16, 1, 3, groups=16)
        return emit(relax.op.mean(y, [2, 3]))

    check((2, 4, 6, 6), body, 2)


def test_depth_and_space():
    def body(emit, x):
        y = conv(emit, x, 16, 3)
        y = emit(relax.op.reshape(y, (2, 2, 2, 4, 6, 6)))
        y = emit(relax.op.permute_dims(y, [0, 3, 4, 1, 5, 2]))
        y = conv(emit, emit(relax.op.reshape(y, (2, 4, 12, 12))), 4, 4, 3)
        y = emit(relax.op.reshape(y, (2, 4, 6, 2, 6, 2)))
        y = emit(relax.op.permute_dims(y, [0, 3, 5, 1, 2, 4]))
        y = conv(emit, emit(relax.op.reshape(y, (2, 16, 6, 6))), 8, 16)
        return emit(relax.op.mean(y, [2, 3]))

    check((2, 3, 6, 6), body, 3)


def test_patches_become_tokens_without_a_transpose():
    def body(emit, x):
        y = emit(relax.op.nn.conv2d(x, weights(16, 3, 4, 4), strides=(4, 4)))
        tokens = emit(relax.op.permute_dims(emit(relax.op.reshape(y, (2, 16, 9))), [0, 2, 1]))
        tokens = emit(relax.op.add(tokens, weights(1, 9, 16)))
        return emit(relax.op.matmul(tokens, weights(16, 8)))

    check((2, 3, 12, 12), body, 1)


def test_block_written_channels_last_by_hand():
    def body(emit, x):
        y = conv(emit, x, 16, 3, 3)
        inner = emit(relax.op.permute_dims(y, [0, 2, 3, 1]))
        norm = relax.op.nn.layer_norm(inner, weights(16), weights(16), axes=[-1])
        inner = emit(relax.op.matmul(emit(norm), weights(16, 16)))
        y = emit(relax.op.add(y, emit(relax.op.permute_dims(inner, [0, 3, 1, 2]))))
        return emit(relax.op.mean(y, [2, 3]))

    check((1, 3, 6, 6), body, 1)


def test_attention_transposes_are_those_of_the_model():
    def body(emit, x):
        def heads(axes):
            y = emit(relax.op.reshape(emit(relax.op.matmul(x, weights(8, 8))), (2, 5, 2, 4)))
            return emit(relax.op.permute_dims(y, axes))

        scores = emit(relax.op.matmul(heads([0, 2, 1, 3]), heads([0, 2, 3, 1])))
        scores = emit(relax.op.nn.softmax(emit(relax.op.multiply(scores, weights(1))), axis=-1))
        mixed = emit(relax.op.matmul(scores, heads([0, 2, 1, 3])))
        mixed = emit(relax.op.permute_dims(mixed, [0, 2, 1, 3]))
        return emit(relax.op.reshape(mixed, (2, 5, 8)))

    check((2, 5, 8), body, 4)


def test_outputs_have_the_layout_of_the_model():
    def body(emit, x):
        y = conv(emit, x, 4, 3)
        return y, emit(relax.op.permute_dims(y, [3, 2, 1, 0])), emit(relax.op.permute_dims(x))

    check((2, 3, 4, 5), body, 4)


# Shuffles are the model's own; all else lies before the first or after the last convolution.
SHUFFLES = {
    "squeezenet": 0,
    "resnet50": 0,
    "inception_v1": 0,
    "densenet121": 0,
    "shufflenet": 16,
}


@pytest.mark.parametrize("name", SHUFFLES)
def test_light_models_change_no_layout_between_convolutions(name):
    optimised = cpu_pipeline(onednn=True)(import_onnx(light_model(name)).module)
    kernels = []
    for block in optimised["main"].body.blocks:
        for binding in block.bindings:
            call = binding.value
            kernel = call.op if isinstance(call.op, tvm.ir.GlobalVar) else call.args[0]
            kernels.append(kernel.name_hint)
    convolutions = [index for index, kernel in enumerate(kernels) if "conv2d" in kernel]
    inside = kernels[convolutions[0] : convolutions[-1]]
    moving = [kernel for kernel in inside if re.search("transpose|permute", kernel)]
    assert len(moving) == SHUFFLES[name]
