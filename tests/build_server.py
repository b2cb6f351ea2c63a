"""Builds in child processes of one that has imported everything, so that each is short.

    python tests/build_server.py kill FOLDER COUNT SEED
    python tests/build_server.py share FOLDER COUNT

``kill`` ends builds with SIGKILL at random moments of their duration, ``share`` runs COUNT builds
of different models at the same time. Both use the cache and the folder for temporary files that the
environment names. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import top_tvm
import top_tvm.compiler.build  # here rather than in each child


def model(width: int = 8) -> onnx.ModelProto:
    """Two products with an activation between: (1, width) to (1, width)."""
    weight = numpy_helper.from_array(np.eye(width, dtype=np.float32) * 2, "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Sin", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "tiny",
        [value("x", TensorProto.FLOAT, [1, width])],
        [value("y", TensorProto.FLOAT, [1, width])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def start_build(output: Path, width: int = 8) -> int:
    """Build and save in a child process; returns its id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            executable = top_tvm.build(model(width), partitioner="sequential", streams=1)
            executable.save(output)
            status = 0
        finally:
            os._exit(status)
    return child


def finish(child: int) -> None:
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"a build ended with {status}")


def kill_builds(folder: Path, count: int, seed: int) -> None:
    generator = random.Random(seed)
    cache = Path(os.environ["TOP_TVM_CACHE_DIR"])
    start = time.monotonic()
    finish(start_build(folder / "model.top"))
    seconds = time.monotonic() - start
    killed = builds = 0
    while killed < count and builds < 4 * count:
        if builds % 5 == 0:
            for file in cache.glob("*.json"):
                file.unlink()  # so that there is something to measure and to write
        child = start_build(folder / "model.top")
        time.sleep(generator.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        builds += 1
        killed += status != 0
        # Builds become quicker and slower with the load of the machine: most shall be hit.
        seconds *= 1.02 if status else 0.9
        top_tvm.load(folder / "model.top")  # the old one or the new one
    left = sorted(path.name for path in folder.iterdir())
    kept = sorted(path.name for path in cache.iterdir())
    finish(start_build(folder / "model.top"))
    sys.stdout.write(json.dumps({"killed": killed, "left": left, "cache": kept}) + "\n")


def share_cache(folder: Path, count: int) -> None:
    children = [start_build(folder / f"{width}.top", width) for width in range(1, 1 + count)]
    for child in children:
        finish(child)
    sys.stdout.write(json.dumps({"files": sorted(path.name for path in folder.iterdir())}) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "kill":
        kill_builds(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        share_cache(Path(sys.argv[2]), int(sys.argv[3]))
