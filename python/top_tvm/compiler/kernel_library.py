"""Compile PrimFuncs into one shared library that needs nothing of TVM but libtvm_ffi."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import tvm
from tvm import tirx
from tvm.target import codegen

from top_tvm.compiler.precision import BF16_FEATURES
from top_tvm.device import host_features
from top_tvm.errors import ModelError

# What kernels may call back; the runtime provides exactly these (runtime/kernel_library.cc).
KNOWN_CALLBACKS = {
    "__TVMBackendParallelLaunch",
    "__TVMBackendAllocWorkspace",
    "__TVMBackendFreeWorkspace",
}

# Instruction sets beyond the baseline that LLVM and oneDNN may use when the host has them.
_INSTRUCTION_SETS = {
    *("sse4_2", "avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "avx_vnni"),
    *("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16"),
    *("avx512ifma", "avx512vbmi", "avx512_vbmi2", "avx512_bitalg", "avx512_vpopcntdq"),
    *("asimd", "asimdhp", "asimddp", "sve", "sve2"),
}


def used_features(precision: str = "fp32") -> tuple[str, ...]:
    """CPU features that kernels compiled for this host may use."""
    known = _INSTRUCTION_SETS | (BF16_FEATURES if precision == "bf16" else set())
    return tuple(sorted(host_features() & known))


def host_target() -> tvm.target.Target:
    """LLVM target for the CPU this process runs on."""
    return tvm.target.Target({"kind": "llvm", "mcpu": str(codegen.llvm_get_system_cpu())})


def compile_kernels(prim_funcs: Mapping[str, tirx.PrimFunc], target: tvm.target.Target) -> bytes:
    """Compile kernels to an ELF shared library.

    Parameters
    ----------
    prim_funcs : mapping of str to PrimFunc
        Scheduled kernels by the symbol they get.
    target : tvm.target.Target
        LLVM target with the real ``mcpu``.

    Returns
    -------
    bytes
        The library, or ``b""`` when there is no kernel.

    Raises
    ------
    ModelError
        If LLVM or the linker fails, or a kernel wants a callback that the runtime does not have.
    """
    if not prim_funcs:
        return b""
    functions = {
        symbol: function.with_attr("global_symbol", symbol)
        for symbol, function in prim_funcs.items()
    }
    with tempfile.TemporaryDirectory(prefix="top_tvm-") as folder:
        path = Path(folder) / "kernels.so"
        try:
            executable = tvm.compile(tvm.IRModule(functions), target=target)
            executable.export_library(str(path))
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            raise ModelError(f"the kernels cannot be compiled for {target}: {error}") from error
        library = path.read_bytes()
    wanted = {name.decode() for name in re.findall(rb"\x00(__TVM[A-Za-z0-9_]+)(?=\x00)", library)}
    if unknown := sorted(wanted - KNOWN_CALLBACKS):
        raise ModelError(
            f"kernels need functions of TVM's runtime that top_tvm lacks: {', '.join(unknown)}"
        )
    return library
