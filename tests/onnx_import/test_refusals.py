"""What converters of operators refuse: each text, with the node and the operator that it names."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from top_tvm.compiler.onnx_import.graph import convert_graph
from top_tvm.errors import ModelError


def a_node(operator, *operands, opset=17, **attributes):
    """A model of one node.

    An operand is the shape of an input, behind its type unless that is float32, a list or an array
    of constants, or None where it is left out.
    """
    names, inputs, constants = [], [], []
    for index, operand in enumerate(operands):
        name = "" if operand is None else f"x{index}"
        names.append(name)
        if isinstance(operand, tuple):
            dtype, shape = ("float32", operand)
            if operand and isinstance(operand[0], str):
                dtype, *shape = operand
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            inputs.append(helper.make_tensor_value_info(name, kind, shape))
        elif operand is not None:
            constants.append(numpy_helper.from_array(np.asarray(operand), name))
    node = helper.make_node(operator, names, ["y"], "n", **attributes)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", inputs, [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


IMAGE, HEADS = (1, 1, 4, 4), (1, 2, 3, 4)
STEPS, STEP_WEIGHTS, STATE_WEIGHTS = (2, 1, 3), (1, 4, 3), (1, 4, 4)  # of an RNN with 4 states
FACTORS = np.float32([1, 1, 2, 2])

REFUSALS = {
    "its second operand has more dimensions than there are from axis 1": a_node(
        "Add", (2, 3), (3, 4), opset=6, broadcast=1, axis=1
    ),
    # Attention
    "past_key and past_value must be given together": a_node(
        "Attention", HEADS, HEADS, HEADS, None, HEADS, opset=23
    ),
    "nonpad_kv_seqlen cannot be combined with past_key and past_value": a_node(
        "Attention", HEADS, HEADS, HEADS, None, HEADS, HEADS, ("int64", 1), opset=24
    ),
    "input 0 of shape (1, 2, 5) has no q_num_heads=2 heads": a_node(
        "Attention", (1, 2, 5), HEADS, HEADS, opset=23, q_num_heads=2
    ),
    "input 1 of shape (1, 2, 6) has no kv_num_heads=0 heads": a_node(
        "Attention", (1, 2, 6), (1, 2, 6), (1, 2, 6), opset=23, q_num_heads=2
    ),
    "3 heads of queries cannot share 2 heads of keys": a_node(
        "Attention", (1, 3, 3, 4), HEADS, HEADS, opset=23
    ),
    "softmax_precision=6 is no floating point type": a_node(
        "Attention", HEADS, HEADS, HEADS, opset=23, softmax_precision=TensorProto.INT32
    ),
    # Types
    "float32 and float64 differ in size": a_node("BitCast", (2,), to=TensorProto.DOUBLE),
    "bits of other types are no booleans": a_node("BitCast", ("uint8", 2), to=TensorProto.BOOL),
    "it quantises to int32; supported are uint8, int8, uint16, int16": [
        a_node("QuantizeLinear", (4,), (), opset=21, output_dtype=TensorProto.INT32),
        a_node(
            "QLinearMatMul",
            *(("uint8", 2, 2), (), ("uint8",), ("uint8", 2, 2), (), ("uint8",), (), ("int32",)),
        ),
    ],
    # Normalisation
    "data of rank 0 has no channels": a_node("BatchNormalization", (), (1,), (1,), (1,), (1,)),
    "data of 2 dimensions has no spatial ones": [
        a_node("InstanceNormalization", (2, 3), (3,), (3,)),
        a_node("GlobalAveragePool", (2, 3)),
        a_node("GlobalMaxPool", (2, 3)),
    ],
    "data of shape [1, 5, 4] has no 2 groups of channels": a_node(
        "GroupNormalization", (1, 5, 4), (5,), (5,), opset=21, num_groups=2
    ),
    "data of shape [1, 4] has no windows of 3 channels": a_node("LRN", (1, 4), size=3),
    "statistics of empty tensors do not exist": [
        a_node("InstanceNormalization", (1, 2, 0), (2,), (2,)),
        a_node("GroupNormalization", (1, 2, 0), (2,), (2,), opset=21, num_groups=2),
    ],
    "a scalar has no axis to normalise over": [
        a_node("LayerNormalization", (), (1,)),
        a_node("RMSNormalization", (), (1,), opset=23),
    ],
    "it computes in int32: its stash_type is no floating point type": [
        a_node("LayerNormalization", (2, 3), (3,), stash_type=TensorProto.INT32),
        a_node("RMSNormalization", (2, 3), (3,), opset=23, stash_type=TensorProto.INT32),
    ],
    "a scalar has no axis": [
        a_node(operator, ()) for operator in ("Softmax", "LogSoftmax", "Hardmax")
    ],
    "its labels of shape (3,) do not fit its classes of shape (2, 3)": [
        a_node("NegativeLogLikelihoodLoss", (2, 3), ("int64", 3)),
        a_node("SoftmaxCrossEntropyLoss", (2, 3), ("int64", 3)),
    ],
    # Products and windows
    "a scalar is no operand of a matrix product": a_node("MatMul", (), (2, 2)),
    "input 1 is missing": [a_node("MatMul", (2, 2)), a_node("MatMul", (2, 2), None)],
    "weights of 3 dimensions for data of 4": a_node("Conv", IMAGE, (3, 1, 3)),
    "its pads leave nothing of its output": a_node(
        "ConvTranspose", (1, 1, 2), (1, 1, 2), pads=[2, 2]
    ),
    "its offsets have shape [1, 8, 4, 4] instead of [1, 8, 3, 3]": a_node(
        "DeformConv", IMAGE, (1, 1, 2, 2), (1, 8, 4, 4), opset=19
    ),
    "its mask have shape [1, 8, 3, 3] instead of [1, 4, 3, 3]": a_node(
        "DeformConv", IMAGE, (1, 1, 2, 2), (1, 8, 3, 3), None, (1, 8, 3, 3), opset=19
    ),
    "columns of shape (1, 5, 4) are no blocks of [2, 2]": a_node(
        "Col2Im", (1, 5, 4), [3, 3], [2, 2], opset=18
    ),
    "it has 3 blocks, but 4 fit into [3, 3]": a_node("Col2Im", (1, 4, 3), [3, 3], [2, 2], opset=18),
    "its output of shape [1, 1, 0] would be empty": a_node(
        "MaxUnpool", (1, 1, 2), ("int64", 1, 1, 2), kernel_shape=[1], pads=[1, 1]
    ),
    "its kernel_shape is missing": [a_node("MaxPool", IMAGE), a_node("AveragePool", IMAGE)],
    "pads has 2 numbers where 4 are needed": [
        a_node("MaxPool", IMAGE, kernel_shape=[2, 2], pads=[1, 1]),
        a_node("ConvTranspose", IMAGE, (1, 1, 2, 2), pads=[1, 1]),
    ],
    "regions of shape [2, 3] do not fit data of shape [1, 1, 4, 4]": a_node(
        "RoiAlign", IMAGE, (2, 3), ("int64", 2)
    ),
    "2 regions of data of shape [1, 1, 4] in bins of [2, 2] make none": a_node(
        "MaxRoiPool", (1, 1, 4), (2, 5), pooled_shape=[2, 2]
    ),
    "its regions have 4 numbers instead of 5": a_node(
        "MaxRoiPool", IMAGE, (2, 4), pooled_shape=[2, 2]
    ),
    # Fourier transforms
    "its axis is that of real and imaginary parts": a_node("DFT", (2, 3, 1), axis=2),
    "a onesided transform in this direction needs real input": a_node("DFT", (2, 3, 2), onesided=1),
    "a onesided transform in this direction needs complex input": a_node(
        "DFT", (2, 3, 1), onesided=1, inverse=1
    ),
    "its signal has shape (4, 2); it needs batch, positions and parts": a_node(
        "STFT", (4, 2), np.int64(2), None, np.int64(4)
    ),
    "its window has shape (3,), its frames have length 4": a_node(
        "STFT", (1, 8, 1), np.int64(2), (3,), np.int64(4)
    ),
    "frames of 9 every 2 do not fit a signal of 8": a_node(
        "STFT", (1, 8, 1), np.int64(2), None, np.int64(9)
    ),
    "frames of 4 every 0 do not fit a signal of 8": a_node(
        "STFT", (1, 8, 1), np.int64(0), None, np.int64(4)
    ),
    # Places and shapes
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
    "its direction is 'UP', neither 'LEFT' nor 'RIGHT'": a_node(
        "BitShift", ("uint8", 2), ("uint8", 2), direction="UP"
    ),
    "it has 2 pads for 2 axes": a_node("Pad", (2, 3), [1, 1]),
    "nothing is left of its input that could be repeated": a_node(
        "Pad", (2,), [-2, 1], mode="edge"
    ),
    "its axes are missing": [a_node("Unsqueeze", (2,)), a_node("Unsqueeze", (2,), opset=11)],
    "an axis is twice among its axes [0, 0]": a_node("Unsqueeze", (2,), [0, 0]),
    "its perm [0, 0] is no permutation of 2 axes": a_node("Transpose", (2, 3), perm=[0, 0]),
    "1 channels cannot become blocks of 2 x 2": a_node("DepthToSpace", IMAGE, blocksize=2),
    "1 channels cannot become blocks of 0 x 0": a_node("DepthToSpace", IMAGE, blocksize=0),
    "an image of 4 x 4 has no blocks of 3 x 3": a_node("SpaceToDepth", IMAGE, blocksize=3),
    "an image of 4 x 4 has no blocks of 0 x 0": a_node("SpaceToDepth", IMAGE, blocksize=0),
    "its starts, ends, axes and steps differ in length": a_node("Slice", (4,), [0], [1, 2], [0]),
    # Resize
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
    # Recurrent networks
    "its input has no elements: its shape is (0, 1, 3)": a_node(
        "RNN", (0, 1, 3), STEP_WEIGHTS, STATE_WEIGHTS
    ),
    "its sequence_lens have shape (2,) instead of (1,)": a_node(
        "RNN", STEPS, STEP_WEIGHTS, STATE_WEIGHTS, None, ("int32", 2)
    ),
    "its W has shape (1, 5, 3) instead of (1, 4, 3)": a_node(
        "RNN", STEPS, (1, 5, 3), STATE_WEIGHTS
    ),
    "its initial_h has shape (1, 2, 4)": a_node(
        "RNN", STEPS, STEP_WEIGHTS, STATE_WEIGHTS, None, None, (1, 2, 4), layout=1
    ),
    "its weights W or R are missing": a_node("RNN", STEPS, None, STATE_WEIGHTS),
    "it has 2 activations for 1 directions": a_node(
        "RNN", STEPS, STEP_WEIGHTS, STATE_WEIGHTS, activations=["Tanh", "Tanh"]
    ),
    # Files
    "it decodes image files: decode them before and pass their pixels": a_node(
        "ImageDecoder", ("uint8", 9), opset=20
    ),
}


CASES = [
    pytest.param(model, text, id=f"{model.graph.node[0].op_type}: {text}")
    for text, models in REFUSALS.items()
    for model in (models if isinstance(models, list) else [models])
]


@pytest.mark.parametrize(("model", "text"), CASES)
def test_converters_refuse(model, text):
    with pytest.raises(ModelError) as error:
        convert_graph(model, "m")
    assert str(error.value) == f"m: node 'n' ({model.graph.node[0].op_type}): {text}"
