"""Decide by measurement which of its kernels an op uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from top_tvm.compiler.cache import MeasurementCache
from top_tvm.compiler.extract import fingerprint
from top_tvm.compiler.op_graph import Op, OpGraph
from top_tvm.compiler.profile import Progress, measure_form, measured_with
from top_tvm.compiler.session import Session

# An alternative must be faster by more than measurements scatter.
_CLEARLY_FASTER = 0.95


def choose_kernels(
    graph: OpGraph, session: Session, streams: int, cache: MeasurementCache, progress: Progress
) -> OpGraph:
    """Give each op the fastest of its kernels, each timed in the faster of its two forms.

    Parameters
    ----------
    graph : OpGraph
        Its ops may have alternatives.
    session : Session
        The kernels, those of the alternatives included, and the constants.
    streams : int
        Threads of the multi-threaded form.
    cache : MeasurementCache
        Looked up first; gets what is new.
    progress : callable
        Called with (what, done, total).

    Returns
    -------
    OpGraph
        Without alternatives.
    """
    count = max((len(op.alternatives) for op in graph.ops), default=0)
    graphs = [graph, *(_with_alternatives(graph, number) for number in range(count))]
    # Per op itself with each kernel; an op with fewer kernels than others repeats its first.
    forms = list(zip(*(candidate.ops for candidate in graphs), strict=True))
    keys = [_key(candidates, streams) for candidates in forms]
    open_questions = {key for key, op in zip(keys, graph.ops, strict=True) if op.alternatives}
    if any(cache.get(key) is None for key in open_questions):
        times_us = [_best_times(candidate, session, streams, progress) for candidate in graphs]
        columns = zip(keys, zip(*times_us, strict=True), strict=True)
        cache.update({key: list(column) for key, column in columns if key in open_questions})
    chosen = [
        candidates[_fastest(cache.get(key)) if key in open_questions else 0]
        for key, candidates in zip(keys, forms, strict=True)
    ]
    return replace(graph, ops=tuple(replace(op, alternatives=()) for op in chosen))


def _with_alternatives(graph: OpGraph, number: int) -> OpGraph:
    """The graph with that alternative of each op that has so many."""
    ops = []
    for op in graph.ops:
        if number < len(op.alternatives):
            other = replace(op, kernel=op.alternatives[number])
            ops.append(replace(other, fingerprint=fingerprint(graph, other)))
        else:
            ops.append(op)
    return replace(graph, ops=tuple(ops))


def _key(candidates: Sequence[Op], streams: int) -> str:
    fingerprints = "/".join(op.fingerprint for op in candidates)
    return f"kernels/{measured_with()}/{streams}/{fingerprints}"


def _best_times(graph: OpGraph, session: Session, streams: int, progress: Progress) -> list[float]:
    times_us = measure_form(graph, session, streams, 1, "kernels", progress)
    if streams > 1:
        gang_us = measure_form(graph, session, streams, streams, "kernels", progress)
        times_us = [min(pair) for pair in zip(times_us, gang_us, strict=True)]
    return times_us


def _fastest(times_us: Sequence[float]) -> int:
    best = int(np.argmin(times_us))
    return best if times_us[best] < _CLEARLY_FASTER * times_us[0] else 0
