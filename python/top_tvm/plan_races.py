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
from dataclasses import dataclass, replace

from top_tvm.errors import PlanError
from top_tvm.plan import DTYPE_BYTES, Call, Plan, Tensor
from top_tvm.strides import rows_of

# Spans that all reads and writes of a plan may touch. Networks need a few per argument; a plan that
# was made to be slow to check would need any number.
_MAX_VISITS = 5_000_000


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
    written: bool = True  # false: claimed for a slice to come


class _Shadow:
    """Shadow of one memory: spans by address, with gaps where nothing has been written."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._spans: list[_Span] = []
        self._visits = 0

    def within(self, start: int, end: int) -> list[_Span]:
        """Spans that make up a range of bytes; those that reach beyond are split."""
        begin = self._cut(start)
        spans = self._spans[begin : self._cut(end)]
        self._visits += len(spans)
        if self._visits > _MAX_VISITS:
            raise PlanError("plan: its calls use memory in more pieces than can be checked")
        return spans

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
            self._spans.insert(index, replace(left, start=at))
            left.end = at
        return index


@dataclass
class _Whole:
    """Memory that tensors are views of: ``rows`` rows of ``pitch`` bytes."""

    tensor: int
    start: int
    nbytes: int
    pitch: int = 0
    # Once slices are written: the calls that used the bytes before, and what overwrote them since.
    before: int | None = None
    overwritten: int | None = None

    @property
    def rows(self) -> int:
        return self.nbytes // self.pitch if self.pitch else 1


class _Replay:
    """Executes reads and writes on shadow memory, in issue order."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._finished = ancestors(plan.calls, plan.streams)
        self._writers: dict[int, int] = {}  # call by tensor
        self._shadows: defaultdict[tuple[str, str], _Shadow] = defaultdict(_Shadow)
        self._wholes: dict[tuple[str, str], _Whole] = {}
        for index, tensor in enumerate(plan.tensors):
            if tensor.space == "arena" and not tensor.storage:
                self._wholes["arena", tensor.name] = _Whole(index, tensor.offset, tensor.nbytes)
        for index in plan.outputs:
            tensor = plan.tensors[index]
            if tensor.space == "output":
                self._wholes.setdefault(("output", tensor.storage), _Whole(index, 0, tensor.nbytes))
        for index, tensor in enumerate(plan.tensors):
            if tensor.strides:
                self._set_pitch(index)

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
        whole, start, end = self._place(argument)
        if end - start < whole.nbytes:
            self._write_slice(call, argument)
            return
        self._displace(call, argument, start, end)
        self._memory(tensor).overwrite(_Span(start, end, argument, call))

    def find(self, argument: int, reader: str) -> list[_Span]:
        """Spans of a tensor about to be read, all of them left by the write of its value."""
        tensor = self._plan.tensors[argument]
        if tensor.space in ("input", "constant") or not tensor.nbytes:
            return []
        whole, start, end = self._place(argument)
        spans = self._memory(tensor).within(start, end)
        if sum(span.end - span.start for span in spans) != end - start:
            raise PlanError(f"{reader}: reads {tensor.name!r}, which no earlier call writes")
        # Memory of an output is written once: this can only be its value.
        source = whole.tensor if tensor.space == "arena" else spans[0].tensor
        for span in spans:
            if span.tensor != source:
                raise PlanError(
                    f"{reader}: reads {tensor.name!r}, whose bytes {self._call(span.writer)} has "
                    f"overwritten with {self._tensor(span.tensor)}"
                )
        self._check_intact(reader, argument)
        if not all(span.written for span in spans):
            raise PlanError(f"{reader}: reads {tensor.name!r}, of which no call writes a part")
        return spans

    def _write_slice(self, call: int, argument: int) -> None:
        tensor = self._plan.tensors[argument]
        whole, start, end = self._place(argument)
        shadow = self._memory(tensor)
        if whole.before is None:
            first, last = whole.start, whole.start + whole.nbytes
            whole.before = self._displace(call, argument, first, last)
            shadow.overwrite(_Span(first, last, whole.tensor, call, written=False))
        self._check_intact(self._call(call), argument)
        if unordered := whole.before & ~self._finished[call]:
            other = (unordered & -unordered).bit_length() - 1
            raise PlanError(
                f"{self._call(call)}: writes {tensor.name!r} over memory that {self._call(other)} "
                "may use at the same time: a data race"
            )
        for span in shadow.within(start, end):
            if span.written:
                raise PlanError(
                    f"{self._call(call)}: writes {tensor.name!r}, of which "
                    f"{self._call(span.writer)} has written a part already"
                )
        shadow.overwrite(_Span(start, end, whole.tensor, call))

    def _displace(self, call: int, argument: int, start: int, end: int) -> int:
        """Check that a call may overwrite a range; returns the calls that used it before."""
        shadow = self._memory(self._plan.tensors[argument])
        spans = shadow.within(start, end)
        users = 0
        for number in {span.tensor for span in spans}:
            other = self._whole(number)
            if other.before is None:
                continue
            # The columns of the shadow are not where the bytes are: take all of them.
            everywhere = shadow.within(other.start, other.start + other.nbytes)
            spans += [span for span in everywhere if span.tensor == number]
            other.overwritten = argument
        for span in spans:
            self._check_overwrite(call, argument, span)
            users |= span.readers | 1 << span.writer
        return users

    def _check_intact(self, user: str, argument: int) -> None:
        whole = self._whole(argument)
        if whole.overwritten is not None:
            raise PlanError(
                f"{user}: uses {self._tensor(argument)}, whose bytes "
                f"{self._call(self._writers[whole.overwritten])} has overwritten with "
                f"{self._tensor(whole.overwritten)}"
            )

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

    def _set_pitch(self, argument: int) -> None:
        tensor = self._plan.tensors[argument]
        rows = rows_of(tensor.shape, tensor.strides)
        whole = self._whole(argument)
        pitch = rows.pitch * DTYPE_BYTES[tensor.dtype]
        if rows.count > 1 and whole.pitch not in (0, pitch):
            raise PlanError(
                f"{self._tensor(argument)}: its rows are {pitch} bytes apart, those of another "
                f"slice of the same memory {whole.pitch}"
            )
        if rows.count > 1:
            whole.pitch = pitch

    def _place(self, argument: int) -> tuple[_Whole, int, int]:
        """Memory of a tensor, and its range in the shadow."""
        tensor = self._plan.tensors[argument]
        whole = self._whole(argument)
        offset = tensor.offset - whole.start
        if not tensor.strides and tensor.nbytes == whole.nbytes:
            return whole, tensor.offset, tensor.offset + tensor.nbytes
        rows = rows_of(tensor.shape, tensor.strides)
        width = rows.width * DTYPE_BYTES[tensor.dtype]
        pitch = whole.pitch or whole.nbytes
        if rows.count * pitch != whole.nbytes or offset + width > pitch:
            raise PlanError(
                f"{self._tensor(argument)}: is no range of columns of "
                f"{self._tensor(whole.tensor)} with its rows of {pitch} bytes"
            )
        start = whole.start + offset * whole.rows
        return whole, start, start + width * whole.rows

    def _whole(self, argument: int) -> _Whole:
        tensor = self._plan.tensors[argument]
        return self._wholes[tensor.space, tensor.storage or tensor.name]

    def _memory(self, tensor: Tensor) -> _Shadow:
        return self._shadows[tensor.space, "" if tensor.space == "arena" else tensor.storage]

    def _tensor(self, index: int) -> str:
        return repr(self._plan.tensors[index].name)

    def _call(self, index: int) -> str:
        return f"calls[{index}] ({self._plan.calls[index].op!r})"
