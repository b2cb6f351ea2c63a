"""``Resize`` and ``Upsample`` in all modes, against ONNX Runtime and the reference."""

import itertools

import numpy as np
import pytest
from node_batch import NodeBatch
from onnx import TensorProto, helper, numpy_helper

from top_tvm.compiler.frontend import import_onnx
from top_tvm.compiler.onnx_import.resize_weights import COORDINATES, ROUNDINGS
from top_tvm.errors import ModelError

NOTHING = np.zeros(0, "float32")
# The newest opset does without the one that only opset 11 has; cropping is tested below.
MODES = [c for c in COORDINATES if c not in ("tf_half_pixel_for_nn", "tf_crop_and_resize")]


def image(*shape, dtype="float32"):
    return (np.random.default_rng(0).standard_normal(shape) * 40).astype(dtype)


def scales(*values):
    return np.asarray(values, "float32")


def sizes(*values):
    return np.asarray(values, "int64")


@pytest.mark.parametrize("coordinates", MODES)
def test_coordinates_and_modes(coordinates):
    batch = NodeBatch(19)
    x = batch.given(image(2, 3, 5, 4))
    common = {"coordinate_transformation_mode": coordinates}
    targets = ([NOTHING, scales(1, 1, 2, 2)], [NOTHING, NOTHING, sizes(2, 3, 7, 3)])
    for target, mode in itertools.product(targets, ("nearest", "linear", "cubic")):
        batch.add("Resize", x, *target, mode=mode, **common)
    for target, rounding in itertools.product(targets, ROUNDINGS):
        batch.add("Resize", x, *target, mode="nearest", nearest_mode=rounding, **common)
    batch.add("Resize", x, *targets[1], mode="cubic", exclude_outside=1, **common)
    batch.add("Resize", x, *targets[1], mode="cubic", cubic_coeff_a=-0.5, **common)
    batch.check(rtol=1e-3)


def test_antialias():
    batch = NodeBatch(19)
    x = batch.given(image(1, 2, 16, 12))
    for mode, target in itertools.product(("linear", "cubic"), ((7, 5), (2, 12), (20, 6))):
        batch.add("Resize", x, NOTHING, NOTHING, sizes(1, 2, *target), mode=mode, antialias=1)
    batch.check(batch.reference(), rtol=1e-3)


def test_axes_and_aspect_ratio():
    batch = NodeBatch(19)
    x = batch.given(image(2, 3, 6, 8))
    batch.add("Resize", x, NOTHING, scales(0.5, 1.5), mode="linear", axes=[-1, 2])
    for policy, mode in itertools.product(("not_larger", "not_smaller"), ("nearest", "linear")):
        attributes = {"keep_aspect_ratio_policy": policy, "mode": mode, "axes": [2, 3]}
        batch.add("Resize", x, NOTHING, NOTHING, sizes(9, 5), **attributes)
    batch.check(rtol=1e-3)


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_ranks(rank):
    batch = NodeBatch(19)
    x = batch.given(image(*[4, 3, 5, 2, 6][:rank]))
    target = scales(*[2, 1, 1.5, 3, 0.5][:rank])
    for mode in ("nearest", "linear"):
        batch.add("Resize", x, NOTHING, target, mode=mode)
    batch.check(batch.reference(), rtol=1e-3)


def test_crop():
    batch = NodeBatch(19)
    x = batch.given(image(1, 2, 6, 8))
    common = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0}
    whole = scales(0, 0, 0.25, -0.5, 1, 1, 0.75, 1.25)
    for mode in ("nearest", "linear"):
        batch.add("Resize", x, whole, NOTHING, sizes(1, 2, 5, 7), mode=mode, **common)
        roi = scales(0.6, -0.25, 1.3, 0.9)
        batch.add("Resize", x, roi, NOTHING, sizes(1, 3), mode=mode, axes=[3, 2], **common)
    batch.check(batch.reference(), rtol=1e-3)


@pytest.mark.parametrize("opset", [10, 11])
def test_old_opsets(opset):
    batch = NodeBatch(opset)
    x = batch.given(image(1, 2, 6, 5))
    for mode, target in itertools.product(("nearest", "linear"), ((2, 2), (0.5, 0.6), (1.7, 3))):
        operands = [scales(1, 1, *target)]
        batch.add("Resize", x, *([NOTHING] if opset > 10 else []), *operands, mode=mode)
    if opset == 11:
        coordinates = {"coordinate_transformation_mode": "tf_half_pixel_for_nn"}
        batch.add("Resize", x, NOTHING, scales(1, 1, 2, 0.5), nearest_mode="floor", **coordinates)
    batch.check(rtol=1e-3)


@pytest.mark.parametrize("opset", [7, 9])
def test_upsample(opset):
    batch = NodeBatch(opset)
    x = batch.given(image(1, 2, 6, 5))
    for mode, target in itertools.product(("nearest", "linear"), ([1, 1, 2, 3], [1, 1, 1.5, 2])):
        if opset == 7:
            batch.add("Upsample", x, mode=mode, scales=[float(scale) for scale in target])
        else:
            batch.add("Upsample", x, scales(*target), mode=mode)
    batch.check(rtol=1e-3)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "float16", "float64"])
def test_types(dtype):
    batch = NodeBatch(19)
    x = batch.given(image(1, 2, 6, 5, dtype=dtype))
    for mode in ("nearest", "linear"):
        batch.add("Resize", x, NOTHING, scales(1, 1, 2, 2), mode=mode)
        batch.add("Resize", x, NOTHING, NOTHING, sizes(1, 2, 4, 7), mode=mode)
    floating = dtype.startswith("float")  # the reference rounds integers to the nearest
    expected = batch.reference() if floating else batch.expected()
    batch.check(expected, rtol={"float64": 1e-6, "float16": 2e-3}.get(dtype, 0))


def test_resizing_keeps_channels_last():
    """Detectors: convolutions in front and behind; nothing but the resize in between."""
    batch = NodeBatch(19)
    weight = image(16, 16, 3, 3) / 400
    x = batch.given(image(1, 16, 8, 8))
    (y,) = batch.add("Conv", x, weight, pads=[1] * 4)
    for mode in ("nearest", "linear"):
        (z,) = batch.add("Resize", y, NOTHING, scales(1, 1, 2, 2), mode=mode)
        batch.add("Conv", z, weight, pads=[1] * 4)
    batch.outputs = [batch.outputs[index] for index in (2, 4)]
    from top_tvm.compiler.build import compile_model

    (compiled,) = compile_model(batch.model()).graphs
    names = [op.name.rsplit("_", 1)[0] for op in compiled.extracted.graph.ops]
    assert sum("transpose" in name for name in names) == 3  # of the input and the two outputs
    assert len(names) == 3 + 3 + 2


@pytest.mark.parametrize(
    ("operands", "attributes", "message"),
    [
        ([NOTHING, scales(1, 1, 2, 0.01)], {}, r"\[1, 2, 4, 4\] to \[1, 2, 8, 0\] is empty"),
        ([NOTHING, scales(1, 1, 2, 2)], {"mode": "area"}, "mode 'area' does not exist"),
        (
            [NOTHING, scales(1, 1, 2, 2)],
            {"coordinate_transformation_mode": "tf_crop_and_resize"},
            "its roi is missing",
        ),
    ],
)
def test_refusals(operands, attributes, message):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 2, 4, 4))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    names = [f"c{index}" for index in range(len(operands))]
    node = helper.make_node("Resize", ["x", *names], ["y"], name="first", **attributes)
    constants = [numpy_helper.from_array(a, n) for n, a in zip(names, operands, strict=True)]
    model = helper.make_model(helper.make_graph([node], "refused", [x], [y], constants))
    with pytest.raises(ModelError, match=rf"node 'first' \(Resize\): .*{message}"):
        import_onnx(model)
