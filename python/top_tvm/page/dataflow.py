"""What a plan says between its lines: which call hands values to which, and what memory is live."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from top_tvm.plan import DTYPE_BYTES, Plan, Tensor
from top_tvm.strides import rows_of

Interval = tuple[float, float]


@dataclass(frozen=True)
class Lifetime:
    """Bytes of the arena from the first call that writes them to the last call that uses them.

    Attributes
    ----------
    nbytes : int
        Size.
    calls : tuple of int
        All calls that write or read them; empty if none does.
    output : bool
        Whether they are read once more when all calls have finished.
    """

    nbytes: int
    calls: tuple[int, ...]
    output: bool


def predecessors(plan: Plan) -> list[list[int]]:
    """For every call, the calls whose results it reads, ascending.

    A part of a concatenation is read from the call that wrote that part, not from all its writers.
    """
    wholes = {t.name: t for t in plan.tensors if t.space == "arena" and not t.storage}
    writers: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
    found = []
    for index, call in enumerate(plan.calls):
        split = len(call.args) - call.num_outputs
        sources = set()
        for tensor in (plan.tensors[argument] for argument in call.args[:split]):
            first, last = _columns(tensor, wholes)
            for writer, start, end in writers.get(_memory(tensor), ()):
                if start < last and first < end:
                    sources.add(writer)
        found.append(sorted(sources))
        for tensor in (plan.tensors[argument] for argument in call.args[split:]):
            writers.setdefault(_memory(tensor), []).append((index, *_columns(tensor, wholes)))
    return found


def lifetimes(plan: Plan) -> list[Lifetime]:
    """Every piece of the arena that the planner placed, in the order of the plan's tensors."""
    users: dict[str, set[int]] = {}
    for index, call in enumerate(plan.calls):
        for tensor in (plan.tensors[argument] for argument in call.args):
            if tensor.space == "arena":
                users.setdefault(_memory(tensor)[1], set()).add(index)
    outputs = {_memory(t)[1] for t in (plan.tensors[i] for i in plan.outputs) if t.space == "arena"}
    return [
        Lifetime(tensor.extent_bytes, tuple(sorted(users.get(name, ()))), name in outputs)
        for tensor, name in ((t, t.name) for t in plan.tensors if t.space == "arena")
        if not tensor.storage
    ]


def live_bytes(pieces: Sequence[Lifetime], times_us: Sequence[Interval]) -> list[tuple[float, int]]:
    """Bytes of the arena in use over time.

    Parameters
    ----------
    pieces : sequence of Lifetime
        What :func:`lifetimes` gives.
    times_us : sequence of (float, float)
        Start and end of every call.

    Returns
    -------
    list of (float, int)
        Time in microseconds to the nanosecond, ascending, and the bytes from then on.
    """
    changes: dict[float, int] = {}
    finish = max((end for _, end in times_us), default=0.0)
    for piece in pieces:
        if not piece.calls:
            continue
        start = min(times_us[call][0] for call in piece.calls)
        end = finish if piece.output else max(times_us[call][1] for call in piece.calls)
        for time_us, nbytes in ((round(start, 3), piece.nbytes), (round(end, 3), -piece.nbytes)):
            changes[time_us] = changes.get(time_us, 0) + nbytes
    steps, total = [], 0
    for time_us in sorted(changes):
        if changes[time_us]:
            total += changes[time_us]
            steps.append((time_us, total))
    return steps


def _memory(tensor: Tensor) -> tuple[str, str]:
    return tensor.space, tensor.storage or tensor.name


def _columns(tensor: Tensor, wholes: dict[str, Tensor]) -> tuple[int, int]:
    """Range of columns, in bytes, of the memory that a tensor is a view of, seen as a matrix."""
    whole = wholes.get(_memory(tensor)[1]) if tensor.space == "arena" else None
    start = tensor.offset - whole.offset if whole else tensor.offset
    width = rows_of(tensor.shape, tensor.strides).width if tensor.strides else 0
    if not tensor.strides:
        # A contiguous view of fewer bytes is a range of columns only where there is one row.
        return start, start + tensor.nbytes
    return start, start + width * DTYPE_BYTES[tensor.dtype]
