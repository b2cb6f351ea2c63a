"""How well the simulator predicts plans that nothing was calibrated on.

Random schedules of real models (random topological order, streams and thread forms) and the
schedules of all partitioners are predicted, then measured in turns. Costs come from the profile of
single ops and from the calibration with tiny kernels; none of these plans took part.

    python benchmarks/prediction.py --plans 30
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from top_tvm.compiler.build import compile_model, make_plan, measure_ops
from top_tvm.compiler.choose_plan import measure_plans
from top_tvm.compiler.light_models import light_model
from top_tvm.compiler.partition import (
    PARTITIONERS,
    PartitionProblem,
    Placement,
    Schedule,
    assign_stages,
    available_partitioners,
)
from top_tvm.compiler.profile import ignore_progress

Record = dict[str, Any]

MODELS = ("squeezenet", "inception_v1", "densenet121")
RANDOM = "random"


def random_schedule(problem: PartitionProblem, generator: random.Random) -> Schedule:
    """Draw a topological order, and a stream or all streams for every op, at random."""
    count, streams = len(problem.costs), problem.device.streams
    waiting = [0] * count
    readers: list[list[int]] = [[] for _ in range(count)]
    for source, target in problem.edges:
        waiting[target] += 1
        readers[source].append(target)
    ready = [op for op in range(count) if not waiting[op]]
    gang_share = generator.choice([0.0, 0.3, 0.7])
    placements = []
    while ready:
        op = ready.pop(generator.randrange(len(ready)))
        moldable = np.isfinite(problem.costs[op].gang_us)
        gang = moldable and generator.random() < gang_share
        stream = 0 if gang else generator.randrange(streams)
        placements.append(Placement(op, 0, 0, stream, streams if gang else 1))
        for reader in readers[op]:
            waiting[reader] -= 1
            if not waiting[reader]:
                ready.append(reader)
    return assign_stages(problem, tuple(placements))


def predict_and_measure(
    name: str, model: Any, streams: int, random_plans: int, generator: random.Random
) -> list[Record]:
    """Predicted and measured time of every partitioner's schedule of a model, and of random ones.

    The schedules take turns.
    """
    compilation = compile_model(model, streams=streams)
    (compiled,) = compilation.graphs
    problem = measure_ops(compilation, compiled)
    schedules = {key: PARTITIONERS[key](problem) for key in available_partitioners()}
    for index in range(random_plans):
        schedules[f"{RANDOM} {index}"] = random_schedule(problem, generator)
    plans = {key: make_plan(compiled, problem, key, s) for key, s in schedules.items()}
    measured = measure_plans(plans, compilation.session, ignore_progress)
    return [
        {
            "model": name,
            "ops": problem.num_ops,
            "schedule": key,
            "predicted_us": plan.predicted_us,
            "measured_us": measured[key],
            "error": plan.predicted_us / measured[key] - 1,
        }
        for key, plan in plans.items()
    ]


def is_random(record: Record) -> bool:
    return str(record["schedule"]).startswith(RANDOM)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plans", type=int, default=30, help="random plans in all")
    parser.add_argument("--streams", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="write one record per plan")
    options = parser.parse_args()
    generator = random.Random(options.seed)
    records = []
    for name in MODELS:
        model, plans = light_model(name), options.plans // len(MODELS)
        for record in predict_and_measure(name, model, options.streams, plans, generator):
            records.append(record)
            print(
                f"{name:14} {record['schedule']:12} predicted {record['predicted_us']:9.0f} us"
                f"   measured {record['measured_us']:9.0f} us   {100 * record['error']:+6.1f} %"
            )
    for label, kind in (("random", True), ("partitioners'", False)):
        errors = [abs(record["error"]) for record in records if is_random(record) == kind]
        print(
            f"{len(errors)} {label} plans: median |error| {100 * np.median(errors):.1f} %, "
            f"90th percentile {100 * np.percentile(errors, 90):.1f} %"
        )
    if options.json:
        Path(options.json).write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
