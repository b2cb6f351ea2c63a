"""Which precisions a machine has: refused before any work, with what to do."""

import pytest

import top_tvm
from top_tvm.compiler import precision


@pytest.mark.parametrize(
    ("features", "module", "message"),
    [
        (
            {"avx512f"},
            "_onednn.so",
            "needs a CPU with amx_bf16 or avx512_bf16.*use precision 'fp32'",
        ),
        ({"avx512_bf16"}, None, "needs oneDNN, and top_tvm was built without it"),
    ],
)
def test_what_is_missing_is_named_before_work_begins(monkeypatch, features, module, message):
    monkeypatch.setattr(precision, "host_features", lambda: frozenset(features))
    monkeypatch.setattr(precision, "onednn_module", lambda: module)
    with pytest.raises(top_tvm.DeviceError, match=message):
        top_tvm.build("no such model.onnx", precision="bf16")
    precision.check_precision("fp32")


@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_bf16"])
def test_either_instruction_set_is_enough(monkeypatch, feature):
    monkeypatch.setattr(precision, "host_features", lambda: frozenset({feature}))
    monkeypatch.setattr(precision, "onednn_module", lambda: "_onednn.so")
    precision.check_precision("bf16")
