"""Choose the fastest of several plans of one model by measurement."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from top_tvm.compiler.profile import Progress
from top_tvm.compiler.session import Session
from top_tvm.plan import Plan
from top_tvm.random_inputs import random_inputs

_LOG = logging.getLogger(__name__)
_ROUNDS = 5
_SECONDS_PER_PLAN = 0.4
# A schedule must beat sequential by more than the noise of the measurement to be preferred.
_MARGIN = 0.97


def fastest_plan(plans: Mapping[str, Plan], session: Session, report: Progress) -> Plan:
    """Measure plans, by the name of their partitioner, and return the fastest with its time.

    ``sequential``, if it is among them, is only beaten by more than noise.
    """
    measured = measure_plans(plans, session, report)
    best = _choose(measured)
    if best != "sequential" and "sequential" in plans:
        # The least of several noisy times is too low by chance, so the winner has to win twice.
        final = {name: plans[name] for name in ("sequential", best)}
        again = measure_plans(final, session, report)
        measured |= again
        best = _choose(again)
    _LOG.info("batch %d: %s is the fastest of %s", plans[best].batch, best, measured)
    return replace(plans[best], measured_us=measured[best])


def _choose(measured_us: Mapping[str, float]) -> str:
    """The fastest plan; sequential, if there is, unless it is beaten by more than noise."""
    margins = {"sequential": _MARGIN}
    return min(measured_us, key=lambda name: measured_us[name] * margins.get(name, 1.0))


def measure_plans(
    plans: Mapping[str, Plan], session: Session, report: Progress
) -> dict[str, float]:
    """Median time of one run of every plan, in microseconds, measured in turns."""
    executors = {name: session.executor(plan) for name, plan in plans.items()}
    inputs = list(random_inputs(next(iter(plans.values()))).values())
    runs: dict[str, int] = {}
    for name, executor in executors.items():
        once_us = float(np.min(executor.time(inputs, 1, 2)))
        runs[name] = min(max(int(_SECONDS_PER_PLAN * 1e6 / once_us / _ROUNDS), 2), 100)
    samples: dict[str, list[Any]] = {name: [] for name in plans}
    for index in range(_ROUNDS):
        report("measure plans", index, _ROUNDS)
        for name, executor in executors.items():
            samples[name].append(executor.time(inputs, 1, runs[name]))
    report("measure plans", _ROUNDS, _ROUNDS)
    return {name: float(np.median(np.concatenate(times))) for name, times in samples.items()}
