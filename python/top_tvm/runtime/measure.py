"""What the variants of a mix can do on this machine, measured."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

from top_tvm.errors import TopTVMError
from top_tvm.mix import Variant
from top_tvm.random_inputs import random_inputs
from top_tvm.runtime.controller.decision import Decision, unlimited
from top_tvm.runtime.engine import Engine, open_runtime
from top_tvm.runtime.mix_executable import MixExecutable
from top_tvm.runtime.variant_table import features_of, make_table

_ROUNDS = 5
_SECONDS = 0.25
# A measurement must see so many periods at least.
_PERIODS = 2.5
_WARMUP = 0.2  # part of the time
_PATIENCE_S = 60.0
# Tasks of a batch end one after the other within this time, if they are not all very short.
_SAME_BATCH_S = 1e-3


def measure_variants(
    executable: MixExecutable, progress: Callable[[str, int, int], None]
) -> dict[str, tuple[float, float]]:
    """Run every variant under a backlog, in turns.

    Tasks come from Python and go back there, as they do in service: submitting threads take the
    workers' cores now and then, which costs a variant more whose ops use all of these together.

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
    inputs = {
        name: random_inputs(artifact.plans[min(artifact.plans)])
        for name, artifact in mix.models.items()
    }
    outstanding = [2 * _places(variant, table.tasks) for variant in mix.variants]
    native = open_runtime(mix, table, executable.models, max(outstanding))
    keep = Decision(0, unlimited(len(mix.models)))
    engine = Engine(native, mix, features_of(mix, table), lambda *_: keep)
    engine.start()
    capacities: list[list[float]] = [[] for _ in mix.variants]
    total = _ROUNDS * len(mix.variants)
    try:
        for round_ in range(_ROUNDS):
            for number, variant in enumerate(mix.variants):
                progress("measure variants", round_ * len(mix.variants) + number, total)
                engine.apply(Decision(number, unlimited(len(mix.models))))
                seconds = max(_SECONDS, 1e-6 * _PERIODS * variant.period_us)
                capacities[number].append(_capacity(engine, inputs, outstanding[number], seconds))
    finally:
        engine.close(_PATIENCE_S, cancel_queued=True)
    progress("measure variants", total, total)
    result = {}
    for variant, measurements in zip(mix.variants, capacities, strict=True):
        capacity_per_s = statistics.median(measurements)
        # The time of a period is as wrong as the capacity was.
        period_us = variant.period_us * variant.capacity_per_s / capacity_per_s
        result[variant.id] = (period_us, capacity_per_s)
    return result


def _capacity(
    engine: Engine, inputs: Mapping[str, Mapping[str, Any]], outstanding: int, seconds: float
) -> float:
    """Tasks per second while so many, of all models in turn, are kept submitted."""
    may_submit = threading.Semaphore(outstanding)
    ended_s: dict[str, list[float]] = {name: [] for name in inputs}
    errors: list[BaseException] = []

    def ended(name: str, future: Future[Any]) -> None:
        if error := future.exception():
            errors.append(error)
        ended_s[name].append(time.perf_counter())
        may_submit.release()

    names = list(inputs)
    begin_s = time.perf_counter()
    submitted = 0
    while not errors and (submitted < 2 * outstanding or time.perf_counter() - begin_s < seconds):
        if not may_submit.acquire(timeout=_PATIENCE_S):
            raise TopTVMError("a task that is measured does not end")
        name = names[submitted % len(names)]
        future = engine.submit(name, inputs[name], None, 0)
        future.add_done_callback(partial(ended, name))
        submitted += 1
    stop_s = time.perf_counter()
    for _ in range(outstanding):
        may_submit.acquire(timeout=_PATIENCE_S)
    if errors:
        raise errors[0]
    return sum(_rate(of_model, begin_s, stop_s) for of_model in ended_s.values())


def _rate(ended_s: list[float], begin_s: float, stop_s: float) -> float:
    """Tasks of one model per second while there was a backlog, apart from the beginning.

    From one end to another: models and batches take turns, and a part of one would count as all.
    """
    warm_s = begin_s + _WARMUP * (stop_s - begin_s)
    counted = [at_s for at_s in ended_s if warm_s <= at_s <= stop_s]
    if counted and counted[-1] - counted[0] > _SAME_BATCH_S:
        after_first = sum(at_s > counted[0] + _SAME_BATCH_S for at_s in counted)
        return after_first / (counted[-1] - counted[0])
    return len(ended_s) / (ended_s[-1] - begin_s)


def _places(variant: Variant, sizes: list[list[int]]) -> int:
    """Tasks that can be in flight."""
    total = 0
    for model, tasks in zip(variant.models.values(), sizes, strict=True):
        most = tasks[len(model.batch_sizes) - 1]
        lanes = len(model.lanes) * model.segments
        total += most * (min(lanes, variant.in_flight) if variant.in_flight else lanes)
    return total
