"""Checks that a plan is free of data races and that every read finds what it should.

The plan is replayed in issue order over *shadow memory*, which remembers for every byte the last
write and the reads since then, as race detectors do (Flanagan and Freund, "FastTrack: Efficient and
Precise Dynamic Race Detection", PLDI 2009). A write must be ordered after both, a read after the
write; by induction that covers every pair of calls. Reads must also find the bytes of one whole
write, so a value overwritten before its last use is noticed even where nothing races.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from top_tvm.errors import PlanError
from top_tvm.plan import Call, Plan, Tensor


def check_races(plan: Plan) -> None:
    """Check the memory of a plan whose indices are already known to be in range.

    Raises
    ------
    PlanError
        Naming the call and the tensor at fault.
    """
    replay = _Replay(plan)
    for index, call in enumerate(plan.calls):
        split = len(call.args) - call.num_outputs
        for argument in call.args[:split]:
            replay.read(index, argument)
        for argument in call.args[split:]:
            replay.write(index, argument)
    for argument in plan.outputs:
        replay.find(argument, reader="the caller")


def ancestors(calls: Sequence[Call], streams: int) -> list[int]:
    """Say for every call which calls have finished when it starts.

    Returns
    -------
    list of int
        Bit ``j`` of entry ``i`` is set when call ``j`` happens before call ``i``.
    """
    finished: list[int] = []
    last: list[int | None] = [None] * streams  # the call that each stream executed last
    for index, call in enumerate(calls):
        occupied = range(streams) if call.threads > 1 else (call.stream,)
        before = 0
        for earlier in {*call.waits, *(last[stream] for stream in occupied)}:
            if earlier is not None:
                before |= finished[earlier] | 1 << earlier
        finished.append(before)
        for stream in occupied:
            last[stream] = index
    return finished


@dataclass
class _Span:
    """Bytes with one history: written as part of ``tensor`` by ``writer``, then read."""

    start: int
    end: int
    tensor: int
    writer: int
    readers: int = 0  # bit per call


class _Shadow:
    """Shadow of one memory: spans by address, with gaps where nothing has been written."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._spans: list[_Span] = []

    def within(self, start: int, end: int) -> list[_Span]:
        """Spans that make up a range of bytes; those that reach beyond are split."""
        begin = self._cut(start)
        return self._spans[begin : self._cut(end)]

    def overwrite(self, span: _Span) -> None:
        """Replace what lies in the range of ``span``."""
        begin = self._cut(span.start)
        end = self._cut(span.end)
        self._starts[begin:end] = [span.start]
        self._spans[begin:end] = [span]

    def _cut(self, at: int) -> int:
        index = bisect_left(self._starts, at)
        if index and self._spans[index - 1].end > at:
            left = self._spans[index - 1]
            self._starts.insert(index, at)
            self._spans.insert(index, _Span(at, left.end, left.tensor, left.writer, left.readers))
            left.end = at
        return index


class _Replay:
    """Executes reads and writes on shadow memory, in issue order."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._finished = ancestors(plan.calls, plan.streams)
        self._index = {tensor.name: index for index, tensor in enumerate(plan.tensors)}
        self._writers: dict[int, int] = {}  # call by tensor
        self._shadows: defaultdict[tuple[str, str], _Shadow] = defaultdict(_Shadow)

    def read(self, call: int, argument: int) -> None:
        for span in self.find(argument, reader=self._call(call)):
            if not self._finished[call] >> span.writer & 1:
                raise PlanError(
                    f"{self._call(call)}: reads {self._tensor(argument)} without being ordered "
                    f"after its writer, {self._call(span.writer)}: a data race"
                )
            span.readers |= 1 << call

    def write(self, call: int, argument: int) -> None:
        tensor = self._plan.tensors[argument]
        if tensor.space in ("input", "constant"):
            raise PlanError(
                f"{self._call(call)}: writes {tensor.name!r}, which is {tensor.space} memory"
            )
        if argument in self._writers:
            raise PlanError(
                f"{self._call(call)}: writes {tensor.name!r}, which "
                f"{self._call(self._writers[argument])} has written already"
            )
        self._writers[argument] = call
        if not tensor.nbytes:
            return
        shadow = self._memory(tensor)
        start, end = tensor.offset, tensor.offset + tensor.nbytes
        for span in shadow.within(start, end):
            self._check_overwrite(call, argument, span)
        shadow.overwrite(_Span(start, end, argument, call))

    def find(self, argument: int, reader: str) -> list[_Span]:
        """Spans of a tensor about to be read, all of them left by the write of its value."""
        tensor = self._plan.tensors[argument]
        if tensor.space in ("input", "constant") or not tensor.nbytes:
            return []
        spans = self._memory(tensor).within(tensor.offset, tensor.offset + tensor.nbytes)
        if sum(span.end - span.start for span in spans) != tensor.nbytes:
            raise PlanError(f"{reader}: reads {tensor.name!r}, which no earlier call writes")
        source = spans[0].tensor  # memory of an output is written once: this can only be its value
        if tensor.space == "arena":
            source = self._index[tensor.storage] if tensor.storage else argument
        for span in spans:
            if span.tensor != source:
                raise PlanError(
                    f"{reader}: reads {tensor.name!r}, whose bytes {self._call(span.writer)} has "
                    f"overwritten with {self._tensor(span.tensor)}"
                )
        return spans

    def _check_overwrite(self, call: int, argument: int, span: _Span) -> None:
        writes = f"{self._call(call)}: writes {self._tensor(argument)}"
        if self._plan.tensors[argument].space == "output":
            raise PlanError(
                f"{writes} over {self._tensor(span.tensor)}, but an output is written once"
            )
        unordered = (span.readers | 1 << span.writer) & ~self._finished[call]
        if unordered >> call & 1:
            raise PlanError(f"{writes} over {self._tensor(span.tensor)}, which it uses itself")
        if unordered:
            other = (unordered & -unordered).bit_length() - 1
            use = "read" if span.readers >> other & 1 else "write"
            raise PlanError(
                f"{writes} over {self._tensor(span.tensor)}, which {self._call(other)} may {use} "
                "at the same time: a data race"
            )

    def _memory(self, tensor: Tensor) -> _Shadow:
        return self._shadows[tensor.space, "" if tensor.space == "arena" else tensor.storage]

    def _tensor(self, index: int) -> str:
        return repr(self._plan.tensors[index].name)

    def _call(self, index: int) -> str:
        return f"calls[{index}] ({self._plan.calls[index].op!r})"
