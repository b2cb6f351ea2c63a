"""Measure what synchronisation costs on this device.

Tiny kernels in chains give the cost of a call, of a wait across streams and of gathering all
streams: slopes, so that the constant cost of a run drops out and is known, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import tvm
from tvm import te

from top_tvm.compiler.assemble import assemble
from top_tvm.compiler.cache import MeasurementCache
from top_tvm.compiler.kernel_library import compile_kernels, host_target
from top_tvm.compiler.op_graph import Op, OpGraph, Storage, Value
from top_tvm.compiler.partition import Placement
from top_tvm.compiler.session import Session
from top_tvm.compiler.transform.schedule_cpu import schedule_prim_func
from top_tvm.cost import DeviceModel
from top_tvm.plan import Kernel
from top_tvm.random_inputs import random_inputs

_SHORT, _LONG = 16, 80
_SHAPE = (4, 16)  # one vector per step of a parallel loop, so that the kernel is moldable
_ROUNDS = 5
_KEY = "calibration-2"


def calibrate(streams: int, cache: MeasurementCache) -> DeviceModel:
    """Calibrate the device for a number of streams, from the cache if it was done before."""
    key = f"{_KEY}/{streams}"
    record = cache.get(key)
    if record is None:
        record = _measure(streams)
        cache.update({key: record})
    return DeviceModel.from_json(record)


def _measure(streams: int) -> dict[str, float]:
    kernels = compile_kernels({"step": _step()}, host_target())
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
    return device.to_json()


def _step() -> tvm.tirx.PrimFunc:
    source = te.placeholder(_SHAPE, "float32", name="source")
    result = te.compute(_SHAPE, lambda i, j: source[i, j] + np.float32(1), name="result")
    return schedule_prim_func(te.create_prim_func([source, result]))


def _line(
    session: Session, streams: int, places: Sequence[tuple[int, int]]
) -> tuple[float, float, float]:
    """Time per op of a chain of tiny ops, constant time of a run, and the kernel's own time."""
    short = _executor(session, streams, places[:_SHORT])
    long = _executor(session, streams, places)
    short_us = min(float(np.median(short[0].time(short[1], 20, 100))) for _ in range(_ROUNDS))
    long_us = min(float(np.median(long[0].time(long[1], 20, 100))) for _ in range(_ROUNDS))
    stamps = long[0].timeline(long[1], 20, 100)
    slope_us = (long_us - short_us) / (_LONG - _SHORT)
    return slope_us, short_us - slope_us * _SHORT, float(np.median(stamps[..., 1] - stamps[..., 0]))


def _executor(
    session: Session, streams: int, places: Sequence[tuple[int, int]]
) -> tuple[Any, list[Any]]:
    """Executor of a chain with one op per (stream, threads), and its input."""
    count, nbytes = len(places), 4 * prod(_SHAPE)
    middle = [Storage("intermediate", "", nbytes)] * (count - 1)
    storages = (Storage("input", "x", nbytes), *middle, Storage("output", "y", nbytes))
    graph = OpGraph(
        storages=storages,
        values=tuple(Value(f"v{i}", "float32", _SHAPE, i) for i in range(count + 1)),
        ops=tuple(
            Op(
                name=f"step_{index}",
                kernel=Kernel("tvm", "step", {}, moldable=True),
                inputs=(index,),
                outputs=(index + 1,),
                flops=prod(_SHAPE),
                nbytes=2 * nbytes,
                origin="calibration",
                fingerprint="",
            )
            for index in range(count)
        ),
        inputs=(0,),
        outputs=(count,),
        output_names=("y",),
    )
    schedule = tuple(
        Placement(index, index, 0, stream, threads)
        for index, (stream, threads) in enumerate(places)
    )
    plan = assemble(graph, schedule, streams=streams, partitioner="calibration")
    return session.executor(plan), list(random_inputs(plan).values())
