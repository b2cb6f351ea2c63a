"""The op graph: fused operators, the values between them, and what each one costs to execute.

A *value* is a typed view; a *storage* is the memory behind one or more values (a reshape makes a
second value on the same storage). Dependencies follow storages: an op depends on the op that wrote
the storage it reads. Every storage has at most one writer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from top_tvm.errors import GraphError
from top_tvm.plan import DTYPE_BYTES, Kernel

StorageKind = Literal["input", "output", "constant", "intermediate"]


@dataclass(frozen=True)
class Storage:
    """Memory behind values: ``key`` is the ONNX name (input, output) or the constant's key."""

    kind: StorageKind
    key: str
    nbytes: int


@dataclass(frozen=True)
class Value:
    """Contiguous typed view of a whole storage."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    storage: int


@dataclass(frozen=True)
class Op:
    """One kernel call after fusion.

    ``inputs`` and ``outputs`` index ``OpGraph.values``; ``origin`` names the ONNX nodes or Relax
    operators it came from; ``fingerprint`` identifies kernel + shapes for the profile cache.
    """

    name: str
    kernel: Kernel
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    flops: int
    nbytes: int
    origin: str
    fingerprint: str


@dataclass(frozen=True)
class OpGraph:
    """DAG of ops in a topological order.

    Attributes
    ----------
    storages, values, ops : tuple
        All memory, all typed views of it, and the ops that use them.
    inputs, outputs : tuple of int
        Indices into ``values``, in the order of the model.
    output_names : tuple of str
        ONNX name per output. One value may be output under several names, and may lie in memory of
        any kind: what is not in an output's own memory is copied after each run.
    """

    storages: tuple[Storage, ...]
    values: tuple[Value, ...]
    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    output_names: tuple[str, ...]

    def edges(self) -> tuple[tuple[int, int], ...]:
        """Dependencies as sorted, distinct pairs (producer, consumer) of indices into ``ops``."""
        return tuple(
            sorted(
                (before, op) for op, needed in enumerate(self.dependencies()) for before in needed
            )
        )

    def dependencies(self) -> tuple[tuple[int, ...], ...]:
        """For each op the ops whose results it reads, ascending."""
        writers = self.writers()
        return tuple(
            tuple(sorted({writers[storage] for storage in storages if storage in writers}))
            for storages in ({self.values[value].storage for value in op.inputs} for op in self.ops)
        )

    def writers(self) -> dict[int, int]:
        """Index of the op that writes a storage, by index of the storage."""
        return {
            self.values[value].storage: index
            for index, op in enumerate(self.ops)
            for value in op.outputs
        }

    def validate(self) -> None:
        """Check the graph's structure and costs.

        Raises
        ------
        GraphError
            Naming the op, value or storage at fault.
        """
        _check_storages(self)
        _check_values(self)
        _check_ops(self)
        _check_order(self)
        _check_boundary(self)


def _check_storages(graph: OpGraph) -> None:
    seen: set[tuple[str, str]] = set()
    for index, storage in enumerate(graph.storages):
        place = f"storage {index} ({storage.kind} {storage.key!r})"
        if storage.nbytes < 0:
            raise GraphError(f"{place}: nbytes is {storage.nbytes}")
        if storage.kind == "intermediate":
            continue
        if not storage.key:
            raise GraphError(f"{place}: key is empty")
        if (storage.kind, storage.key) in seen:
            raise GraphError(f"{place}: another {storage.kind} has the same key")
        seen.add((storage.kind, storage.key))


def _check_values(graph: OpGraph) -> None:
    for index, value in enumerate(graph.values):
        place = f"value {index} ({value.name!r})"
        if not 0 <= value.storage < len(graph.storages):
            raise GraphError(f"{place}: storage {value.storage} does not exist")
        if value.dtype not in DTYPE_BYTES:
            known = ", ".join(DTYPE_BYTES)
            raise GraphError(f"{place}: dtype {value.dtype!r} is not supported; known: {known}")
        if any(dim < 0 for dim in value.shape):
            raise GraphError(f"{place}: shape {value.shape} has a negative dimension")
        nbytes = math.prod(value.shape) * DTYPE_BYTES[value.dtype]
        if nbytes != graph.storages[value.storage].nbytes:
            raise GraphError(
                f"{place}: {value.dtype}{list(value.shape)} has {nbytes} bytes, its storage "
                f"{graph.storages[value.storage].nbytes}"
            )


def _check_ops(graph: OpGraph) -> None:
    names: set[str] = set()
    for index, op in enumerate(graph.ops):
        place = f"op {index} ({op.name!r})"
        if not op.name or op.name in names:
            raise GraphError(f"{place}: the name is empty or that of another op")
        names.add(op.name)
        for value in (*op.inputs, *op.outputs):
            if not 0 <= value < len(graph.values):
                raise GraphError(f"{place}: value {value} does not exist")
        if not op.outputs:
            raise GraphError(f"{place}: writes nothing")
        for cost in ("flops", "nbytes"):
            if getattr(op, cost) < 0:
                raise GraphError(f"{place}: {cost} is {getattr(op, cost)}")


def _check_order(graph: OpGraph) -> None:
    """Every storage has one writer, which comes before its readers."""
    writer: dict[int, str] = {}
    for op in graph.ops:
        for value in op.inputs:
            storage = graph.values[value].storage
            if graph.storages[storage].kind in ("intermediate", "output") and storage not in writer:
                raise GraphError(
                    f"op {op.name!r}: reads value {graph.values[value].name!r} before any op has "
                    "written it; ops must be in a topological order"
                )
        for value in op.outputs:
            storage = graph.values[value].storage
            kind = graph.storages[storage].kind
            name = graph.values[value].name
            if kind in ("input", "constant"):
                raise GraphError(f"op {op.name!r}: writes value {name!r}, which is {kind} memory")
            if storage in writer:
                raise GraphError(
                    f"op {op.name!r}: writes value {name!r}, whose storage op {writer[storage]!r} "
                    "has written already"
                )
            writer[storage] = op.name
    for index, stored in enumerate(graph.storages):
        if stored.kind in ("intermediate", "output") and index not in writer:
            raise GraphError(f"storage {index} ({stored.kind} {stored.key!r}): no op writes it")


def _check_boundary(graph: OpGraph) -> None:
    for value in (*graph.inputs, *graph.outputs):
        if not 0 <= value < len(graph.values):
            raise GraphError(f"value {value}, an input or output of the graph, does not exist")
    given = [graph.values[value].storage for value in graph.inputs]
    expected = [index for index, s in enumerate(graph.storages) if s.kind == "input"]
    if sorted(given) != expected:
        raise GraphError(f"inputs lie in storages {given}, but the input storages are {expected}")
    _check_outputs(graph)


def _check_outputs(graph: OpGraph) -> None:
    names = graph.output_names
    if len(names) != len(graph.outputs):
        raise GraphError(f"the graph has {len(graph.outputs)} outputs, but {len(names)} names")
    if len(set(names)) != len(names) or "" in names:
        raise GraphError(f"the output names {names} are not distinct and non-empty")
    stored = {graph.values[value].storage for value in graph.outputs}
    for index, storage in enumerate(graph.storages):
        if storage.kind == "output" and index not in stored:
            raise GraphError(f"storage {index} (output {storage.key!r}): no output lies in it")
