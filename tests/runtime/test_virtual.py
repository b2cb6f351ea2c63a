"""The runtime on a virtual clock: exact, repeatable, and as the simulator of single plans says."""

import math
import random

import pytest

from top_tvm.cost import OpCost
from top_tvm.errors import InputError
from top_tvm.runtime.controller.decision import Decision, unlimited
from top_tvm.runtime.virtual import VirtualRuntime, VirtualTask


def lone_us(mix, name):
    return mix.models[name].artifact.plans[1].predicted_us


def test_a_lone_task_takes_what_the_simulator_says(mix):
    for name in "abc":
        runtime = VirtualRuntime(mix.mix)
        (record,) = runtime.run([VirtualTask(1000.0, name)])
        assert record.end == "completed"
        assert record.submitted_us == record.launched_us == 1000.0
        # To a nanosecond, which is what the scheduler's clock counts.
        assert record.finished_us - 1000.0 == pytest.approx(lone_us(mix, name), abs=2e-3)


def test_serial_tasks_follow_each_other(mix):
    runtime = VirtualRuntime(mix.mix, controller="static:serial")
    records = runtime.run([VirtualTask(0.0, "a") for _ in range(10)])
    wake_us = mix.models["a"].artifact.metadata.device.run_us
    assert [record.id for record in records] == list(range(10))
    busy_us = 10 * (lone_us(mix, "a") - wake_us) + wake_us
    assert records[-1].finished_us == pytest.approx(busy_us, rel=1e-3)
    assert max(runtime.utilisation()) <= 1.0


def test_it_is_repeatable_and_accounts_for_all(mix):
    def once():
        draw = random.Random(5)
        clock_us, tasks = 0.0, []
        for _ in range(2000):
            clock_us += draw.expovariate(1 / 20.0)
            deadline_us = draw.choice((math.inf, 300.0, 30.0))
            tasks.append(VirtualTask(clock_us, draw.choice("abc"), draw.randrange(8), deadline_us))
        runtime = VirtualRuntime(mix.mix, queue_size=20, control_interval_ms=1)
        return runtime.run(tasks), [runtime.native.statistics(m) for m in range(3)]

    records, statistics = once()
    assert (records, statistics) == once()
    assert sorted(record.id for record in records) == list(range(2000))
    ends = {
        end: sum(record.end == end for record in records)
        for end in ("completed", "rejected", "expired", "cancelled")
    }
    assert sum(ends.values()) == 2000
    assert ends["completed"] > 0
    assert ends["expired"] > 0
    for end in ends:
        assert sum(model[end] for model in statistics) == ends[end]
    for record in records:
        assert record.finished_us >= record.submitted_us
        if record.end == "completed":
            assert record.finished_us > record.launched_us >= record.submitted_us


def test_every_variant_ends_all_tasks_with_and_without_barriers(mix):
    ids = [variant.id for variant in mix.variants]
    for barriers in (False, True):
        for id_ in ids:
            runtime = VirtualRuntime(mix.mix, controller=f"static:{id_}", barriers=barriers)
            tasks = [VirtualTask(10.0 * n, "abc"[n % 3]) for n in range(150)]
            records = runtime.run(tasks)
            assert [record.end for record in records] == ["completed"] * 150
            assert runtime.features[runtime.snapshot().variant].id == id_


def test_costs_may_be_those_of_another_device(mix):
    def costs(name, plan):
        return [OpCost(1000.0, 1000.0) for _ in plan.calls]

    slow = VirtualRuntime(mix.mix, controller="static:serial", costs=costs)
    (record,) = slow.run([VirtualTask(0.0, "a")])
    calls = len(mix.models["a"].artifact.plans[1].calls)
    assert record.finished_us > 1000.0 * calls / 2


def test_controllers_are_asked_at_intervals(mix):
    seen = []

    def controller(snapshot, variants):
        seen.append(snapshot.now_us)
        return Decision(1, unlimited(3))

    runtime = VirtualRuntime(mix.mix, controller=controller, control_interval_ms=2)
    runtime.run([VirtualTask(0.0, "a"), VirtualTask(9_000.0, "a")])
    assert seen[:5] == pytest.approx([0.0, 2e3, 4e3, 6e3, 8e3])


def test_what_cannot_be_is_refused(mix):
    runtime = VirtualRuntime(mix.mix)
    with pytest.raises(InputError, match="no model 'z'"):
        runtime.run([VirtualTask(0.0, "z")])
    with pytest.raises(InputError, match="ascend"):
        runtime.run([VirtualTask(5.0, "a"), VirtualTask(4.0, "a")])
    with pytest.raises(InputError, match="valid model, priority or deadline"):
        VirtualRuntime(mix.mix).run([VirtualTask(0.0, "a", priority=9)])
