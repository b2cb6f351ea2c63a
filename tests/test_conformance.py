"""A fixed part of ONNX's conformance cases, and the runner itself; `make conformance` runs all."""

import collections
import os
import signal

import numpy as np
import pytest

import conformance
from conformance import load_cases, op_type, run_cases


@pytest.fixture(scope="module")
def cases():
    return load_cases()


def test_one_case_of_every_operator_is_right_or_refused(cases, tmp_path, monkeypatch):
    monkeypatch.setenv("TOP_TVM_CACHE_DIR", str(tmp_path))
    first = {}
    for name in sorted(cases):
        first.setdefault(op_type(cases, name), name)
    results = run_cases(cases, list(first.values()), processes=2)
    bad = [result for result in results if result.outcome in ("wrong", "crashed")]
    assert not bad
    assert {result.name for result in results} == set(first.values())
    counts = collections.Counter(result.outcome for result in results)
    assert counts["passed"] >= MOST_PASS, counts
    for result in results:
        if result.outcome == "refused":
            named = (result.op_type, "of type", "inputs without elements")
            assert any(words in result.detail for words in named), result


MOST_PASS = 130


def test_a_case_that_kills_its_process_is_reported_and_the_rest_goes_on(cases, monkeypatch):
    def run_case(cases, name, real=conformance.run_case):
        if name == "test_add":
            os.kill(os.getpid(), signal.SIGSEGV)
        return real(cases, name)

    monkeypatch.setattr(conformance, "run_case", run_case)
    results = run_cases(cases, ["test_add", "test_abs"], processes=1)
    assert [(result.name, result.outcome) for result in results] == [
        ("test_add", "crashed"),
        ("test_abs", "passed"),
    ]
    assert results[0].detail == "the process died with -11"


def test_a_case_that_hangs_is_reported(cases, monkeypatch):
    monkeypatch.setattr(conformance, "SECONDS_PER_CASE", 1)
    monkeypatch.setattr(conformance, "run_case", lambda cases, name: signal.pause())
    (result,) = run_cases(cases, ["test_add"], processes=1)
    assert (result.outcome, result.detail) == ("crashed", "took more than 1 s")


def test_wrong_numbers_types_and_shapes_are_told():
    expected = np.float32([1, 2])
    same = np.float32([1, np.nan]), np.float32([1, np.nan])
    assert conformance.difference(*same, 1e-3, 1e-7) == ""
    assert "float64, not float32" in conformance.difference(expected.astype(float), expected, 0, 0)
    assert "shape (1, 2)" in conformance.difference(expected[None], expected, 0, 0)
    told = conformance.difference(np.float32([1, 3]), expected, 1e-3, 1e-7)
    assert told == "1 of 2 elements differ, e.g. at (1,): 3.0 instead of 2.0"


def test_the_table_counts_by_operator():
    results = [
        conformance.Result("test_add", "Add", "passed"),
        conformance.Result("test_add_uint8", "Add", "refused", "why"),
        conformance.Result("test_if", "If", "wrong", "how"),
    ]
    lines = conformance.table(results).splitlines()
    assert "| **all** | **1** | **1** | **1** | **0** | **0** |" in lines
    assert "| Add | 1 | 1 |  |  |  |" in lines
    assert "| If |  |  | 1 |  |  |" in lines
