"""Compile PrimFuncs into one shared library that needs nothing of TVM but libtvm_ffi."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping

import tvm
from tvm import tirx
from tvm.target import codegen

from top_tvm.compiler.precision import BF16_FEATURES
from top_tvm.compiler.scratch_folder import scratch_folder
from top_tvm.device import host_features
from top_tvm.errors import DeviceError, ModelError

# What kernels may call back; the runtime provides exactly these (runtime/kernel_library.cc).
KNOWN_CALLBACKS = {
    "__TVMBackendParallelLaunch",
    "__TVMBackendAllocWorkspace",
    "__TVMBackendFreeWorkspace",
}

# Instruction sets beyond the baseline that LLVM may use, as Linux names them.
_INSTRUCTION_SETS = {
    *("sse4_2", "avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "avx_vnni"),
    *("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16"),
    *("avx512ifma", "avx512vbmi", "avx512_vbmi2", "avx512_bitalg", "avx512_vpopcntdq"),
    *("asimd", "asimdhp", "asimddp", "sve", "sve2"),
}
# Where LLVM's name is not Linux's without its underscores.
_LLVM_NAMES = {
    **{"sse4_2": "sse4.2", "bmi1": "bmi", "avx_vnni": "avxvnni"},
    **{"asimd": "neon", "asimdhp": "fullfp16", "asimddp": "dotprod"},
}
MCPU_VARIABLE = "TOP_TVM_MCPU"
# For object file, library and what the linker keeps meanwhile; kernels have some 10 kB.
_ROOM_BYTES, _ROOM_BYTES_PER_KERNEL = 10_000_000, 100_000


def used_features(target: tvm.target.Target, precision: str = "fp32") -> tuple[str, ...]:
    """CPU features that kernels compiled for a target may use."""
    compiled = {
        feature
        for feature in _INSTRUCTION_SETS
        if codegen.llvm_cpu_has_features(_LLVM_NAMES.get(feature, feature.replace("_", "")), target)
    }
    used = compiled | (BF16_FEATURES if precision == "bf16" else set())
    return tuple(sorted(used & host_features()))


def host_target() -> tvm.target.Target:
    """LLVM target for the CPU this process runs on, or that ``TOP_TVM_MCPU`` names.

    Raises
    ------
    DeviceError
        If LLVM does not know the CPU that the variable names.
    """
    wanted = os.environ.get(MCPU_VARIABLE, "")
    known = codegen.llvm_get_cpu_archlist(tvm.target.Target({"kind": "llvm"}))
    if wanted and wanted not in known:
        raise DeviceError(
            f"{MCPU_VARIABLE}={wanted}: LLVM knows no such CPU; x86-64-v3 is one of "
            f"{len(known)} that it knows"
        )
    return tvm.target.Target({"kind": "llvm", "mcpu": wanted or str(codegen.llvm_get_system_cpu())})


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
    DeviceError
        If temporary files cannot be written.
    """
    if not prim_funcs:
        return b""
    functions = {
        symbol: function.with_attr("global_symbol", symbol)
        for symbol, function in prim_funcs.items()
    }
    try:
        with scratch_folder(_ROOM_BYTES + len(functions) * _ROOM_BYTES_PER_KERNEL) as folder:
            path = folder / "kernels.so"
            executable = tvm.compile(tvm.IRModule(functions), target=target)
            executable.export_library(str(path), workspace_dir=str(folder))
            library = path.read_bytes()
    except (RuntimeError, ValueError, TypeError, subprocess.SubprocessError) as error:
        raise ModelError(f"the kernels cannot be compiled for {target}: {error}") from error
    except OSError as error:
        raise DeviceError(
            f"the kernels cannot be compiled: {error}; set TMPDIR to a writable folder with room"
        ) from error
    wanted = {name.decode() for name in re.findall(rb"\x00(__TVM[A-Za-z0-9_]+)(?=\x00)", library)}
    if unknown := sorted(wanted - KNOWN_CALLBACKS):
        raise ModelError(
            f"kernels need functions of TVM's runtime that top_tvm lacks: {', '.join(unknown)}"
        )
    return library
