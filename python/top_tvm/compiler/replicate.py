"""Several instances of one op graph side by side, sharing nothing but constants."""

from __future__ import annotations

from dataclasses import replace

from top_tvm.compiler.op_graph import OpGraph, Storage, Value


def replicate(graph: OpGraph, count: int) -> OpGraph:
    """Disjoint union of ``count`` instances of a graph.

    The ops of instance ``i`` follow those of instance ``i - 1``; names and the keys of inputs and
    outputs get the suffix ``#i`` from the second instance on.
    """
    storages: list[Storage] = []
    values: list[Value] = []
    ops, inputs, outputs, names = [], [], [], []
    shared: dict[int, int] = {}  # constant storages of the first instance
    for instance in range(count):
        suffix = f"#{instance}" if instance else ""
        storage_of: dict[int, int] = {}
        for index, storage in enumerate(graph.storages):
            if index in shared:
                storage_of[index] = shared[index]
                continue
            storage_of[index] = len(storages)
            if storage.kind == "constant":
                shared[index] = len(storages)
                storages.append(storage)
            else:
                key = f"{storage.key}{suffix}" if storage.key else ""
                storages.append(replace(storage, key=key))
        first = len(values)
        for value in graph.values:
            name = f"{value.name}{suffix}"
            values.append(replace(value, name=name, storage=storage_of[value.storage]))
        for op in graph.ops:
            reads = tuple(first + value for value in op.inputs)
            writes = tuple(first + value for value in op.outputs)
            ops.append(replace(op, name=f"{op.name}{suffix}", inputs=reads, outputs=writes))
        inputs += [first + value for value in graph.inputs]
        outputs += [first + value for value in graph.outputs]
        names += [f"{name}{suffix}" for name in graph.output_names]
    return OpGraph(
        storages=tuple(storages),
        values=tuple(values),
        ops=tuple(ops),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        output_names=tuple(names),
    )
