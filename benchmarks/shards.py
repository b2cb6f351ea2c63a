"""Two ways of giving a convolution several cores: oneDNN's threads, or one shard of rows per core.

    python benchmarks/shards.py --models squeezenet,resnet50 --streams 2

A shard is an ordinary op on one thread: a range of output rows, computed from the input rows that
it needs, with padding only at the outer edges. It would let partitioners overlap neighbouring
layers. Each distinct convolution of the models is timed alone, in turns, in three forms: on all
threads ("gang"), as shards side by side, and on one thread; the last divided by the number of
threads is what a perfect split would take. Times are in microseconds, 20th percentiles.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from top_tvm.compiler.assemble import assemble
from top_tvm.compiler.build import compile_model
from top_tvm.compiler.light_models import LIGHT_MODELS, light_model
from top_tvm.compiler.op_graph import Op, OpGraph, Storage, Value
from top_tvm.compiler.partition import Placement
from top_tvm.compiler.session import Session
from top_tvm.plan import ALIGNMENT_BYTES
from top_tvm.random_inputs import random_inputs

ROUNDS, RUNS = 10, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="squeezenet,inception_v1,resnet50", metavar="LIST")
    parser.add_argument("--streams", type=int, default=2)
    options = parser.parse_args()
    print("| model | convolutions | gang | shards | one thread / streams | shards / gang |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in options.models.split(","):
        if name not in LIGHT_MODELS:
            parser.error(f"no model {name!r}; there are: {', '.join(LIGHT_MODELS)}")
        totals = measure_model(name, options.streams)
        count, gang, shards, single = totals
        cells = f"{count} | {gang:.0f} | {shards:.0f} | {single / options.streams:.0f}"
        print(f"| {name} | {cells} | {shards / gang:.3f} |", flush=True)


def measure_model(name: str, streams: int) -> tuple[int, float, float, float]:
    """Number of convolutions that can be cut, and the summed times of the three forms."""
    compilation = compile_model(light_model(name), streams=streams)
    graph = compilation.graphs[0].extracted.graph
    known: dict[str, tuple[float, float, float]] = {}
    totals, count = np.zeros(3), 0
    for op in graph.ops:
        if op.kernel.symbol != "conv2d" or len(op.inputs) > 3:
            continue
        if op.fingerprint not in known:
            shards = row_shards(graph, op, streams)
            if shards is None:
                continue
            whole = alone(graph, op)
            known[op.fingerprint] = measure_forms(compilation.session, whole, shards, streams)
        totals += known[op.fingerprint]
        count += 1
    gang, beside, single = totals
    return count, gang, beside, single


def alone(graph: OpGraph, op: Op) -> OpGraph:
    """A graph of nothing but this op, with contiguous data and result."""
    return cut(graph, op, [(op.kernel.attributes, None, None)])


def row_shards(graph: OpGraph, op: Op, count: int) -> OpGraph | None:
    """The op as shards of its output rows; None where rows are too few or not aligned."""
    data, result = graph.values[op.inputs[0]], graph.values[op.outputs[0]]
    weight = graph.values[op.inputs[1]]
    attributes = op.kernel.attributes
    (stride, _), (dilation, _) = attributes["strides"], attributes["dilation"]
    top, left, _, right = attributes["padding"]
    height, rows = data.shape[1], result.shape[1]
    reach = (weight.shape[2] - 1) * dilation + 1
    pieces = []
    for shard in range(count):
        begin, end = rows * shard // count, rows * (shard + 1) // count
        first, last = begin * stride - top, (end - 1) * stride - top + reach
        padding = (max(0, -first), left, max(0, last - height), right)
        inputs = (max(0, first), min(height, last))
        pieces.append((attributes | {"padding": padding}, inputs, (begin, end)))
    row_bytes = [4 * np.prod(value.shape[2:]) for value in (data, result)]
    if data.shape[0] != 1 or rows < count or any(size % ALIGNMENT_BYTES for size in row_bytes):
        return None
    return cut(graph, op, pieces)


def cut(graph: OpGraph, op: Op, pieces: Sequence[tuple]) -> OpGraph:
    """One op per piece: its attributes, its rows of the data and of the result."""
    data, result = graph.values[op.inputs[0]], graph.values[op.outputs[0]]
    constants = [graph.values[value] for value in op.inputs[1:]]
    keys = [graph.storages[value.storage] for value in constants]
    storages = (Storage("input", "x", data.nbytes), Storage("output", "y", result.nbytes), *keys)
    fixed = [replace(value, storage=2 + index) for index, value in enumerate(constants)]
    x = Value("x", data.dtype, data.shape, 0)
    y = Value("y", result.dtype, result.shape, 1)
    values, ops = [x, y, *fixed], []
    weights = tuple(range(2, 2 + len(fixed)))
    for number, (attributes, read, written) in enumerate(pieces):
        source = rows_of(x, read, f"x{number}")
        target = rows_of(y, written, f"y{number}")
        values += [source, target]
        ops.append(
            replace(
                op,
                name=f"conv_{number}",
                kernel=replace(op.kernel, attributes=attributes),
                inputs=(len(values) - 2, *weights),
                outputs=(len(values) - 1,),
            )
        )
    return OpGraph(storages, tuple(values), tuple(ops), (0,), (1,), ("y",))


def rows_of(value: Value, rows: tuple[int, int] | None, name: str) -> Value:
    if rows is None:
        return replace(value, name=name)
    row_bytes = value.nbytes // value.shape[1]
    shape = (value.shape[0], rows[1] - rows[0], *value.shape[2:])
    return replace(value, name=name, shape=shape, offset=rows[0] * row_bytes)


def measure_forms(
    session: Session, whole: OpGraph, shards: OpGraph, streams: int
) -> tuple[float, float, float]:
    """Time of the gang form, of the shards and of one thread."""
    beside = [Placement(index, 0, index, index, 1) for index in range(streams)]
    plans = [
        assemble(graph, tuple(schedule), streams=streams, partitioner="shards")
        for graph, schedule in (
            (whole, [Placement(0, 0, 0, 0, streams)]),
            (shards, beside),
            (whole, [Placement(0, 0, 0, 0, 1)]),
        )
    ]
    executors = [session.executor(plan) for plan in plans]
    inputs = list(random_inputs(plans[0]).values())
    samples: list[list[float]] = [[] for _ in plans]
    for _ in range(ROUNDS):
        for executor, times_us in zip(executors, samples, strict=True):
            times_us += list(executor.time(inputs, 2, RUNS))
    gang, shard, single = (float(np.percentile(times_us, 20)) for times_us in samples)
    return gang, shard, single


if __name__ == "__main__":
    main()
