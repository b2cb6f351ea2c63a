"""Mixes with variants to choose from: built for this CPU, or planned for a device not at hand."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from partition_support.problems import SIMULATED_DEVICES, simulated_problem
from serving_support.mixes import model_content
from top_tvm.artifact import Artifact, Metadata
from top_tvm.compiler.assemble import assemble
from top_tvm.compiler.build import optimise_model
from top_tvm.compiler.op_graph import OpGraph
from top_tvm.compiler.partition import PartitionProblem, list_schedule, simulate
from top_tvm.compiler.profile import ignore_progress
from top_tvm.compiler.segment_plans import MeasuredModel
from top_tvm.compiler.variants import plan_variants, worthwhile
from top_tvm.cost import OpCost
from top_tvm.mix import Mix, with_measured
from top_tvm.plan import Plan
from top_tvm.runtime.virtual import VirtualRuntime, VirtualTask

_TASKS = 800
_CLIENTS = 64  # tasks at a time
_WARMUP = 0.1


def wide_mix(
    names: Sequence[str],
    device_name: str,
    streams: int,
    *,
    lanes: Sequence[int],
    segments: Sequence[int],
    batch_sizes: Sequence[int],
) -> Mix:
    """Variants for a simulated device; their capacities are those of ops on a virtual clock."""
    device = SIMULATED_DEVICES[device_name](streams)
    models: dict[str, MeasuredModel] = {}
    for name in names:
        graphs = {b: optimise_model(model_content(name, b)).extracted.graph for b in batch_sizes}
        problems = {b: simulated_problem(graph, device) for b, graph in graphs.items()}
        plans = {b: _plan(graphs[b], problems[b], b) for b in batch_sizes}
        models[Path(name).stem] = MeasuredModel(graphs, problems, plans)
    variants = plan_variants(
        models, lanes=lanes, segments=segments, partitioner="list", progress=ignore_progress
    )
    artifacts = {
        name: Artifact(
            metadata=Metadata(
                name=name,
                target=f"{device_name} (simulated)",
                cpu_features=(),
                libraries={},
                creator="benchmarks/controller.py",
                inputs=(),
                outputs=(),
                device=device.model(),
            ),
            kernels=b"",
            constants={},
            plans=model.plans,
            profiles={},
        )
        for name, model in models.items()
    }
    costs = {
        (name, batch, op): cost
        for name, model in models.items()
        for batch, problem in model.problems.items()
        for op, cost in zip(problem.names, problem.costs, strict=True)
    }
    mix = Mix(artifacts, variants)
    measured = with_measured(mix, _simulated_capacities(mix, costs))
    return replace(measured, variants=worthwhile(measured.variants))


def _plan(graph: OpGraph, problem: PartitionProblem, batch: int) -> Plan:
    schedule = list_schedule(problem)
    return assemble(
        graph,
        schedule,
        streams=problem.device.streams,
        partitioner="list",
        batch=batch,
        predicted_us=simulate(problem, schedule).makespan_us,
    )


def _simulated_capacities(mix: Mix, costs: dict[tuple[str, int, str], OpCost]) -> dict[str, float]:
    """Tasks per second of every variant, under a backlog of all models."""

    def cost_of(name: str, plan: Plan) -> list[OpCost]:
        return [costs[name, plan.batch, call.op] for call in plan.calls]

    names = list(mix.models)
    found = {}
    for variant in mix.variants:
        runtime = VirtualRuntime(mix, controller=f"static:{variant.id}", costs=cost_of)
        work_us = dict(zip(names, runtime.features[0].latency_us, strict=True))
        draw = random.Random(0)
        left = _TASKS

        def next_task(_: int, now_us: float, draw: random.Random = draw) -> VirtualTask | None:
            nonlocal left
            left -= 1
            return VirtualTask(now_us, draw.choice(names)) if left >= 0 else None

        records = runtime.run_closed(_CLIENTS, next_task)
        begin, end = int(_WARMUP * _TASKS), int((1 - _WARMUP) * _TASKS)
        # Models are not even in a part of a random order: tasks count by their work.
        work = sum(work_us[record.model] for record in records[begin:end])
        took_us = records[end - 1].finished_us - records[begin - 1].finished_us
        found[variant.id] = 1e6 * work / sum(work_us.values()) * len(names) / took_us
    return found
