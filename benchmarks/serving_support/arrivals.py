"""When tasks arrive: seeded, and at the same times for every system."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]

_GAMMA_CV = 4.0
# Two states of the same share of the time: a quarter and seven quarters of the mean rate.
_MMPP_RATES = (0.25, 1.75)
_MMPP_STAYS = 6  # mean number of stays in a state during the time


@dataclass(frozen=True)
class Arrival:
    """A task to come; seconds from the start."""

    at_s: float
    model: str
    deadline_s: float


def poisson(rate: float, duration_s: float, random: np.random.Generator) -> Times:
    return _until(duration_s, rate, lambda count: random.exponential(1 / rate, count))


def gamma(rate: float, duration_s: float, random: np.random.Generator) -> Times:
    """Gaps of a Gamma distribution with a coefficient of variation of 4: bursts and silence."""
    shape = _GAMMA_CV**-2
    return _until(duration_s, rate, lambda count: random.gamma(shape, 1 / (rate * shape), count))


def mmpp(rate: float, duration_s: float, random: np.random.Generator) -> Times:
    """A Poisson process whose rate switches between two states that last as long."""
    times: list[Times] = []
    begin_s, state = 0.0, int(random.integers(2))
    while begin_s < duration_s:
        end_s = begin_s + random.exponential(duration_s / _MMPP_STAYS)
        length_s = min(end_s, duration_s) - begin_s
        times.append(begin_s + poisson(rate * _MMPP_RATES[state], length_s, random))
        begin_s, state = end_s, 1 - state
    return np.concatenate(times)


ARRIVALS: Mapping[str, Callable[[float, float, np.random.Generator], Times]] = {
    "poisson": poisson,
    "mmpp": mmpp,
    "gamma": gamma,
}


def arrivals_of(
    kind: str,
    rates: Mapping[str, float],
    duration_s: float,
    deadlines_s: Mapping[str, float],
    seed: int,
) -> list[Arrival]:
    """Arrivals of all models in the order of time.

    Counts are scaled to the rates: within a few seconds a random process would offer anything
    between half and twice the load, and the load is what the tables are about.
    """
    random = np.random.default_rng(seed)
    found: list[Arrival] = []
    for model, rate in rates.items():
        times = _scaled(ARRIVALS[kind](rate, duration_s, random), rate, duration_s, random)
        found += [Arrival(float(at_s), model, deadlines_s[model]) for at_s in times]
    return sorted(found, key=lambda arrival: arrival.at_s)


def _until(duration_s: float, rate: float, gaps: Callable[[int], Times]) -> Times:
    times: list[Times] = []
    now_s = 0.0
    while now_s < duration_s:
        times.append(now_s + np.cumsum(gaps(int(rate * duration_s) + 16)))
        now_s = float(times[-1][-1])
    joined = np.concatenate(times)
    return joined[joined < duration_s]


def _scaled(times: Times, rate: float, duration_s: float, random: np.random.Generator) -> Times:
    """Leave arrivals out, or add some near others, until their number is the expected one."""
    count = max(1, round(rate * duration_s))
    if len(times) >= count:
        return np.sort(random.choice(times, count, replace=False))
    base: Sequence[float] = times if len(times) else [0.0]
    missing = count - len(times)
    more = random.choice(base, missing) + random.exponential(1 / rate, missing)
    return np.sort(np.concatenate((times, np.minimum(more, duration_s))))
