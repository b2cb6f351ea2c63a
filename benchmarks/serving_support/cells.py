"""Every system under the same arrivals, in turns."""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from serving_support.arrivals import Arrival, arrivals_of
from serving_support.mixes import BuiltMix
from serving_support.open_loop import lone_latency_s, offer, saturated_throughput, summary
from serving_support.peers import PEERS, peer_systems
from serving_support.systems import System, own_systems

Record = dict[str, Any]

OWN = ("serial", "free", "merged", "merged-barriers", "batching", "auto")
SYSTEMS = (*OWN, *PEERS)
_PAUSE_S = 0.2  # lets the threads of other systems go to sleep
_LONE_RUNS = 9


@dataclass(frozen=True)
class Effort:
    """How long and how often things are measured."""

    duration_s: float
    saturation_s: float
    repeats: int


@dataclass(frozen=True)
class Baseline:
    """What loads and deadlines are relative to.

    Attributes
    ----------
    capacity_per_s : dict of str to float
        Tasks per second of every system, all models together, while its queues are full.
    best_per_s : float
        The most of any static system: all but ``auto``.
    lone_s : dict of str to float
        Per model, the least over the systems of the median time of a lone task.
    """

    capacity_per_s: dict[str, float]
    best_per_s: float
    lone_s: dict[str, float]


@contextmanager
def open_systems(built: BuiltMix, wanted: Sequence[str]) -> Iterator[list[System]]:
    """Start the wanted systems, and close them at the end."""
    systems: list[System] = [
        *own_systems(built.mix, built.kept, built.inputs, list(wanted)),
        *peer_systems(built.contents, built.inputs, wanted),
    ]
    try:
        yield systems
    finally:
        for system in systems:
            system.close()


def measure_baseline(systems: Sequence[System], built: BuiltMix, effort: Effort) -> Baseline:
    """Lone latencies, then throughput from full queues, which is what loads refer to."""
    models = list(built.mix.models)
    lone = in_turns(systems, lambda system, _: lone_latency_s(system, models, _LONE_RUNS), 1)
    lone_s = {model: min(one[0][model] for one in lone.values()) for model in models}
    measured = in_turns(
        systems, lambda system, _: saturated_throughput(system, models, effort.saturation_s), 3
    )
    capacity = {name: statistics.median(values) for name, values in measured.items()}
    static = [value for name, value in capacity.items() if name != "auto"]
    return Baseline(capacity, max(static or capacity.values()), lone_s)


def measure_cells(
    systems: Sequence[System],
    baseline: Baseline,
    kinds: Sequence[str],
    loads: Sequence[float],
    deadlines: Sequence[float],
    effort: Effort,
) -> Iterator[Record]:
    """One record per arrivals, load, deadline, system and repeat.

    Parameters
    ----------
    systems : sequence of System
        Visited in a rotating order; all meet the same arrivals within a repeat.
    baseline : Baseline
        Of these systems.
    kinds : sequence of str
        Names of arrival processes.
    loads : sequence of float
        Shares of the best static capacity; models have equal rates.
    deadlines : sequence of float
        Multiples of the lone latencies.
    effort : Effort
        How long and how often.
    """
    models = list(baseline.lone_s)
    for kind, load, factor in itertools.product(kinds, loads, deadlines):
        rate = load * baseline.best_per_s / len(models)
        deadlines_s = {model: factor * lone_s for model, lone_s in baseline.lone_s.items()}
        _say(f"{'+'.join(models)}: {kind}, load {load:.0%}, deadline {factor:g}x")
        tasks = [
            arrivals_of(
                kind, dict.fromkeys(models, rate), effort.duration_s, deadlines_s, seed=repeat
            )
            for repeat in range(effort.repeats)
        ]
        head = {
            "section": "cell",
            "mix": "+".join(models),
            "arrivals": kind,
            "load": load,
            "offered_per_s": rate * len(models),
            "deadline": factor,
        }
        for record in run_in_turns(systems, tasks, effort):
            yield {**head, **record}


def in_turns(
    systems: Sequence[System], visit: Callable[[System, int], Any], rounds: int
) -> Mapping[str, list[Any]]:
    """Visit every system once per round, in a rotating order, after pauses."""
    found: dict[str, list[Any]] = {system.name: [] for system in systems}
    for round_ in range(rounds):
        for place in range(len(systems)):
            system = systems[(round_ + place) % len(systems)]
            time.sleep(_PAUSE_S)
            found[system.name].append(visit(system, round_))
    return found


def run_in_turns(
    systems: Sequence[System], tasks: Sequence[Sequence[Arrival]], effort: Effort
) -> Iterator[Record]:
    """Offer tasks to all systems: numbers of every run, and what the system says of itself.

    Parameters
    ----------
    systems : sequence of System
        Visited in a rotating order.
    tasks : sequence of sequence of Arrival
        One per repeat, the same for all systems.
    effort : Effort
        How long a run takes.
    """

    def run(system: System, repeat: int) -> Record:
        return {**summary(offer(system, tasks[repeat]), effort.duration_s), **system.detail()}

    for name, records in in_turns(systems, run, len(tasks)).items():
        for repeat, record in enumerate(records):
            yield {"system": name, "repeat": repeat, **record}


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr)
