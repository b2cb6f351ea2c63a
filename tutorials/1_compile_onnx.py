"""Tutorial 1: compile an ONNX model, run it, save it, load it again.

    python tutorials/1_compile_onnx.py

Needs the compiler's packages (pip install 'top_tvm[compile]') and ONNX Runtime to compare with.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime

import top_tvm
from top_tvm.compiler.light_models import light_model

# ---------------------------------------------------------------------------------------------
# 1. A model
#
# Any ONNX file will do: top_tvm.build accepts its path. Here it is the SqueezeNet inside the onnx
# wheel, so that nothing has to be downloaded. The wheel leaves its weights out; light_model fills
# in random ones with a fixed seed.
model = light_model("squeezenet", seed=0)

# ---------------------------------------------------------------------------------------------
# 2. Compile
#
# The graph is simplified, operators are fused, convolutions go to oneDNN and everything else to
# kernels that TVM generates. Every operator is then measured on this machine. The first build on a
# machine also measures what it costs to synchronise threads, and keeps that for later builds.
exe = top_tvm.build(model)

# An executable knows what it wants and what it gives.
for spec in exe.inputs:
    print(f"input  {spec.name}: {spec.dtype} {spec.shape}")
for spec in exe.outputs:
    print(f"output {spec.name}: {spec.dtype} {spec.shape}")

# ---------------------------------------------------------------------------------------------
# 3. Run
#
# Inputs and outputs are dictionaries by ONNX name. Inputs may be NumPy arrays or anything else that
# speaks DLPack; outputs are NumPy arrays.
image = np.random.default_rng(1).standard_normal(exe.inputs[0].shape).astype("float32")
outputs = exe.run({exe.inputs[0].name: image})

# The same numbers as ONNX Runtime's, up to rounding.
session = onnxruntime.InferenceSession(model.SerializeToString())
expected = session.run(None, {exe.inputs[0].name: image})[0]
scores = outputs[exe.outputs[0].name]
difference = np.abs(scores - expected).max() / np.abs(expected).max()
print(f"largest difference from ONNX Runtime, relative to the largest score: {difference:.1e}")
assert difference < 1e-4

# A wrong input is an error that shows what was expected and what was given.
try:
    exe.run({exe.inputs[0].name: image[:, :, :100]})
except top_tvm.InputError as error:
    print(f"as it should be: {error}")

# ---------------------------------------------------------------------------------------------
# 4. Save and load
#
# One file holds kernels, weights and plans, with a checksum of each. Loading needs neither TVM nor
# ONNX nor torch: on a machine that only runs models, `pip install top_tvm` is enough.
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "squeezenet.top"
    exe.save(path)
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")
    loaded = top_tvm.load(path)
    again = loaded.run({exe.inputs[0].name: image})
    assert all(np.array_equal(again[name], outputs[name]) for name in outputs)
print("the loaded model gives the same bits")

# Next: what a multi-stream plan is, and when it helps (2_multi_stream.py).
