"""Traces follow the trace event format: what Perfetto and chrome://tracing need to draw them."""

import json
from itertools import pairwise

import numpy as np
import pytest

from test_plan import make_plan
from top_tvm.artifact import OpProfile
from top_tvm.trace import trace_events

# Two runs: the product on both streams, f beside g, then h, which waits for g.
TIMES_US = np.array(
    [
        [[1.0, 5.0], [5.5, 8.0], [5.25, 9.0], [9.5, 11.0]],
        [[1.5, 6.0], [6.5, 9.0], [6.25, 9.5], [9.75, 12.0]],
    ]
)


@pytest.fixture
def trace():
    profile = OpProfile("f", 1, 1, 1.0, 1.0, "Relu_3")
    # What viewers read is the file.
    return json.loads(json.dumps(trace_events("net", make_plan(), TIMES_US, [profile])))


def slices(trace, **wanted):
    events = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    return [e for e in events if all(e[key] == value for key, value in wanted.items())]


def test_events_have_what_their_phase_requires(trace):
    required = {
        "M": {"name", "pid", "tid", "args"},
        "X": {"name", "cat", "pid", "tid", "ts", "dur", "args"},
        "s": {"name", "cat", "id", "pid", "tid", "ts"},
        "f": {"name", "cat", "id", "pid", "tid", "ts", "bp"},
    }
    assert trace["displayTimeUnit"] in ("ms", "ns")
    assert {event["ph"] for event in trace["traceEvents"]} == set(required)
    for event in trace["traceEvents"]:
        assert event.keys() == required[event["ph"]] | {"ph"}
        assert event["tid"] > 0, "viewers take thread 0 for the idle task"
        assert event.get("ts", 0) >= 0 and event.get("dur", 0) >= 0


def test_process_and_streams_have_names(trace):
    names = {
        (event["name"], event["tid"]): event["args"]
        for event in trace["traceEvents"]
        if event["ph"] == "M"
    }
    assert names["process_name", 1] == {"name": "net, batch 1"}
    threads = [names["thread_name", tid]["name"] for tid in (1, 2, 3)]
    assert threads == ["runs", "stream 0", "stream 1"]
    order = [names["thread_sort_index", tid]["sort_index"] for tid in (1, 2, 3)]
    assert order == sorted(order)
    used = {event["tid"] for event in trace["traceEvents"]}
    assert used == {1, 2, 3}


def test_every_op_is_a_slice_of_every_run_and_a_gang_call_one_of_every_stream(trace):
    assert [(e["tid"], e["dur"]) for e in slices(trace, name="matmul")] == [
        (2, 4.0),
        (3, 4.0),
        (2, 4.5),
        (3, 4.5),
    ]
    assert [e["tid"] for e in slices(trace, name="g")] == [3, 3]
    arguments = slices(trace, name="f")[0]["args"]
    assert arguments == {
        "what": "Relu_3",
        "kernel": "f",
        "reads": ["float32[4, 8]"],
        "writes": ["float32[4, 8]"],
        "stage": 1,
        "group": 0,
        "threads": 1,
    }
    assert slices(trace, name="matmul")[0]["args"]["reads"] == ["float32[4, 8]"], "no weights"


def test_slices_of_a_thread_do_not_overlap_and_runs_follow_each_other(trace):
    for tid in (1, 2, 3):
        spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in slices(trace, tid=tid))
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    first, second = slices(trace, cat="run")
    assert first["ts"] + first["dur"] < second["ts"]
    for run in (first, second):
        inside = [
            e for e in slices(trace) if run["ts"] <= e["ts"] <= run["ts"] + run["dur"] and e != run
        ]
        assert len(inside) == 5


def test_a_wait_is_an_arrow_from_within_its_source_to_the_begin_of_its_target(trace):
    arrows = {}
    for event in trace["traceEvents"]:
        if event["ph"] in "sf":
            arrows.setdefault(event["id"], {})[event["ph"]] = event
    assert len(arrows) == 2, "one wait, two runs"
    for run, arrow in enumerate(arrows.values()):
        source, target = (slices(trace, name=name)[run] for name in ("g", "h"))
        assert arrow["s"]["tid"] == source["tid"] and arrow["f"]["tid"] == target["tid"]
        assert source["ts"] <= arrow["s"]["ts"] < source["ts"] + source["dur"]
        assert arrow["f"]["ts"] == target["ts"]
        assert arrow["f"]["bp"] == "e"
