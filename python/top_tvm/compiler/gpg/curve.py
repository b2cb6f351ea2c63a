"""The learning curve: numbers, and a picture of them where matplotlib is installed."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path

from top_tvm.replace_file import replacing, write_text


@dataclass(frozen=True)
class Record:
    """One evaluation.

    Attributes
    ----------
    updates : int
        Of the weights, so far.
    seconds : float
        Of training, so far, evaluations included.
    greedy, best_of_16 : float
        Time of schedules relative to list scheduling, geometric mean over graphs that are not
        trained on: of the best-scored choices, and of the best of these and 15 samples.
    """

    updates: int
    seconds: float
    greedy: float
    best_of_16: float


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def write_csv(path: Path, curve: Sequence[Record]) -> None:
    """Write the numbers, one line per evaluation; an existing file is replaced as a whole."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Record)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(record) for record in curve)
    write_text(path, text.getvalue())


def draw_png(path: Path, curve: Sequence[Record]) -> None:
    """Draw the curve with matplotlib; an existing file is replaced as a whole."""
    from matplotlib.figure import Figure  # without pyplot, which wants a display

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    updates = [record.updates for record in curve]
    axes.plot(updates, [record.greedy for record in curve], label="greedy")
    axes.plot(updates, [record.best_of_16 for record in curve], label="best of 16 samples")
    axes.axhline(1.0, color="grey", linewidth=0.8, linestyle="--", label="list scheduling")
    axes.set_xlabel("updates")
    axes.set_ylabel("simulated time / list scheduling's")
    axes.set_title("Graphs that are not trained on, geometric mean")
    axes.legend()
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=150)
