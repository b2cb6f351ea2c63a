"""Finds the shared libraries that kernels need and loads them, without importing their packages.

Importing ``tvm_ffi`` would import torch wherever torch is installed (seconds); only its C++
library is needed. Importing this module loads it, for everyone: kernel libraries take its functions
from the global scope.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import importlib.util
import logging
import os
import sys
from pathlib import Path

from top_tvm.errors import DeviceError

_ONEDNN_WHEEL = "onednn-cpu-gomp"
_ONEDNN_LIBRARY = "libdnnl.so.3"
ONEDNN_SWITCH = "TOP_TVM_ONEDNN"
_COST = "convolutions and matrix products use kernels of TVM, which are about half as fast"
_HOW_TO_BUILD = (
    "where there is a wheel (x86-64 Linux), pip install onednn-devel-cpu-gomp==2023.2.0 and "
    "install top_tvm from source"
)
_LOG = logging.getLogger(__name__)


def _load(path: Path, package: str, mode: int) -> None:
    try:
        ctypes.CDLL(str(path), mode=mode)
    except OSError as error:
        raise DeviceError(f"cannot load {path.name} of {package}: {error}") from error


def _load_tvm_ffi() -> None:
    spec = importlib.util.find_spec("tvm_ffi")
    path = Path(spec.origin).parent / "lib" / "libtvm_ffi.so" if spec and spec.origin else None
    if path is None or not path.exists():
        raise DeviceError("libtvm_ffi.so is missing: pip install apache-tvm-ffi")
    _load(path, "apache-tvm-ffi", ctypes.RTLD_GLOBAL)


def _find_onednn() -> Path | None:
    # Wheels put such files under the prefix; the record of the wheel knows about other places.
    usual = Path(sys.prefix) / "lib" / _ONEDNN_LIBRARY
    if usual.exists():
        return usual
    try:
        wheel = importlib.metadata.distribution(_ONEDNN_WHEEL)
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in wheel.files or []:
        if file.name == _ONEDNN_LIBRARY:
            return Path(str(wheel.locate_file(file))).resolve()
    return None


@functools.cache
def onednn_module() -> str | None:
    """Path of the native module of oneDNN kernels, with oneDNN loaded.

    ``TOP_TVM_ONEDNN=0`` in the environment does without it. Where it is missing, which kernels that
    TVM generates make up for, one warning says so.

    Returns
    -------
    str or None
        What ``_native.Executor`` takes as ``library_kernels``; None without oneDNN.

    Raises
    ------
    DeviceError
        When oneDNN is there but cannot be loaded.
    """
    if os.environ.get(ONEDNN_SWITCH, "1") == "0":
        return None
    module = Path(__file__).resolve().parent.parent / "_onednn.so"
    if not module.exists():
        _LOG.warning("top_tvm was built without oneDNN: %s; %s", _COST, _HOW_TO_BUILD)
        return None
    library = _find_onednn()
    if library is None:
        _LOG.warning(
            "%s is missing: %s; pip install %s==2023.2.0", _ONEDNN_LIBRARY, _COST, _ONEDNN_WHEEL
        )
        return None
    # The module finds it by its name among the loaded libraries.
    _load(library, _ONEDNN_WHEEL, os.RTLD_NOW | ctypes.RTLD_LOCAL)
    return str(module)


class _OneDNNVersion(ctypes.Structure):
    """Begin of ``dnnl_version_t``."""

    _fields_ = (("major", ctypes.c_int), ("minor", ctypes.c_int), ("patch", ctypes.c_int))


@functools.cache
def onednn_version() -> str:
    """Version of the oneDNN library that kernels call, e.g. ``"3.2.0"``; ``""`` without oneDNN."""
    if onednn_module() is None:
        return ""
    # Loaded already: the name is enough.
    library = ctypes.CDLL(_ONEDNN_LIBRARY, mode=os.RTLD_NOW)
    library.dnnl_version.restype = ctypes.POINTER(_OneDNNVersion)
    version = library.dnnl_version().contents
    return f"{version.major}.{version.minor}.{version.patch}"


_load_tvm_ffi()
