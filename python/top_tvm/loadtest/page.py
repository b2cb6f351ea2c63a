"""One self-contained HTML page about a load test: what happened over time."""

from __future__ import annotations

from collections import Counter
from importlib.resources import files
from typing import Any

import numpy as np

from top_tvm.loadtest.record import Record
from top_tvm.loadtest.result import LoadResult, backlog_steps
from top_tvm.page import assemble

_BINS = 100
_MOST_POINTS = 2000
# The timeline shows so many bars, and so many times the longest segment, at most.
_MOST_BARS = 300
_LONGEST_SEGMENTS = 30


def page_data(name: str, record: Record, result: LoadResult) -> dict[str, Any]:
    """What is on the page, as JSON; series have one value per bin of time, None for nothing."""
    width_s = max(record.elapsed_s, 1e-6) / _BINS
    done = [task for task in record.tasks if task.end == "completed"]
    latency_ms = np.array([1e3 * (task.finished_s - task.arrival_s) for task in done])
    arrival_bin = _bins([task.arrival_s for task in done], width_s)
    finished_bin = _bins([task.finished_s for task in done], width_s)
    deadline_ms = result.settings.get("deadline_ms") or np.inf
    quantiles = [
        [_quantile(latency_ms[arrival_bin == index], share) for index in range(_BINS)]
        for share in (0.5, 0.99)
    ]
    sample = np.random.default_rng(0).permutation(len(done))[:_MOST_POINTS]
    return {
        "name": name,
        "result": result.as_json(),
        "bin_s": width_s,
        "p50_ms": quantiles[0],
        "p99_ms": quantiles[1],
        "points": [[done[i].arrival_s, float(latency_ms[i])] for i in sample],
        "throughput": (np.bincount(finished_bin, minlength=_BINS) / width_s).tolist(),
        "goodput": (
            np.bincount(finished_bin[latency_ms <= deadline_ms], minlength=_BINS) / width_s
        ).tolist(),
        "backlog": _backlog(record, width_s),
        **_sampled(record, width_s),
        "timeline": _timeline(record),
    }


def render(data: dict[str, Any]) -> str:
    """Write the page as HTML."""
    folder = files("top_tvm.loadtest")
    body = folder.joinpath("load.html").read_text(encoding="utf-8")
    script = folder.joinpath("load.js").read_text(encoding="utf-8")
    title = f"{data['name']} - load test - top_tvm"
    return assemble(title, body, ("text.js", "colours.js", "theme.js"), script, data)


def _timeline(record: Record) -> dict[str, Any]:
    """Segments around the moment of the longest backlog; times in seconds.

    A row is a lane of a segment of a model. The recorded segments are the latest ones, so the
    moment is the one that they have.
    """
    runs = sorted(record.segments, key=lambda run: run.begin_us)
    if not runs:
        return {"rows": [], "bars": [], "begin_s": 0.0, "end_s": 0.0}
    times, levels = backlog_steps(record.tasks)
    known = times >= 1e-6 * runs[0].begin_us
    longest_s = float(times[known][levels[known].argmax()]) if known.any() else 0.0
    begins_s = np.array([1e-6 * run.begin_us for run in runs])
    middle = int(np.searchsorted(begins_s, longest_s))
    first = max(0, min(middle - _MOST_BARS // 2, len(runs) - _MOST_BARS))
    shown = runs[first : first + _MOST_BARS]
    width_us = _LONGEST_SEGMENTS * max(run.end_us - run.begin_us for run in shown)
    begin_us = max(shown[0].begin_us, 1e6 * longest_s - width_us / 2)
    shown = [run for run in shown if begin_us <= run.end_us and run.begin_us <= begin_us + width_us]
    rows = sorted({(record.models.index(run.model), run.segment, run.lane) for run in shown})
    return {
        "rows": [
            f"{record.models[model]}, segment {segment + 1}, lane {lane + 1}"
            for model, segment, lane in rows
        ],
        "bars": [
            {
                "row": rows.index((record.models.index(run.model), run.segment, run.lane)),
                "instance": run.instance,
                "tasks": run.tasks,
                "variant": run.variant,
                "begin_s": 1e-6 * run.begin_us,
                "end_s": 1e-6 * run.end_us,
            }
            for run in shown
        ],
        "begin_s": 1e-6 * begin_us,
        "end_s": 1e-6 * max(run.end_us for run in shown),
    }


def _bins(times_s: list[float], width_s: float) -> Any:
    indices = (np.array(times_s, dtype=np.float64) / width_s).astype(np.int64)
    return np.clip(indices, 0, _BINS - 1)


def _quantile(values: Any, share: float) -> float | None:
    return float(np.quantile(values, share)) if len(values) else None


def _backlog(record: Record, width_s: float) -> list[int]:
    """The most of each bin."""
    times, levels = backlog_steps(record.tasks)
    most, last, begin = [], 0, 0
    for index in range(_BINS):
        end = int(np.searchsorted(times, (index + 1) * width_s, side="right"))
        most.append(int(max(levels[begin:end].max(initial=0), last)))
        last = int(levels[end - 1]) if end else 0
        begin = end
    return most


def _sampled(record: Record, width_s: float) -> dict[str, Any]:
    """Utilisation between samples, and the variant that was current most often, by bin."""
    times = np.array([sample.time_s for sample in record.samples])
    busy = np.array([sample.busy_s for sample in record.samples])
    edges = np.linspace(0, _BINS * width_s, _BINS + 1)
    gained = np.diff(np.interp(edges, times, busy)) if len(times) else np.zeros(_BINS)
    names = list(dict.fromkeys(sample.variant for sample in record.samples))
    by_bin: list[Counter[int]] = [Counter() for _ in range(_BINS)]
    for index, sample in zip(_bins(times.tolist(), width_s), record.samples, strict=True):
        by_bin[index][names.index(sample.variant)] += 1
    return {
        "utilisation": np.clip(gained / (width_s * record.streams), 0, 1).tolist(),
        "variant_names": names,
        "variant": [counts.most_common(1)[0][0] if counts else None for counts in by_bin],
    }
