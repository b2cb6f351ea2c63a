"""What is partitioned: op graphs of real models, alone and merged, on several devices.

Graphs are those that our CPU pipeline makes. On a device that is not at hand, the cost of an op
follows from its FLOPs, bytes and elements; on the CPU it is measured.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cpu.case import MODELS, load_model
from top_tvm.compiler.build import compile_model, measure_ops, optimise_model
from top_tvm.compiler.op_graph import OpGraph
from top_tvm.compiler.partition import PartitionProblem
from top_tvm.compiler.partition.merge import merge
from top_tvm.compiler.profile import Progress
from top_tvm.compiler.wide_device import MulticoreDevice, WideDevice, work_of

SimulatedDevice = WideDevice | MulticoreDevice

# Peak rates, bandwidth and resident threads of classes of GPU, without tensor cores unless said so;
# launch and wait as in a captured graph. By class, not by product: kernels reach 50-80 % of a peak.
SIMULATED_DEVICES: Mapping[str, Callable[[int], SimulatedDevice]] = {
    # A data-center GPU of about 100 multiprocessors.
    "large-gpu": partial(
        WideDevice,
        "large-gpu",
        flops_per_us=2e7,
        bytes_per_us=1.5e6,
        resident_elements=2e5,
        dispatch_us=1.0,
        wait_us=1.5,
        run_us=5.0,
        shortest_us=2.0,
    ),
    # An inference card of about 40 multiprocessors.
    "small-gpu": partial(
        WideDevice,
        "small-gpu",
        flops_per_us=8e6,
        bytes_per_us=3e5,
        resident_elements=4e4,
        dispatch_us=1.5,
        wait_us=2.0,
        run_us=8.0,
        shortest_us=2.5,
    ),
    # The first one's tensor cores: for convolutions, FLOPs and bytes take about the same time.
    "tensor-gpu": partial(
        WideDevice,
        "tensor-gpu",
        flops_per_us=8e7,
        bytes_per_us=1.5e6,
        resident_elements=2e5,
        dispatch_us=1.0,
        wait_us=1.5,
        run_us=5.0,
        shortest_us=2.0,
    ),
    # A server's CPU with a core per stream.
    "multicore": partial(MulticoreDevice, "multicore"),
}
CPU = "cpu"
DEVICES = (*SIMULATED_DEVICES, CPU)
CPU_STREAMS = 2
CPU_LABEL = "cpu (measured)"


@dataclass(frozen=True)
class Merge:
    """Which tasks are in one graph; no models: each of those given, by itself."""

    models: tuple[str, ...]
    lanes: int
    segments: int

    def combinations(self, models: Sequence[str]) -> list[tuple[str, ...]]:
        return [self.models] if self.models else [(model,) for model in models]

    def label(self, models: Sequence[str]) -> str:
        merged = f":{self.lanes}x{self.segments}" if self.merges(models) else ""
        return "+".join(models) + merged

    def merges(self, models: Sequence[str]) -> bool:
        return len(models) * self.lanes * self.segments > 1


@dataclass(frozen=True)
class Case:
    """A problem with what the tables call it."""

    graph: str
    device: str
    streams: int
    merged: bool
    problem: PartitionProblem


def parse_merges(text: str) -> list[Merge]:
    """``none``, ``LANESxSEGMENTS`` or ``MODEL+MODEL:LANESxSEGMENTS``, separated by commas."""
    merges = []
    for entry in text.split(","):
        if entry == "none":
            merges.append(Merge((), 1, 1))
            continue
        names, _, numbers = entry.rpartition(":")
        lanes, _, segments = numbers.partition("x")
        if not (lanes.isdecimal() and segments.isdecimal() and int(lanes) and int(segments)):
            raise argparse.ArgumentTypeError(
                f"{entry!r} is not 'none', LANESxSEGMENTS or MODEL+MODEL:LANESxSEGMENTS"
            )
        merges.append(Merge(tuple(names.split("+")) if names else (), int(lanes), int(segments)))
    return merges


class ModelZoo:
    """Models by name: files by their stem, and the real models that need no file."""

    def __init__(self, given: Sequence[str]) -> None:
        self._files = {Path(text).stem: Path(text) for text in given if text not in MODELS}
        self.names = tuple(dict.fromkeys(Path(text).stem for text in given))
        if len(self.names) < len(given):
            raise argparse.ArgumentTypeError(f"two of {', '.join(given)} have the same name")
        if missing := [str(path) for path in self._files.values() if not path.is_file()]:
            raise argparse.ArgumentTypeError(
                f"no {', '.join(missing)}; give files, or of: {', '.join(MODELS)}"
            )

    def check(self, merges: Sequence[Merge]) -> None:
        for name in (name for merge_ in merges for name in merge_.models):
            if name not in self._files and name not in MODELS:
                known = ", ".join(dict.fromkeys((*self._files, *MODELS)))
                raise argparse.ArgumentTypeError(f"no model {name} to merge; there are: {known}")

    def load(self, name: str) -> Any:
        return self._files[name] if name in self._files else load_model(name, 1)


def simulated_problem(graph: OpGraph, device: SimulatedDevice) -> PartitionProblem:
    costs = tuple(device.cost(work_of(graph, op)) for op in graph.ops)
    names = tuple(op.name for op in graph.ops)
    return PartitionProblem(tuple(graph.edges()), costs, device.model(), names)


def measured_problem(model: Any, progress: Progress) -> PartitionProblem:
    compilation = compile_model(model, streams=CPU_STREAMS, progress=progress)
    (compiled,) = compilation.graphs
    return measure_ops(compilation, compiled, progress)


def make_cases(
    zoo: ModelZoo,
    merges: Sequence[Merge],
    devices: Sequence[str],
    streams: Sequence[int],
    progress: Progress,
) -> list[Case]:
    """All combinations; the CPU only with the number of streams that it is measured with."""
    combinations = [names for merge_ in merges for names in merge_.combinations(zoo.names)]
    wanted = dict.fromkeys(itertools.chain(*combinations))
    singles = {}
    for index, name in enumerate(wanted):
        progress("models", index, len(wanted))
        singles[name] = _single_problems(zoo, name, devices, streams, progress)
    progress("models", len(wanted), len(wanted))
    return [
        case
        for device in devices
        for count in streams
        if device != CPU or count == CPU_STREAMS
        for merge_ in merges
        for case in _merged_cases(zoo, merge_, device, count, singles)
    ]


def _single_problems(
    zoo: ModelZoo, name: str, devices: Sequence[str], streams: Sequence[int], progress: Progress
) -> dict[tuple[str, int], PartitionProblem]:
    """Problem of one model per device and number of streams."""
    model = zoo.load(name)
    problems = {}
    if simulated := [device for device in devices if device != CPU]:
        graph = optimise_model(model).extracted.graph
        for device in simulated:
            for count in streams:
                problems[device, count] = simulated_problem(graph, SIMULATED_DEVICES[device](count))
    if CPU in devices and CPU_STREAMS in streams:
        problems[CPU, CPU_STREAMS] = measured_problem(model, progress)
    return problems


def _merged_cases(
    zoo: ModelZoo,
    merge_: Merge,
    device: str,
    streams: int,
    singles: Mapping[str, Mapping[tuple[str, int], PartitionProblem]],
) -> Iterator[Case]:
    label = CPU_LABEL if device == CPU else f"{device} (simulated device)"
    for names in merge_.combinations(zoo.names):
        problems = [singles[name][device, streams] for name in names]
        count = len(names)
        problem = merge(problems, [merge_.lanes] * count, [merge_.segments] * count).problem
        yield Case(merge_.label(names), label, streams, merge_.merges(names), problem)
