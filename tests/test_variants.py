"""Variants of a mix: which there are, what they predict, and which are dropped."""

import math
import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import chain, make_graph
from mixes import make_mix
from top_tvm.compiler.assemble import assemble
from top_tvm.compiler.op_graph import OpGraph, Storage, Value
from top_tvm.compiler.partition import PartitionProblem, list_schedule, simulate
from top_tvm.compiler.partition.merge import merge
from top_tvm.compiler.profile import ignore_progress
from top_tvm.compiler.segment_plans import MeasuredModel
from top_tvm.compiler.variants import (
    all_variants,
    lone_latency_us,
    plan_variants,
    prune,
    worthwhile,
)
from top_tvm.cost import DeviceModel, OpCost
from top_tvm.mix import memory_bytes


def measured(graph, device, batches=(1,), us=10.0, demand=0.0, gang_us=math.inf):
    """A model whose ops take ``us`` for every task of a batch, and 2 us more."""
    problems, plans = {}, {}
    for batch in batches:
        cost = OpCost(2.0 + us * batch, gang_us * batch, demand, demand)
        problems[batch] = PartitionProblem(graph.edges(), (cost,) * len(graph.ops), device)
        schedule = list_schedule(problems[batch])
        plans[batch] = assemble(
            graph,
            schedule,
            streams=device.streams,
            partitioner="list",
            batch=batch,
            predicted_us=simulate(problems[batch], schedule).makespan_us,
        )
    return MeasuredModel(dict.fromkeys(batches, graph), problems, plans)


def variants_of(
    models, lanes=(1, 2), segments=(1, 2, 3), partitioner="list", function=all_variants
):
    return {
        variant.id: variant
        for variant in function(
            models,
            lanes=lanes,
            segments=segments,
            partitioner=partitioner,
            progress=ignore_progress,
        )
    }


def test_the_variants_of_four_streams():
    device = DeviceModel(4)
    models = {"a": measured(chain(6), device), "b": measured(make_graph(), device)}
    variants = variants_of(models, lanes=[2, 1], segments=[2, 1])
    assert list(variants) == [
        *("serial", "free-2x2", "free-4x1", "merged-f1k2", "merged-f2k1", "merged-f2k2")
    ]
    for variant in variants.values():
        assert variant.streams == 4
        assert set(variant.models) == {"a", "b"}
        assert variant.memory_bytes == memory_bytes(variant.models, variant.in_flight)
    assert [v.in_flight for v in variants.values()] == [1, 2, 4, 0, 0, 0]
    free = variants["free-2x2"].models["a"]
    assert [lane.first_stream for lane in free.lanes] == [0, 2]
    assert free.lanes[0].plans[1][0].streams == 2
    assert free.lanes[0].plans[1][0] is free.lanes[1].plans[1][0]
    merged = variants["merged-f2k2"].models["b"]
    assert (merged.segments, len(merged.lanes)) == (2, 2)
    assert {lane.first_stream for lane in merged.lanes} == {0}
    assert all(p.streams == 4 for lane in merged.lanes for p in lane.plans[1])


def test_serial_takes_the_plans_for_one_task():
    model = measured(chain(4), DeviceModel(2, run_us=3.0), batches=(1, 4))
    variants = variants_of({"a": model}, lanes=[1], segments=[1])
    serial, larger = variants["serial"], variants["serial-b4"]
    assert serial.models["a"].lanes[0].plans == {1: (model.plans[1],)}
    assert larger.models["a"].lanes[0].plans == {b: (model.plans[b],) for b in (1, 4)}
    assert serial.period_us == pytest.approx(4 * 12 + 3)
    assert serial.capacity_per_s == pytest.approx(1e6 / (4 * 12 + 3))
    assert larger.capacity_per_s == pytest.approx(4e6 / (4 * 42 + 3))


def test_free_lanes_run_side_by_side_as_far_as_they_share_nothing():
    device = DeviceModel(2, run_us=3.0)
    for demand, factor in ((0.0, 1.0), (1.0, 2.0)):
        models = {
            "a": measured(chain(4), device, demand=demand),
            "b": measured(chain(4), device, demand=demand),
        }
        free = variants_of(models)["free-2x1"]
        assert free.period_us == pytest.approx(factor * 2 * 4 * 12 + 2 * 3)
        assert free.capacity_per_s == pytest.approx(4e6 / free.period_us)


def test_gang_calls_are_only_for_all_streams():
    model = measured(chain(4), DeviceModel(4), gang_us=1.0)
    assert any(call.threads == 4 for call in model.plans[1].calls)
    variants = variants_of({"a": model})
    for name in ("free-2x2", "free-4x1"):
        plans = [lane.plans[1][0] for lane in variants[name].models["a"].lanes]
        assert {call.threads for plan in plans for call in plan.calls} == {1}


def test_merged_plans_are_the_schedule_of_the_merged_graph():
    device = DeviceModel(2)
    models = {"a": measured(chain(6), device), "b": measured(chain(3), device, us=20.0)}
    variant = variants_of(models)["merged-f2k3"]
    problems = [model.problems[1] for model in models.values()]
    merged = merge(problems, [2, 2], [3, 3])
    makespan_us = simulate(merged.problem, list_schedule(merged.problem)).makespan_us
    assert variant.period_us == pytest.approx(makespan_us)
    assert variant.capacity_per_s == pytest.approx(4e6 / makespan_us)
    for name, length in (("a", 2), ("b", 1)):
        for lane in variant.models[name].lanes:
            calls = [[call.op for call in plan.calls] for plan in lane.plans[1]]
            assert calls == [[f"op{s * length + i}" for i in range(length)] for s in range(3)]
    streams = [
        call.stream
        for model in variant.models.values()
        for lane in model.lanes
        for plan in lane.plans[1]
        for call in plan.calls
    ]
    assert len(streams) == 18
    assert set(streams) == {0, 1}


def test_equal_plans_are_one_object():
    variants = variants_of({"a": measured(chain(6), DeviceModel(1))})
    lanes = variants["merged-f2k2"].models["a"].lanes
    assert lanes[0].plans[1][0] is lanes[1].plans[1][0]
    other = variants["merged-f1k2"].models["a"].lanes[0]
    assert other.plans[1][1] is lanes[0].plans[1][1]


def test_models_have_as_many_segments_as_possible(caplog):
    device = DeviceModel(2)
    models = {"long": measured(chain(6), device), "short": measured(chain(2), device)}
    variants = variants_of(models, lanes=[1], segments=[1, 3])
    assert {n: m.segments for n, m in variants["merged-f1k3"].models.items()} == {
        "long": 3,
        "short": 2,
    }
    said = [record.message for record in caplog.records]
    assert said == ["model 'short': 2 segments instead of 3, as it cannot be cut in more places"]
    short = variants_of({"short": models["short"]}, lanes=[1], segments=[1, 2, 3, 4])
    assert list(short) == ["serial", "free-2x1", "merged-f1k2"]


def test_all_batch_sizes_are_cut_into_as_many_segments():
    device = DeviceModel(2)
    long, short = measured(chain(6), device), measured(chain(2), device, batches=(4,))
    joined = MeasuredModel(
        long.graphs | short.graphs, long.problems | short.problems, long.plans | short.plans
    )
    variant = variants_of({"a": joined}, segments=[3])["merged-f2k2-b4"]
    assert variant.models["a"].segments == 2
    assert {len(p) for lane in variant.models["a"].lanes for p in lane.plans.values()} == {2}


def test_batch_sizes_of_models_may_differ():
    device = DeviceModel(2)
    models = {
        "a": measured(chain(4), device, batches=(1, 4)),
        "b": measured(chain(4), device, batches=(2,)),
    }
    variants = variants_of(models, lanes=[2], segments=[1])
    assert list(variants) == [
        *("serial", "free-2x1", "merged-f2k1"),
        *("serial-b4", "free-2x1-b4", "merged-f2k1-b4"),
    ]
    last = variants["merged-f2k1-b4"]
    assert {name: model.batch_sizes for name, model in last.models.items()} == {
        "a": (1, 4),
        "b": (2,),
    }
    more = {**models, "c": measured(chain(4), device, batches=(1, 2, 3))}
    assert [id_ for id_ in variants_of(more, [1], [1]) if id_.startswith("serial")] == [
        *("serial", "serial-b2", "serial-b3", "serial-b4")
    ]
    # One task of each takes 42 / 4 and 22 / 2 us per op when batches are full.
    assert variants["serial-b4"].capacity_per_s == pytest.approx(2e6 / (4 * (42 / 4 + 22 / 2)))


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 4))
def test_every_variant_executes_every_op_of_every_lane_once(rng, streams):
    device = DeviceModel(streams, wait_us=0.5, run_us=2.0)
    models = {
        name: measured(graph, device, (1, 2), rng.uniform(1, 20), rng.random(), rng.uniform(1, 20))
        for name, graph in (("a", chain(5)), ("b", make_graph()))
    }
    for variant in variants_of(models, lanes=[1, 3]).values():
        assert variant.period_us > 0
        for name, model in variant.models.items():
            ops = [op.name for op in models[name].graphs[1].ops]
            for lane in model.lanes:
                assert lane.plans.keys() == set(model.batch_sizes)
                for batch, plans in lane.plans.items():
                    assert len(plans) == model.segments
                    assert sorted(c.op for p in plans for c in p.calls) == sorted(ops)
                    assert {plan.batch for plan in plans} == {batch}
                    assert all(lane.first_stream + p.streams <= variant.streams for p in plans)


def test_a_model_without_ops():
    value = Value("x", "float32", (4,), 0)
    graph = OpGraph((Storage("input", "x", 16),), (value,), (), (0,), (0,), ("y",))
    variants = variants_of({"a": measured(graph, DeviceModel(2))}, segments=[1])
    assert list(variants) == ["serial", "free-2x1", "merged-f2k1"]
    assert all(0 < v.capacity_per_s < math.inf for v in variants.values())


def scored(id_, capacity_per_s, memory, latency_us):
    """A variant with one plan of that time."""
    base = make_mix().variants[0]
    model = base.models["a"]
    plan = replace(model.lanes[0].plans[1][0], predicted_us=latency_us)
    lane = replace(model.lanes[0], plans={1: (plan,)})
    models = {"a": replace(model, lanes=(lane,))}
    return replace(base, id=id_, models=models, capacity_per_s=capacity_per_s, memory_bytes=memory)


def test_what_another_beats_in_every_respect_is_dropped():
    variants = [
        scored("serial", 1.0, 100, 9.0),
        scored("more", 3.0, 100, 5.0),
        scored("worse", 2.0, 100, 5.0),
        scored("equal", 3.0, 100, 5.0),
        scored("faster", 2.0, 100, 4.0),
        scored("smaller", 2.0, 50, 5.0),
    ]
    assert [v.id for v in prune(variants)] == ["serial", "more", "faster", "smaller"]
    assert [v.id for v in prune(variants, most=2)] == ["serial", "more"]


def test_merged_variants_that_use_all_streams_have_a_twin_that_does_not():
    device = DeviceModel(2, run_us=2.0)
    found = variants_of({"a": measured(chain(6), device, (1, 4), us=10.0, gang_us=4.0)})
    gangs = {
        id_: {
            call.threads
            for lane in variant.models["a"].lanes
            for plans in lane.plans.values()
            for plan in plans
            for call in plan.calls
        }
        for id_, variant in found.items()
    }
    twins = [id_ for id_ in found if "-nogang" in id_]
    assert {"merged-f2k1-nogang", "merged-f1k2-nogang-b4"} <= set(twins)
    for id_ in twins:
        assert 2 in gangs[id_.replace("-nogang", "")]
        assert gangs[id_] == {1}
    alone = variants_of({"a": measured(chain(6), device, (1, 4))})
    assert not any("-nogang" in id_ for id_ in alone)


def test_few_variants_are_kept():
    variants = [scored(str(i), float(i), 100 + i, 5.0) for i in range(30)]
    kept = prune(variants)
    assert [v.id for v in kept] == ["0", *map(str, range(19, 30))]


def test_a_little_more_capacity_is_not_worth_latency_and_memory():
    found = [
        scored("serial", 1.0, 100, 5.0),
        scored("hardly", 1.02, 200, 6.0),
        scored("clearly", 1.1, 200, 7.0),
        scored("hardly more", 1.12, 300, 8.0),
        scored("but faster", 1.12, 300, 6.5),
    ]
    kept = [variant.id for variant in worthwhile(found)]
    assert kept == ["serial", "clearly", "but faster"]
    free = [replace(scored(f"free {n}", 0.1 * n, 999, 9.0), mode="free") for n in (1, 2)]
    assert [variant.id for variant in worthwhile([*found, *free])] == [*kept, "free 2"]


def test_no_kept_variant_beats_another():
    rng = random.Random(1)
    device = DeviceModel(4, run_us=2.0)
    models = {
        n: measured(chain(6), device, (1, 2), rng.uniform(5, 20), 0.4, 6.0) for n in ("a", "b")
    }
    found = tuple(variants_of(models).values())
    kept = prune(found)
    assert kept[0].id == "serial"
    assert len(kept) < len(found)
    scores = [(v.capacity_per_s, -lone_latency_us(v), -v.memory_bytes) for v in kept]
    for first, second in pairwise(sorted(scores[1:])):
        assert any(a > b for a, b in zip(first, second, strict=True))


def test_what_may_turn_out_better_is_measured():
    models = {"a": measured(chain(6), DeviceModel(4, run_us=2.0), (1, 2))}
    found = variants_of(models)
    planned = variants_of(models, function=plan_variants)
    assert {v.id for v in prune(tuple(found.values()))} <= planned.keys() <= found.keys()
    always = {id_ for id_, v in found.items() if v.mode != "merged"}
    assert always <= planned.keys()
    assert len(planned) < len(found)


def test_lone_latency_is_the_sum_of_segments_and_the_mean_of_lanes():
    device = DeviceModel(2, run_us=3.0)
    model = measured(chain(6), device)
    variant = variants_of({"a": model})["merged-f2k3"]
    assert lone_latency_us(variant) == pytest.approx(6 * 12 + 3 * 3)
