"""Measure peak arithmetic and memory speed with two kernels, once per device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
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
from top_tvm.plan import Kernel
from top_tvm.random_inputs import random_inputs
from top_tvm.roofline import Roofline

_KEY = "roofline-1"
# Products of matrices that fit into the first cache, and tensors as large as activations are.
_PRODUCTS = ((48, 96, 64), (48, 64, 64), (48, 96, 64))
_COPY = ((1024, 1024), (1024, 1024))
_RUNS, _ROUNDS = 5, 5


def measure_roofline(streams: int, cache: MeasurementCache) -> Roofline:
    """Limits of one thread and of all streams, from the cache if they were measured before."""
    key = f"{_KEY}/{streams}"
    record = cache.get(key)
    if record is None:
        record = asdict(_measure(streams))
        cache.update({key: record})
    return Roofline(**record)


def _measure(streams: int) -> Roofline:
    kernels = {"product": _product(), "copy": _copy()}
    session = Session.open(compile_kernels(kernels, host_target()), {})
    batch, rows, columns = _PRODUCTS[2]
    flops = 2 * batch * rows * columns * _PRODUCTS[1][1]
    nbytes = 4 * sum(prod(shape) for shape in _COPY)
    product = [_best_us(session, streams, n, "product", _PRODUCTS) for n in (1, streams)]
    copy = [_best_us(session, streams, n, "copy", _COPY) for n in (1, streams)]
    return Roofline(
        single_gflops=flops / product[0] / 1e3,
        gang_gflops=flops / product[1] / 1e3,
        single_gb_per_s=nbytes / copy[0] / 1e3,
        gang_gb_per_s=nbytes / copy[1] / 1e3,
    )


def _product() -> tvm.tirx.PrimFunc:
    left, right = (te.placeholder(shape, "float32") for shape in _PRODUCTS[:2])
    k = te.reduce_axis((0, _PRODUCTS[1][1]), "k")

    def element(b: Any, i: Any, j: Any) -> Any:
        return te.sum(left[b, i, k] * right[b, k, j], axis=k)

    return _scheduled((left, right), _PRODUCTS[2], element)


def _copy() -> tvm.tirx.PrimFunc:
    source = te.placeholder(_COPY[0], "float32")
    return _scheduled((source,), _COPY[1], lambda i, j: source[i, j] + np.float32(1))


def _scheduled(
    inputs: Sequence[Any], shape: tuple[int, ...], element: Callable[..., Any]
) -> tvm.tirx.PrimFunc:
    result = te.compute(shape, element, name="result")
    return schedule_prim_func(te.create_prim_func([*inputs, result]))


def _best_us(
    session: Session, streams: int, threads: int, symbol: str, shapes: Sequence[tuple[int, ...]]
) -> float:
    """Least time of a kernel on so many threads: what the device can do, not what it does."""
    last = len(shapes) - 1
    sizes = [4 * prod(shape) for shape in shapes]
    storages = [Storage("input", f"x{i}", nbytes) for i, nbytes in enumerate(sizes[:-1])]
    graph = OpGraph(
        storages=(*storages, Storage("output", "y", sizes[-1])),
        values=tuple(Value(f"v{i}", "float32", s, i) for i, s in enumerate(shapes)),
        ops=(
            Op(
                name=symbol,
                kernel=Kernel("tvm", symbol, {}, moldable=True),
                inputs=tuple(range(last)),
                outputs=(last,),
                flops=0,
                nbytes=sum(sizes),
                origin="calibration",
                fingerprint="",
            ),
        ),
        inputs=tuple(range(last)),
        outputs=(last,),
        output_names=("y",),
    )
    schedule = (Placement(0, 0, 0, 0, threads),)
    plan = assemble(graph, schedule, streams=streams, partitioner="calibration")
    executor, inputs = session.executor(plan), list(random_inputs(plan).values())
    stamps = np.concatenate([executor.timeline(inputs, 1, _RUNS) for _ in range(_ROUNDS)])
    return float((stamps[..., 1] - stamps[..., 0]).min())
