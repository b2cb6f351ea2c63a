"""When tasks arrive: random processes with a seed, and files."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from top_tvm.errors import InputError

Floats = npt.NDArray[np.float64]

PROCESSES = ("poisson", "uniform", "mmpp", "gamma")
"""Arrivals that :func:`random_arrivals` can make."""

MOST_ARRIVALS = 5_000_000
# The two states of mmpp: rate relative to the mean rate, and mean time in it. A third of the time
# is spent in the busy one, so that the mean over both is 1: (0.4 * 1.0 + 2.2 * 0.5) / 1.5.
MMPP_RATES = (0.4, 2.2)
MMPP_SOJOURNS_S = (1.0, 0.5)
GAMMA_CV = 4.0


@dataclass(frozen=True, eq=False)
class Arrivals:
    """Tasks to come, by time.

    Attributes
    ----------
    times_s : numpy.ndarray of float64, shape (tasks,)
        Ascending, from 0 on.
    models : tuple of str
        One name per task.
    """

    times_s: Floats
    models: tuple[str, ...]


def random_arrivals(
    process: str, rates_per_s: Mapping[str, float], duration_s: float, seed: int
) -> Arrivals:
    """Draw arrivals of some models, each with a process of its own.

    Parameters
    ----------
    process : {"poisson", "uniform", "mmpp", "gamma"}
        Poisson; equal distances, from a random beginning; a Poisson process that a Markov chain
        switches between 0.4 times the mean rate (1 s on average) and 2.2 times (0.5 s); or gamma
        distributed distances with a coefficient of variation of 4.
    rates_per_s : mapping of str to float
        Mean rate of every model.
    duration_s : float
        Arrivals are before this.
    seed : int
        The same seed gives the same arrivals, and those of a model do not depend on others that
        stand behind it.

    Raises
    ------
    InputError
        There is no such process, or a parameter is out of range.
    """
    if process not in PROCESSES:
        raise InputError(f"no arrivals {process!r}; there are: {', '.join(PROCESSES)}")
    if not 0 < duration_s < math.inf:
        raise InputError(f"the duration must be positive, not {duration_s:g} s")
    for model, rate in rates_per_s.items():
        if not 0 < rate < math.inf:
            raise InputError(f"model {model!r}: the rate must be positive, not {rate:g} tasks/s")
    expected = sum(rates_per_s.values()) * duration_s
    if expected > MOST_ARRIVALS:
        raise InputError(
            f"{expected:.3g} tasks are too many for one test, at most {MOST_ARRIVALS:,}: choose a "
            "lower rate or a shorter duration"
        )
    seeds = np.random.SeedSequence(seed).spawn(len(rates_per_s))
    times = [
        _PROCESSES[process](np.random.default_rng(own), rate, duration_s)
        for own, rate in zip(seeds, rates_per_s.values(), strict=True)
    ]
    return _merged(list(rates_per_s), times)


def _merged(names: list[str], times: list[Floats]) -> Arrivals:
    all_times = np.concatenate(times)
    owners = np.repeat(np.arange(len(names)), [len(of_model) for of_model in times])
    order = np.argsort(all_times, kind="stable")
    return Arrivals(all_times[order], tuple(names[owner] for owner in owners[order]))


def _poisson(generator: np.random.Generator, rate: float, duration_s: float) -> Floats:
    # Given their number, the points of a Poisson process are uniform.
    count = generator.poisson(rate * duration_s)
    return np.sort(generator.uniform(0.0, duration_s, count))


def _uniform(generator: np.random.Generator, rate: float, duration_s: float) -> Floats:
    first = generator.uniform(0.0, 1.0 / rate)
    times = first + np.arange(math.ceil(duration_s * rate) + 1) / rate
    return np.asarray(times[times < duration_s])


def _mmpp(generator: np.random.Generator, rate: float, duration_s: float) -> Floats:
    share_busy = MMPP_SOJOURNS_S[1] / sum(MMPP_SOJOURNS_S)
    state = int(generator.uniform() < share_busy)
    pieces, start_s = [], 0.0
    while start_s < duration_s:
        length_s = min(generator.exponential(MMPP_SOJOURNS_S[state]), duration_s - start_s)
        pieces.append(start_s + _poisson(generator, rate * MMPP_RATES[state], length_s))
        start_s, state = start_s + max(length_s, 1e-9), 1 - state
    return np.concatenate(pieces)


def _gamma(generator: np.random.Generator, rate: float, duration_s: float) -> Floats:
    shape = GAMMA_CV**-2
    chunk = math.ceil(rate * duration_s) + 64
    pieces, end_s = [], 0.0
    while end_s < duration_s:
        times = end_s + np.cumsum(generator.gamma(shape, 1.0 / (rate * shape), chunk))
        pieces.append(times)
        end_s = float(times[-1])
    times = np.concatenate(pieces)
    return np.asarray(times[times < duration_s])


_PROCESSES: dict[str, Any] = {
    "poisson": _poisson,
    "uniform": _uniform,
    "mmpp": _mmpp,
    "gamma": _gamma,
}


def read_trace(path: str | Path, models: Collection[str], duration_s: float = math.inf) -> Arrivals:
    """Read arrivals from a CSV file with the header ``arrival_time_s,model``.

    Parameters
    ----------
    path : str or Path
        Times are in seconds, ascending from 0 on.
    models : collection of str
        Names that may stand in the file.
    duration_s : float
        Later arrivals are left out.

    Raises
    ------
    InputError
        Something else stands in a line, which is named.
    """
    times: list[float] = []
    names: list[str] = []
    with Path(path).open(newline="", encoding="utf-8", errors="replace") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        if header != ["arrival_time_s", "model"]:
            raise InputError(f"{path}: line 1: expected the header arrival_time_s,model")
        for row in rows:
            where = f"{path}: line {rows.line_num}"
            if len(row) != 2:
                raise InputError(
                    f"{where}: expected a time and a model, such as 0.25,{min(models)}"
                )
            time_s = _time(where, row[0])
            if times and time_s < times[-1]:
                raise InputError(f"{where}: {time_s:g} s is before the line above: sort the file")
            if row[1] not in models:
                raise InputError(
                    f"{where}: there is no model {row[1]!r}; there are: {', '.join(models)}"
                )
            if len(times) == MOST_ARRIVALS:
                raise InputError(f"{where}: a test has at most {MOST_ARRIVALS:,} tasks")
            times.append(time_s)
            names.append(row[1])
    count = sum(time_s < duration_s for time_s in times)
    if count == 0:
        raise InputError(f"{path}: there is no arrival in it before {duration_s:g} s")
    return Arrivals(np.array(times[:count]), tuple(names[:count]))


def _time(where: str, text: str) -> float:
    try:
        time_s = float(text)
    except ValueError:
        time_s = math.nan
    if not 0 <= time_s < math.inf:
        raise InputError(f"{where}: {text!r} is no time in seconds from 0 on")
    return time_s
