"""The page of ``inspect --html``: what is on it, where ops are drawn, and the command."""

import json
import os
import re
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import top_tvm
from plan_strategies import as_plan, scenarios
from small_model import small_model
from test_plan import make_plan
from top_tvm.artifact import load, save
from top_tvm.cli import main
from top_tvm.page import measure
from top_tvm.page.data import page_data
from top_tvm.page.dataflow import lifetimes, live_bytes, predecessors
from top_tvm.page.layout import layered_layout
from top_tvm.replace_file import write_text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def small(folder):
    executable = top_tvm.build(small_model("batch"), partitioner="list", batch_sizes=(1, 4))
    executable.save(folder / "small.top")
    return executable.artifact


# --- What the plan says between its lines


def test_a_reader_follows_the_writers_of_what_it_reads():
    assert predecessors(make_plan()) == [[], [0], [0], [1, 2]]


@settings(max_examples=100, deadline=None)
@given(scenarios())
def test_predecessors_are_the_writers_of_whole_buffers(scenario):
    plan = as_plan(scenario, [1024 * index for index in range(len(scenario.buffers))])
    expected = [set() for _ in plan.calls]
    for nbytes, writers, readers in scenario.buffers:
        for reader in readers if nbytes else ():
            expected[reader] |= set(writers)
    assert predecessors(plan) == [sorted(sources) for sources in expected]


def test_the_reader_of_a_part_follows_only_the_writer_of_that_part(small):
    for plan in small.plans.values():
        names = [call.op.rstrip("0123456789") for call in plan.calls]
        sources = predecessors(plan)
        joined = next(i for i, name in enumerate(names) if name == "concat_")
        assert [names[source] for source in sources[joined]] == ["conv2d_", "conv2d_"]
        assert all(len(s) <= 1 for i, s in enumerate(sources) if i != joined)


def test_memory_is_live_from_the_first_write_to_the_last_use():
    # a: 128 bytes, b and c likewise; a is last read by g, b and c by h.
    times = [(0.0, 4.0), (4.0, 6.0), (5.0, 8.0), (9.0, 10.0)]
    steps = live_bytes(lifetimes(make_plan()), times)
    assert steps == [(0.0, 128), (4.0, 256), (5.0, 384), (8.0, 256), (10.0, 0)]


def test_changes_within_a_nanosecond_are_one_step():
    times = [(0.0, 4.0), (4.0001, 6.0), (4.0002, 8.0), (9.0, 10.0)]
    steps = live_bytes(lifetimes(make_plan()), times)
    assert steps == [(0.0, 128), (4.0, 384), (8.0, 256), (10.0, 0)]


def test_outputs_in_the_arena_are_live_to_the_end():
    plan = replace(make_plan(), outputs=(4,))
    times = [(0.0, 4.0), (4.0, 6.0), (5.0, 8.0), (9.0, 10.0)]
    assert live_bytes(lifetimes(plan), times)[-1] == (10.0, 0)
    assert live_bytes(lifetimes(plan), [*times[:3], (6.0, 7.0)])[-1] == (8.0, 0)


# --- The layout of the graph


@st.composite
def graphs(draw):
    count = draw(st.integers(1, 30))
    return [
        sorted(draw(st.sets(st.integers(0, op - 1), max_size=3))) if op else []
        for op in range(count)
    ]


@settings(max_examples=100, deadline=None)
@given(graphs())
def test_layers_ascend_ops_stand_apart_and_lanes_reach_the_last_reader(sources):
    layout = layered_layout(sources)
    rows = {}
    for op, predecessors_ in enumerate(sources):
        rows.setdefault(layout.layers[op], []).append(layout.positions[op])
        assert all(layout.layers[source] < layout.layers[op] for source in predecessors_)
    for row in rows.values():
        row.sort()
        assert all(b - a >= 1 - 1e-9 for a, b in pairwise(row))
    for op, lane in enumerate(layout.lanes):
        readers = [reader for reader, found in enumerate(sources) if op in found]
        last = max((layout.layers[reader] for reader in readers), default=layout.layers[op] + 1)
        assert len(lane) == last - layout.layers[op] - 1


def test_parallel_branches_are_drawn_without_crossings_around_their_fork():
    # A fork into three chains of two, joined at the end.
    sources = [[], [0], [0], [0], [3], [1], [2], [4, 5, 6]]
    layout = layered_layout(sources)
    assert layout.layers == (0, 1, 1, 1, 2, 2, 2, 3)
    for first, second in ((1, 5), (2, 6), (3, 4)):
        assert layout.positions[first] == pytest.approx(layout.positions[second])
    assert layout.positions[0] == pytest.approx(np.mean(layout.positions[1:4]))
    assert layout.positions[7] == pytest.approx(layout.positions[0])


def test_the_longest_lanes_of_a_huge_dense_graph_go_straight():
    sources = [list(range(op)) for op in range(200)]
    layout = layered_layout(sources)
    bends = sum(map(len, layout.lanes))
    assert 4000 < bends <= 8000
    assert layout.lanes[0] == () and len(layout.lanes[150]) == 48


# --- The data


def test_data_has_every_op_with_its_place_times_and_shapes(small):
    data = page_data(small, measure(small), device="a device")
    assert [plan["batch"] for plan in data["plans"]] == [1, 4]
    assert data["precision"] == "fp32" and data["device"] == "a device"
    for described, plan in zip(data["plans"], small.plans.values(), strict=True):
        assert [op["name"] for op in described["ops"]] == [call.op for call in plan.calls]
        assert described["runs"] >= 3
        for op, call in zip(described["ops"], plan.calls, strict=True):
            assert (op["stage"], op["group"], op["stream"]) == (call.stage, call.group, call.stream)
            assert 0 <= op["measured"][0] < op["measured"][1]
            assert 0 <= op["predicted"][0] < op["predicted"][1] <= plan.predicted_us + 1e-3
            assert op["in_plan_us"] > 0 and op["solo_us"] > 0 and op["what"]
        last = described["ops"][-1]
        assert (last["reads"], last["writes"]) == (f"{plan.batch}×40", f"{plan.batch}×10")
        weights = 4 * (16 * 3 * 9 + 16 * 16 + 24 * 16 * 9 + 40 * 10 + 10)
        assert described["weights_bytes"] >= weights


def test_the_shown_run_happened_and_is_not_an_extreme_one(small):
    calls = len(small.plans[1].calls)
    starts = np.arange(calls, dtype=float)
    runs = np.stack([np.stack([starts, starts + 1], axis=1) * scale for scale in (9, 2, 1, 3, 4)])
    plan = page_data(small, {1: runs})["plans"][0]
    assert plan["ops"][1]["measured"] == (1.0, 2.0)
    assert plan["ops"][1]["in_plan_us"] == pytest.approx(1.8)


def test_files_without_predictions_have_none(small):
    profiles = {
        batch: tuple(
            replace(op, predicted_start_us=np.inf, predicted_end_us=np.inf) for op in profile
        )
        for batch, profile in small.profiles.items()
    }
    for plan in page_data(replace(small, profiles=profiles))["plans"]:
        assert all(op["predicted"] is None and op["measured"] is None for op in plan["ops"])
        assert plan["memory"] == {}


# --- The command


def command(monkeypatch, capsys, *args):
    monkeypatch.setattr(sys, "argv", ["top-tvm", *map(str, args)])
    try:
        main()
        code = 0
    except SystemExit as exit_:
        code = exit_.code or 0
    return code, *capsys.readouterr()


def embedded(text):
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1]
    )


def test_inspect_writes_a_page_in_the_place_of_the_old_one(monkeypatch, capsys, folder, small):
    target = folder / "small-command.html"
    target.write_text("old")
    code, stdout, _ = command(
        monkeypatch, capsys, "inspect", folder / "small.top", "--html", target, "--json"
    )
    assert code == 0
    assert json.loads(stdout.splitlines()[-1])["ops"] == len(small.plans[1].calls)
    data = embedded(target.read_text(encoding="utf-8"))
    assert data["plans"][0]["runs"] > 0 and data["not_measured"] == ""
    assert [path.name for path in folder.iterdir() if path.name.endswith(".tmp")] == []


def test_a_page_that_cannot_be_written_is_an_error_and_leaves_nothing(
    monkeypatch, capsys, folder, small
):
    target = folder / "no such directory" / "page.html"
    code, _, stderr = command(
        monkeypatch, capsys, "inspect", folder / "small.top", "--html", target
    )
    assert code == 2
    assert stderr.count("\n") == 1 and "no such directory" in stderr
    occupied = folder / "occupied"
    occupied.mkdir()
    with pytest.raises(OSError, match="occupied"):
        write_text(occupied, "text")
    assert not list(folder.glob(".occupied*"))


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_text(pipe, "text")
        assert os.read(reader, 100) == b"text"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


@pytest.fixture(scope="module")
def foreign(folder, small):
    """A file for a CPU that this machine is not."""
    features = (*small.metadata.cpu_features, "warp9")
    path = folder / "foreign.top"
    save(replace(small, metadata=replace(small.metadata, cpu_features=features)), path)
    return path


def test_files_for_other_cpus_can_be_inspected_but_not_loaded_to_run(
    monkeypatch, capsys, folder, foreign
):
    with pytest.raises(top_tvm.ArtifactError, match="lacks warp9"):
        load(foreign)
    code, stdout, _ = command(monkeypatch, capsys, "inspect", foreign, "--json")
    assert code == 0 and "warp9" in json.loads(stdout)["cpu_features"]
    assert "conv2d_1" in command(monkeypatch, capsys, "inspect", foreign)[1]
    target = folder / "foreign.html"
    assert command(monkeypatch, capsys, "inspect", foreign, "--html", target)[0] == 0
    data = embedded(target.read_text(encoding="utf-8"))
    assert data["not_measured"] == "this machine's CPU lacks warp9, which the kernels use"
    assert [plan["runs"] for plan in data["plans"]] == [0, 0]
