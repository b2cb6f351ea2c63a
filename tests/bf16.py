"""What the tests of precision bf16 share: where they run, and how close is close."""

import numpy as np
import onnxruntime
import pytest

from top_tvm.compiler.precision import BF16_FEATURES
from top_tvm.device import host_features
from top_tvm.runtime.native import onednn_module

needs_bf16 = pytest.mark.skipif(
    not host_features() & BF16_FEATURES or onednn_module() is None,
    reason="needs AVX512-BF16 or AMX, and oneDNN",
)

# bfloat16 keeps 8 bits, so one rounding is off by up to 0.4 %; errors of many ops add up. The
# largest error of an output, relative to the output's largest magnitude, as the README states it.
TOLERANCE = 3e-2


def reference(model, *inputs):
    """Outputs of ONNX Runtime in float32, in the order of the model."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))


def assert_close(outputs, expected):
    assert len(outputs) == len(expected)
    for output, wanted in zip(outputs, expected, strict=True):
        assert output.dtype == wanted.dtype
        assert output.shape == wanted.shape
        scale = np.abs(wanted).max()
        assert np.ptp(wanted) > 0.01 * scale, "a constant output would hide wrong kernels"
        assert np.abs(output - wanted).max() <= TOLERANCE * scale
