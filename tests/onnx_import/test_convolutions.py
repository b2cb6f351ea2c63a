"""Convolutions of all kinds, against ONNX Runtime and the reference implementation."""

import numpy as np
import pytest
from node_batch import NodeBatch
from onnx import TensorProto, helper

from top_tvm.compiler.frontend import import_onnx
from top_tvm.compiler.onnx_import.windows import automatic_padding
from top_tvm.errors import ModelError


def numbers(*shape, dtype="float32"):
    random = np.random.default_rng(len(shape))
    return random.standard_normal(shape).astype(dtype)


def integers(*shape, dtype="uint8"):
    limits = np.iinfo(dtype)
    return np.random.default_rng(0).integers(limits.min, limits.max, shape, dtype, endpoint=True)


def test_same_padding_is_odd_at_the_end_or_the_begin():
    assert automatic_padding("SAME_UPPER", [11, 8], [4, 3], [1, 1], [1, 1]) == ([1, 1], [2, 1])
    assert automatic_padding("SAME_LOWER", [11, 8], [4, 3], [1, 1], [1, 1]) == ([2, 1], [1, 1])
    assert automatic_padding("VALID", [11, 8], [4, 3], [2, 1], [1, 1]) == ([0, 0], [0, 0])


def test_dilated_windows_reach_further():
    assert automatic_padding("SAME_UPPER", [11, 8], [4, 3], [1, 1], [1, 2]) == ([1, 2], [2, 2])


def test_windows_that_leave_elements_out_are_not_padded():
    assert automatic_padding("SAME_UPPER", [7], [1], [3], [1]) == ([0], [0])


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv(rank):
    batch = NodeBatch(17)
    x = batch.given(numbers(2, 4, *[9, 8, 7][:rank]))
    plain, grouped = numbers(6, 4, *[3, 2, 3][:rank]), numbers(6, 2, *[3, 2, 3][:rank])
    bias = numbers(6)
    asymmetric = [2, 0, 1, 1, 1, 0][: 2 * rank]
    batch.add("Conv", x, plain)
    batch.add("Conv", x, plain, bias, pads=asymmetric, strides=[2, 1, 3][:rank])
    batch.add("Conv", x, grouped, bias, group=2, dilations=[2, 3, 1][:rank])
    for mode in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        batch.add("Conv", x, plain, auto_pad=mode, strides=[2, 1, 2][:rank])
    # Weights and bias that are computed.
    batch.add("Conv", x, batch.given(plain), batch.given(bias), pads=asymmetric)
    batch.add("Conv", x, batch.given(grouped), group=2)
    batch.check(rtol=2e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv_transpose(rank):
    batch = NodeBatch(17)
    x = batch.given(numbers(2, 4, *[5, 4, 3][:rank]))
    plain, grouped = numbers(4, 6, *[3, 2, 3][:rank]), numbers(4, 3, *[3, 2, 3][:rank])
    bias, strides = numbers(6), [2, 3, 2][:rank]
    batch.add("ConvTranspose", x, plain)
    batch.add("ConvTranspose", x, plain, bias, strides=strides, pads=[1, 0, 2, 0, 1, 1][: 2 * rank])
    batch.add("ConvTranspose", x, grouped, bias, strides=strides, group=2)
    batch.add("ConvTranspose", x, grouped, group=2, dilations=[2, 1, 3][:rank], strides=strides)
    batch.add("ConvTranspose", x, plain, strides=strides, output_padding=[1, 2, 1][:rank])
    batch.add("ConvTranspose", x, plain, strides=strides, output_shape=[10, 13, 6][:rank])
    for mode in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        batch.add("ConvTranspose", x, plain, strides=strides, auto_pad=mode)
    batch.add("ConvTranspose", x, batch.given(grouped), batch.given(bias), group=2, strides=strides)
    batch.add("ConvTranspose", x, batch.given(grouped), group=2, dilations=[2, 2, 2][:rank])
    batch.check(rtol=2e-5)


def test_depthwise_conv_transpose():
    batch = NodeBatch(17)
    x = batch.given(numbers(1, 4, 5, 6))
    batch.add("ConvTranspose", x, numbers(4, 1, 3, 3), group=4, strides=[2, 2], pads=[1, 1, 1, 1])
    batch.check(rtol=2e-5)


def test_output_padding_beyond_the_stride_takes_padding_away():
    batch = NodeBatch(17)  # which ONNX Runtime refuses
    x, weight = batch.given(numbers(1, 4, 5, 6)), numbers(4, 2, 3, 3)
    attributes = {"dilations": [2, 2], "output_padding": [1, 1]}
    batch.add("ConvTranspose", x, weight, pads=[3, 3, 3, 3], **attributes)
    less = NodeBatch(17)
    less.given(batch.inputs[x])
    less.add("ConvTranspose", x, weight, pads=[3, 3, 2, 2], dilations=[2, 2])
    batch.check(less.expected(), rtol=2e-5)


def test_double_precision():
    batch = NodeBatch(17)
    x = batch.given(numbers(1, 3, 6, 6, dtype="float64"))
    batch.add("Conv", x, numbers(2, 3, 3, 3, dtype="float64"), numbers(2, dtype="float64"))
    batch.check(batch.reference(), rtol=1e-12)


def test_quantised():
    batch = NodeBatch(13)
    x = batch.given(integers(2, 4, 7, 6))
    for dtype, zero in (("uint8", np.uint8(131)), ("int8", np.int8(0))):
        weight = integers(6, 4, 3, 2, dtype=dtype)
        batch.add("ConvInteger", x, weight, np.uint8(119), zero, pads=[1, 0, 1, 2])
        batch.add("ConvInteger", x, batch.given(weight), strides=[2, 1])
    weight, bias = integers(6, 2, 3, 2, dtype="int8"), integers(6, dtype="int16").astype("int32")
    scales, zeros = np.linspace(0.001, 0.01, 6, dtype="float32"), np.zeros(6, "int8")
    quantised = (x, np.float32(0.02), np.uint8(119), weight)
    result = (np.float32(0.4), np.uint8(90))
    batch.add("QLinearConv", *quantised, scales, zeros, *result, bias, group=2, pads=[1] * 4)
    batch.add("QLinearConv", *quantised, np.float32(0.004), np.int8(0), *result, group=2)
    batch.check()


def deformed(offsets, mask, **attributes):
    batch = NodeBatch(19)
    x, weight, bias = batch.given(numbers(2, 4, 6, 5)), numbers(6, 2, 3, 2), numbers(6)
    operands = [x, weight, batch.given(offsets), bias]
    operands += [] if mask is None else [batch.given(mask)]
    batch.add("DeformConv", *operands, group=2, **attributes)
    return batch


def test_deformable():
    random = np.random.default_rng(0)
    offsets = random.uniform(-3, 3, (2, 24, 4, 3)).astype("float32")
    mask = random.random((2, 12, 4, 3), dtype="float32")
    attributes = {"offset_group": 2, "pads": [1, 0, 1, 0], "dilations": [2, 2]}
    batch = deformed(offsets, mask, **attributes)
    batch.check(batch.reference(), rtol=2e-5)
    still = deformed(np.zeros((2, 12, 4, 4), "float32"), None)
    plain = NodeBatch(17)
    plain.add("Conv", plain.given(still.inputs["x0"]), *still.constants.values(), group=2)
    still.check({still.outputs[0]: plain.expected()["y0"]}, rtol=2e-5)


def test_deformable_stays_within_the_data():
    offsets = np.full((2, 12, 4, 4), 1e30, "float32")
    offsets[0, :, 0], offsets[1, :, 1] = np.nan, -np.inf
    batch = deformed(offsets, None)
    (result,) = batch.run().values()
    finite = np.isfinite(result)
    assert finite[:, :, 2:].all()
    bias = batch.constants["c1"].reshape(1, -1, 1, 1)
    np.testing.assert_array_equal(result[:, :, 2:], np.broadcast_to(bias, (2, 6, 2, 4)))


@pytest.mark.parametrize(
    ("shape", "weight", "attributes", "message"),
    [
        ((1, 2, 3, 3, 3, 3), (1, 2, 1, 1, 1, 1), {}, "of 4 spatial dimensions are not supported"),
        (
            (1, 3, 5, 5),
            (4, 2, 3, 3),
            {},
            r"3 channels does not fit weights of shape \(4, 2, 3, 3\)",
        ),
        ((1, 2, 5, 5), (4, 2, 3, 3), {"kernel_shape": [3, 2]}, r"kernel_shape \[3, 2\] is not"),
        ((1, 2, 2, 5), (4, 2, 3, 3), {}, "window of 3 .* is larger than the padded data of 2"),
        ((1, 2, 5, 5), (4, 2, 3, 3), {"auto_pad": "SAME"}, "auto_pad 'SAME' does not exist"),
    ],
)
def test_refusals(shape, weight, attributes, message):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    w = helper.make_tensor_value_info("w", TensorProto.FLOAT, weight)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="first", **attributes)
    model = helper.make_model(helper.make_graph([node], "refused", [x, w], [y]))
    with pytest.raises(ModelError, match=rf"node 'first' \(Conv\): .*{message}"):
        import_onnx(model)
