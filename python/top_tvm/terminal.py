"""What the command line shows: progress on stderr, tables or JSON on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars on stderr, one for each kind of work; yields ``advance(what, done, total)``.

    Where stderr is not a terminal, nothing is shown.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    disable = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=disable) as bars:
        tasks: dict[str, Any] = {}

        def advance(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield advance


def print_json(value: Mapping[str, Any]) -> None:
    """Print one line of JSON."""
    sys.stdout.write(json.dumps(value) + "\n")


def print_table(
    title: str, columns: Mapping[str, str], records: Sequence[Mapping[str, Any]]
) -> None:
    """Print one row per record.

    Parameters
    ----------
    title : str
        Stands above the table.
    columns : mapping of str to str
        Heading of each column, and the key of its values in the records.
    records : sequence of mapping
        Values; None is shown as ``-``.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading, key in columns.items():
        text = all(isinstance(record[key], str) for record in records)
        table.add_column(heading, justify="left" if text else "right")
    for record in records:
        table.add_row(*(_cell(key, record[key]) for key in columns.values()))
    console = Console()
    # Where nobody looks, rich assumes 80 columns and cuts the cells.
    console.print(table, width=None if console.is_terminal else 120)


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    if key == "error":
        return f"{value:.1e}"
    return f"{value:.0f}" if key.endswith("_us") else f"{value:.2f}"


def print_variants(title: str, variants: Sequence[Mapping[str, Any]]) -> None:
    """Print the variants of a mix, as :func:`top_tvm.report.describe_mix` describes them."""
    columns = {
        "variant": "id",
        "lanes": "lanes",
        "segments": "segments",
        "batch": "batch",
        "period us": "period_us",
        "tasks per s": "tasks",
        "MB": "mb",
    }
    records = [
        {
            **variant,
            "tasks": f"{variant['capacity_per_s']:.1f}",
            "mb": f"{variant['memory_bytes'] / 1e6:.1f}",
        }
        for variant in variants
    ]
    print_table(title, columns, records)


@contextmanager
def load_progress(deadline_ms: float | None) -> Iterator[Callable[[Any, float], None]]:
    """One line on stderr about a load test; yields ``show(record, seconds)``.

    Where stderr is not a terminal, nothing is shown.
    """
    import math
    from collections import deque

    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda record, seconds: None
        return
    recent: deque[Any] = deque(maxlen=2000)
    seen = 0
    with Live(console=console, transient=True, refresh_per_second=4) as live:

        def show(record: Any, seconds: float) -> None:
            nonlocal seen
            tasks = record.tasks
            recent.extend(tasks[seen:])
            seen = len(tasks)
            done = sorted(t.finished_s - t.arrival_s for t in recent if t.end == "completed")
            ends = [t.finished_s for t in recent if t.end == "completed"]
            span_s = seconds - min((t.arrival_s for t in recent), default=0.0)
            rates = f"{len(ends) / max(span_s, 1e-3):8.1f} tasks/s"
            quantiles = " ".join(
                f"p{q} {1e3 * done[min(math.ceil(q / 100 * len(done)), len(done)) - 1]:.2f}"
                for q in (50, 95, 99)
                if done
            )
            waiting = sum(t.end == "waiting" for t in recent)
            given = "" if deadline_ms is None else f", deadline {deadline_ms:g} ms"
            live.update(f"{seconds:6.1f} s {rates}, {quantiles} ms, backlog {waiting}{given}")

        yield show
