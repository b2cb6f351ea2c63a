"""Cost of the asynchronous runtime itself, on plans of one kernel that copies one float.

    python benchmarks/tasks.py [--repeats 2000] [--json FILE]

Lone tasks: microseconds from the submission of a task that is alone to its outputs, in C++ with one
and with two workers, and from Python; between two tasks the workers fall asleep or do not,
as the pause says. Backlog: tasks per second through queue, launcher, workers and delivery with 64
tasks submitted at any time, in C++ and from Python threads.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

import top_tvm
from dispatch import chain, copy_kernel
from top_tvm import _native
from top_tvm.artifact import Artifact, Metadata, TensorSpec
from top_tvm.device import host_description
from top_tvm.plan import Plan
from top_tvm.runtime.engine import open_runtime
from top_tvm.runtime.executable import Executable
from top_tvm.runtime.variant_table import make_table, mix_of

PAUSES_S = (0.0, 0.002)


def executable(streams: int, kernels: bytes) -> Executable:
    """One op on one stream, or one that gathers two."""
    plan = chain(streams, [(0, streams)], waiting=False)
    output = plan.tensors[1].__class__("y", "float32", (1,), "output", "y")
    call = plan.calls[0].__class__(**{**vars(plan.calls[0]), "args": (0, len(plan.tensors))})
    plan = Plan(
        **{
            **vars(plan),
            "tensors": (*plan.tensors, output),
            "calls": (call,),
            "outputs": (len(plan.tensors),),
            "predicted_us": 1.0,
        }
    )
    metadata = Metadata(
        name="copy",
        target="cpu",
        cpu_features=(),
        libraries={},
        creator="benchmark",
        inputs=(TensorSpec("x", "float32", (1,)),),
        outputs=(TensorSpec("y", "float32", (1,)),),
    )
    return Executable(Artifact(metadata, kernels, {}, {1: plan}, {}))


def open_alone(exe: Executable, queue_size: int) -> _native.LiveRuntime:
    models = {"copy": exe}
    mix = mix_of(models)
    return open_runtime(mix, make_table(mix), models, queue_size)


def lone_native(exe: Executable, pause_s: float, repeats: int) -> np.ndarray:
    runtime = open_alone(exe, 8)
    x = [_native.aligned_empty((1,), "float32")]
    times = []
    for _ in range(repeats // 10):
        if pause_s:
            for _ in range(10):
                time.sleep(pause_s)
                times += runtime.time_lone_tasks(0, x, 0, 1)
        else:
            times += runtime.time_lone_tasks(0, x, 2, 10)
    return np.array(times)


def lone_python(exe: Executable, pause_s: float, repeats: int) -> np.ndarray:
    x = np.zeros(1, np.float32)
    times = []
    with top_tvm.Runtime({"copy": exe}) as runtime:
        for _ in range(repeats):
            time.sleep(pause_s)
            start = time.perf_counter()
            runtime.submit("copy", {"x": x}).result()
            times.append(1e6 * (time.perf_counter() - start))
    return np.array(times)


def backlog_native(exe: Executable, seconds: float) -> float:
    runtime = open_alone(exe, 64)
    x = [_native.aligned_empty((1,), "float32")]
    return runtime.measure_capacity([x], 64, seconds)


def backlog_python(exe: Executable, tasks: int) -> float:
    x = {"x": np.zeros(1, np.float32)}
    with top_tvm.Runtime({"copy": exe}, queue_size=tasks) as runtime:
        start = time.perf_counter()
        futures = [runtime.submit("copy", x) for _ in range(tasks)]
        for future in futures:
            future.result()
        return tasks / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    kernels = copy_kernel()
    exes = {f"{n} worker{'s' if n > 1 else ''}": executable(n, kernels) for n in (1, 2)}
    print(f"On {host_description()}.\n")
    print("| lone task | pause, ms | p50, us | p99, us |")
    print("| --- | ---: | ---: | ---: |")
    records = []
    for where, measure in (("C++", lone_native), ("Python", lone_python)):
        for name, exe in exes.items():
            for pause_s in PAUSES_S:
                times = measure(exe, pause_s, options.repeats)
                p50, p99 = np.percentile(times, [50, 99])
                print(f"| {where}, {name} | {1e3 * pause_s:g} | {p50:.1f} | {p99:.1f} |")
                records.append(
                    {"lone": f"{where}, {name}", "pause_s": pause_s, "p50_us": p50, "p99_us": p99}
                )
    print("\n| backlog of 64 or more | tasks/s |")
    print("| --- | ---: |")
    for name, exe in exes.items():
        for where, rate in (
            ("C++", backlog_native(exe, 2.0)),
            ("Python", backlog_python(exe, 20_000)),
        ):
            print(f"| {where}, {name} | {rate:.0f} |")
            records.append({"backlog": f"{where}, {name}", "tasks_per_s": rate})
    if options.json:
        options.json.write_text(json.dumps(records))


if __name__ == "__main__":
    main()
