"""Random schedules with buffers, and a slow, obvious judge of their memory layouts.

The judge shares no code with what it judges: the order of execution is a networkx graph, and every
pair of buffers is looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import networkx as nx
from hypothesis import strategies as st

from top_tvm.plan import Call, Kernel, Plan, Tensor

RawCall = tuple[int, int, list[int]]  # stream, threads, waits
RawBuffer = tuple[int, list[int], list[int]]  # nbytes, writers (of a slice each), readers

SLICE_BYTES = 64


@dataclass(frozen=True)
class Scenario:
    streams: int
    calls: list[RawCall]
    buffers: list[RawBuffer]


def execution_order(streams: int, calls: Sequence[RawCall]) -> nx.DiGraph:
    """Graph whose paths are the happens-before relation."""
    order = nx.DiGraph()
    order.add_nodes_from(range(len(calls)))
    for stream in range(streams):
        issued = [i for i, (s, threads, _) in enumerate(calls) if s == stream or threads > 1]
        nx.add_path(order, issued)
    for index, (_, _, waits) in enumerate(calls):
        order.add_edges_from((wait, index) for wait in waits)
    return order


def is_safe(scenario: Scenario, offsets: Sequence[int]) -> bool:
    """Whether no two buffers share bytes unless all uses of one precede all writes of the other."""
    order = execution_order(scenario.streams, scenario.calls)
    after = {call: nx.descendants(order, call) for call in order}

    def precedes(first: RawBuffer, second: RawBuffer) -> bool:
        uses = (*first[1], *first[2])
        return all(writer in after[use] for use in uses for writer in second[1])

    placed = zip(offsets, scenario.buffers, strict=True)
    for (offset_a, a), (offset_b, b) in combinations(placed, 2):
        overlap = offset_a < offset_b + b[0] and offset_b < offset_a + a[0] and a[0] and b[0]
        if overlap and not precedes(a, b) and not precedes(b, a):
            return False
    return True


@st.composite
def scenarios(draw: st.DrawFn, max_calls: int = 14) -> Scenario:
    streams = draw(st.integers(1, 4))
    calls: list[RawCall] = []
    for index in range(draw(st.integers(1, max_calls))):
        stream = draw(st.integers(0, streams - 1))
        gang = draw(st.integers(0, 5)) == 0
        elsewhere = [i for i in range(index) if calls[i][0] != stream]
        waits = draw(st.lists(st.sampled_from(elsewhere), max_size=2)) if elsewhere else []
        calls.append((stream, streams if gang else 1, sorted(set(waits))))
    order = execution_order(streams, calls)
    buffers: list[RawBuffer] = []
    for _ in range(draw(st.integers(0, max_calls))):
        writers = draw(st.lists(st.integers(0, len(calls) - 1), min_size=1, max_size=3))
        later = set.intersection(*(nx.descendants(order, writer) for writer in writers))
        readers = draw(st.lists(st.sampled_from(sorted(later)), max_size=3)) if later else []
        nbytes = draw(st.sampled_from([0, 1, 4, 64, 65, 100, 128, 640, 1000]))
        if len(writers) > 1:
            nbytes = draw(st.integers(1, 3)) * len(writers) * SLICE_BYTES
        buffers.append((nbytes, writers, sorted(set(readers))))
    return Scenario(streams, calls, buffers)


def _slice(name: str, nbytes: int, offset: int, columns: int, column: int) -> Tensor:
    pitch = columns * SLICE_BYTES
    rows = nbytes // pitch
    return Tensor(
        f"{name}.{column}",
        "uint8",
        (rows, SLICE_BYTES),
        "arena",
        storage=name,
        offset=offset + column * SLICE_BYTES,
        strides=(pitch, 1) if rows > 1 else (),
    )


def as_plan(scenario: Scenario, offsets: Sequence[int]) -> Plan:
    """A plan with exactly the calls and buffers of a scenario."""
    placed = list(zip(offsets, scenario.buffers, strict=True))
    tensors = [
        Tensor(f"b{i}", "uint8", (nbytes,), "arena", offset=offset)
        for i, (offset, (nbytes, _, _)) in enumerate(placed)
    ]
    calls = []
    for index, (stream, threads, waits) in enumerate(scenario.calls):
        read = [i for i, (_, _, readers) in enumerate(scenario.buffers) if index in readers]
        written = [i for i, (_, writers, _) in enumerate(scenario.buffers) if writers == [index]]
        for i, (offset, (nbytes, writers, _)) in enumerate(placed):
            for column, writer in enumerate(writers if len(writers) > 1 else ()):
                if writer == index:
                    written.append(len(tensors))
                    tensors.append(_slice(f"b{i}", nbytes, offset, len(writers), column))
        # A call must write something: here also an empty tensor, in case it writes no buffer.
        written.append(len(tensors))
        tensors.append(Tensor(f"nothing{index}", "uint8", (0,), "arena"))
        calls.append(
            Call(
                op=f"op{index}",
                kernel=0,
                args=(*read, *written),
                num_outputs=len(written),
                stage=0,
                group=stream,
                stream=stream,
                threads=threads,
                waits=tuple(waits),
            )
        )
    return Plan(
        batch=1,
        streams=scenario.streams,
        partitioner="random",
        tensors=tuple(tensors),
        kernels=(Kernel("tvm", "kernel", moldable=True),),
        calls=tuple(calls),
        inputs=(),
        outputs=(),
        arena_bytes=max((offset + nbytes for offset, (nbytes, _, _) in placed), default=0),
    )
