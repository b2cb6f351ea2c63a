"""Devices that are not at hand, by a few parameters: planning aids, and what GPG is trained for.

Two kinds. A small operator fills only part of a wide device (a GPU), so several run at once. On a
multicore device every stream is a core, and an operator runs on one of them or on all. Whatever is
computed with these numbers is simulated, and labelled so wherever it is printed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from top_tvm.compiler.op_graph import Op, OpGraph
from top_tvm.cost import DeviceModel, OpCost


@dataclass(frozen=True)
class OpWork:
    """What an op does, independent of the device.

    Attributes
    ----------
    flops : float
        Floating-point operations.
    nbytes : float
        Bytes that it reads and writes.
    elements : float
        Elements of its results: how much can run in parallel.
    """

    flops: float
    nbytes: float
    elements: float


def work_of(graph: OpGraph, op: Op) -> OpWork:
    """What an op of a model does."""
    elements = sum(math.prod(graph.values[value].shape) for value in op.outputs)
    return OpWork(float(op.flops), float(op.nbytes), float(elements))


@dataclass(frozen=True)
class WideDevice:
    """Parameters of a device with streams.

    Attributes
    ----------
    name : str
        For tables.
    streams : int
        Streams that a schedule may use.
    flops_per_us, bytes_per_us : float
        What the whole device can do.
    resident_elements : float
        Elements in flight that fill the device; an op with fewer uses that share of it.
    dispatch_us, wait_us, run_us : float
        Launch of an op, a wait across streams, and a run, as in :class:`DeviceModel`.
    shortest_us : float
        No kernel takes less.
    """

    name: str
    streams: int
    flops_per_us: float = 2e7
    bytes_per_us: float = 1.5e6
    resident_elements: float = 2e5
    dispatch_us: float = 1.0
    wait_us: float = 1.5
    run_us: float = 5.0
    shortest_us: float = 2.0

    def model(self) -> DeviceModel:
        """Overheads, for the simulator."""
        return DeviceModel(
            streams=self.streams,
            dispatch_us=self.dispatch_us,
            wait_us=self.wait_us,
            run_us=self.run_us,
        )

    def cost(self, work: OpWork) -> OpCost:
        """Time and demands of an op that runs alone.

        The op fills a share of the device, and computes with that share. A quarter of the device
        is enough to saturate its memory.
        """
        share = min(1.0, max(work.elements / self.resident_elements, 0.01))
        compute_us = work.flops / (self.flops_per_us * share)
        memory_us = work.nbytes / (self.bytes_per_us * min(1.0, 4 * share))
        time_us = max(compute_us, memory_us, self.shortest_us)
        bandwidth = min(1.0, work.nbytes / (self.bytes_per_us * time_us))
        return OpCost(time_us, math.inf, bandwidth, 0.0, share, 0.0)


@dataclass(frozen=True)
class MulticoreDevice:
    """Parameters of a device whose streams are cores.

    Attributes
    ----------
    name : str
        For tables.
    streams : int
        Cores.
    flops_per_us, bytes_per_us : float
        What one core can do.
    bandwidth_cores : float
        How many cores saturate the memory.
    gang_efficiency : float
        Speed of an op on all cores relative to that of as many cores.
    least_gang_us : float
        An op that takes less on one core has no form for all of them.
    dispatch_us, wait_us, gang_us, run_us : float
        As in :class:`DeviceModel`.
    shortest_us : float
        No kernel takes less.
    """

    name: str
    streams: int
    flops_per_us: float = 1e5
    bytes_per_us: float = 1.5e4
    bandwidth_cores: float = 2.0
    gang_efficiency: float = 0.93
    least_gang_us: float = 5.0
    dispatch_us: float = 0.15
    wait_us: float = 0.5
    gang_us: float = 0.6
    run_us: float = 10.0
    shortest_us: float = 0.5

    def model(self) -> DeviceModel:
        """Overheads, for the simulator."""
        return DeviceModel(self.streams, self.dispatch_us, self.wait_us, self.gang_us, self.run_us)

    def cost(self, work: OpWork) -> OpCost:
        """Times of an op on one core and on all, and the shares of the memory that it uses."""
        compute_us = work.flops / self.flops_per_us
        memory_us = work.nbytes / self.bytes_per_us
        single_us = max(compute_us, memory_us, self.shortest_us)
        bandwidth = min(1.0, memory_us / single_us / self.bandwidth_cores)
        demand = max(bandwidth, 1 / self.streams)
        if single_us < self.least_gang_us or self.streams == 1:
            return OpCost(single_us, math.inf, demand)
        speed = self.streams * self.gang_efficiency
        memory_speed = min(speed, self.bandwidth_cores)
        gang_us = max(compute_us / speed, memory_us / memory_speed, self.shortest_us)
        return OpCost(single_us, gang_us, demand, 1.0)


Device = WideDevice | MulticoreDevice
