"""What the variants of a mix can do on this machine, measured."""

from __future__ import annotations

import random
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
) -> dict[str, float]:
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
    dict of str to float
        By the variant's id: tasks per second when all models have as many tasks; medians.
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
    work_us = {
        name: model.latency_us[0]
        for name, model in zip(mix.models, table.variants[0].models, strict=True)
    }
    capacities: list[list[float]] = [[] for _ in mix.variants]
    total = _ROUNDS * len(mix.variants)
    try:
        for round_ in range(_ROUNDS):
            for number, variant in enumerate(mix.variants):
                progress("measure variants", round_ * len(mix.variants) + number, total)
                engine.apply(Decision(number, unlimited(len(mix.models))))
                seconds = max(_SECONDS, 1e-6 * _PERIODS * variant.period_us)
                per_s = _capacity(engine, inputs, work_us, outstanding[number], seconds)
                capacities[number].append(per_s)
    finally:
        engine.close(_PATIENCE_S, cancel_queued=True)
    progress("measure variants", total, total)
    return {
        variant.id: statistics.median(measurements)
        for variant, measurements in zip(mix.variants, capacities, strict=True)
    }


def _capacity(
    engine: Engine,
    inputs: Mapping[str, Mapping[str, Any]],
    work_us: Mapping[str, float],
    outstanding: int,
    seconds: float,
) -> float:
    """Tasks per second, as many of each model, while so many are kept submitted.

    Their models are drawn at random, as what is queued in service is a fair mix in the mean only.
    So tasks count by their work, the time that they take alone.
    """
    drawn = random.Random(0)
    may_submit = threading.Semaphore(outstanding)
    ended: list[tuple[float, float]] = []  # time and work
    errors: list[BaseException] = []

    def end(work: float, future: Future[Any]) -> None:
        if error := future.exception():
            errors.append(error)
        ended.append((time.perf_counter(), work))
        may_submit.release()

    names = list(inputs)
    begin_s = time.perf_counter()
    submitted = 0
    while not errors and (submitted < 2 * outstanding or time.perf_counter() - begin_s < seconds):
        if not may_submit.acquire(timeout=_PATIENCE_S):
            raise TopTVMError("a task that is measured does not end")
        name = drawn.choice(names)
        future = engine.submit(name, inputs[name], None, 0)
        future.add_done_callback(partial(end, work_us[name]))
        submitted += 1
    stop_s = time.perf_counter()
    for _ in range(outstanding):
        may_submit.acquire(timeout=_PATIENCE_S)
    if errors:
        raise errors[0]
    warm_s = begin_s + _WARMUP * (stop_s - begin_s)
    # From one end to another: what was done in between. The tasks of a batch end together.
    counted = [one for one in ended if warm_s <= one[0] <= stop_s] or ended
    first_s, last_s = counted[0][0], counted[-1][0]
    if last_s - first_s < 2 * _SAME_BATCH_S:
        counted, first_s, last_s = ended, begin_s - _SAME_BATCH_S, ended[-1][0]
    work = sum(work for at_s, work in counted if at_s > first_s + _SAME_BATCH_S)
    return work / sum(work_us.values()) * len(names) / (last_s - first_s)


def _places(variant: Variant, sizes: list[list[int]]) -> int:
    """Tasks that can be in flight."""
    total = 0
    for model, tasks in zip(variant.models.values(), sizes, strict=True):
        most = tasks[len(model.batch_sizes) - 1]
        lanes = len(model.lanes) * model.segments
        total += most * (min(lanes, variant.in_flight) if variant.in_flight else lanes)
    return total
