"""Fourier transforms, against NumPy, and which are refused."""

import numpy as np
import pytest
from node_batch import NodeBatch

from top_tvm.compiler.build import compile_model
from top_tvm.errors import ModelError


def parts(values):
    return np.stack([values.real, values.imag], -1).astype(np.float32)


def test_lengths_axes_and_directions():
    random = np.random.default_rng(0)
    real = random.standard_normal((2, 9, 3, 1)).astype(np.float32)
    spectrum = random.standard_normal((2, 9, 3, 2)).astype(np.float32)
    signal, numbers = real[..., 0], spectrum[..., 0] + 1j * spectrum[..., 1]
    batch = NodeBatch(opset=20)
    x, z = batch.given(real), batch.given(spectrum)
    expected = []
    for length in (7, 9, 12):
        size, axis = np.int64(length), np.int64(1)
        batch.add("DFT", x, size, axis)
        batch.add("DFT", x, size, axis, onesided=1)
        batch.add("DFT", z, size, np.int64(-2), inverse=1)
        batch.add("DFT", z, size, axis, inverse=1, onesided=1)
        expected += [
            parts(np.fft.fft(signal, length, 1)),
            parts(np.fft.rfft(signal, length, 1)),
            parts(np.fft.ifft(numbers, length, 2)),
            np.fft.irfft(numbers, length, 1)[..., None].astype(np.float32),
        ]
    batch.check(dict(zip(batch.outputs, expected, strict=True)), rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "attributes", "message"),
    [
        ((1, 8, 3), {}, "must be 1 or 2 long"),
        ((1, 1 << 15, 1), {}, "which is too big here"),
    ],
)
def test_refusals(shape, attributes, message):
    batch = NodeBatch(opset=17)
    batch.add("DFT", batch.given(np.zeros(shape, np.float32)), **attributes)
    with pytest.raises(ModelError, match=rf"\(DFT\): .*{message}"):
        compile_model(batch.model())
