"""Arrivals under which controllers are compared: steady, bursty, and changing in the long run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from top_tvm.loadtest.arrivals import PROCESSES, random_arrivals

Floats = npt.NDArray[np.float64]

FLASH_RATE, FLASH_SHARE = 4.0, 0.1  # relative rate in a tenth of the time
DIURNAL_SWING, DIURNAL_PERIODS = 0.8, 2.0


@dataclass(frozen=True)
class Trace:
    """Tasks to come.

    Attributes
    ----------
    kind : str
        One of :data:`TRACES`.
    duration_us : float
        Arrivals are before this.
    arrivals : list of (float, int, int, float)
        Time and, after it, deadline in microseconds; index of the model; priority.
    """

    kind: str
    duration_us: float
    arrivals: list[tuple[float, int, int, float]]


def make_trace(
    kind: str,
    rates_per_s: Mapping[str, float],
    deadlines_us: Mapping[str, float],
    duration_s: float,
    seed: int,
) -> Trace:
    """Draw a trace of the models with these mean rates.

    Parameters
    ----------
    kind : str
        One of :data:`TRACES`.
    rates_per_s, deadlines_us : mapping of str to float
        By model; deadlines count from the arrival.
    duration_s : float
        Arrivals are before this.
    seed : int
        The same seed gives the same trace.
    """
    names = list(rates_per_s)
    if kind in PROCESSES:
        drawn = random_arrivals(kind, rates_per_s, duration_s, seed)
        times_s, models = drawn.times_s, [names.index(name) for name in drawn.models]
    else:
        seeds = np.random.SeedSequence(seed).spawn(len(names))
        times = [
            _thinned(np.random.default_rng(own), rates_per_s[name], duration_s, _CHANGING[kind](m))
            for m, (own, name) in enumerate(zip(seeds, names, strict=True))
        ]
        all_s = np.concatenate(times)
        owners = np.repeat(np.arange(len(names)), [len(own) for own in times])
        order = np.argsort(all_s, kind="stable")
        times_s, models = all_s[order], owners[order].tolist()
    arrivals = [
        (1e6 * time_s, model, 0, deadlines_us[names[model]])
        for time_s, model in zip(times_s.tolist(), models, strict=True)
    ]
    return Trace(kind, 1e6 * duration_s, arrivals)


def _thinned(
    random: np.random.Generator, rate: float, duration_s: float, shape: Callable[[Floats], Floats]
) -> Floats:
    """A Poisson process with a rate that changes: ``rate * shape(part of the time)``."""
    grid = shape(np.linspace(0, 1, 1001))
    top = float(grid.max())
    count = random.poisson(rate * top * duration_s)
    parts = np.sort(random.uniform(0.0, 1.0, count))
    kept = random.uniform(0.0, top, count) < shape(parts)
    return parts[kept] * duration_s


def _diurnal(_: int) -> Callable[[Floats], Floats]:
    return lambda part: 1 + DIURNAL_SWING * np.sin(2 * math.pi * DIURNAL_PERIODS * part)


def _flash_crowd(_: int) -> Callable[[Floats], Floats]:
    calm = (1 - FLASH_RATE * FLASH_SHARE) / (1 - FLASH_SHARE)
    return lambda part: np.where(np.abs(part - 0.5) < FLASH_SHARE / 2, FLASH_RATE, calm)


def _mix_shift(model: int) -> Callable[[Floats], Floats]:
    """Every other model gives way to those between."""
    return lambda part: 2 * (part if model % 2 else 1 - part)


_CHANGING: Mapping[str, Callable[[int], Callable[[Floats], Floats]]] = {
    "diurnal": _diurnal,
    "flash-crowd": _flash_crowd,
    "mix-shift": _mix_shift,
}
TRACES = (*PROCESSES, *_CHANGING)
