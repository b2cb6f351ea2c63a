"""Builds the native code with CMake; everything else is declared in pyproject.toml."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nanobind
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


def onednn_prefix() -> str:
    """Prefix that holds include/oneapi/dnnl and lib/libdnnl.so, or '' where there is no wheel."""
    try:
        headers = importlib.metadata.distribution("onednn-devel-cpu-gomp")
    except importlib.metadata.PackageNotFoundError:
        return ""
    for file in headers.files or []:
        if file.as_posix().endswith("include/oneapi/dnnl/dnnl.hpp"):
            return str(Path(str(headers.locate_file(file))).resolve().parents[3])
    return ""


class CMakeBuild(build_ext):
    """One run of CMake builds the Python module and, where there is oneDNN, its kernels."""

    def get_ext_filename(self, fullname: str) -> str:
        filename = super().get_ext_filename(fullname)
        # Not a Python module: the runtime loads it by this name.
        return str(Path(filename).with_name("_onednn.so")) if "_onednn" in fullname else filename

    def build_extensions(self) -> None:
        package_dir = Path(self.get_ext_fullpath(self.extensions[0].name)).resolve().parent
        build_dir = Path(self.build_temp).resolve()
        build_dir.mkdir(parents=True, exist_ok=True)
        tvm_ffi = importlib.util.find_spec("tvm_ffi")
        if tvm_ffi is None or tvm_ffi.origin is None:
            raise SystemExit("building top_tvm needs apache-tvm-ffi: pip install apache-tvm-ffi")
        configure = [
            "cmake",
            "-S",
            str(Path(__file__).resolve().parent),
            "-B",
            str(build_dir),
            "-G",
            "Ninja",
            # A build directory outlives pip's build environment, whose ninja CMake remembers.
            f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja')}",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DNB_DIR={nanobind.cmake_dir()}",
            f"-DTVM_FFI_DIR={Path(tvm_ffi.origin).parent}",
            f"-DONEDNN_PREFIX={onednn_prefix()}",
            f"-DTOP_TVM_OUTPUT_DIR={package_dir}",
            *os.environ.get("TOP_TVM_CMAKE_ARGS", "").split(),
        ]
        subprocess.run(configure, check=True)
        build = ["cmake", "--build", str(build_dir), "--target", "top_tvm_install"]
        subprocess.run(build, check=True)


modules = ["top_tvm._native", *(["top_tvm._onednn"] if onednn_prefix() else [])]
setup(
    ext_modules=[Extension(name, []) for name in modules],
    cmdclass={"build_ext": CMakeBuild},
)
