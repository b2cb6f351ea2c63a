"""Time of one request at a time on all cores, the systems in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from case import Case
from kernels import most_gain, multi_group_share
from top_tvm.compare import System, measure_visits, ratio_over_rounds, scaled_error, summary


def measure_latency(case: Case, rounds: int) -> dict[str, Any]:
    """Times of every system, and the ratios best peer / ours and sequential / auto."""
    peers, ours = case.peers(), case.ours()
    errors = {s.name: scaled_error(s.run(), case.reference) for s in (*peers, *ours)}
    lows, times = _low_per_round([*peers, *ours], rounds, case)
    best = min((peer.name for peer in peers), key=lambda name: times[name]["low_us"])
    auto = ours[-1].name
    gain = ratio_over_rounds(lows["sequential"], lows[auto])
    return {
        "systems": times,
        "errors": errors,
        "partitioner": case.plan.partitioner,
        "best_peer": best,
        "ratio_sequential": asdict(ratio_over_rounds(lows[best], lows["sequential"])),
        "ratio_auto": asdict(ratio_over_rounds(lows[best], lows[auto])),
        "gain_of_streams": asdict(gain),
        "most_gain": most_gain(case.auto, case.batch),
        "multi_group_share": multi_group_share(case.auto, case.batch, case.inputs),
    }


def measure_error(case: Case, rounds: int) -> dict[str, Any]:
    """Error of the method: ratios of two instances of the same system, which should be 1."""
    first, second = case.onnxruntime("first"), case.onnxruntime("second")
    own = [System(name, case.ours()[-1].run) for name in ("own first", "own second")]
    lows, _ = _low_per_round([first, second, *own], rounds, case)
    return {
        "onnxruntime": asdict(ratio_over_rounds(lows["first"], lows["second"])),
        "auto": asdict(ratio_over_rounds(lows["own first"], lows["own second"])),
    }


def _low_per_round(
    systems: Sequence[System], rounds: int, case: Case
) -> tuple[dict[str, list[float]], Mapping[str, dict[str, Any]]]:
    """The 20th percentile of each visit, which neighbours disturb least; and all times."""
    visits = measure_visits(systems, rounds=rounds, progress=case.progress)
    by_name = {system.name: times for system, times in zip(systems, visits, strict=True)}
    lows = {
        name: [float(np.percentile(times_us, 20)) for times_us in times]
        for name, times in by_name.items()
    }
    return lows, {name: asdict(summary(name, times)) for name, times in by_name.items()}
