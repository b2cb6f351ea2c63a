"""Markdown tables of the records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Record = Mapping[str, Any]


def markdown(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; text to the left, what stands in other columns than the first to the right."""
    lines = [f"\n### {title}\n", f"| {' | '.join(headings)} |"]
    lines.append("| --- |" + " ---: |" * (len(headings) - 1))
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def geometric_mean(values: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))


def latency_table(title: str, records: Sequence[Record]) -> str:
    systems = [name for name in ("onnxruntime", "openvino") if name in records[0]["systems"]]
    ratios = ["peer / sequential", "peer / auto", "sequential / auto"]
    keys = ["ratio_sequential", "ratio_auto", "gain_of_streams"]
    columns = ["model", *systems, "sequential", "auto", *ratios]
    columns += ["at most", "several groups", "plan", "error"]
    rows = []
    for record in records:
        times = {
            name: f"{timing['low_us'] / 1e3:.2f}" for name, timing in record["systems"].items()
        }
        times.setdefault("auto", times["sequential"])
        rows.append(
            [
                record["model"],
                *(times[name] for name in (*systems, "sequential", "auto")),
                *(_ratio(record[key]) for key in keys),
                f"{record['most_gain']:.2f}",
                f"{100 * record['multi_group_share']:.0f} %",
                record["partitioner"],
                f"{max(record['errors'].values()):.0e}",
            ]
        )
    means = [_mean(records, key) for key in keys]
    rows.append(["geometric mean", *[""] * (len(systems) + 2), *means, "", "", "", ""])
    return markdown(f"{title}: ms per request, 20th percentile", columns, rows)


def error_table(title: str, records: Sequence[Record]) -> str:
    rows = [[r["model"], _ratio(r["onnxruntime"]), _ratio(r["auto"])] for r in records]
    columns = ["model", "onnxruntime / the same", "auto / the same"]
    return markdown(f"{title}: a system against itself", columns, rows)


def throughput_table(title: str, records: Sequence[Record]) -> str:
    systems = list(records[0]["per_second"])
    rows = [
        [
            record["model"],
            *(f"{record['per_second'][name]:.1f}" for name in systems),
            record["best_own"],
            _ratio(record["ratio"]),
        ]
        for record in records
    ]
    rows.append(["geometric mean", *[""] * len(systems), "", _mean(records, "ratio")])
    columns = ["model", *systems, "better of ours", "ours / best peer"]
    return markdown(f"{title}: inferences per second", columns, rows)


def memory_table(title: str, records: Sequence[Record]) -> str:
    rows = [
        [
            record["model"],
            *(f"{record[system] / 1e6:.0f}" for system in ("onnxruntime", "top_tvm")),
            f"{record['ratio']:.2f}",
        ]
        for record in records
    ]
    columns = ["model", "onnxruntime", "top_tvm", "ratio"]
    return markdown(f"{title}: peak memory of load and run, MB", columns, rows)


def build_table(title: str, records: Sequence[Record]) -> str:
    builds = list(records[0]["seconds"])
    rows = [[r["model"], *(f"{r['seconds'][name]:.1f}" for name in builds)] for r in records]
    return markdown(f"{title}: seconds of top-tvm build", ["model", *builds], rows)


def kernels_table(title: str, records: Sequence[Record]) -> str:
    """Share of TVM's kernels in a run, and of which operators they are."""
    rows = []
    for record in records:
        shares: Counter[str] = Counter()
        for op in record["ops"]:
            if op["library"] == "tvm":
                shares[op["what"] or op["op"]] += op["share"]
        heavy = [f"{what} {100 * share:.0f} %" for what, share in shares.most_common()]
        named = ", ".join(heavy[:5]) or "none"
        rows.append([record["model"], f"{100 * record['tvm_share']:.1f} %", named])
    columns = ["model", "share of TVM's kernels", "the first of them"]
    return markdown(f"{title}: kernels of the sequential plan", columns, rows)


def ops_table(title: str, ops: Sequence[Record]) -> str:
    rows = [
        [
            op["what"] or op["op"],
            op["library"],
            str(op["threads"]),
            f"{op['time_us']:.1f}",
            f"{op['gflop_per_s']:.1f}",
            f"{op['gb_per_s']:.1f}",
            f"{op['roofline_percent']:.0f} %",
            f"{100 * op['share']:.1f} %",
        ]
        for op in sorted(ops, key=lambda op: -op["share"])
    ]
    columns = ["op", "library", "threads", "us", "GFLOP/s", "GB/s", "of roofline", "share"]
    return markdown(title, columns, rows)


def _ratio(ratio: Record) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})"


def _mean(records: Sequence[Record], key: str) -> str:
    return f"**{geometric_mean([record[key]['median'] for record in records]):.3f}**"
