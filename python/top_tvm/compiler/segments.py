"""Cut an op graph into consecutive segments: graphs of their own, linked by the names of tensors.

What one segment writes and another reads is an output of the first and an input of the second,
under the same name. A graph cannot be cut everywhere: what is written piece by piece (the parts of
a concatenation) must be complete, and is then only read as a whole, or as parts that are contiguous
in memory, as inputs of plans have no strides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from top_tvm.compiler.assemble import unused_name
from top_tvm.compiler.op_graph import OpGraph, Storage, Value


@dataclass
class _Uses:
    """Ops that write and read a storage, as far as cuts are concerned."""

    first_write: int
    last_write: int
    last_read: int = -1
    last_strided_read: int = -1


def cut_positions(graph: OpGraph) -> tuple[int, ...]:
    """Ops at which a segment may begin, ascending."""
    forbidden: set[int] = set()
    for storage, uses in _uses(graph).items():
        held = max(uses.last_write, uses.last_strided_read)
        view = _boundary_value(graph, storage)
        if view is not None and view.nbytes != graph.storages[storage].nbytes:
            held = max(held, uses.last_read)  # an output that is only a part of its memory
        forbidden |= set(range(uses.first_write + 1, held + 1))
    return tuple(at for at in range(1, len(graph.ops)) if at not in forbidden)


def split_graph(graph: OpGraph, bounds: Sequence[int]) -> tuple[OpGraph, ...]:
    """Make a graph of every segment.

    Parameters
    ----------
    graph : OpGraph
        A whole model.
    bounds : sequence of int
        Segment s has the ops from ``bounds[s]`` to ``bounds[s + 1]``. All but the first and the
        last are of :func:`cut_positions`.

    Returns
    -------
    tuple of OpGraph
        Every input of a segment is an input of the model or an output of an earlier segment. Every
        output of the model is an output of one segment, namely of the one that writes it; what is
        an input, a constant or another name for the same value, is one of the last segment.
    """
    if len(bounds) == 2:
        return (graph,)
    return _Splitting(graph, bounds).run()


def _uses(graph: OpGraph) -> dict[int, _Uses]:
    """By storage that ops write. What stands for a further output is read behind all ops."""
    found: dict[int, _Uses] = {}
    for index, op in enumerate(graph.ops):
        for value in op.inputs:
            if (uses := found.get(graph.values[value].storage)) is not None:
                uses.last_read = index
                if graph.values[value].strides:
                    uses.last_strided_read = index
        for value in op.outputs:
            storage = graph.values[value].storage
            found.setdefault(storage, _Uses(index, index)).last_write = index
    for value, name in zip(graph.outputs, graph.output_names, strict=True):
        storage = graph.values[value].storage
        if storage in found and not _is_own(graph, value, name):
            found[storage].last_read = len(graph.ops)
    return found


def _is_own(graph: OpGraph, value: int, name: str) -> bool:
    """Whether an output lies in memory of its own: ops write it where it is wanted."""
    storage = graph.storages[graph.values[value].storage]
    return storage.kind == "output" and storage.key == name


def _boundary_value(graph: OpGraph, storage: int) -> Value | None:
    """The output of the model that lies in a storage of its own."""
    for value, name in zip(graph.outputs, graph.output_names, strict=True):
        if graph.values[value].storage == storage and _is_own(graph, value, name):
            return graph.values[value]
    return None


class _Splitting:
    def __init__(self, graph: OpGraph, bounds: Sequence[int]) -> None:
        self.graph = graph
        self.bounds = bounds
        self.uses = _uses(graph)
        # By storage that crosses a cut, or is an output: how the segments see all of it.
        self.boundary: dict[int, Value] = {}
        taken = {graph.storages[graph.values[value].storage].key for value in graph.inputs}
        taken |= set(graph.output_names)
        for storage, uses in self.uses.items():
            own = _boundary_value(graph, storage)
            if own is not None:
                self.boundary[storage] = replace(own, name=graph.storages[storage].key)
            elif any(uses.last_write < at <= uses.last_read for at in bounds[1:-1]):
                whole = self._whole(storage)
                self.boundary[storage] = replace(whole, name=unused_name(whole.name, taken))
                taken.add(self.boundary[storage].name)

    def run(self) -> tuple[OpGraph, ...]:
        return tuple(self._segment(first, last) for first, last in pairwise(self.bounds))

    def _whole(self, storage: int) -> Value:
        """A view of all of a storage, of a type that arrays have."""
        graph = self.graph
        written = (value for op in graph.ops for value in op.outputs)
        for index in (*written, *range(len(graph.values))):
            value = graph.values[index]
            if value.storage == storage and not graph.is_slice(index):
                # NumPy has no bfloat16: there the boundary is an array of its bits.
                dtype = "uint16" if value.dtype == "bfloat16" else value.dtype
                return Value(value.name, dtype, value.shape, storage)
        return Value("", "uint8", (graph.storages[storage].nbytes,), storage)

    def _segment(self, first: int, last: int) -> OpGraph:
        graph = self.graph
        ops = graph.ops[first:last]
        used = sorted({value for op in ops for value in (*op.inputs, *op.outputs)})
        written = {graph.values[value].storage for op in ops for value in op.outputs}
        inputs: list[Value] = []
        outputs: list[tuple[str, Value]] = []
        if last == len(graph.ops):
            for index, name in zip(graph.outputs, graph.output_names, strict=True):
                if not _is_own(graph, index, name):
                    outputs.append((name, graph.values[index]))
        touched = {graph.values[value].storage for value in used}
        touched |= {value.storage for _, value in outputs}
        for index in graph.inputs:
            if graph.values[index].storage in touched:
                inputs.append(graph.values[index])
        for storage, value in self.boundary.items():
            if storage in written and self._leaves(storage, last):
                outputs.append((value.name, value))
            elif storage in touched and storage not in written:
                inputs.append(value)
        return self._rebuild(first, last, used, inputs, outputs)

    def _leaves(self, storage: int, last: int) -> bool:
        """Whether what a segment that ends at ``last`` writes is wanted outside."""
        own = _boundary_value(self.graph, storage) is not None
        return own or self.uses[storage].last_read >= last

    def _rebuild(
        self,
        first: int,
        last: int,
        used: Sequence[int],
        inputs: Sequence[Value],
        outputs: Sequence[tuple[str, Value]],
    ) -> OpGraph:
        values: list[Value] = []
        storages: list[Storage] = []
        index_of_view: dict[Value, int] = {}
        index_of_storage: dict[int, int] = {}
        read = {value.storage: value.name for value in inputs}
        left = {value.storage: name for name, value in outputs if value.storage not in read}

        def add(value: Value) -> int:
            if value.storage not in index_of_storage:
                index_of_storage[value.storage] = len(storages)
                storages.append(self._storage(value.storage, read, left))
            view = replace(value, name="")
            if view not in index_of_view:
                index_of_view[view] = len(values)
                values.append(replace(value, storage=index_of_storage[value.storage]))
            return index_of_view[view]

        new_value = {value: add(self.graph.values[value]) for value in used}
        return OpGraph(
            inputs=tuple(add(value) for value in inputs),
            outputs=tuple(add(value) for _, value in outputs),
            output_names=tuple(name for name, _ in outputs),
            ops=tuple(
                replace(
                    op,
                    inputs=tuple(new_value[value] for value in op.inputs),
                    outputs=tuple(new_value[value] for value in op.outputs),
                )
                for op in self.graph.ops[first:last]
            ),
            storages=tuple(storages),
            values=tuple(values),
        )

    def _storage(self, index: int, read: dict[int, str], left: dict[int, str]) -> Storage:
        storage = self.graph.storages[index]
        if storage.kind in ("constant", "input"):
            return storage
        if index in read:
            return Storage("input", read[index], storage.nbytes)
        if index in self.boundary and index in left:
            return Storage("output", self.boundary[index].name, storage.nbytes)
        return Storage("intermediate", "", storage.nbytes)
