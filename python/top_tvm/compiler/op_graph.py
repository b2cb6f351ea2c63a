"""The op graph: fused operators, the values between them, and what each one costs to execute.

A *value* is a typed view; a *storage* is the memory behind one or more values (a reshape makes a
second value on the same storage). Most values are all of their storage. Others are a *slice*: a
range of columns of the storage seen as a matrix, such as one part of a concatenation. Dependencies
follow memory: an op depends on the ops that wrote what it reads. Nothing is written twice.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from top_tvm.errors import GraphError
from top_tvm.plan import ALIGNMENT_BYTES, DTYPE_BYTES, Kernel
from top_tvm.strides import rows_of

StorageKind = Literal["input", "output", "constant", "intermediate"]


@dataclass(frozen=True)
class Storage:
    """Memory behind values: ``key`` is the ONNX name (input, output) or the constant's key."""

    kind: StorageKind
    key: str
    nbytes: int


@dataclass(frozen=True)
class Value:
    """Typed view of a storage.

    A slice has an ``offset`` in bytes and, unless its rows are one, ``strides`` in elements.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    storage: int
    offset: int = 0
    strides: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        """Size of the elements in bytes."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class Op:
    """One kernel call after fusion.

    ``inputs`` and ``outputs`` index ``OpGraph.values``; ``origin`` names the ONNX nodes or Relax
    operators it came from; ``fingerprint`` identifies kernel + shapes for the profile cache.
    ``alternatives`` compute the same from the same arguments; measurement decides.
    """

    name: str
    kernel: Kernel
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    flops: int
    nbytes: int
    origin: str
    fingerprint: str
    alternatives: tuple[Kernel, ...] = ()


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
        written: defaultdict[int, list[tuple[range, int]]] = defaultdict(list)
        for index, op in enumerate(self.ops):
            for value in op.outputs:
                written[self.values[value].storage].append((self.columns(value), index))
        return tuple(
            tuple(
                sorted(
                    {
                        writer
                        for value in op.inputs
                        for columns, writer in written[self.values[value].storage]
                        if _overlap(columns, self.columns(value))
                    }
                )
            )
            for op in self.ops
        )

    def columns(self, value: int) -> range:
        """Bytes that a value takes of every row of its storage; all for what is no slice."""
        view = self.values[value]
        if not self.is_slice(value):
            return range(max(self.storages[view.storage].nbytes, 1))
        width = rows_of(view.shape, view.strides).width * DTYPE_BYTES[view.dtype]
        return range(view.offset, view.offset + width)

    def is_slice(self, value: int) -> bool:
        """Whether a value is only a part of its storage."""
        view = self.values[value]
        return view.nbytes != self.storages[view.storage].nbytes

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


def _overlap(one: range, other: range) -> int:
    """Length of what two ranges have in common."""
    return max(0, min(one.stop, other.stop) - max(one.start, other.start))


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
        nbytes = graph.storages[value.storage].nbytes
        if not value.strides and value.offset == 0 and value.nbytes == nbytes:
            continue
        if not value.strides and value.offset == 0 and value.nbytes > nbytes:
            raise GraphError(
                f"{place}: {value.dtype}{list(value.shape)} has {value.nbytes} bytes, its storage "
                f"{nbytes}"
            )
        _check_slice(place, value, nbytes)


def _check_slice(place: str, value: Value, nbytes: int) -> None:
    """A slice is aligned and as many columns as it says of a matrix that fills the storage."""
    try:
        rows = rows_of(value.shape, value.strides)
    except ValueError as error:
        raise GraphError(f"{place}: strides {value.strides}: {error}") from error
    size = DTYPE_BYTES[value.dtype]
    if value.offset < 0 or value.offset % ALIGNMENT_BYTES:
        raise GraphError(f"{place}: offset {value.offset} is no multiple of {ALIGNMENT_BYTES}")
    pitch = rows.pitch * size if rows.count > 1 else nbytes
    if value.offset + rows.width * size > pitch or rows.count * pitch != nbytes:
        raise GraphError(
            f"{place}: {rows.count} rows of {rows.width} elements from byte {value.offset} on are "
            f"no columns of a storage of {nbytes} bytes"
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
    """All memory is written once, before it is read."""
    writers: defaultdict[int, list[tuple[range, str]]] = defaultdict(list)
    pitches = _pitches(graph)
    for op in graph.ops:
        for value in op.inputs:
            storage = graph.values[value].storage
            if graph.storages[storage].kind in ("input", "constant"):
                continue
            wanted = graph.columns(value)[: pitches[storage]]
            written = (columns for columns, _ in writers[storage])
            # Nothing is written twice: what the writers have in common with it must add up to it.
            if sum(_overlap(columns, wanted) for columns in written) != len(wanted):
                raise GraphError(
                    f"op {op.name!r}: reads value {graph.values[value].name!r} before any op has "
                    "written it; ops must be in a topological order"
                )
        for value in op.outputs:
            storage = graph.values[value].storage
            _check_write(graph, op, value, writers[storage])
            writers[storage].append((graph.columns(value), op.name))
    for index, stored in enumerate(graph.storages):
        if stored.kind in ("intermediate", "output") and not writers[index]:
            raise GraphError(f"storage {index} ({stored.kind} {stored.key!r}): no op writes it")


def _check_write(graph: OpGraph, op: Op, value: int, writers: list[tuple[range, str]]) -> None:
    view = graph.values[value]
    kind = graph.storages[view.storage].kind
    if kind in ("input", "constant"):
        raise GraphError(f"op {op.name!r}: writes value {view.name!r}, which is {kind} memory")
    for columns, other in writers:
        if _overlap(columns, graph.columns(value)):
            raise GraphError(
                f"op {op.name!r}: writes value {view.name!r}, whose storage op {other!r} "
                "has written already"
            )


def _pitches(graph: OpGraph) -> list[int]:
    """Bytes from one row of each storage to the next, as its slices see it."""
    pitches = [max(storage.nbytes, 1) for storage in graph.storages]
    for value in graph.values:
        if value.strides:
            size = DTYPE_BYTES[value.dtype]
            pitches[value.storage] = rows_of(value.shape, value.strides).pitch * size
    return pitches


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
