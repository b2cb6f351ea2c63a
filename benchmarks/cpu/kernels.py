"""Where the time of one run goes: libraries, stages, and every op against the roofline."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from case import Case
from top_tvm.runtime.executable import Executable

Array = npt.NDArray[Any]

REPEATS = 50
_MATRIX = 1536
_COPIES, _COPY_BYTES = 50, 2 << 20


def multi_group_share(executable: Executable, batch: int, inputs: Mapping[str, Array]) -> float:
    """Share of the time of a run that passes in stages of more than one group."""
    plan = executable.artifact.plans[batch]
    timelines = executable.timeline(inputs, repeats=REPEATS)
    lengths = timelines[:, :, 1].max(axis=1)
    typical = timelines[np.argsort(lengths)[len(lengths) // 2]]
    groups: dict[int, set[int]] = {}
    stage_us: dict[int, list[float]] = {}
    for call, (start, end) in zip(plan.calls, typical.tolist(), strict=True):
        groups.setdefault(call.stage, set()).add(call.group)
        stage_us.setdefault(call.stage, []).extend((start, end))
    length_us = {stage: max(times) - min(times) for stage, times in stage_us.items()}
    several = sum(length_us[stage] for stage in groups if len(groups[stage]) > 1)
    return several / sum(length_us.values())


def measure_ops(case: Case, peaks: tuple[float, float]) -> dict[str, Any]:
    """Every op of the sequential plan; `peaks` are FLOP/s and bytes/s of all cores."""
    artifact = case.sequential.artifact
    plan, profiles = artifact.plans[case.batch], artifact.profiles[case.batch]
    by_name = {profile.name: profile for profile in profiles}
    timelines = case.sequential.timeline(case.inputs, repeats=REPEATS)
    # Neighbours disturb single ops: a low percentile of each, as for whole runs.
    durations_us = np.percentile(timelines[:, :, 1] - timelines[:, :, 0], 20, axis=0)
    total_us = float(durations_us.sum())
    ops = []
    for call, duration in zip(plan.calls, durations_us.tolist(), strict=True):
        profile = by_name[call.op]
        share_of_cores = call.threads / plan.streams
        bound_s = max(profile.flops / peaks[0], profile.nbytes / peaks[1]) / share_of_cores
        ops.append(
            {
                "op": call.op,
                "what": profile.origin,
                "library": plan.kernels[call.kernel].library,
                "threads": call.threads,
                "time_us": duration,
                "gflop_per_s": profile.flops / duration / 1e3,
                "gb_per_s": profile.nbytes / duration / 1e3,
                "roofline": bound_s * 1e6 / duration,
                "share": duration / total_us,
            }
        )
    tvm_share = sum(op["share"] for op in ops if op["library"] == "tvm")
    return {"ops": ops, "tvm_share": tvm_share}


def measure_peaks(threads: int, precision: str) -> tuple[float, float]:
    """FLOP/s and bytes/s that all cores reach together, the best of several trials.

    FLOP/s are those of NumPy's matrix product on its own threads, twice that for bfloat16, whose
    instructions multiply two numbers where float32's multiply one. Bytes/s are those of copies
    within the last cache, where activations of small networks are.
    """
    generator = np.random.default_rng(0)
    a, b, c = generator.standard_normal((3, _MATRIX, _MATRIX), np.float32)
    copies = [np.zeros((2, _COPY_BYTES), np.uint8) for _ in range(threads)]

    def copy(pair: Array) -> None:
        for _ in range(_COPIES):
            np.copyto(pair[0], pair[1])

    with ThreadPoolExecutor(threads) as pool:
        copy_s = _least_s(lambda: list(pool.map(copy, copies)))
    flops = 2 * _MATRIX**3 / _least_s(lambda: np.matmul(a, b, out=c))
    # A copy reads and writes.
    bytes_per_s = threads * _COPIES * 2 * _COPY_BYTES / copy_s
    return flops * (2 if precision == "bf16" else 1), bytes_per_s


def _least_s(run: Callable[[], object]) -> float:
    times = []
    for _ in range(10):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
