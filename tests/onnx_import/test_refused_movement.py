"""What operators refuse that move, resample or reinterpret elements."""

import numpy as np
import pytest
from onnx import TensorProto
from refused_node import a_node, cases, check_refusal

IMAGE = (1, 1, 4, 4)
FACTORS = np.float32([1, 1, 2, 2])

REFUSALS = {
    # Types and bits
    "float32 and float64 differ in size": a_node("BitCast", (2,), to=TensorProto.DOUBLE),
    "bits of other types are no booleans": a_node("BitCast", ("uint8", 2), to=TensorProto.BOOL),
    "its direction is 'UP', neither 'LEFT' nor 'RIGHT'": a_node(
        "BitShift", ("uint8", 2), ("uint8", 2), direction="UP"
    ),
    "there is no element type 999": [
        a_node("Cast", (2,), to=999),
        a_node("BitCast", (2,), to=999),
    ],
    "there is no element type None": a_node("Cast", (2,)),
    # Shapes
    "its axes are missing": [a_node("Unsqueeze", (2,)), a_node("Unsqueeze", (2,), opset=11)],
    "an axis is twice among its axes [0, 0]": a_node("Unsqueeze", (2,), [0, 0]),
    "its perm [0, 0] is no permutation of 2 axes": a_node("Transpose", (2, 3), perm=[0, 0]),
    "1 channels cannot become blocks of 2 x 2": a_node("DepthToSpace", IMAGE, blocksize=2),
    "1 channels cannot become blocks of 0 x 0": a_node("DepthToSpace", IMAGE, blocksize=0),
    "an image of 4 x 4 has no blocks of 3 x 3": a_node("SpaceToDepth", IMAGE, blocksize=3),
    "an image of 4 x 4 has no blocks of 0 x 0": a_node("SpaceToDepth", IMAGE, blocksize=0),
    "there is no mode 'RCD'": [
        a_node("DepthToSpace", IMAGE, blocksize=2, mode="RCD"),
        a_node("SpaceToDepth", IMAGE, blocksize=2, mode="RCD"),
    ],
    "axis 3 does not exist in 2 dimensions": [
        a_node("Flatten", (2, 3), axis=3),
        a_node("SplitToSequence", (2, 3), axis=3),
    ],
    "its repeats [2] do not fit a tensor of 2 dimensions": a_node("Tile", (2, 3), [2]),
    "it wants a tensor of 4 dimensions, not the shape (4, 2, 2)": [
        a_node("DepthToSpace", (4, 2, 2), blocksize=2),
        a_node("SpaceToDepth", (4, 2, 2), blocksize=2),
    ],
    "its shape [6, 1, 0] keeps axis 2 of a tensor of shape (2, 3)": a_node(
        "Reshape", (2, 3), [6, 1, 0]
    ),
    "its shape (input 'x1') is computed at run time; shapes must be known when the model is built: "
    "make it a constant": a_node("Reshape", (2, 3), ("int64", 1)),
    # Parts and places
    "it wants a matrix, not the shape (3,)": a_node("EyeLike", (3,)),
    "its input is no matrix": a_node("Trilu", (3,)),
    "indices of shape (3, 3) exceed data of shape (2, 3)": [
        a_node("GatherElements", (2, 3), ("int64", 3, 3), axis=1),
        a_node("ScatterElements", (2, 3), ("int64", 3, 3), (3, 3), axis=1),
    ],
    "indices of shape (1, 2) do not fit data of shape (2,)": a_node(
        "GatherND", (2,), ("int64", 1, 2)
    ),
    "its first 1 axes are (2,) and (4,)": a_node("GatherND", (2, 3), ("int64", 4, 1), batch_dims=1),
    "its time axis is 0 and its batch axis 0; one must be 0, one 1": a_node(
        "ReverseSequence", (2, 3), ("int64", 2), time_axis=0, batch_axis=0
    ),
    "indices of shape (2,) and updates of shape (1,) do not fit (3,)": a_node(
        "ScatterElements", (3,), ("int64", 2), (1,)
    ),
    "indices of shape (1, 1) and updates of shape (2,) do not fit (3,)": a_node(
        "ScatterND", (3,), ("int64", 1, 1), (2,)
    ),
    "booleans have no reduction 'add'": [
        a_node(
            "ScatterElements", ("bool", 3), ("int64", 1), ("bool", 1), opset=18, reduction="add"
        ),
        a_node("ScatterND", ("bool", 3), ("int64", 1, 1), ("bool", 1), opset=18, reduction="add"),
    ],
    "it has 2 pads for 2 axes": a_node("Pad", (2, 3), [1, 1]),
    "nothing is left of its input that could be repeated": a_node(
        "Pad", (2,), [-2, 1], mode="edge"
    ),
    "its starts, ends, axes and steps differ in length": a_node("Slice", (4,), [0], [1, 2], [0]),
    "values of type complex64 are not supported": a_node(
        "EyeLike", (2, 2), dtype=TensorProto.COMPLEX64
    ),
    "its reduction 'mean' is none of none, add, mul, min, max": a_node(
        "ScatterND", (3,), ("int64", 1, 1), (1,), reduction="mean"
    ),
    "there is no mode 'mirror'": a_node("Pad", (2,), [1, 1], mode="mirror"),
    "its indices have 1 dimensions, its data 2": a_node("GatherElements", (2, 3), ("int64", 2)),
    "it cannot write along axis 0 in mode 'linear'": a_node(
        "TensorScatter", (2, 3), (2, 3), opset=24, axis=0
    ),
    "it cannot write along axis 1 in mode 'square'": a_node(
        "TensorScatter", (2, 3), (2, 3), opset=24, axis=1, mode="square"
    ),
    # Samples
    "coordinate transformation tf_half_pixel_for_nn exists in opset 11 only": a_node(
        *("Resize", IMAGE, None, FACTORS),
        opset=13,
        coordinate_transformation_mode="tf_half_pixel_for_nn",
    ),
    "it has neither scales nor sizes": a_node("Resize", IMAGE),
    "1 scales or sizes for 2 axes": a_node("Resize", IMAGE, None, None, [4], opset=18, axes=[2, 3]),
    "1 scales for 4 dimensions": [
        a_node("Resize", IMAGE, np.float32([2]), opset=10),
        a_node("Upsample", IMAGE, np.float32([2]), opset=9),
    ],
    "its roi is missing, which tf_crop_and_resize crops to": a_node(
        *("Resize", IMAGE, None, FACTORS), coordinate_transformation_mode="tf_crop_and_resize"
    ),
    "its roi has 3 numbers, which are no begins and ends": a_node(
        *("Resize", IMAGE, np.float32([0, 0, 1]), FACTORS),
        coordinate_transformation_mode="tf_crop_and_resize",
    ),
    "resizing [1, 1, 4, 4] to [1, 1, 0, 4] is empty": a_node(
        "Resize", IMAGE, None, None, [1, 1, 0, 4]
    ),
    "transformations of shape (1, 2, 2) do not fit a size of [1, 1, 3, 3]": a_node(
        "AffineGrid", (1, 2, 2), [1, 1, 3, 3], opset=20
    ),
    "mode 'area' does not exist": [
        a_node("Resize", IMAGE, None, FACTORS, mode="area"),
        a_node("GridSample", IMAGE, (1, 2, 2, 2), opset=20, mode="area"),
        a_node("RoiAlign", IMAGE, (2, 4), ("int64", 2), mode="area"),
    ],
    "coordinate transformation 'polar' does not exist": [
        a_node("Resize", IMAGE, None, FACTORS, coordinate_transformation_mode="polar"),
        a_node("RoiAlign", IMAGE, (2, 4), ("int64", 2), coordinate_transformation_mode="polar"),
    ],
    "nearest_mode 'up' does not exist": a_node("Resize", IMAGE, None, FACTORS, nearest_mode="up"),
    "keep_aspect_ratio_policy 'crop' does not exist": a_node(
        "Resize", IMAGE, None, None, [1, 1, 2, 2], opset=18, keep_aspect_ratio_policy="crop"
    ),
    "its scales [1.0, 1.0, 0.0, 2.0] must be positive": a_node(
        "Resize", IMAGE, None, np.float32([1, 1, 0, 2])
    ),
    "padding_mode 'wrap' does not exist": a_node(
        "GridSample", IMAGE, (1, 2, 2, 2), opset=20, padding_mode="wrap"
    ),
    "a grid of shape [1, 2, 2, 3] does not fit data of shape [1, 1, 4, 4]": a_node(
        "GridSample", IMAGE, (1, 2, 2, 3), opset=20
    ),
    "cubic samples of three spatial dimensions are not supported": a_node(
        "GridSample", (1, 1, 2, 2, 2), (1, 2, 2, 2, 3), opset=20, mode="cubic"
    ),
    "samples of empty tensors are not supported": a_node(
        "GridSample", IMAGE, (1, 0, 2, 2), opset=20
    ),
    "linear samples of int32 are not supported": a_node(
        "GridSample", ("int32", *IMAGE), (1, 2, 2, 2), opset=20
    ),
    # Randomness and files; what there is not
    "training mode (is_test=0) drops random elements: export it for inference": a_node(
        "Dropout", (2,), opset=6
    ),
    "its training_mode is computed at run time: export it for inference": a_node(
        "Dropout", (2,), None, ("bool",)
    ),
    "training mode drops random elements: export it for inference": a_node(
        "Dropout", (2,), None, np.asarray(True)
    ),
    "there is no such operator, or it is not supported": a_node("Bessel", (2,)),
    "it decodes image files: decode them before and pass their pixels": a_node(
        "ImageDecoder", ("uint8", 9), opset=20
    ),
}


@pytest.mark.parametrize(("model", "text"), cases(REFUSALS))
def test_is_refused(model, text):
    check_refusal(model, text)
