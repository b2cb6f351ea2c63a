"""When tasks arrive: seeded, and at the same times for every system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from top_tvm.loadtest.arrivals import random_arrivals

Times = npt.NDArray[np.float64]

ARRIVALS = ("poisson", "mmpp", "gamma")


@dataclass(frozen=True)
class Arrival:
    """A task to come; seconds from the start."""

    at_s: float
    model: str
    deadline_s: float


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
    drawn = random_arrivals(kind, rates, duration_s, seed)
    owners = np.array(drawn.models)
    random = np.random.default_rng(seed)
    found: list[Arrival] = []
    for model, rate in rates.items():
        times = _scaled(drawn.times_s[owners == model], rate, duration_s, random)
        found += [Arrival(float(at_s), model, deadlines_s[model]) for at_s in times]
    return sorted(found, key=lambda arrival: arrival.at_s)


def _scaled(times: Times, rate: float, duration_s: float, random: np.random.Generator) -> Times:
    """Leave arrivals out, or add some near others, until their number is the expected one."""
    count = max(1, round(rate * duration_s))
    if len(times) >= count:
        return np.sort(random.choice(times, count, replace=False))
    base: Sequence[float] = times if len(times) else [0.0]
    missing = count - len(times)
    more = random.choice(base, missing) + random.exponential(1 / rate, missing)
    return np.sort(np.concatenate((times, np.minimum(more, duration_s))))
