import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plan_strategies import Scenario, as_plan, is_safe, scenarios
from top_tvm.errors import PlanError
from top_tvm.plan import Call, Kernel, Plan, Tensor


def make_plan() -> Plan:
    """a = x w on both streams; b = f(a) on stream 0 beside c = g(view of a) on 1; y = h(b, c)."""
    return Plan(
        batch=1,
        streams=2,
        partitioner="greedy",
        tensors=(
            Tensor("x", "float32", (4, 8), "input", "x"),
            Tensor("w", "float32", (8, 8), "constant", "weight"),
            Tensor("a", "float32", (4, 8), "arena", "", 0),
            Tensor("a.flat", "float32", (32,), "arena", "a", 0),
            Tensor("b", "float32", (4, 8), "arena", "", 128),
            Tensor("c", "float32", (32,), "arena", "", 256),
            Tensor("y", "float32", (4, 8), "output", "y"),
        ),
        kernels=(
            Kernel("onednn", "matmul", {"post0.relu": (0.0625,), "bias": (0,)}, moldable=True),
            Kernel("tvm", "f"),
        ),
        calls=(
            Call("matmul", 0, (0, 1, 2), 1, 0, 0, 0, 2),
            Call("f", 1, (2, 4), 1, 1, 0, 0, 1),
            Call("g", 1, (3, 5), 1, 1, 1, 1, 1),
            Call("h", 1, (4, 5, 6), 1, 2, 0, 0, 1, (2,)),
        ),
        inputs=(0,),
        outputs=(6,),
        arena_bytes=384,
        predicted_us=12.5,
        measured_us=13.0,
    )


def with_tensor(plan: Plan, index: int, **fields: Any) -> Plan:
    tensors = list(plan.tensors)
    tensors[index] = replace(tensors[index], **fields)
    return replace(plan, tensors=tuple(tensors))


def with_call(plan: Plan, index: int, **fields: Any) -> Plan:
    calls = list(plan.calls)
    calls[index] = replace(calls[index], **fields)
    return replace(plan, calls=tuple(calls))


def test_round_trip() -> None:
    plan = make_plan()
    text = plan.to_json()
    assert Plan.from_json(text) == plan
    assert Plan.from_json(text.encode()) == plan
    assert text.count("\n") < 40  # one line per item: made for reading and for diff


@settings(max_examples=50, deadline=None)
@given(scenarios())
def test_random_plans_round_trip(scenario: Scenario) -> None:
    offsets = [1024 * index for index in range(len(scenario.buffers))]
    plan = as_plan(scenario, offsets)
    assert Plan.from_json(plan.to_json()) == plan


@settings(max_examples=500, deadline=None)
@given(scenarios(max_calls=8), st.data())
def test_races_are_found_exactly(scenario: Scenario, data: st.DataObject) -> None:
    count = len(scenario.buffers)
    slots = data.draw(st.lists(st.integers(0, 16), min_size=count, max_size=count))
    offsets = [64 * slot for slot in slots]
    plan = as_plan(scenario, offsets)
    if is_safe(scenario, offsets):
        plan.validate()
    else:
        with pytest.raises(PlanError, match=r"data race|has overwritten|uses itself"):
            plan.validate()


STRUCTURE = {
    "batch": (lambda p: replace(p, batch=0), "plan: batch is 0, expected at least 1"),
    "no streams": (lambda p: replace(p, streams=0), "streams is 0"),
    "streams": (lambda p: replace(p, streams=10**9), "streams is 1000000000, expected 1 to"),
    "arena": (lambda p: replace(p, arena_bytes=-1), "arena_bytes is -1"),
    "time": (lambda p: replace(p, measured_us=-1.0), "plan: measured_us is -1.0, expected a time"),
    "nan": (lambda p: replace(p, predicted_us=math.nan), "predicted_us is nan"),
    "inf": (lambda p: replace(p, predicted_us=math.inf), "predicted_us is inf"),
    "format": (lambda p: replace(p, format=1), "plan: format is 1, expected 2"),
    "list": (lambda p: with_tensor(p, 0, shape=[4, 8]), r"expected a tuple, got list \[4, 8\]"),
    "numpy": (
        lambda p: with_call(p, 1, stream=np.int64(0)),
        r"calls\[1\].stream: expected int, got int64",
    ),
    "space": (lambda p: with_tensor(p, 2, space="heap"), r"tensors\[2\].space: expected one of"),
    "symbol": (
        lambda p: replace(p, kernels=(p.kernels[0], Kernel("tvm", ""))),
        r"kernels\[1\]: symbol is empty",
    ),
}
TENSORS = {
    "same name": (lambda p: with_tensor(p, 4, name="a"), r"tensors\[4\]: name 'a' is already"),
    "no name": (lambda p: with_tensor(p, 4, name=""), r"tensors\[4\]: name is empty"),
    "dtype": (lambda p: with_tensor(p, 4, dtype="float8"), r"'b'\): dtype 'float8' is not"),
    "bfloat16": (lambda p: with_tensor(p, 0, dtype="bfloat16"), r"inputs\[0\] \('x'\): dtype bf"),
    "shape": (lambda p: with_tensor(p, 4, shape=(4, -8)), r"'b'\): shape .* negative"),
    "huge": (lambda p: with_tensor(p, 4, shape=(2**40, 2**40)), r"'b'\): more than"),
    "aligned": (lambda p: with_tensor(p, 4, offset=132), "offset 132 is not a multiple of 64"),
    "below": (lambda p: with_tensor(p, 4, offset=-64), "offset -64 is not a multiple"),
    "strides": (
        lambda p: with_tensor(p, 4, shape=(4, 4), strides=(8, 1, 1)),
        r"tensors\[4\] \('b'\): strides \(8, 1, 1\): 3 strides for 2 axes",
    ),
    "other strides": (
        lambda p: with_tensor(p, 4, shape=(2, 2, 4), strides=(8, 8, 1)),
        r"'b'\): strides \(8, 8, 1\): stride 8 of axis 0, expected 16",
    ),
    "outside": (lambda p: with_tensor(p, 5, offset=320), "ends at byte 448 of a memory of 384"),
    "view": (lambda p: with_tensor(p, 3, storage="x"), "is a view of 'x', not an arena tensor"),
    "own view": (lambda p: with_tensor(p, 2, storage="a"), "is a view of 'a', which is a view its"),
    "storage": (
        lambda p: with_tensor(p, 1, storage=""),
        r"'w'\): storage is empty, but its space is 'con",
    ),
    "input": (
        lambda p: replace(p, inputs=(1,)),
        r"inputs\[0\] \('w'\): space is 'constant', expected 'input'",
    ),
    "input name": (lambda p: with_tensor(p, 0, name="z"), "its storage has another name, 'x'"),
    "inputs": (lambda p: replace(p, inputs=(0, 0)), r"inputs\[1\]: tensor 0 is listed twice"),
    "no input": (lambda p: replace(p, inputs=()), r"input 'x' is not in plan.inputs"),
    "no output": (lambda p: replace(p, outputs=()), r"output 'y' is not in plan.outputs"),
    "output": (lambda p: replace(p, outputs=(7,)), r"outputs\[0\]: tensor 7 is not in"),
}
CALLS = {
    "same op": (lambda p: with_call(p, 2, op="f"), r"calls\[2\]: name 'f' is already that of 1"),
    "kernel": (lambda p: with_call(p, 2, kernel=2), r"calls\[2\] \('g'\): kernel 2 is not in"),
    "argument": (lambda p: with_call(p, 2, args=(3, 7)), "argument 7 is not in plan.tensors"),
    "negative": (lambda p: with_call(p, 2, args=(-4, 5)), "argument -4 is not in plan.tensors"),
    "outputs": (lambda p: with_call(p, 2, num_outputs=3), "num_outputs is 3, expected 1 to 2"),
    "no outputs": (lambda p: with_call(p, 2, num_outputs=0), "num_outputs is 0"),
    "stream": (lambda p: with_call(p, 2, stream=2), "stream is 2, expected 0 to 1"),
    "threads": (lambda p: with_call(p, 2, threads=3), "threads is 3, expected 1 or 2"),
    "moldable": (lambda p: with_call(p, 2, threads=2), "threads is 2, but its kernel is not mold"),
    "later": (lambda p: with_call(p, 1, waits=(2,)), "waits for call 2, which is not an earlier"),
    "itself": (lambda p: with_call(p, 3, waits=(3,)), "waits for call 3, which is not an earlier"),
    "same": (lambda p: with_call(p, 3, waits=(1,)), "waits for call 1, which is on the same str"),
    "stage": (lambda p: with_call(p, 3, stage=0), "stage is 0, but an earlier call has 1"),
    "group": (
        lambda p: with_call(p, 2, group=0),
        "group 0 is on stream 0 and on stream 1",
    ),
    "no group": (lambda p: with_call(p, 2, group=-1), "group is -1, expected at least 0"),
}
MEMORY = {
    "write input": (lambda p: with_call(p, 1, args=(2, 0)), "writes 'x', which is input memory"),
    "constant": (lambda p: with_call(p, 1, args=(2, 1)), "writes 'w', which is constant memory"),
    "twice": (lambda p: with_call(p, 3, args=(5, 4)), r"'b', which calls\[1\] \('f'\) has written"),
    "unordered read": (
        lambda p: with_call(p, 3, waits=()),
        r"\('h'\): reads 'c' without being ordered after its writer, calls\[2\] \('g'\): a data r",
    ),
    "unordered write": (
        lambda p: with_tensor(p, 5, offset=128),
        r"\('g'\): writes 'c' over 'b', which calls\[1\] \('f'\) may write at the same time",
    ),
    "write over unordered read": (
        lambda p: with_call(with_tensor(p, 5, offset=0), 2, args=(1, 5)),
        r"\('g'\): writes 'c' over 'a', which calls\[1\] \('f'\) may read at the same time",
    ),
    "in place": (
        lambda p: with_tensor(p, 4, offset=0),
        "writes 'b' over 'a', which it uses",
    ),
    "unwritten": (
        lambda p: with_call(p, 1, args=(5, 4)),
        "reads 'c', which no earlier call writes",
    ),
    "wrong view": (
        lambda p: with_tensor(p, 3, storage="b"),
        r"'a.flat'\): is a view of 'b', but not within it",
    ),
    "no columns": (
        lambda p: with_tensor(p, 3, shape=(2, 4), strides=(8, 1)),
        "'a.flat': is no range of columns of 'a' with its rows of 32 bytes",
    ),
    "two pitches": (
        lambda p: with_tensor(
            with_tensor(p, 3, shape=(2, 4), strides=(16, 1)),
            5,
            storage="a",
            offset=0,
            shape=(4, 4),
            strides=(8, 1),
        ),
        "'c': its rows are 32 bytes apart, those of another slice of the same memory 64",
    ),
    "output missing": (
        lambda p: replace(p, calls=p.calls[:3]),
        "the caller: reads 'y', which no earlier call writes",
    ),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(*case, id=name)
        for cases in (STRUCTURE, TENSORS, CALLS, MEMORY)
        for name, case in cases.items()
    ],
)
def test_invalid_plans_are_refused(change: Callable[[Plan], Plan], message: str) -> None:
    make_plan().validate()
    with pytest.raises(PlanError, match=message):
        change(make_plan()).validate()


LARGE = {
    "dimensions": (
        lambda p: with_tensor(p, 0, shape=(2**62,) * 33),
        r"\('x'\): 33 dimensions; at most 32 are supported",
    ),
    "stride": (lambda p: with_tensor(p, 3, strides=(2**62 + 1,)), "strides .* are out of range"),
    "arena": (
        lambda p: replace(p, arena_bytes=2**40),
        "arena_bytes is 1099511627776, more than its tensors can use",
    ),
    "calls": (lambda p: replace(p, calls=p.calls * 5_001), "20004 calls; at most 20000"),
    "arguments": (
        lambda p: with_call(p, 3, args=(4,) * 200_001),
        "200008 arguments of calls; at most 200000",
    ),
    "waits": (lambda p: with_call(p, 3, waits=(2,) * 200_001), "200001 waits; at most 200000"),
    "strided output": (
        lambda p: replace(with_tensor(p, 3, shape=(4, 4), strides=(8, 1)), outputs=(3,)),
        r"\('a.flat'\): has strides, but inputs and outputs are contiguous",
    ),
}


@pytest.mark.parametrize(("change", "message"), LARGE.values(), ids=LARGE.keys())
def test_what_would_take_long_or_much_memory_is_refused(
    change: Callable[[Plan], Plan], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        change(make_plan()).validate()


def test_a_kernel_writes_as_many_arguments_as_its_name_says() -> None:
    plan = make_plan()

    def renamed(symbol: str) -> Plan:
        return replace(plan, kernels=(plan.kernels[0], Kernel("tvm", symbol)))

    renamed("f_0123456789abcdef").validate()
    renamed("f_writes2").validate()  # not of the compiler
    with pytest.raises(PlanError, match=r"\('f'\): num_outputs is 1, but its kernel writes 2"):
        renamed("f_writes2_0123456789abcdef").validate()


def test_memory_in_too_many_pieces_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("top_tvm.plan_races._MAX_VISITS", 3)
    with pytest.raises(PlanError, match="in more pieces than can be checked"):
        make_plan().validate()


def test_values_overwritten_before_their_last_use_are_found() -> None:
    # No race: everything is on one stream.
    plan = Plan(
        batch=1,
        streams=1,
        partitioner="sequential",
        tensors=(
            Tensor("a", "float32", (32,), "arena"),
            Tensor("b", "float32", (16,), "arena", offset=64),
            Tensor("y", "float32", (32,), "output", "y"),
        ),
        kernels=(Kernel("tvm", "f"),),
        calls=(
            Call("f", 0, (0,), 1, 0, 0, 0, 1),
            Call("g", 0, (1,), 1, 0, 0, 0, 1),
            Call("h", 0, (0, 2), 1, 0, 0, 0, 1),
        ),
        inputs=(),
        outputs=(2,),
        arena_bytes=128,
    )
    message = r"\('h'\): reads 'a', whose bytes calls\[1\] \('g'\) has overwritten with 'b'"
    with pytest.raises(PlanError, match=message):
        plan.validate()
    with_tensor(replace(plan, arena_bytes=192), 1, offset=128).validate()


def test_output_memory_is_written_once() -> None:
    plan = make_plan()
    second = Tensor("y2", "float32", (4, 8), "output", "y")
    call = Call("again", 1, (4, 7), 1, 2, 0, 0, 1)
    plan = replace(plan, tensors=(*plan.tensors, second), calls=(*plan.calls, call))
    with pytest.raises(PlanError, match="writes 'y2' over 'y', but an output is written once"):
        plan.validate()


def test_outputs_may_lie_anywhere() -> None:
    plan = make_plan()
    alias = Tensor("y2", "float32", (32,), "output", "y")
    replace(plan, tensors=(*plan.tensors, alias), outputs=(6, 7, 0, 1, 4)).validate()


def test_outputs_in_the_arena_live_to_the_end() -> None:
    # h overwrites a, which is legal only while a is no output.
    plan = make_plan()
    scratch = Tensor("scratch", "float32", (4, 8), "arena")
    overwriting = with_call(
        replace(plan, tensors=(*plan.tensors, scratch)), 3, args=(4, 5, 7, 6), num_outputs=2
    )
    overwriting.validate()
    replace(plan, outputs=(6, 2)).validate()
    with pytest.raises(PlanError, match=r"the caller: reads 'a', whose bytes .* overwritten"):
        replace(overwriting, outputs=(6, 2)).validate()


def test_empty_tensors_share_no_bytes() -> None:
    plan = make_plan()
    plan = with_tensor(with_tensor(plan, 4, shape=(0, 8), offset=0), 5, shape=(0,), offset=0)
    replace(plan, arena_bytes=128).validate()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "plan: not valid JSON"),
        ("[]", "plan: expected an object, got list"),
        (b"\xff\xfe\x00", "plan: not valid JSON"),
        ("[" * 100_000, "plan: not valid JSON"),
        ('{"batch": 1, "batch": 2}', "key 'batch' is given twice"),
        ('{"format": 99}', "format 99 is not supported; .* build the model again"),
    ],
)
def test_what_is_not_a_plan_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan.from_json(text)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"predicted_us": 12.5', '"predicted_us": NaN', "NaN is not valid JSON"),
        ('"predicted_us": 12.5', '"predicted_us": 1e999', "too large for a float"),
        ('"predicted_us": 12.5', '"predicted_us": true', "predicted_us: expected float, got bool"),
        ('"arena_bytes": 384', '"arena_bytes": 384.0', "arena_bytes: expected int, got float"),
        ('"moldable": true', '"moldable": 1', r"kernels\[0\].moldable: expected bool, got int"),
        ('"batch": 1,', '"batch": 1, "color": 2,', "plan: unknown key 'color'"),
        ('"batch": 1,', "", "plan: missing key 'batch'"),
        ('"bias": [0]', '"bias": 0', r"kernels\[0\].attributes.bias: expected a list, got int 0"),
        ("[0.0625]", '["x"]', r"attributes.post0.relu\[0\]: expected float, got str 'x'"),
        ('"waits": [2]', '"waits": [2.5]', r"calls\[3\].waits\[0\]: expected int, got float 2.5"),
        ('"op": "g", ', "", r"calls\[2\]: missing key 'op'"),
    ],
)
def test_wrong_fields_are_named(before: str, after: str, message: str) -> None:
    text = make_plan().to_json()
    assert before in text
    with pytest.raises(PlanError, match=message):
        Plan.from_json(text.replace(before, after, 1))


def places(document: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or index) within a JSON document."""
    keys: Any = ()
    if isinstance(document, dict):
        keys = document
    elif isinstance(document, list):
        keys = range(len(document))
    here = [(document, key) for key in keys]
    return here + [place for key in keys for place in places(document[key])]


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "x", "a", "arena", "output", "tvm", "float64"]),
    st.lists(st.integers(-2, 9), max_size=3),
    st.dictionaries(st.sampled_from(["a", "bias"]), st.integers(0, 2), max_size=2),
)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_corrupted_plans_are_refused_or_read_exactly(data: st.DataObject) -> None:
    document = json.loads(make_plan().to_json())
    for _ in range(data.draw(st.integers(1, 3))):
        found = places(document)
        container, key = found[data.draw(st.integers(0, len(found) - 1))]
        action = data.draw(st.sampled_from(["replace", "delete", "duplicate"]))
        if action == "replace":
            container[key] = data.draw(JUNK)
        elif action == "delete":
            del container[key]
        elif isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        else:
            container[f"{key}2"] = container[key]
    try:
        plan = Plan.from_json(json.dumps(document))
    except PlanError:
        return
    assert json.loads(plan.to_json()) == document  # nothing dropped, defaulted or converted
    assert Plan.from_json(plan.to_json()) == plan


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_flipped_bytes_are_refused_or_read_exactly(data: st.DataObject) -> None:
    text = bytearray(make_plan().to_json().encode())
    position = data.draw(st.integers(0, len(text) - 1))
    text[position] ^= data.draw(st.integers(1, 255))
    try:
        plan = Plan.from_json(bytes(text))
    except PlanError:
        return
    assert json.loads(plan.to_json()) == json.loads(bytes(text))
