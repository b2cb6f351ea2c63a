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
