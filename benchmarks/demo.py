"""Compile SqueezeNet, run it, compare it with ONNX Runtime: what ``make demo`` shows.

The network comes from the onnx wheel; its weights are random with a fixed seed.
"""

import sys
import time

import top_tvm
from top_tvm.compare import PEERS, compare, executable_system
from top_tvm.compiler.light_models import light_model
from top_tvm.random_inputs import random_inputs
from top_tvm.terminal import print_table, progress_bars

STREAMS = 2
TOLERANCE = 1e-4


def main() -> int:
    model = light_model("squeezenet", seed=0)
    print("Compiling SqueezeNet (random weights) for this CPU ...")
    start = time.perf_counter()
    with progress_bars() as progress:
        exe = top_tvm.build(model, streams=STREAMS, progress=progress)
        sequential = top_tvm.build(
            model, streams=STREAMS, partitioner="sequential", progress=progress
        )
    print(f"... two executables, one of them sequential, in {time.perf_counter() - start:.1f} s.\n")

    print(exe.plan())

    plan = exe.artifact.plans[1]
    inputs = random_inputs(plan)
    systems = [
        PEERS["onnxruntime"]("ONNX Runtime", model.SerializeToString(), inputs, STREAMS),
        executable_system("top_tvm, sequential", sequential, inputs),
        executable_system(f"top_tvm, auto: {plan.partitioner}", exe, inputs),
    ]
    with progress_bars() as progress:
        records = compare(systems, progress=progress)
    columns = {
        "system": "system",
        "median us": "median_us",
        "20 %": "low_us",
        "80 %": "high_us",
        "ratio of 20 %": "ratio",
    }
    print()
    print_table(f"One inference, batch 1, {STREAMS} threads, systems in turns", columns, records)

    error = max(record["error"] for record in records)
    verdict = "agree" if error <= TOLERANCE else "DISAGREE"
    print(f"\nThe outputs {verdict} with ONNX Runtime's: largest relative difference {error:.1e}.")
    return 0 if error <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
