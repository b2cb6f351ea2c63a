"""Which arithmetic kernels may be asked for, and whether this machine has it."""

from __future__ import annotations

from top_tvm.device import host_features
from top_tvm.errors import DeviceError, PartitionError
from top_tvm.runtime.native import onednn_module

PRECISIONS = ("fp32", "bf16")
# Either is enough: instructions that multiply bfloat16 and accumulate in float32. Without them
# oneDNN would emulate bfloat16, slower than float32.
BF16_FEATURES = frozenset({"avx512_bf16", "amx_bf16"})


def check_precision(precision: str) -> None:
    """Refuse a precision that does not exist or that this machine cannot compute in.

    Raises
    ------
    PartitionError
        There is no such precision.
    DeviceError
        The CPU lacks its instructions, or top_tvm was built without oneDNN.
    """
    if precision not in PRECISIONS:
        known = ", ".join(map(repr, PRECISIONS))
        raise PartitionError(f"precision {precision!r} is not supported; there are: {known}")
    if precision == "fp32":
        return
    if not host_features() & BF16_FEATURES:
        features = " or ".join(sorted(BF16_FEATURES))
        raise DeviceError(
            f"precision {precision!r} needs a CPU with {features}, and this one has neither: use "
            "precision 'fp32'"
        )
    if onednn_module() is None:
        raise DeviceError(
            f"precision {precision!r} needs oneDNN, and top_tvm was built without it: use "
            "precision 'fp32', or install onednn-devel-cpu-gomp==2023.2.0 and build top_tvm again"
        )
