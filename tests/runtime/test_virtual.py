"""The runtime on a virtual clock: exact, repeatable, and as the simulator of single plans says."""

import itertools
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


def test_one_client_has_one_task_after_the_other(mix):
    runtime = VirtualRuntime(mix.mix)
    left = [30]

    def next_task(client, now_us):
        assert client == 0
        left[0] -= 1
        return VirtualTask(now_us, "a") if left[0] >= 0 else None

    records = runtime.run_closed(1, next_task)
    assert [record.id for record in records] == list(range(30))
    assert records[-1].finished_us == pytest.approx(30 * lone_us(mix, "a"), rel=1e-4)


def test_clients_whose_tasks_are_refused_ask_again(mix):
    runtime = VirtualRuntime(mix.mix, queue_size=1)

    def next_task(client, now_us):
        return VirtualTask(now_us, "a") if now_us < 20_000 else None

    records = runtime.run_closed(20, next_task)
    ends = {record.end for record in records}
    assert ends == {"completed", "rejected"}
    assert sorted(record.id for record in records) == list(range(len(records)))


def test_the_timeline_has_every_segment_once(mix):
    runtime = VirtualRuntime(mix.mix, controller="static:merged-f2k2")
    runtime.keep_segments(1000)
    runtime.run([VirtualTask(0.0, "ab"[n % 2]) for n in range(20)])
    runs = runtime.segments()
    assert [run.end_us for run in runs] == sorted(run.end_us for run in runs)
    by_instance = {}
    for run in runs:
        assert run.begin_us < run.end_us
        by_instance.setdefault(run.instance, []).append(run)
    assert sum(own[0].tasks for own in by_instance.values()) == 20
    for own in by_instance.values():
        assert [run.segment for run in own] == list(range(len(own)))
        assert all(a.end_us <= b.begin_us for a, b in itertools.pairwise(own))
    lanes = {}
    for run in runs:  # of which one instance at a time has one
        before_us = lanes.get((run.variant, run.model, run.segment, run.lane), -1.0)
        assert before_us <= run.begin_us
        lanes[run.variant, run.model, run.segment, run.lane] = run.end_us
    runtime.keep_segments(3)
    runtime.run([VirtualTask(runtime.native.now_us, "a") for _ in range(9)])
    assert len(runtime.segments()) == 3


def test_in_segments_a_backlog_takes_what_was_measured(mix):
    for variant in mix.variants:
        runtime = VirtualRuntime(
            mix.mix, controller=f"static:{variant.id}", queue_size=1000, detail="segments"
        )
        records = runtime.run([VirtualTask(0.0, name) for _ in range(400) for name in "abc"])
        assert {record.end for record in records} == {"completed"}
        per_s = 1e6 * len(records) / max(record.finished_us for record in records)
        # Less where lanes are too few for what was measured to fit their tasks' times alone.
        assert 0.6 * variant.capacity_per_s < per_s < 1.1 * variant.capacity_per_s, variant.id


def test_in_segments_a_lone_task_takes_its_time_alone(mix):
    runtime = VirtualRuntime(mix.mix, detail="segments")
    (record,) = runtime.run([VirtualTask(0.0, "b")])
    wake_us = mix.models["b"].artifact.metadata.device.run_us
    alone_us = max(runtime.features[0].latency_us[1], runtime.features[0].work_us[1])
    assert record.finished_us == pytest.approx(alone_us + wake_us, abs=2e-3)
    runtime.native.set_speed(0.25)
    (slow,) = runtime.run([VirtualTask(1e6, "b")])
    assert slow.finished_us - 1e6 == pytest.approx(4 * record.finished_us, rel=1e-3)
    with pytest.raises(InputError, match="no detail 'all'"):
        VirtualRuntime(mix.mix, detail="all")


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
