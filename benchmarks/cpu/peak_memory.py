"""Loads a model, runs it a few times and prints how much memory that took at most.

    python peak_memory.py top_tvm|onnxruntime FOLDER THREADS

The folder has model.top, model.onnx and inputs.npz. Nothing else is imported, and a process of its
own is needed, because a peak never falls again.
"""

import json
import sys
from pathlib import Path

import numpy as np

RUNS = 10


def peak_bytes() -> int:
    # Not getrusage's maximum, which a child inherits from the process that started it.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status does not tell the peak memory")


def main() -> None:
    system, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    inputs = dict(np.load(folder / "inputs.npz"))
    if system == "top_tvm":
        import top_tvm

        executable = top_tvm.load(folder / "model.top")
        for _ in range(RUNS):
            executable.run(inputs)
    else:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        path, providers = str(folder / "model.onnx"), ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(path, options, providers)
        for _ in range(RUNS):
            session.run(None, inputs)
    print(json.dumps({"peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
