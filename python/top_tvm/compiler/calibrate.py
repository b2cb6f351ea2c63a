"""Measure what synchronisation costs on this device, and how much memory bandwidth it has.

Tiny kernels in chains give the cost of a call, of a wait across streams and of gathering all
streams (slopes, so that the constant cost of a run drops out and is known, too); big copies at the
same time give the bandwidth that concurrent ops share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import te

from top_tvm.compiler.assemble import assemble
from top_tvm.compiler.cache import MeasurementCache
from top_tvm.compiler.cost import DeviceModel
from top_tvm.compiler.kernel_library import compile_kernels, host_target
from top_tvm.compiler.op_graph import Op, OpGraph, Storage, Value
from top_tvm.compiler.partition import Placement
from top_tvm.compiler.session import Session
from top_tvm.compiler.transform.schedule_cpu import schedule_prim_func
from top_tvm.plan import Kernel
from top_tvm.random_inputs import random_inputs

_SHORT, _LONG = 16, 80
_COPY_FLOATS = 8 * 2**20  # 32 MiB in, 32 MiB out: larger than any private cache
_ROUNDS = 5
_KEY = "calibration-1"


@dataclass(frozen=True)
class Calibration:
    """Overheads of the executor, and bytes per microsecond that all streams together move."""

    device: DeviceModel
    bandwidth_bytes_per_us: float


def calibrate(streams: int, cache: MeasurementCache) -> Calibration:
    """Calibrate the device for a number of streams, from the cache if it was done before."""
    key = f"{_KEY}/{streams}"
    record = cache.get(key)
    if record is None:
        record = _measure(streams)
        cache.update({key: record})
    return Calibration(DeviceModel.from_json(record["device"]), record["bandwidth_bytes_per_us"])


def _measure(streams: int) -> dict[str, object]:
    kernels = compile_kernels(
        {f"step{size}": _step(size) for size in (64, _COPY_FLOATS)}, host_target()
    )
    session = Session.open(kernels, {})
    one = [(0, 1)] * _LONG
    across = [(index % 2, 1) for index in range(_LONG)]
    everywhere = [(0, streams)] * _LONG
    slope_us, run_us, kernel_us = _line(session, streams, one)
    dispatch_us = max(slope_us - kernel_us, 0.0)
    wait_us = gang_us = 0.0
    if streams > 1:
        wait_us = max(_line(session, streams, across)[0] - slope_us, 0.0)
        gang_slope_us, _, gang_kernel_us = _line(session, streams, everywhere)
        gang_us = max(gang_slope_us - gang_kernel_us - dispatch_us, 0.0)
    device = DeviceModel(streams, dispatch_us, wait_us, gang_us, max(run_us, 0.0))
    return {"device": device.to_json(), "bandwidth_bytes_per_us": _bandwidth(session, streams)}


def _step(size: int) -> tvm.tirx.PrimFunc:
    source = te.placeholder((size // 16, 16), "float32", name="source")
    result = te.compute(source.shape, lambda i, j: source[i, j] + np.float32(1), name="result")
    return schedule_prim_func(te.create_prim_func([source, result]))


def _line(
    session: Session, streams: int, places: Sequence[tuple[int, int]]
) -> tuple[float, float, float]:
    """Time per op of a chain of tiny ops, constant time of a run, and the kernel's own time."""
    short = _executor(session, streams, places[:_SHORT], 64, chain=True)
    long = _executor(session, streams, places, 64, chain=True)
    short_us = min(float(np.median(short[0].time(short[1], 20, 100))) for _ in range(_ROUNDS))
    long_us = min(float(np.median(long[0].time(long[1], 20, 100))) for _ in range(_ROUNDS))
    stamps = long[0].timeline(long[1], 20, 100)
    slope_us = (long_us - short_us) / (_LONG - _SHORT)
    return slope_us, short_us - slope_us * _SHORT, float(np.median(stamps[..., 1] - stamps[..., 0]))


def _bandwidth(session: Session, streams: int) -> float:
    places = [(stream, 1) for stream in range(streams)]
    executor, inputs = _executor(session, streams, places, _COPY_FLOATS, chain=False)
    best_us = float(np.percentile(executor.time(inputs, 2, 4 * _ROUNDS), 20))
    return streams * 2 * 4 * _COPY_FLOATS / best_us


def _executor(
    session: Session, streams: int, places: Sequence[tuple[int, int]], size: int, *, chain: bool
) -> tuple[Any, list[Any]]:
    """Executor of a chain of ops, or of independent ops with an input and an output each."""
    count = len(places)
    first_output = 1 if chain else count
    shape, nbytes = (size // 16, 16), 4 * size
    storages = [Storage("input", f"x{index}", nbytes) for index in range(first_output)]
    last = [count - 1] if chain else range(count)
    storages += [
        Storage("output", f"y{index}", nbytes)
        if index in last
        else Storage("intermediate", "", nbytes)
        for index in range(count)
    ]
    graph = OpGraph(
        storages=tuple(storages),
        values=tuple(Value(f"v{i}", "float32", shape, i) for i in range(len(storages))),
        ops=tuple(
            Op(
                name=f"step_{index}",
                kernel=Kernel("tvm", f"step{size}", {}, moldable=True),
                inputs=(index,),
                outputs=(first_output + index,),
                flops=size,
                nbytes=2 * nbytes,
                origin="calibration",
                fingerprint="",
            )
            for index in range(count)
        ),
        inputs=tuple(range(first_output)),
        outputs=tuple(first_output + index for index in last),
        output_names=tuple(f"y{index}" for index in last),
    )
    schedule = tuple(
        Placement(index, index, 0, stream, threads)
        for index, (stream, threads) in enumerate(places)
    )
    plan = assemble(graph, schedule, streams=streams, partitioner="calibration")
    return session.executor(plan), list(random_inputs(plan).values())
