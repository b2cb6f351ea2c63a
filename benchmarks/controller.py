"""What there is to win for a controller: ``--headroom``.

    python benchmarks/controller.py --headroom --quick
    python benchmarks/controller.py --headroom --out controller_headroom.md

Every mix meets every trace at several loads and in several regimes, on the runtime's own scheduler
on a virtual device: under each of its variants alone, under the heuristic, and under an oracle, a
search over schedules of variants that knows the future. All numbers are simulated.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from controller_support.mixes import wide_mix
from controller_support.simulator import (
    NOISY_NEIGHBOUR,
    STEADY,
    Drift,
    Simulator,
    search_oracle,
)
from controller_support.traces import TRACES, make_trace
from cpu.arguments import names_of, positive_numbers
from cpu.tables import geometric_mean, markdown
from serving_support.mixes import build
from top_tvm.compiler.profile import ignore_progress
from top_tvm.mix import Mix
from top_tvm.replace_file import write_text
from top_tvm.runtime.controller.named import controller_named

RESULTS = Path(__file__).parent / "results"
Record = dict[str, Any]


@dataclass(frozen=True)
class Regime:
    """Deadlines of the first model and of the others, in lone latencies, and the device's speed."""

    first: float
    others: float
    drift: Drift = STEADY


REGIMES: Mapping[str, Regime] = {
    "loose": Regime(15, 15),
    "tight": Regime(5, 5),
    "mixed": Regime(5, 20),
    "drift": Regime(15, 15, NOISY_NEIGHBOUR),
}
# Names of models, then the device: this CPU as it was measured, or a simulated one.
MIXES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "cpu: squeezenet": (("squeezenet",), "cpu"),
    "cpu: squeezenet+inception_v1": (("squeezenet", "inception_v1"), "cpu"),
    "large-gpu: bvlc_alexnet+squeezenet": (("bvlc_alexnet", "squeezenet"), "large-gpu"),
    "tensor-gpu: inception_v1+resnet50": (("inception_v1", "resnet50"), "tensor-gpu"),
}
_STREAMS = 8
_LEAST_TASKS = 1500


def main() -> int:
    options = parse_options()
    heading = (
        "# What there is to win for a controller\n\nSimulated. "
        f"`python benchmarks/controller.py {shlex.join(sys.argv[1:])}`."
    )
    print(heading, flush=True)
    records: list[Record] = []
    for name in options.mixes:
        _say(f"{name}: variants")
        mix = make_mix(name)
        for record in headroom(name, mix, options):
            records.append(record)
            if options.json:
                write_text(options.json, json.dumps(records, indent=1) + "\n")
    text = report(records)
    print(text)
    if options.out:
        write_text(options.out, f"{heading}\n{text}\n")
    return 0


def make_mix(name: str) -> Mix:
    models, device = MIXES[name]
    if device == "cpu":
        return build(
            models,
            batch_sizes=(1, 4),
            lanes=(1, 2),
            segments=(1, 2, 3),
            progress=ignore_progress,
        ).kept.mix
    return wide_mix(
        models, device, _STREAMS, lanes=(2, 4, 8), segments=(1, 2, 3), batch_sizes=(1, 4)
    )


def headroom(name: str, mix: Mix, options: argparse.Namespace) -> Iterator[Record]:
    """One record per regime, load, trace and seed."""
    cases = [
        (name, mix, regime, load / 100, kind, seed, options.duration_s, options.windows)
        for regime in options.regimes
        for load in options.load
        for kind in options.traces
        for seed in range(options.seeds)
    ]
    with ProcessPoolExecutor(options.jobs) as pool:
        for number, record in enumerate(pool.map(_measure, cases)):
            if number % len(options.traces) == 0:
                _say(f"{name}: {record['regime']}, load {record['load']:.0%}")
            yield record


def _measure(case: tuple[str, Mix, str, float, str, int, float, int]) -> Record:
    name, mix, regime_name, load, kind, seed, least_s, windows = case
    regime = REGIMES[regime_name]
    simulator = Simulator(mix)
    lone_us = dict(zip(simulator.names, simulator.features[0].latency_us, strict=True))
    capacity_per_s = max(variant.capacity_per_s for variant in mix.variants)
    rate = load * capacity_per_s / len(simulator.names)
    deadlines_us = {
        model: (regime.others if index else regime.first) * lone_us[model]
        for index, model in enumerate(simulator.names)
    }
    duration_s = max(least_s, _LEAST_TASKS / (load * capacity_per_s))
    trace = make_trace(kind, dict.fromkeys(simulator.names, rate), deadlines_us, duration_s, seed)
    static = {
        variant.id: simulator.run_schedule(trace, [index], regime.drift)
        for index, variant in enumerate(mix.variants)
    }
    goodputs = [outcome.goodput for outcome in static.values()]
    heuristic = simulator.run(
        trace, controller_named("heuristic", simulator.features), regime.drift
    )
    oracle, schedule = search_oracle(
        simulator, trace, goodputs.index(max(goodputs)), regime.drift, windows
    )
    return {
        "mix": name,
        "regime": regime_name,
        "load": load,
        "trace": kind,
        "seed": seed,
        "tasks": len(trace.arrivals),
        "offered_per_s": len(trace.arrivals) / duration_s,
        "static": {id_: asdict(outcome) for id_, outcome in static.items()},
        "heuristic": asdict(heuristic),
        "oracle": asdict(oracle),
        "schedule": [mix.variants[index].id for index in schedule],
    }


def report(records: list[Record]) -> str:
    """Means over traces and seeds, per mix, regime and load; the worst trace; the best variants."""
    rows = []
    groups: dict[tuple[str, str, float], list[Record]] = {}
    for record in records:
        groups.setdefault((record["mix"], record["regime"], record["load"]), []).append(record)
    for (mix, regime, load), group in groups.items():
        best, median, oracle, heuristic_tail = [], [], [], []
        winners = set()
        for record in group:
            static = {id_: one["goodput"] for id_, one in record["static"].items()}
            winner = max(static, key=lambda id_: static[id_])
            winners.add(winner)
            heuristic = max(record["heuristic"]["goodput"], 1e-9)
            best.append(heuristic / max(static[winner], 1e-9))
            median.append(heuristic / max(statistics.median(static.values()), 1e-9))
            oracle.append(max(record["oracle"]["goodput"], 1e-9) / heuristic)
            heuristic_tail.append(
                record["heuristic"]["p99_us"] / record["static"][winner]["p99_us"]
            )
        rows.append(
            [
                mix,
                regime,
                f"{load:.0%}",
                f"{geometric_mean(best):.3f}",
                f"{min(best):.3f}",
                f"{geometric_mean(median):.3f}",
                f"{geometric_mean(oracle):.3f}",
                f"{max(oracle):.3f}",
                f"{geometric_mean(heuristic_tail):.2f}",
                f"{len(winners)}",
            ]
        )
    headings = [
        *("mix", "regime", "load", "heuristic / best static", "least", "heuristic / median static"),
        *("oracle / heuristic", "most", "p99 / best static's", "winning variants"),
    ]
    return markdown("Goodput, over all traces", headings, rows)


def parse_options() -> argparse.Namespace:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="benchmarks/controller.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--headroom", action="store_true", required=True, help="the only part there is, so far")
    add("--mixes", type=names_of(tuple(MIXES)), default=list(MIXES), metavar="LIST")
    add("--regimes", type=names_of(tuple(REGIMES)), default=list(REGIMES), metavar="LIST")
    add("--traces", type=names_of(TRACES), default=list(TRACES), metavar="LIST")
    add("--load", type=positive_numbers, default=[50, 85, 110], metavar="LIST", help="per cent")
    add("--seeds", type=int, default=1)
    add("--duration-s", type=float, default=1.0, help="of a trace, at least")
    add("--windows", type=int, default=20, help="parts of a trace for which the oracle decides")
    add("--jobs", type=int, default=2)
    add("--json", type=Path, metavar="FILE", help="write every record")
    add("--out", type=RESULTS.joinpath, metavar="FILE", help="under benchmarks/results/")
    add("--quick", action="store_true", help="one mix, regime and load")
    options = parser.parse_args()
    if options.quick:
        options.mixes = ["large-gpu: bvlc_alexnet+squeezenet"]
        options.regimes, options.load, options.windows = ["loose"], [85], 5
    for path in filter(None, (options.json, options.out)):
        path.parent.mkdir(parents=True, exist_ok=True)  # before an hour of work
    return options


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
