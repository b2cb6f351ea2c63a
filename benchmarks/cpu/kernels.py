"""Where the time of one run goes: libraries, stages, and every op against the roofline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from case import Case
from top_tvm.runtime.executable import Executable

Array = npt.NDArray[Any]

REPEATS = 50


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


def most_gain(executable: Executable, batch: int) -> float:
    """How many times faster than sequential any schedule of the same kernels could be at best.

    By the measured times of single ops: sequential execution takes the faster form of each, and no
    schedule can do better than keep all streams busy with the cheaper one.
    """
    artifact = executable.artifact
    streams = artifact.plans[batch].streams
    profiles = artifact.profiles[batch]
    sequential_us = sum(min(op.single_us, op.gang_us) for op in profiles)
    bound_us = sum(min(op.single_us / streams, op.gang_us) for op in profiles)
    return sequential_us / bound_us


def measure_ops(case: Case) -> dict[str, Any]:
    """Every op of the sequential plan against the roofline that the build measured.

    A bfloat16 instruction multiplies two numbers where one of float32 multiplies one.
    """
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
        flops = profile.flops // (2 if case.precision == "bf16" else 1)
        percent = artifact.metadata.roofline.percent(
            flops, profile.nbytes, duration, gang=call.threads > 1
        )
        ops.append(
            {
                "op": call.op,
                "what": profile.origin,
                "library": plan.kernels[call.kernel].library,
                "threads": call.threads,
                "time_us": duration,
                "gflop_per_s": profile.flops / duration / 1e3,
                "gb_per_s": profile.nbytes / duration / 1e3,
                "roofline_percent": percent or 0.0,
                "share": duration / total_us,
            }
        )
    tvm_share = sum(op["share"] for op in ops if op["library"] == "tvm")
    return {"ops": ops, "tvm_share": tvm_share}
