"""Peak memory of a run and time of a build, each in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from case import Case, load_model

_PEAK_MEMORY = Path(__file__).with_name("peak_memory.py")
_BUILD = "import sys; from top_tvm.cli import main; main()"
# The first three builds of a model measure its ops, the fourth finds them in the cache.
_BUILDS = ("cold", "second", "third", "cached")


def measure_memory(case: Case) -> dict[str, Any]:
    """Largest resident memory of a process that loads and runs the model, ours against theirs."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        case.auto.save(folder / "model.top")
        (folder / "model.onnx").write_bytes(case.content)
        np.savez(folder / "inputs.npz", allow_pickle=False, **case.inputs)
        peak_bytes = {
            system: _peak_bytes(system, folder, case.threads)
            for system in ("top_tvm", "onnxruntime")
        }
    return {**peak_bytes, "ratio": peak_bytes["top_tvm"] / peak_bytes["onnxruntime"]}


def _peak_bytes(system: str, folder: Path, threads: int) -> int:
    command = [sys.executable, str(_PEAK_MEMORY), system, str(folder), str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(json.loads(done.stdout)["peak_bytes"])


def measure_build(model: str, threads: int) -> dict[str, float]:
    """Seconds of `top-tvm build` as a user sees them, from an empty cache on."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.onnx"
        path.write_bytes(load_model(model, 1).SerializeToString())
        environment = {**os.environ, "TOP_TVM_CACHE_DIR": str(Path(directory) / "cache")}
        command = [sys.executable, "-c", _BUILD, "build", str(path)]
        command += ["-o", str(path.with_suffix(".top")), "--streams", str(threads)]
        seconds = {}
        for name in _BUILDS:
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=environment)
            seconds[name] = time.perf_counter() - start
    return seconds
