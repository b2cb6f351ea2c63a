from itertools import pairwise

import pytest
from hypothesis import given, settings

from plan_strategies import Scenario, as_plan, is_safe, scenarios
from top_tvm import _native


@settings(max_examples=500, deadline=None)
@given(scenarios())
def test_layouts_are_race_free_and_aligned(scenario: Scenario) -> None:
    offsets, total, lower_bound = _native.plan_arena(
        scenario.streams, scenario.calls, scenario.buffers
    )
    assert is_safe(scenario, offsets)
    assert all(offset % 64 == 0 for offset in offsets)
    ends = [o + nbytes for o, (nbytes, _, _) in zip(offsets, scenario.buffers, strict=True)]
    assert max(ends, default=0) <= total < max(ends, default=0) + 64
    assert lower_bound <= total
    as_plan(scenario, offsets).validate()


@settings(max_examples=100, deadline=None)
@given(scenarios())
def test_lower_bound_is_the_sequential_peak(scenario: Scenario) -> None:
    _, _, lower_bound = _native.plan_arena(scenario.streams, scenario.calls, scenario.buffers)
    live = [
        sum(
            -(-nbytes // 64) * 64
            for nbytes, writers, readers in scenario.buffers
            if min(writers) <= call <= max([*writers, *readers])
        )
        for call in range(len(scenario.calls))
    ]
    assert lower_bound == max(live)


def chain(length: int, stream: int = 0, first: int = 0) -> tuple[list, list]:
    calls = [(stream, 1, []) for _ in range(length)]
    buffers = [(256, [first + i], [first + i + 1]) for i in range(length - 1)]
    return calls, buffers


def test_a_chain_needs_two_buffers() -> None:
    calls, buffers = chain(50)
    offsets, total, lower_bound = _native.plan_arena(1, calls, buffers)
    assert total == lower_bound == 512
    assert all(a != b for a, b in pairwise(offsets))


def test_unordered_chains_do_not_share() -> None:
    calls, buffers = chain(10)
    more_calls, more_buffers = chain(10, stream=1, first=10)
    _, total, _ = _native.plan_arena(2, calls + more_calls, buffers + more_buffers)
    assert total == 4 * 256


def test_a_wait_lets_chains_share() -> None:
    calls, buffers = chain(10)
    more_calls, more_buffers = chain(10, stream=1, first=10)
    more_calls[0] = (1, 1, [9])
    _, total, _ = _native.plan_arena(2, calls + more_calls, buffers + more_buffers)
    assert total == 2 * 256


def test_a_gang_call_orders_all_streams() -> None:
    calls, buffers = chain(10)
    more_calls, more_buffers = chain(10, stream=1, first=11)
    gang = [(0, 2, [])]
    _, total, _ = _native.plan_arena(2, calls + gang + more_calls, buffers + more_buffers)
    assert total == 2 * 256


def test_program_order_reuse_would_be_a_race() -> None:
    # Stream 1 may still read buffer 0 when stream 0 writes buffer 1, though it is issued later.
    calls = [(0, 1, []), (1, 1, [0]), (0, 1, [])]
    offsets, total, lower_bound = _native.plan_arena(2, calls, [(64, [0], [1]), (64, [2], [])])
    assert lower_bound == 64
    assert total == 128
    assert offsets[0] != offsets[1]


def test_a_result_that_nobody_reads_has_memory_while_it_is_written() -> None:
    # Call 1 reads buffer 0 and writes buffers 1 and 2, one of which is dropped.
    calls = [(0, 1, []), (0, 1, []), (0, 1, [])]
    buffers = [(64, [0], [1]), (64, [1], []), (64, [1], [2]), (64, [2], [])]
    offsets, total, _ = _native.plan_arena(1, calls, buffers)
    assert len(set(offsets[:3])) == 3
    assert total == 192


def test_a_buffer_with_several_writers_waits_for_all_uses_of_what_lay_there() -> None:
    # Call 1 may still read buffer 0 when call 3 writes its part of buffer 1; call 2 comes later.
    calls = [(0, 1, []), (0, 1, []), (0, 1, []), (1, 1, [])]
    offsets, total, _ = _native.plan_arena(2, calls, [(64, [0], [1]), (64, [2, 3], [])])
    assert total == 128
    assert offsets[0] != offsets[1]
    calls[3] = (1, 1, [1])
    _, total, _ = _native.plan_arena(2, calls, [(64, [0], [1]), (64, [2, 3], [])])
    assert total == 64


def test_empty_buffers_take_no_memory() -> None:
    offsets, total, lower_bound = _native.plan_arena(1, [(0, 1, [])], [(0, [0], []), (0, [0], [])])
    assert (offsets, total, lower_bound) == ([0, 0], 0, 0)


def test_no_buffers() -> None:
    assert _native.plan_arena(2, [(0, 1, [])], []) == ([], 0, 0)


@pytest.mark.parametrize(
    ("buffers", "expected"),
    [
        # Buffers that nobody reads are dead after call 0: gaps of 512 bytes, then of 256,
        ([(1024, [1]), (512, []), (448, [1]), (256, []), (192, [1])], 3),
        # or a gap of 256 bytes, then one of 384.
        ([(512, [1]), (256, []), (192, [1]), (192, []), (192, []), (128, [1])], 1),
    ],
)
def test_a_small_buffer_goes_into_the_tightest_gap(
    buffers: list[tuple[int, list[int]]], expected: int
) -> None:
    calls = [(0, 1, []), (0, 1, [])]
    first = [(nbytes, [0], readers) for nbytes, readers in buffers]
    offsets, total, _ = _native.plan_arena(1, calls, [*first, (64, [1], [])])
    assert offsets[-1] == offsets[expected]
    assert total == sum(nbytes for nbytes, _ in buffers)


@pytest.mark.parametrize(
    ("streams", "calls", "buffers", "message"),
    [
        (0, [], [], "at least one stream"),
        (2, [(2, 1, [])], [], "call 0 is on no stream"),
        (3, [(0, 2, [])], [], "call 0 must use one thread or as many"),
        (2, [(0, 1, []), (1, 1, [1])], [], "call 1 waits for no earlier call"),
        (2, [(0, 1, [-1])], [], "call 0 waits for no earlier call"),
        (1, [(0, 1, [])], [(-1, [0], [])], "buffer 0 has a negative size"),
        (1, [(0, 1, [])], [(2**62, [0], [])], "buffer 0 is too large"),
        (1, [(0, 1, [])], [(2**60, [0], []), (2**60, [0], [])], "buffer 1 is too large"),
        (1, [(0, 1, [])], [(1, [1], [])], "buffer 0 is written by no call"),
        (1, [(0, 1, [])], [(1, [], [])], "buffer 0 is written by no call"),
        (1, [(0, 1, [])], [(1, [0], [7])], "buffer 0 is read by no call"),
        (1, [(0, 1, [])], [(1, [0], [0])], "buffer 0 is read by call 0, which is not ordered"),
        (2, [(0, 1, []), (1, 1, [])], [(1, [0], [1])], "buffer 0 is read by call 1, which"),
    ],
)
def test_malformed_input_is_refused(streams, calls, buffers, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _native.plan_arena(streams, calls, buffers)
