"""From an op graph and a schedule to a plan: waits, arena offsets, and the flat list of calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from top_tvm import _native
from top_tvm.compiler.op_graph import OpGraph
from top_tvm.errors import PartitionError, PlanError
from top_tvm.plan import Call, Kernel, Plan, Tensor

if TYPE_CHECKING:
    from top_tvm.compiler.partition import Schedule


def assemble(
    graph: OpGraph,
    schedule: Schedule,
    *,
    streams: int,
    partitioner: str,
    batch: int = 1,
    predicted_us: float = 0.0,
    measured_us: float = 0.0,
) -> Plan:
    """Make the plan that executes a graph by a schedule.

    Parameters
    ----------
    graph : OpGraph
        What to execute.
    schedule : Schedule
        Where and when, in issue order.
    streams : int
        Number of streams that the schedule was made for.
    partitioner : str
        Name of what made the schedule.
    batch : int
        Batch size of the graph.
    predicted_us, measured_us : float
        Time of one run in microseconds, 0 when unknown.

    Returns
    -------
    Plan
        Validated.

    Raises
    ------
    GraphError
        If the graph is not valid.
    PartitionError
        If the schedule does not execute every op once, after what it depends on.
    PlanError
        If the plan is not valid, e.g. has threads that are neither 1 nor ``streams``.
    """
    graph.validate()
    waits = _waits(graph, schedule, streams)
    offsets, arena_bytes = _arena(graph, schedule, waits, streams)
    kernels, kernel_of_op = _distinct_kernels(graph)
    tensors, outputs = _tensors(graph, offsets)
    calls = tuple(
        Call(
            op=graph.ops[placement.op].name,
            kernel=kernel_of_op[placement.op],
            args=graph.ops[placement.op].inputs + graph.ops[placement.op].outputs,
            num_outputs=len(graph.ops[placement.op].outputs),
            stage=placement.stage,
            group=placement.group,
            stream=placement.stream,
            threads=placement.threads,
            waits=waited,
        )
        for placement, waited in zip(schedule, waits, strict=True)
    )
    plan = Plan(
        batch=batch,
        streams=streams,
        partitioner=partitioner,
        tensors=tensors,
        kernels=kernels,
        calls=calls,
        inputs=graph.inputs,
        outputs=outputs,
        arena_bytes=arena_bytes,
        predicted_us=predicted_us,
        measured_us=measured_us,
    )
    plan.validate()
    return plan


def _waits(graph: OpGraph, schedule: Schedule, streams: int) -> list[tuple[int, ...]]:
    times = Counter(placement.op for placement in schedule)
    for op in times:
        if not 0 <= op < len(graph.ops):
            raise PartitionError(f"the schedule has op {op}, but the graph {len(graph.ops)} ops")
    for op, node in enumerate(graph.ops):
        if times[op] != 1:
            raise PartitionError(f"the schedule has op {node.name!r} {times[op]} times, not once")
    fields = [(p.op, p.stage, p.group, p.stream, p.threads) for p in schedule]
    try:
        waits = _native.derive_waits(len(graph.ops), graph.edges(), fields, streams)
    except ValueError as error:
        raise PartitionError(str(error)) from error
    return [tuple(sorted(positions)) for positions in waits]


def _arena(
    graph: OpGraph, schedule: Schedule, waits: list[tuple[int, ...]], streams: int
) -> tuple[dict[int, int], int]:
    """Offset of every intermediate storage, and the size of the arena."""
    writers: dict[int, list[int]] = {}
    readers: dict[int, list[int]] = {}
    for position, placement in enumerate(schedule):
        op = graph.ops[placement.op]
        for value in op.outputs:
            writers.setdefault(graph.values[value].storage, []).append(position)
        for storage in {graph.values[value].storage for value in op.inputs}:
            readers.setdefault(storage, []).append(position)
    # Outputs that stay in the arena are read once more, when all calls have finished.
    finish = len(schedule)
    for value in graph.outputs:
        readers.setdefault(graph.values[value].storage, []).append(finish)
    calls = [(p.stream, p.threads, waited) for p, waited in zip(schedule, waits, strict=True)]
    calls.append((0, streams, ()))
    intermediates = [i for i, s in enumerate(graph.storages) if s.kind == "intermediate"]
    try:
        offsets, arena_bytes, _ = _native.plan_arena(
            streams,
            calls,
            [(graph.storages[i].nbytes, writers[i], readers.get(i, [])) for i in intermediates],
        )
    except ValueError as error:
        raise PlanError(f"arena: {error}") from error
    return dict(zip(intermediates, offsets, strict=True)), arena_bytes


def _distinct_kernels(graph: OpGraph) -> tuple[tuple[Kernel, ...], list[int]]:
    """Kernels without repetition, and the index of each op's kernel."""
    kernels: list[Kernel] = []
    index: dict[object, int] = {}
    kernel_of_op = []
    for op in graph.ops:
        kernel = op.kernel
        attributes = tuple(sorted(kernel.attributes.items()))
        identity = (kernel.library, kernel.symbol, attributes, kernel.moldable)
        if identity not in index:
            index[identity] = len(kernels)
            kernels.append(kernel)
        kernel_of_op.append(index[identity])
    return tuple(kernels), kernel_of_op


def _tensors(graph: OpGraph, offsets: dict[int, int]) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """One tensor per value, under the same index, and those that carry the outputs' names."""
    inputs = {value: graph.storages[graph.values[value].storage].key for value in graph.inputs}
    taken = {*inputs.values(), *graph.output_names}
    names = dict(inputs)
    for index, name in zip(graph.outputs, graph.output_names, strict=True):
        names.setdefault(index, name)
    for index, value in enumerate(graph.values):
        if index not in names:
            names[index] = unused_name(value.name, taken)
            taken.add(names[index])

    tensors = _views(graph, offsets, names)
    outputs = []
    for index, name in zip(graph.outputs, graph.output_names, strict=True):
        if tensors[index].name == name:
            outputs.append(index)
            continue
        # The value is an input as well, or has several names: each name gets a tensor.
        outputs.append(len(tensors))
        alias = replace(tensors[index], name=name)
        if alias.space == "arena" and not alias.storage:
            alias = replace(alias, storage=names[index])
        tensors.append(alias)
    return tuple(tensors), tuple(outputs)


def _views(graph: OpGraph, offsets: dict[int, int], names: dict[int, str]) -> list[Tensor]:
    """One tensor per value. One of each storage stands for it; the others are views of that."""
    written = (value for op in graph.ops for value in op.outputs)
    owners: dict[int, int] = {}
    for index in (*written, *range(len(graph.values))):
        if not graph.is_slice(index):
            owners.setdefault(graph.values[index].storage, index)
    tensors = []
    for index, value in enumerate(graph.values):
        storage = graph.storages[value.storage]
        tensor = Tensor(names[index], value.dtype, value.shape, "arena", "", 0, value.strides)
        if storage.kind == "intermediate":
            owner = owners[value.storage]
            viewed = "" if index == owner else names[owner]
            offset = offsets[value.storage] + value.offset
            tensors.append(replace(tensor, storage=viewed, offset=offset))
        else:
            tensors.append(
                replace(tensor, space=storage.kind, storage=storage.key, offset=value.offset)
            )
    return tensors


def unused_name(name: str, taken: Iterable[str]) -> str:
    """The name, with a number if it is empty or taken."""
    candidate, number = name, 1
    while not candidate or candidate in taken:
        number += 1
        candidate = f"{name}.{number}"
    return candidate
