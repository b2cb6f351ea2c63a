"""What ``top-tvm doctor`` finds: versions, the device, libraries of kernels, caches.

Each finding is looked at by itself: one that fails does not hide the others.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import top_tvm
from top_tvm.compiler.cache import cache_directory
from top_tvm.device import host_features, host_name, usable_cores
from top_tvm.errors import TopTVMError

# By what they are needed for; the last are only compared with.
_PACKAGES = {
    "run": ("apache-tvm-ffi", "numpy", "onednn-cpu-gomp"),
    "build": ("apache-tvm", "onnx", "torch"),
    "bench": ("onnxruntime", "openvino"),
}
_SWITCHES = ("TOP_TVM_CACHE_DIR", "TOP_TVM_MCPU", "TOP_TVM_ONEDNN")
_TELLING = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes
    ----------
    what : str
        The thing that was looked at.
    status : {"ok", "warning", "problem"}
        A problem keeps top_tvm from running; a warning makes it slower or keeps it from building.
    detail : str
        What was found.
    advice : str
        What to do about it; empty if nothing.
    """

    what: str
    status: str
    detail: str
    advice: str = ""


def examine() -> dict[str, Any]:
    """Look at everything that running and building depend on.

    Returns
    -------
    dict
        ``findings``: one record per thing, see :class:`Finding`; ``status``: the worst of them.
    """
    findings = [
        Finding("top_tvm", "ok", f"{top_tvm.__version__} in {Path(top_tvm.__file__).parent}"),
        Finding("Python", "ok", f"{platform.python_version()} ({sys.executable})"),
        Finding("system", "ok", platform.platform()),
        *_guarded("packages", _packages),
        *_guarded("CPU", _cpu),
        *_guarded("runtime", _runtime),
        *_guarded("oneDNN", _onednn),
        *_guarded("compiler", _compiler),
        *_guarded("cache", _cache),
        *[
            Finding(name, "ok", os.environ[name], "set in the environment")
            for name in _SWITCHES
            if name in os.environ
        ],
    ]
    worst = max(findings, key=lambda finding: ("ok", "warning", "problem").index(finding.status))
    return {"status": worst.status, "findings": [asdict(finding) for finding in findings]}


def _guarded(what: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return look()
    except (TopTVMError, OSError, ImportError, ValueError) as error:
        return [Finding(what, "problem", f"{type(error).__name__}: {error}", "reinstall top_tvm")]


def _packages() -> list[Finding]:
    findings = []
    for purpose, names in _PACKAGES.items():
        for name in names:
            try:
                findings.append(Finding(name, "ok", importlib.metadata.version(name)))
            except importlib.metadata.PackageNotFoundError:
                findings.append(_missing(name, purpose))
    return findings


def _missing(name: str, purpose: str) -> Finding:
    if name == "onednn-cpu-gomp" and platform.machine() != "x86_64":
        return Finding(name, "ok", "there is no wheel for this platform")
    if name == "torch":
        return Finding(name, "ok", "missing: only models from torch need it")
    if purpose == "bench":
        return Finding(name, "ok", "missing: only top-tvm bench compares with it")
    extra = "" if purpose == "run" else "[compile]"
    status = "problem" if name in ("apache-tvm-ffi", "numpy") else "warning"
    return Finding(name, status, "missing", f"pip install 'top_tvm{extra}' brings it")


def _cpu() -> list[Finding]:
    features = host_features()
    known = [feature for feature in _TELLING if feature in features]
    shown = " ".join(known) or "no features known"
    detail = f"{host_name()}: {usable_cores()} usable cores; {shown}"
    bf16 = not features.isdisjoint({"avx512_bf16", "amx_bf16"})
    precisions = "fp32, bf16" if bf16 else "fp32 (bf16 needs AVX512-BF16 or AMX)"
    return [Finding("CPU", "ok", detail), Finding("precisions", "ok", precisions)]


def _runtime() -> list[Finding]:
    from top_tvm import _native

    return [Finding("native module", "ok", str(Path(_native.__file__).name))]


def _onednn() -> list[Finding]:
    from top_tvm.runtime.native import ONEDNN_SWITCH, onednn_module, onednn_version

    if os.environ.get(ONEDNN_SWITCH, "1") == "0":
        return [Finding("oneDNN", "warning", "switched off", f"unset {ONEDNN_SWITCH}")]
    if onednn_module() is None:
        advice = "pip install onednn-devel-cpu-gomp==2023.2.0, then top_tvm from source"
        return [Finding("oneDNN", "warning", "not in use: kernels of TVM are slower", advice)]
    return [Finding("oneDNN", "ok", f"{onednn_version()}: convolutions, products, pools, norms")]


def _compiler() -> list[Finding]:
    try:
        from top_tvm.compiler.kernel_library import host_target, used_features
    except ImportError as error:
        advice = "pip install 'top_tvm[compile]' to build models; running them works without"
        return [Finding("compiler", "warning", f"cannot be imported: {error}", advice)]
    target = host_target()
    detail = f"LLVM for {target.attrs['mcpu']}: {' '.join(used_features(target))}"
    return [Finding("compiler", "ok", detail)]


def _cache() -> list[Finding]:
    folder = cache_directory()
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    size = sum(file.stat().st_size for file in files)
    detail = f"{folder}: measurements of {len(files)} devices, {size / 1e6:.1f} MB"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        advice = "make it writable, or set TOP_TVM_CACHE_DIR: else every build measures again"
        return [Finding("cache", "warning", f"{folder}: {error.strerror}", advice)]
    return [Finding("cache", "ok", detail)]
