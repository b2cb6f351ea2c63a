"""All methods on one problem: the records."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from partition_support.methods import METHODS, Budget, Found
from partition_support.problems import Case
from top_tvm.compiler.gpg.graphs import lower_bound_us
from top_tvm.compiler.partition import (
    PartitionProblem,
    simulate,
    staged_objective,
    validate_schedule,
)
from top_tvm.cost import DeviceModel, OpCost

Record = dict[str, Any]
# What minimises the staged objective.
_STAGED = ("ios", "ios-bounded", "gpg-staged")


def compare_methods(
    case: Case, methods: Sequence[str], budget: Budget, given_up: set[str]
) -> list[Record]:
    """One record per method; ``given_up`` gets the graph if ios does not finish on it.

    How many stages ios has to try is a matter of the graph, so then it is not tried again with
    other streams and devices.
    """
    records = []
    finished = set()
    for name in (name for name in METHODS if name in methods):
        if name == "gpg-staged" and "ios" not in finished:
            continue  # nothing to compare with
        if name == "ios" and case.graph in given_up:
            found = Found(None, None, "not tried: did not finish before")
        else:
            found = METHODS[name](case.problem, budget)
        if name == "gpg":
            budget = dataclasses.replace(budget, search_ms=found.search_ms)
        if found.schedule is not None:
            finished.add(name)
        elif name == "ios":
            given_up.add(case.graph)
        records.append(_record(case, name, found))
    return records


def _record(case: Case, method: str, found: Found) -> Record:
    predicted_us = staged_us = None
    if found.schedule is not None:
        validate_schedule(case.problem, found.schedule)
        predicted_us = simulate(case.problem, found.schedule).makespan_us
        if method in _STAGED:
            staged_us = staged_objective(case.problem, found.schedule)
    return {
        "graph": case.graph,
        "ops": case.problem.num_ops,
        "streams": case.streams,
        "device": case.device,
        "method": method,
        "predicted_us": predicted_us,
        "search_ms": found.search_ms,
        "staged_us": staged_us,
        "bound_us": lower_bound_us(case.problem),
        "merged": case.merged,
        "note": found.note,
    }


def warm_up(methods: Sequence[str]) -> None:
    """Load what methods load at first: weights, libraries.

    Raises
    ------
    TopTVMError
        If a method cannot be used here.
    """
    problem = PartitionProblem(((0, 1),), (OpCost(1.0),) * 2, DeviceModel(2))
    for name in methods:
        METHODS[name](problem, Budget(search_ms=1, long_s=1e-3, ios_s=60))


@contextmanager
def one_core() -> Iterator[None]:
    """Search times are those of one core and one thread."""
    import torch

    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, {min(cores)})
    torch.set_num_threads(1)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)
