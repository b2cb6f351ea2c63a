"""Markdown tables of the records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from cpu.tables import geometric_mean, markdown
from serving_support.peers import PEERS

Record = dict[str, Any]

_MODES = ("serial", "free", "merged", "batching")


def report(records: Sequence[Record]) -> str:
    tables = []
    by_section: dict[str, list[Record]] = {}
    for record in records:
        by_section.setdefault(record["section"], []).append(record)
    if "baseline" in by_section:
        tables.append(baseline_table(by_section["baseline"]))
    if "cell" in by_section:
        tables += cell_tables(by_section["cell"])
        tables.append(auto_table(by_section["cell"]))
    if "self" in by_section:
        tables += self_tables(by_section["self"])
        tables.append(gain_table(by_section["self"]))
    if "overload" in by_section:
        tables.append(overload_table(by_section["overload"]))
    if "flood" in by_section:
        tables.append(flood_table(by_section["flood"]))
    return "\n".join(tables)


def baseline_table(records: Sequence[Record]) -> str:
    rows = []
    for record in records:
        lone = ", ".join(f"{name} {value:.2f}" for name, value in record["lone_ms"].items())
        for name, per_s in record["capacity_per_s"].items():
            rows.append([record["mix"], lone, name, f"{per_s:.1f}", _of(per_s, record["best"])])
    headings = ["models", "lone latency, ms", "system", "tasks/s", "of the best static"]
    return markdown("Throughput from full queues", headings, rows)


def cell_tables(records: Sequence[Record]) -> list[str]:
    """One table per cell; times are medians over the repeats, with the least and the most."""
    headings = [
        *("system", "tasks/s", "goodput/s", "of the best", "p50, ms", "p95, ms", "p99, ms"),
        *("refused", "expired", "drain, s", "variant"),
    ]
    tables = []
    for cell in _grouped(records, "mix", "arrivals", "load", "deadline"):
        first = cell[0]
        goodput = {one[0]["system"]: _median(one, "goodput") for one in _grouped(cell, "system")}
        best = max(goodput.values())
        rows = []
        for one in _grouped(cell, "system"):
            rows.append(
                [
                    one[0]["system"],
                    _spread(one, "throughput", 1),
                    _spread(one, "goodput", 1),
                    _of(goodput[one[0]["system"]], best),
                    *(_spread(one, key, 1) for key in ("p50_ms", "p95_ms", "p99_ms")),
                    f"{_median(one, 'rejected'):.0f}",
                    f"{_median(one, 'expired'):.0f}",
                    f"{_median(one, 'drain_s'):.2f}",
                    "/".join(sorted({r["variant"] for r in one if "variant" in r})) or "-",
                ]
            )
        title = (
            f"{first['mix']}, {first['arrivals']}, load {first['load']:.0%} "
            f"({first['offered_per_s']:.0f} tasks/s), deadline {first['deadline']:g}x"
        )
        tables.append(markdown(title, headings, rows))
    return tables


def auto_table(records: Sequence[Record]) -> str:
    """Goodput of `auto` against the best of the other modes and the best peer, per cell."""
    rows = []
    ratios: tuple[list[float], list[float]] = ([], [])
    for cell in _grouped(records, "mix", "arrivals", "load", "deadline"):
        goodput = {one[0]["system"]: _median(one, "goodput") for one in _grouped(cell, "system")}
        if "auto" not in goodput:
            continue
        row = [
            f"{cell[0]['mix']}, {cell[0]['arrivals']}",
            f"{cell[0]['load']:.0%}",
            f"{cell[0]['deadline']:g}x",
        ]
        for others, found in zip((_MODES, PEERS), ratios, strict=True):
            known = {name: goodput[name] for name in others if goodput.get(name)}
            best = max(known, key=lambda name: known[name], default=None)
            if best is None:
                row += ["-", "-"]
                continue
            found.append(goodput["auto"] / known[best])
            row += [best, f"{found[-1]:.3f}"]
        rows.append(row)
    if rows:
        means = [f"{_mean(one):.3f}" if one else "-" for one in ratios]
        least = [f"{min(one):.3f}" if one else "-" for one in ratios]
        rows.append(["geometric mean", "", "", "", means[0], "", means[1]])
        rows.append(["least", "", "", "", least[0], "", least[1]])
    headings = ["cell", "load", "deadline", "best mode", "auto / it", "best peer", "auto / it"]
    return markdown("Goodput of auto", headings, rows)


def self_tables(records: Sequence[Record]) -> list[str]:
    """Throughput of every variant."""
    tables = []
    headings = ["variant", "tasks/s", "of serial", "of the best free", "of the bound", "predicted"]
    for group in _grouped(records, "device", "model", "streams"):
        serial = next(record["per_s"] for record in group if record["variant"] == "serial")
        free = _best_free(group)
        rows = [
            [
                record["variant"],
                f"{record['per_s']:.1f}",
                _of(record["per_s"], serial),
                _of(record["per_s"], free),
                _of(record["per_s"], record.get("bound_per_s") if record["batch"] == 1 else None),
                f"{record['predicted_per_s']:.1f}",
            ]
            for record in group
        ]
        first = group[0]
        title = f"{first['model']} on {first['device']}, {first['streams']} streams"
        tables.append(markdown(title, headings, rows))
    return tables


def gain_table(records: Sequence[Record]) -> str:
    """Best merged against best free, and what the device's resources leave to gain at most."""
    rows = []
    for group in _grouped(records, "device", "model", "streams"):
        single = [record for record in group if record["batch"] == 1]
        merged = [record for record in single if record["mode"] == "merged"]
        free = _best_free(group)
        if not merged or free is None:
            continue
        row = [group[0]["model"], group[0]["device"], str(group[0]["streams"]), f"{free:.1f}"]
        for barrier in (False, True):
            kind = [record for record in merged if record.get("barrier", False) == barrier]
            best = max(kind, key=lambda record: record["per_s"], default=None)
            row += ["-", "-"] if best is None else [best["variant"], _of(best["per_s"], free)]
        limit = group[0].get("limit", "-")
        rows.append([*row, _of(group[0].get("bound_per_s"), free), limit])
    headings = [
        *("model", "device", "streams", "best free, tasks/s", "merged", "gain"),
        *("with barriers", "gain", "gain at most", "limit"),
    ]
    return markdown("Merged against the best free-running", headings, rows)


def overload_table(records: Sequence[Record]) -> str:
    headings = [
        *("system", "goodput/s at 95 %", "at 110 %", "ratio", "backlog at most", "bound"),
        *("p99, ms", "p99 / deadline of the slowest model"),
    ]
    tables = []
    for group in _grouped(records, "mix"):
        rows = []
        for one in _grouped(group, "system"):
            below, above = (
                [record for record in one if (record["load"] > 1) is over] for over in (False, True)
            )
            ratio = _median(above, "goodput") / max(_median(below, "goodput"), 1e-9)
            worst = max(_late_share(record) for record in above)
            rows.append(
                [
                    one[0]["system"],
                    _spread(below, "goodput", 1),
                    _spread(above, "goodput", 1),
                    f"{ratio:.3f}",
                    str(max(record["backlog_max"] for record in above)),
                    str(above[0]["queue_bound"]),
                    _spread(above, "p99_ms", 1),
                    f"{worst:.2f}",
                ]
            )
        tables.append(markdown(f"{group[0]['mix']}: a load of 110 %", headings, rows))
    return "\n".join(tables)


def flood_table(records: Sequence[Record]) -> str:
    headings = [
        "system",
        "normal tasks offered/s",
        "goodput alone",
        "beside a flood",
        "of its share",
    ]
    rows = []
    for one in _grouped(records, "mix", "system"):
        alone = [record for record in one if record["flooded"] is None]
        beside = [record for record in one if record["flooded"] is not None]
        offered = one[0]["normal_offered_per_s"]
        rows.append(
            [
                one[0]["system"],
                f"{offered:.1f}",
                _spread(alone, "normal_goodput", 1),
                _spread(beside, "normal_goodput", 1),
                _of(_median(beside, "normal_goodput"), offered),
            ]
        )
    return markdown("A normal model beside a flooded one", headings, rows)


def _late_share(record: Record) -> float:
    """The 99th percentile of latency relative to the deadline, of the model where it is most."""
    return max(
        (values["p99_ms"] or 0.0) / record["deadlines_ms"][model]
        for model, values in record["models"].items()
    )


def _grouped(records: Iterable[Record], *keys: str) -> list[list[Record]]:
    """Records that agree in some keys, in the order in which they were first met."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(record[key] for key in keys), []).append(record)
    return list(groups.values())


def _best_free(group: Sequence[Record]) -> float | None:
    """Also one task after another: what no merging is needed for."""
    kinds = ("free", "serial")
    return max((r["per_s"] for r in group if r["mode"] in kinds and r["batch"] == 1), default=None)


def _values(records: Sequence[Record], key: str) -> list[float]:
    return [record[key] for record in records if record[key] is not None]


def _median(records: Sequence[Record], key: str) -> float:
    values = _values(records, key)
    return float(np.median(values)) if values else 0.0


def _spread(records: Sequence[Record], key: str, digits: int) -> str:
    """Median, with the least and the most of all repeats."""
    values = _values(records, key)
    if not values:
        return "-"
    middle, low, high = float(np.median(values)), min(values), max(values)
    text = f"{middle:.{digits}f}"
    return text if len(values) < 2 else f"{text} ({low:.{digits}f}-{high:.{digits}f})"


def _mean(ratios: Sequence[float]) -> float:
    return geometric_mean([max(ratio, 1e-3) for ratio in ratios])


def _of(value: float | None, whole: float | None) -> str:
    return "-" if value is None or not whole else f"{value / whole:.3f}"
