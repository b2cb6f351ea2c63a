"""Let ops write their results where a concatenation wants them, so that it needs no copy.

Every part of a concatenation becomes a slice of the whole: the ops that write and read the part do
so with strides. That nests: in a dense block each layer's concatenation is itself a slice of the
next one, and all of them end in one buffer.

A concatenation stays a copying kernel where a part cannot be placed (inputs and constants of the
model, a part used twice, an address that would not be aligned, a part that is also read as rows
that do not fit), and where that saves nothing: oneDNN's primitives, except matrix products, write a
dense result first and copy it, and products into rows apart are slower than others. So most of the
bytes must come from generated kernels or from other concatenations.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from top_tvm.compiler.op_graph import Op, OpGraph, Value
from top_tvm.plan import ALIGNMENT_BYTES, DTYPE_BYTES
from top_tvm.strides import row_strides

# The op with kernels for other strides of its arguments.
Restride = Callable[[Op, tuple[tuple[int, ...], ...]], Op]


@dataclass(frozen=True)
class _Slice:
    """A storage as columns of another, in elements."""

    storage: int
    rows: int
    start: int
    pitch: int


def place_concats(
    graph: OpGraph, concats: set[int], restride: Restride
) -> tuple[OpGraph, tuple[int, ...]]:
    """Remove the concatenations whose parts can be written in place.

    Parameters
    ----------
    graph : OpGraph
        Ops ``concats`` have matrices of equally many rows as inputs, and write them side by side.
    concats : set of int
        Indices of ops.
    restride : callable
        Called with an op and the strides of all its arguments (inputs, then outputs; ``()`` for
        contiguous ones); returns it with the kernels that work on these.

    Returns
    -------
    OpGraph
        Without the concatenations that became unnecessary.
    tuple of int
        The indices that its ops had before.
    """
    return _Placing(graph, restride).run(concats)


class _Placing:
    def __init__(self, graph: OpGraph, restride: Restride) -> None:
        self.graph = graph
        self.restride = restride
        self.placed: dict[int, _Slice] = {}
        self.ops: dict[int, Op] = {}  # those whose arguments became slices
        self.users: defaultdict[int, set[int]] = defaultdict(set)  # ops by storage
        for index, op in enumerate(graph.ops):
            for value in (*op.inputs, *op.outputs):
                self.users[graph.values[value].storage].add(index)
        # Library by storage; concatenations are generated kernels, too.
        self.writers = {
            graph.values[value].storage: op.kernel.library
            for op in graph.ops
            for value in op.outputs
        }
        self.returned = {graph.values[value].storage for value in graph.outputs}

    def run(self, concats: set[int]) -> tuple[OpGraph, tuple[int, ...]]:
        removed: set[int] = set()
        # Backwards: where a whole is a part itself, the place of the larger whole is known first.
        for index in sorted(concats, reverse=True):
            if self._place(index, removed):
                removed.add(index)
        return self._rebuild(removed)

    def _place(self, concat: int, removed: set[int]) -> bool:
        op = self.graph.ops[concat]
        (output,) = op.outputs
        whole = self.graph.values[output]
        rows, pitch = whole.shape
        target = self.placed.get(whole.storage, _Slice(whole.storage, rows, 0, pitch))
        if target.rows != rows:
            return False
        storages = [self.graph.values[value].storage for value in op.inputs]
        if max(Counter(storages).values()) > 1 or not self._saves_copies(op):
            return False
        placed: dict[int, _Slice] = {}
        start = target.start
        for value, storage in zip(op.inputs, storages, strict=True):
            view = self.graph.values[value]
            movable = self.graph.storages[storage].kind == "intermediate"
            if not movable or storage in self.placed or storage in self.returned:
                return False
            if self.graph.is_slice(value):
                return False
            if start * DTYPE_BYTES[view.dtype] % ALIGNMENT_BYTES:
                return False
            placed[storage] = _Slice(target.storage, rows, start, target.pitch)
            start += view.shape[1]
        before = dict(self.placed)
        self.placed |= placed
        users = {user for storage in storages for user in self.users[storage]}
        ops = self._restrided(users - removed - {concat})
        if ops is None:
            self.placed = before
            return False
        self.ops |= ops
        return True

    def _saves_copies(self, concat: Op) -> bool:
        if self.graph.values[concat.outputs[0]].shape[0] == 1:
            return True  # parts one behind the other are dense
        saved = total = 0
        for value in concat.inputs:
            nbytes = self.graph.values[value].nbytes
            total += nbytes
            if self.writers.get(self.graph.values[value].storage) == "tvm":
                saved += nbytes
        return 2 * saved > total

    def _restrided(self, ops: set[int]) -> dict[int, Op] | None:
        """These ops for the slices as placed now; None where a view of one has no strides."""
        restrided = {}
        for index in sorted(ops):
            op = self.graph.ops[index]
            strides = []
            for value in (*op.inputs, *op.outputs):
                of_value = self._strides(self.graph.values[value])
                if of_value is None:
                    return None
                strides.append(of_value)
            restrided[index] = self.restride(op, tuple(strides))
        return restrided

    def _strides(self, value: Value) -> tuple[int, ...] | None:
        place = self.placed.get(value.storage)
        if place is None or place.rows == 1:
            return ()
        if value.nbytes != self.graph.storages[value.storage].nbytes:
            return None  # rows of what is columns itself
        return row_strides(value.shape, place.rows, place.pitch)

    def _rebuild(self, removed: set[int]) -> tuple[OpGraph, tuple[int, ...]]:
        graph = self.graph
        kept_ops = [index for index in range(len(graph.ops)) if index not in removed]
        used = {
            value
            for index in kept_ops
            for value in (*graph.ops[index].inputs, *graph.ops[index].outputs)
        }
        used |= {*graph.inputs, *graph.outputs}
        # The whole of every concatenation stays as what its slices are views of.
        wholes = (graph.ops[index].outputs[0] for index in removed)
        used |= {value for value in wholes if graph.values[value].storage not in self.placed}
        values = [index for index in range(len(graph.values)) if index in used]
        storages = [index for index in range(len(graph.storages)) if index not in self.placed]
        new_value = {old: new for new, old in enumerate(values)}
        new_storage = {old: new for new, old in enumerate(storages)}
        rebuilt = OpGraph(
            storages=tuple(graph.storages[index] for index in storages),
            values=tuple(self._moved(graph.values[index], new_storage) for index in values),
            ops=tuple(
                replace(
                    self.ops.get(index, graph.ops[index]),
                    inputs=tuple(new_value[value] for value in graph.ops[index].inputs),
                    outputs=tuple(new_value[value] for value in graph.ops[index].outputs),
                )
                for index in kept_ops
            ),
            inputs=tuple(new_value[value] for value in graph.inputs),
            outputs=tuple(new_value[value] for value in graph.outputs),
            output_names=graph.output_names,
        )
        return rebuilt, tuple(kept_ops)

    def _moved(self, value: Value, new_storage: Mapping[int, int]) -> Value:
        place = self.placed.get(value.storage)
        if place is None:
            return replace(value, storage=new_storage[value.storage])
        strides = self._strides(value)
        assert strides is not None, "only what can be a slice was placed"
        return replace(
            value,
            storage=new_storage[place.storage],
            offset=place.start * DTYPE_BYTES[value.dtype] + value.offset,
            strides=strides,
        )
