"""What the variants of a mix can do on this machine, measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

from top_tvm.mix import Variant
from top_tvm.random_inputs import random_inputs
from top_tvm.runtime.engine import open_runtime
from top_tvm.runtime.mix_executable import MixExecutable
from top_tvm.runtime.variant_table import make_table

_ROUNDS = 3
_SECONDS = 0.25
# A measurement must see so many tasks at least.
_TASKS = 30


def measure_variants(
    executable: MixExecutable, progress: Callable[[str, int, int], None]
) -> dict[str, tuple[float, float]]:
    """Run every variant under a backlog, in turns.

    Parameters
    ----------
    executable : MixExecutable
        The mix.
    progress : callable
        Called with (what, done, total).

    Returns
    -------
    dict of str to (float, float)
        By the variant's id: time of a period in microseconds, and tasks per second when all models
        have as many tasks; medians. As :func:`top_tvm.mix.with_measured` takes it.
    """
    mix = executable.mix
    table = make_table(mix)
    inputs = [
        [random_inputs(artifact.plans[min(artifact.plans)])[spec.name] for spec in specs]
        for artifact in mix.models.values()
        for specs in (artifact.metadata.inputs,)
    ]
    outstanding = [2 * _places(variant, table.tasks) for variant in mix.variants]
    runtime = open_runtime(mix, table, executable.models, max(outstanding))
    capacities: list[list[float]] = [[] for _ in mix.variants]
    for round_ in range(_ROUNDS):
        for number, variant in enumerate(mix.variants):
            done = round_ * len(mix.variants) + number
            progress("measure variants", done, _ROUNDS * len(mix.variants))
            runtime.apply(number, [math.inf] * len(mix.models))
            seconds = max(_SECONDS, _TASKS / variant.capacity_per_s)
            measured = runtime.measure_capacity(inputs, outstanding[number], seconds)
            capacities[number].append(measured)
    progress("measure variants", _ROUNDS * len(mix.variants), _ROUNDS * len(mix.variants))
    result = {}
    for variant, measurements in zip(mix.variants, capacities, strict=True):
        capacity_per_s = statistics.median(measurements)
        # The time of a period is as wrong as the capacity was.
        period_us = variant.period_us * variant.capacity_per_s / capacity_per_s
        result[variant.id] = (period_us, capacity_per_s)
    return result


def _places(variant: Variant, sizes: list[list[int]]) -> int:
    """Tasks that can be in flight."""
    total = 0
    for model, tasks in zip(variant.models.values(), sizes, strict=True):
        most = tasks[len(model.batch_sizes) - 1]
        lanes = len(model.lanes) * model.segments
        total += most * (min(lanes, variant.in_flight) if variant.in_flight else lanes)
    return total
