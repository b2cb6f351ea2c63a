"""Statistics of engines, added up."""

from __future__ import annotations

from typing import Any


def add_statistics(past: dict[str, Any] | None, present: dict[str, Any]) -> dict[str, Any]:
    """Counts of both; times are those of the present, or of the past where it has none."""
    if past is None:
        return present
    total = {}
    for key, value in present.items():
        if isinstance(value, int):
            total[key] = past[key] + value
        else:
            total[key] = value if value["count"] else past[key]
    return total
