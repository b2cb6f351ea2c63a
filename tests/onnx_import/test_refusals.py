"""What operators that compute refuse: normalisation, products, windows, recurrent networks."""

import numpy as np
import pytest
from onnx import TensorProto
from refused_node import a_node, cases, check_refusal

FUSED = "com.microsoft"
STEPS, STEP_WEIGHTS, STATE_WEIGHTS = (2, 1, 3), (1, 4, 3), (1, 4, 4)  # of an RNN with 4 states
IMAGE, HEADS = (1, 1, 4, 4), (1, 2, 3, 4)

REFUSALS = {
    # Normalisation and losses
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
    "its reduction is 'max', none of 'none', 'sum' and 'mean'": a_node(
        "NegativeLogLikelihoodLoss", (2, 3), ("int64", 2), reduction="max"
    ),
    "spatial=0, statistics for every element, is not supported": a_node(
        "BatchNormalization", IMAGE, (1,), (1,), (1,), (1,), opset=7, spatial=0
    ),
    "training mode (is_test=0) is not supported before opset 14": a_node(
        "BatchNormalization", IMAGE, (1,), (1,), (1,), (1,), opset=6
    ),
    "the statistics of its training mode are no results of inference": a_node(
        "BatchNormalization", IMAGE, (1,), (1,), (1,), (1,), results=2
    ),
    "its outputs mean and inv_std_var are not supported": [
        a_node("SkipLayerNormalization", (2, 3), (2, 3), (3,), results=2, domain=FUSED),
        a_node("SkipSimplifiedLayerNormalization", (2, 3), (2, 3), (3,), results=2, domain=FUSED),
    ],
    # Attention, products and activations
    "its second operand has more dimensions than there are from axis 1": a_node(
        "Add", (2, 3), (3, 4), opset=6, broadcast=1, axis=1
    ),
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
    "it quantises to int32; supported are uint8, int8, uint16, int16": [
        a_node("QuantizeLinear", (4,), (), opset=21, output_dtype=TensorProto.INT32),
        a_node(
            "QLinearMatMul",
            *(("uint8", 2, 2), (), ("uint8",), ("uint8", 2, 2), (), ("uint8",), (), ("int32",)),
        ),
    ],
    "a scalar is no operand of a matrix product": a_node("MatMul", (), (2, 2)),
    "input 1 is missing": [a_node("MatMul", (2, 2)), a_node("MatMul", (2, 2), None)],
    "its attribute approximate is 'sinh', neither 'none' nor 'tanh'": a_node(
        "Gelu", (2,), opset=20, approximate="sinh"
    ),
    "qk_matmul_output_mode=7 does not exist": a_node(
        "Attention", HEADS, HEADS, HEADS, opset=23, qk_matmul_output_mode=7
    ),
    "its operands have different shapes, which came with version 8 of the operator": a_node(
        "Max", (2, 3), (3,), opset=7
    ),
    "its attribute transBatchA is not supported": a_node(
        "FusedMatMul", (2, 2), (2, 2), transBatchA=1, domain=FUSED
    ),
    "its operands are no matrices": a_node("Gemm", (2, 2), (2,)),
    "its zero points or scales are more than one, but its operand is a vector": a_node(
        "MatMulInteger", ("uint8", 2), ("uint8", 2, 2), ("uint8", 2)
    ),
    "its min has the shape (2,): it must be one number": a_node("Clip", (2,), (2,)),
    "its matrices have 33 rows, more than 32": a_node("Det", (33, 33)),
    "axes of 3 and 4 elements have the same letter 'j'": a_node(
        "Einsum", (2, 3), (4, 2), equation="ij,jk->ik"
    ),
    "its input C is no matrix, and its attribute broadcast is not set": a_node(
        "Gemm", (2, 3), (3, 2), (2,), opset=6
    ),
    "values of type float8_e4m3fn are not supported": a_node(
        "DequantizeLinear", ("int8", 4), (), opset=23, output_dtype=TensorProto.FLOAT8E4M3FN
    ),
    # Windows
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
    "an output of 0 x 1 by 0 samples does not exist": a_node(
        "RoiAlign", IMAGE, (2, 4), ("int64", 2), output_height=0
    ),
    "kernel_shape [2, 2] is not the shape of its weights (1, 1, 3, 3)": a_node(
        "Conv", IMAGE, (1, 1, 3, 3), kernel_shape=[2, 2]
    ),
    "convolutions of empty tensors are not supported": a_node("Conv", (1, 1, 0), (1, 1, 1)),
    "data of 1 spatial dimensions is not supported, but of 2": a_node(
        "DeformConv", (1, 1, 4), (1, 1, 2), (1, 2, 3), opset=19
    ),
    "data of 1 channels does not fit weights of shape [1, 2, 2, 2] in 1 groups, "
    "moved in 1 groups": (a_node("DeformConv", IMAGE, (1, 2, 2, 2), (1, 8, 3, 3), opset=19)),
    "negative pads are not supported; slice its input instead": a_node(
        "MaxPool", IMAGE, kernel_shape=[2, 2], pads=[0, 0, -1, 0]
    ),
    "its window [2] does not fit 2 spatial dimensions": a_node("MaxPool", IMAGE, kernel_shape=[2]),
    "pools of empty tensors are not supported": [
        a_node("MaxPool", (1, 1, 0), kernel_shape=[1]),
        a_node("GlobalMaxPool", (1, 1, 0)),
    ],
    "its pads [2, 0] leave windows [2] that hold padding only": a_node(
        "MaxPool", (1, 1, 4), kernel_shape=[2], pads=[2, 0]
    ),
    "its kernel_shape [2] does not fit 2 spatial dimensions": a_node(
        "MaxUnpool", IMAGE, ("int64", *IMAGE), kernel_shape=[2]
    ),
    "its output shape [1, 2, 8, 8] does not fit data of [1, 1, 8, 8]": a_node(
        *("MaxUnpool", IMAGE, ("int64", *IMAGE), [1, 2, 8, 8]), kernel_shape=[2, 2], strides=[2, 2]
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
    "there is no transform of 0 values of an input of shape (2, 3, 1)": a_node(
        "DFT", (2, 3, 1), np.int64(0)
    ),
    "the last axis of its input must be 1 or 2 long; its shape is (2, 3)": a_node("DFT", (2, 3)),
    "a transform of 8192 values is a product with a matrix, which is too big here": a_node(
        "DFT", (1, 8192, 1)
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
    "direction 'backward' does not exist": a_node(
        "RNN", STEPS, STEP_WEIGHTS, STATE_WEIGHTS, direction="backward"
    ),
    "activation 'Gelu' does not exist": a_node(
        "RNN", STEPS, STEP_WEIGHTS, STATE_WEIGHTS, activations=["Gelu"]
    ),
    "its hidden_size is 5, but R has 4": a_node(
        "RNN", STEPS, STEP_WEIGHTS, STATE_WEIGHTS, hidden_size=5
    ),
    "its input has shape (1, 3), its R (1, 4, 4): both need 3 dimensions": a_node(
        "RNN", (1, 3), STEP_WEIGHTS, STATE_WEIGHTS
    ),
    "it is unrolled over time, and 2049 steps are more than 2048": a_node(
        "RNN", (2049, 1, 3), STEP_WEIGHTS, STATE_WEIGHTS
    ),
    "recurrent operators before opset 7 are not supported; convert the model": a_node(
        "RNN", STEPS, STEP_WEIGHTS, STATE_WEIGHTS, opset=6
    ),
}


@pytest.mark.parametrize(("model", "text"), cases(REFUSALS))
def test_is_refused(model, text):
    check_refusal(model, text)
