"""Cost of the executor itself: microseconds per op on plans of kernels that do next to nothing.

    python benchmarks/dispatch.py [--ops 1000] [--repeats 200] [--json FILE]

The kernel copies one float, so that what is measured is the walk through the plan, the call by the
packed-function ABI (with TVM's own check of the arguments) and the synchronisation of streams.

The cost of an op is the slope between a plan and one five times as long, measured in turn. (A run
of one op is no base to subtract: whether its workers poll or are parked depends on what ran before,
and that makes tens of microseconds.) What oneDNN spends on a call of its own is not included.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import tvm
from tvm import te

import top_tvm.runtime.native  # noqa: F401  (loads what kernels need)
from top_tvm import _native
from top_tvm.plan import Call, Kernel, Plan, Tensor


def copy_kernel() -> bytes:
    """Kernel library with `copy`, which copies one float."""
    source = te.placeholder((1,), name="source")
    target = te.compute((1,), lambda i: source[i], name="target")
    function = te.create_prim_func([source, target]).with_attr("global_symbol", "copy")
    module = tvm.IRModule({"copy": function})
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "kernels.so"
        built = tvm.compile(module, target=tvm.target.Target({"kind": "llvm"}))
        built.export_library(str(path))
        return path.read_bytes()


def chain(streams: int, places: list[tuple[int, int]], waiting: bool) -> Plan:
    """Calls at (stream, threads); each waits for the previous one if that ran elsewhere."""
    calls = []
    for index, (stream, threads) in enumerate(places):
        elsewhere = index > 0 and places[index - 1][0] != stream
        waits = (index - 1,) if waiting and elsewhere else ()
        args = (0, 1 + stream)
        calls.append(Call(f"op{index}", 0, args, 1, 0, stream, stream, threads, waits))
    targets = [Tensor(f"y{i}", "float32", (1,), "arena", "", 64 * i) for i in range(streams)]
    return Plan(
        batch=1,
        streams=streams,
        partitioner="by hand",
        tensors=(Tensor("x", "float32", (1,), "input", "x"), *targets),
        kernels=(Kernel("tvm", "copy"),),
        calls=tuple(calls),
        inputs=(0,),
        outputs=(),
        arena_bytes=64 * streams,
    )


def measure_us(plans: list[Plan], library: _native.KernelLibrary, repeats: int) -> np.ndarray:
    """Times of runs, shape (plans, repeats); the plans take turns."""
    executors = [_native.Executor(plan, {}, library, None) for plan in plans]
    x = _native.aligned_empty((1,), "float32")
    x[...] = 0
    rounds = [[executor.time([x], 2, 5) for executor in executors] for _ in range(repeats // 5)]
    return np.concatenate(rounds, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ops", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    library = _native.KernelLibrary(copy_kernel())
    short, long = options.ops, 5 * options.ops
    cases = {
        "1 stream": (1, lambda i: (0, 1), False),
        "2 streams, independent": (2, lambda i: (i % 2, 1), False),
        "2 streams, a wait every 10 ops": (2, lambda i: (i // 10 % 2, 1), True),
        "2 streams, a wait at every op": (2, lambda i: (i % 2, 1), True),
        "2 streams, gang calls": (2, lambda i: (0, 2), False),
    }
    records = []
    print(f"{'':32}{'us per op':>20}{'us per run':>14}")
    print(f"{'':32}{'median':>10}{'min':>10}{f'of {short} ops':>14}")
    for name, (streams, place, waiting) in cases.items():
        plans = [chain(streams, [place(i) for i in range(n)], waiting) for n in (short, long)]
        times_us = measure_us(plans, library, options.repeats)
        median_us, min_us = np.median(times_us, axis=1), np.min(times_us, axis=1)
        op_us, op_min_us = (float(np.diff(x)[0]) / (long - short) for x in (median_us, min_us))
        print(f"{name:32}{op_us:10.3f}{op_min_us:10.3f}{median_us[0]:14.1f}")
        records.append(
            {"plan": name, "op_us": op_us, "op_min_us": op_min_us, "run_us": float(median_us[0])}
        )
    if options.json:
        options.json.write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
