"""Runs of a plan in the trace event format, which Perfetto and chrome://tracing open.

The format: "Trace Event Format", Google, 2016. A stream is a thread, an op a complete event (``X``)
on every stream that it occupies, a wait a flow (``s`` to ``f``) from the op waited for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy.typing as npt

from top_tvm.artifact import OpProfile
from top_tvm.plan import Call, Plan, Tensor

_PROCESS = 1
# Viewers take thread 0 for the idle task of the kernel.
_RUNS_THREAD = 1
_FIRST_STREAM = 2
_GAP_US = 20.0
# Flows belong to the op that is running at their time, and the end of an op is no longer of it.
_INSTANT_US = 0.001


def trace_events(
    model: str, plan: Plan, times_us: npt.NDArray[Any], profiles: Iterable[OpProfile] = ()
) -> dict[str, Any]:
    """Runs as a trace, one behind the other.

    Parameters
    ----------
    model : str
        Name of the process in the trace.
    plan : Plan
        The plan that ran.
    times_us : numpy.ndarray
        Shape (runs, calls, 2): start and end of every call in microseconds since its run began.
    profiles : iterable of OpProfile
        What is known of the ops; their origins are shown.

    Returns
    -------
    dict
        The JSON object of the format.
    """
    origins = {profile.name: profile.origin for profile in profiles}
    arguments = [_arguments(plan, call, origins.get(call.op, "")) for call in plan.calls]
    events = [_name("process_name", _RUNS_THREAD, f"{model}, batch {plan.batch}")]
    events += _thread(_RUNS_THREAD, "runs")
    for stream in range(plan.streams):
        events += _thread(_FIRST_STREAM + stream, f"stream {stream}")
    begin_us = 0.0
    for run, times in enumerate(times_us.tolist()):
        spans = [(begin_us + start, begin_us + end) for start, end in times]
        end_us = max(end for _, end in spans)
        events.append(_slice(f"run {run}", "run", _RUNS_THREAD, (begin_us, end_us), {"run": run}))
        for call, span, args in zip(plan.calls, spans, arguments, strict=True):
            library = plan.kernels[call.kernel].library
            events += [_slice(call.op, library, t, span, args) for t in _threads(call, plan)]
        events += _flows(plan, spans, run)
        begin_us = end_us + _GAP_US
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _threads(call: Call, plan: Plan) -> list[int]:
    """Threads of the trace: a call on several threads occupies all streams."""
    streams = range(plan.streams) if call.threads > 1 else (call.stream,)
    return [_FIRST_STREAM + stream for stream in streams]


def _arguments(plan: Plan, call: Call, origin: str) -> dict[str, Any]:
    tensors = [plan.tensors[argument] for argument in call.args]
    split = len(tensors) - call.num_outputs
    return {
        "what": origin,
        "kernel": plan.kernels[call.kernel].symbol,
        "reads": [_shape(tensor) for tensor in tensors[:split] if tensor.space != "constant"],
        "writes": [_shape(tensor) for tensor in tensors[split:]],
        "stage": call.stage,
        "group": call.group,
        "threads": call.threads,
    }


def _shape(tensor: Tensor) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}"


def _slice(
    name: str, category: str, thread: int, span: tuple[float, float], args: dict[str, Any]
) -> dict[str, Any]:
    start_us, end_us = span
    times = {"ts": round(start_us, 3), "dur": round(end_us - start_us, 3)}
    place = {"pid": _PROCESS, "tid": thread}
    return {"name": name, "cat": category, "ph": "X", **place, **times, "args": args}


def _flows(plan: Plan, spans: list[tuple[float, float]], run: int) -> list[dict[str, Any]]:
    """An arrow from every call that is waited for on another stream to the call that waits."""
    events = []
    for index, call in enumerate(plan.calls):
        for waited in call.waits:
            common = {"name": "wait", "cat": "wait", "pid": _PROCESS}
            common["id"] = f"{run}.{waited}.{index}"
            source, target = plan.calls[waited], call
            leaves_us = max(spans[waited][0], spans[waited][1] - _INSTANT_US)
            for phase, op, time_us in (("s", source, leaves_us), ("f", target, spans[index][0])):
                event = {
                    **common,
                    "ph": phase,
                    "ts": round(time_us, 3),
                    "tid": _threads(op, plan)[0],
                }
                # Ends at the op that begins then, not at the one after it.
                events.append({**event, "bp": "e"} if phase == "f" else event)
    return events


def _thread(thread: int, name: str) -> list[dict[str, Any]]:
    order = _name("thread_sort_index", thread, name)
    return [_name("thread_name", thread, name), {**order, "args": {"sort_index": thread}}]


def _name(kind: str, thread: int, name: str) -> dict[str, Any]:
    event = {"name": kind, "ph": "M", "pid": _PROCESS, "tid": thread}
    return {**event, "args": {"name": name}}
