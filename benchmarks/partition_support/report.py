"""Markdown tables of the records of simulated schedules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cpu.tables import geometric_mean, markdown
from partition_support.methods import METHODS

Record = Mapping[str, Any]
# Records of one problem by method.
Problem = Mapping[str, Record]

_BASELINE = "list"
_SIZES = (60, 100, 200, 500, 1000, 2000)
# Graphs on which search times are compared with those of ios.
_MANY_OPS = 60
# Less than this and there is no gap to close.
_GAP = 1e-4


def report(records: Sequence[Record]) -> str:
    problems = _by_problem(records)
    tables = list(_ratio_tables(problems))
    if "gpg" in _methods(problems):
        tables.append(_summary(problems))
    return "\n".join((*tables, _search_times(problems), *_scaling(problems)))


def _by_problem(records: Sequence[Record]) -> list[Problem]:
    found: dict[tuple[object, ...], dict[str, Record]] = {}
    for record in records:
        key = (record["device"], record["streams"], record["merged"], record["graph"])
        found.setdefault(key, {})[record["method"]] = record
    return list(found.values())


def _any(problem: Problem) -> Record:
    return next(iter(problem.values()))


def _groups(problems: Sequence[Problem]) -> Iterator[tuple[str, list[Problem]]]:
    """Problems of one device, number of streams, and kind, with a title."""
    groups: dict[tuple[str, int, bool], list[Problem]] = {}
    for problem in problems:
        record = _any(problem)
        key = (record["device"], record["streams"], record["merged"])
        groups.setdefault(key, []).append(problem)
    for (device, streams, merged), group in groups.items():
        kind = "merged graphs" if merged else "single models"
        yield f"{device}, {streams} streams, {kind}", group


def _us(problem: Problem, method: str) -> float | None:
    return problem[method]["predicted_us"] if method in problem else None


def _ratio(problem: Problem, method: str, other: str) -> float | None:
    time_us, other_us = _us(problem, method), _us(problem, other)
    return None if time_us is None or other_us is None else time_us / other_us


def _ratios(problems: Sequence[Problem], method: str, other: str) -> list[float]:
    ratios = (_ratio(problem, method, other) for problem in problems)
    return [ratio for ratio in ratios if ratio is not None]


def _mean(ratios: Sequence[float]) -> str:
    return f"{geometric_mean(ratios):.3f}" if ratios else "-"


def _shown(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.3f}"


def _methods(problems: Sequence[Problem]) -> list[str]:
    return [name for name in METHODS if any(name in problem for problem in problems)]


def _ratio_tables(problems: Sequence[Problem]) -> Iterator[str]:
    """Time of every method relative to list scheduling; below 1 is faster."""
    for title, group in _groups(problems):
        methods = [name for name in _methods(group) if name != _BASELINE]
        rows = [
            [
                _any(problem)["graph"],
                str(_any(problem)["ops"]),
                f"{_us(problem, _BASELINE):.1f}",
                *(_shown(_ratio(problem, name, _BASELINE)) for name in methods),
            ]
            for problem in group
        ]
        means = [_mean(_ratios(group, name, _BASELINE)) for name in methods]
        rows.append(["**geometric mean**", "", "", *(f"**{mean}**" for mean in means)])
        headings = ["graph", "ops", f"{_BASELINE}, us", *methods]
        yield markdown(f"{title}: predicted time / that of {_BASELINE}", headings, rows)


def _summary(problems: Sequence[Problem]) -> str:
    """What the tables say about gpg."""
    headings = ["problems", "graphs", "gpg / list", "gpg / greedy", "gpg / ios", "with ios"]
    headings += ["worst gpg / better of list, ios", "gap closed", "staged gpg / ios", "worst"]
    headings += ["search-long / greedy", "lower bound / greedy"]
    rows = [
        [
            title,
            str(len(group)),
            *(_mean(_ratios(group, "gpg", other)) for other in ("list", "greedy", "ios")),
            str(len(_ratios(group, "gpg", "ios"))),
            _shown(max(_against_better(group), default=None)),
            _gap_closed(group),
            _mean(_staged_ratios(group)),
            _shown(max(_staged_ratios(group), default=None)),
            _mean(_ratios(group, "search-long", "greedy")),
            _mean([p["greedy"]["bound_us"] / _us(p, "greedy") for p in group if "greedy" in p]),
        ]
        for title, group in (*_groups(problems), ("**all**", problems))
    ]
    return markdown("gpg in the geometric mean", headings, rows)


def _against_better(group: Sequence[Problem]) -> list[float]:
    worst = []
    for problem in group:
        ratios = [_ratio(problem, "gpg", other) for other in (_BASELINE, "ios")]
        known = [ratio for ratio in ratios if ratio is not None]
        worst += [max(known)] if known else []
    return worst


def _gap_closed(group: Sequence[Problem]) -> str:
    """Of the gap between list scheduling and the long search, in the geometric mean."""
    both = [p for p in group if _us(p, "gpg") and _us(p, "search-long")]
    gap = [-np.log(ratio) for ratio in _ratios(both, "search-long", _BASELINE)]
    closed = [-np.log(ratio) for ratio in _ratios(both, "gpg", _BASELINE)]
    if not gap or np.mean(gap) < _GAP:
        return "-"
    return f"{100 * np.mean(closed) / np.mean(gap):.0f} %"


def _staged_ratios(group: Sequence[Problem]) -> list[float]:
    return [
        problem["gpg-staged"]["staged_us"] / problem["ios"]["staged_us"]
        for problem in group
        if "gpg-staged" in problem
    ]


def _search_times(problems: Sequence[Problem]) -> str:
    """Median and longest search in milliseconds, by the size of the graph."""
    rows = []
    for name in _methods(problems):
        row = [name]
        for low, high in zip((0, *_SIZES), (*_SIZES, float("inf")), strict=True):
            times = [
                problem[name]["search_ms"]
                for problem in problems
                if name in problem
                and problem[name]["search_ms"] is not None
                and low < _any(problem)["ops"] <= high
            ]
            row.append(f"{np.median(times):.3g} ({max(times):.3g})" if times else "-")
        rows.append(row)
    headings = ["ops", *(f"to {size}" for size in _SIZES), "more"]
    return markdown("search time in ms, median and longest", headings, rows)


def _scaling(problems: Sequence[Problem]) -> Iterator[str]:
    """How search times grow, how ios compares, and what did not finish."""
    yield ""
    for name in ("gpg", "list"):  # ios depends on the graph more than on its size
        points = [
            (np.log(problem[name]["ops"]), np.log(problem[name]["search_ms"]))
            for problem in problems
            if name in problem and problem[name]["search_ms"]
        ]
        if len({size for size, _ in points}) > 1:
            exponent = np.polyfit(*np.array(points).T, 1)[0]
            yield f"* Search time of {name} grows with the number of ops to the {exponent:.2f}."
    ratios = [
        problem["ios"]["search_ms"] / problem["gpg"]["search_ms"]
        for problem in problems
        if {"ios", "gpg"} <= set(problem)
        and problem["ios"]["search_ms"]
        and _any(problem)["ops"] >= _MANY_OPS
    ]
    if ratios:
        yield (
            f"* On {len(ratios)} graphs of at least {_MANY_OPS} ops ios takes {min(ratios):.3g} to "
            f"{max(ratios):.3g} times as long as gpg, {geometric_mean(ratios):.3g} in the "
            "geometric mean."
        )
    notes: dict[str, list[str]] = {}
    for problem in problems:
        for record in problem.values():
            if record["note"]:
                graph = f"{record['graph']} ({record['device']}, {record['streams']} streams)"
                notes.setdefault(f"{record['method']} {record['note']}", []).append(graph)
    for note, graphs in notes.items():
        yield f"* {note}: {', '.join(graphs)}."
