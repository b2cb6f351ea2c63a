"""Plans executed on this CPU: auto against sequential, predicted against measured times."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import top_tvm
from cpu.tables import geometric_mean, markdown
from partition_support.problems import CPU_LABEL, CPU_STREAMS, ModelZoo
from prediction import predict_and_measure
from top_tvm.compare import Progress, Ratio, executable_system, measure_visits, ratio_over_rounds
from top_tvm.random_inputs import random_inputs

Record = dict[str, Any]


def measure_models(zoo: ModelZoo, rounds: int, progress: Progress) -> list[Record]:
    """One record per model and partitioner, and one of ``auto`` per model."""
    records = []
    for name in zoo.names:
        plans = predict_and_measure(name, zoo.load(name), CPU_STREAMS, 0, random.Random(0))
        place = {"graph": name, "ops": plans[0]["ops"], "streams": CPU_STREAMS, "device": CPU_LABEL}
        for plan in plans:
            times = {key: plan[key] for key in ("predicted_us", "measured_us")}
            records.append({**place, "method": plan["schedule"], "search_ms": None, **times})
        records.append({**place, "method": "auto", "search_ms": None})
        records[-1] |= _auto_against_sequential(zoo.load(name), rounds, progress)
    return records


def _auto_against_sequential(model: Any, rounds: int, progress: Progress) -> Record:
    """Two executables of one model, run in turns."""
    auto = top_tvm.build(model, streams=CPU_STREAMS, progress=progress)
    (plan,) = auto.artifact.plans.values()
    record = {"predicted_us": plan.predicted_us, "plan": plan.partitioner}
    if plan.partitioner == "sequential":  # then both are the same
        return {**record, "measured_us": plan.measured_us, "ratio": asdict(Ratio(1.0, 1.0, 1.0))}
    sequential = top_tvm.build(
        model, partitioner="sequential", streams=CPU_STREAMS, progress=progress
    )
    inputs = random_inputs(plan)
    systems = [
        executable_system(name, executable, inputs)
        for name, executable in (("sequential", sequential), ("auto", auto))
    ]
    visits = measure_visits(systems, rounds=rounds, progress=progress)
    # The 20th percentile of a visit is what neighbours disturb least.
    lows = [[float(np.percentile(visit, 20)) for visit in times] for times in visits]
    ratio = ratio_over_rounds(lows[0], lows[1])
    return {**record, "measured_us": float(np.median(lows[1])), "ratio": asdict(ratio)}


def report(records: Sequence[Record]) -> str:
    plans = [record for record in records if record["method"] != "auto"]
    return "\n".join(
        (
            _auto_table([record for record in records if record["method"] == "auto"]),
            _error_table(plans),
            "",
            *_correlations(plans),
        )
    )


def _auto_table(records: Sequence[Record]) -> str:
    rows = [
        [
            record["graph"],
            record["plan"],
            f"{record['measured_us'] / 1e3:.2f}",
            f"{record['ratio']['median']:.3f} "
            f"({record['ratio']['low']:.3f}-{record['ratio']['high']:.3f})",
        ]
        for record in records
    ]
    mean = geometric_mean([record["ratio"]["median"] for record in records])
    rows.append(["**geometric mean**", "", "", f"**{mean:.3f}**"])
    columns = ["model", "plan of auto", "auto, ms", "sequential / auto"]
    return markdown(f"{CPU_LABEL}, {CPU_STREAMS} streams: measured in turns", columns, rows)


def _error_table(plans: Sequence[Record]) -> str:
    """Measured time and error of the prediction, per model and partitioner."""
    methods = list(dict.fromkeys(plan["method"] for plan in plans))
    by_graph: dict[str, dict[str, Record]] = {}
    for plan in plans:
        by_graph.setdefault(plan["graph"], {})[plan["method"]] = plan
    rows = [
        [
            graph,
            *(
                f"{entries[method]['measured_us'] / 1e3:.2f} ({100 * _error(entries[method]):+.1f} "
                "%)"
                for method in methods
            ),
        ]
        for graph, entries in by_graph.items()
    ]
    title = "measured ms of each plan, and error of the predicted time"
    return markdown(f"{CPU_LABEL}, {CPU_STREAMS} streams: {title}", ["model", *methods], rows)


def _error(plan: Record) -> float:
    return float(plan["predicted_us"] / plan["measured_us"] - 1)


def _correlations(plans: Sequence[Record]) -> list[str]:
    errors = np.abs([_error(plan) for plan in plans])
    lines = [
        f"* Error of the prediction over {len(plans)} plans: median {100 * np.median(errors):.1f} "
        f"%, 90th percentile {100 * np.percentile(errors, 90):.1f} %."
    ]
    sequential = {p["graph"]: p for p in plans if p["method"] == "sequential"}
    others = [plan for plan in plans if plan["method"] != "sequential"]

    def speedups(key: str) -> list[float]:
        return [float(np.log(sequential[p["graph"]][key] / p[key])) for p in others]

    predicted, measured = speedups("predicted_us"), speedups("measured_us")
    if len(set(predicted)) > 1 and len(set(measured)) > 1:
        times = np.log([[plan[key] for plan in plans] for key in ("predicted_us", "measured_us")])
        lines.append(
            "* Correlation of predicted and measured: "
            f"{np.corrcoef(times)[0, 1]:.4f} of the logarithms of the times, "
            f"{np.corrcoef(predicted, measured)[0, 1]:.3f} of those of the speed relative to "
            "sequential."
        )
    return lines


def plot(records: Sequence[Record], path: Path) -> None:
    """Predicted against measured time of every plan.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    plans = [record for record in records if record["method"] != "auto"]
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.add_subplot()
    for method in dict.fromkeys(plan["method"] for plan in plans):
        chosen = [plan for plan in plans if plan["method"] == method]
        axes.plot(
            [plan["measured_us"] / 1e3 for plan in chosen],
            [plan["predicted_us"] / 1e3 for plan in chosen],
            "o",
            alpha=0.7,
            label=method,
        )
    times = [plan["measured_us"] / 1e3 for plan in plans]
    axes.plot([min(times), max(times)], [min(times), max(times)], color="grey", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="measured, ms", ylabel="predicted, ms")
    axes.set_title(f"Plans of the partitioners, {CPU_STREAMS} streams of this CPU")
    axes.legend()
    figure.savefig(path, dpi=150)
