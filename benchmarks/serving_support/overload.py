"""Too much load, slightly and grossly: bounds, goodput, latency and fair shares."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from serving_support.arrivals import arrivals_of
from serving_support.cells import Baseline, Effort, Record, run_in_turns
from serving_support.systems import QUEUE_SIZE, System

_LOADS = (0.95, 1.1)
_FLOOD = 2.0  # load of the flooding model alone
_NORMAL = 0.25  # load of the normal one
_DEADLINE = 15.0


def measure_overload(
    systems: Sequence[System], baseline: Baseline, effort: Effort
) -> Iterator[Record]:
    """Goodput at 110 % of the capacity against 95 %, backlog, and latency against the deadline."""
    models = list(baseline.lone_s)
    deadlines_s = {model: _DEADLINE * lone_s for model, lone_s in baseline.lone_s.items()}
    for load in _LOADS:
        rate = load * baseline.best_per_s / len(models)
        tasks = arrivals_of(
            "poisson", dict.fromkeys(models, rate), effort.duration_s, deadlines_s, seed=1
        )
        head = {
            "section": "overload",
            "mix": "+".join(models),
            "load": load,
            "deadlines_ms": {model: 1e3 * value for model, value in deadlines_s.items()},
            "queue_bound": QUEUE_SIZE * len(models),
        }
        for record in run_in_turns(systems, [tasks] * effort.repeats, effort):
            yield {**head, **record}


def measure_flood(
    systems: Sequence[System], baseline: Baseline, effort: Effort
) -> Iterator[Record]:
    """One model gets twice what the device can do, the others a normal load.

    The fair share of a normal model is what it asks for, as that is less than an equal part of the
    device. Its goodput alone, without the flood, is measured, too.
    """
    models = list(baseline.lone_s)
    flooded, normal = models[0], models[1:]
    if not normal:
        return
    deadlines_s = {model: _DEADLINE * lone_s for model, lone_s in baseline.lone_s.items()}
    # In device time: lone latencies say how much of it a task of each model takes.
    share_s = sum(baseline.lone_s.values()) / len(models)
    device = baseline.best_per_s * share_s
    rates = {model: _NORMAL * device / len(normal) / baseline.lone_s[model] for model in normal}
    for flood in (False, True):
        offered = {flooded: _FLOOD * device / baseline.lone_s[flooded]} if flood else {}
        tasks = arrivals_of("poisson", {**offered, **rates}, effort.duration_s, deadlines_s, seed=2)
        head = {
            "section": "flood",
            "mix": "+".join(models),
            "flooded": flooded if flood else None,
            "normal_offered_per_s": sum(rates.values()),
        }
        for record in run_in_turns(systems, [tasks] * effort.repeats, effort):
            goodputs = (record["models"][model]["goodput"] for model in normal)
            yield {**head, "normal_goodput": math.fsum(goodputs), **record}
