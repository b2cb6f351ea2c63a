"""The heuristic: the variant with the least expected response time for the present arrivals.

Capacity and latency of every variant are known; the rates of arrival are estimated by the runtime,
and so is by how much a variant is slower than it should be, for which a disturbed device or batches
that do not fill can be the reason. A variant that is loaded to a share ``rho`` of its capacity
answers after about

    latency * (1 + rho / (1 - rho) * (1 + variation ** 2) / 2) + time of what is queued

(Kingman's approximation with regular service). Where every variant is overloaded, or that is more
than the deadlines allow, some tasks are lost, and what counts is how many are not: capacity, less
what is lost of the deadlines while tasks wait for the rest of those in flight, and at their ends,
where another instance does not fit.
"""

from __future__ import annotations

from dataclasses import dataclass

from top_tvm.runtime.controller.decision import (
    Decision,
    ModelSnapshot,
    Snapshot,
    VariantFeatures,
    unlimited,
)

# Beyond this share of its capacity a variant counts as overloaded.
_OVERLOADED = 0.95
# Another variant must be better by so much to be worth a switch, and the present one so old.
_WORTH_A_SWITCH = 0.95
_WORTH_CAPACITY = 0.98
# Part of an instance's time that is lost of a deadline, in the mean.
_LOST = 0.75
_LEAST_PERIODS = 5
_ENDLESS_US = 1e9


@dataclass(frozen=True)
class _Estimate:
    load: float  # share of the capacity
    overload: float  # the same, of what deadlines leave of that
    response_us: float


def decide(
    snapshot: Snapshot, variants: tuple[VariantFeatures, ...], *, first: int = 0
) -> Decision:
    """Choose a variant; dequeueing is not limited.

    Parameters
    ----------
    snapshot : Snapshot
        What is going on.
    variants : tuple of VariantFeatures
        What could be done; the first has the least latency.
    first : int
        Variants before this one are not chosen. (Lone tasks get variant 0 in any case.)

    Returns
    -------
    Decision
        The present variant unless another is better by more than the estimates' errors.
    """
    keep = unlimited(len(snapshot.models))
    choice = range(first, len(variants))
    if snapshot.variant < first:
        return Decision(first, keep, "the first that may be chosen")
    rates = [max(m.short_rate_per_s, m.long_rate_per_s) for m in snapshot.models]
    if sum(rates) + sum(m.queued for m in snapshot.models) <= 0:
        return Decision(snapshot.variant, keep, "nothing to do")
    estimates = [
        _estimate(variant, pace, snapshot, rates)
        for variant, pace in zip(variants, snapshot.pace, strict=True)
    ]
    present = estimates[snapshot.variant]
    quickest_us = min(estimates[v].response_us for v in choice)
    shortest_us = min(model.mean_deadline_us for model in snapshot.models)
    overloaded = min(estimates[v].load for v in choice) > _OVERLOADED
    if overloaded or quickest_us > shortest_us:
        best = min(choice, key=lambda v: estimates[v].overload)
        gain = estimates[best].overload / present.overload
        reason, worth = "not all can be in time: most capacity", _WORTH_CAPACITY
    else:
        best = min(choice, key=lambda v: estimates[v].response_us)
        gain = estimates[best].response_us / present.response_us
        reason, worth = "least expected response time", _WORTH_A_SWITCH
    young = snapshot.since_switch_us < _LEAST_PERIODS * variants[snapshot.variant].period_us
    if best == snapshot.variant or gain > worth or young:
        return Decision(snapshot.variant, keep, f"kept, load {present.load:.2f}")
    return Decision(best, keep, f"{reason}, load {estimates[best].load:.2f}")


def _estimate(
    variant: VariantFeatures, pace: float, snapshot: Snapshot, rates: list[float]
) -> _Estimate:
    queued_us = sum(
        model.queued * work_us
        for model, work_us in zip(snapshot.models, variant.work_us, strict=True)
    )
    load = sum(1e-6 * rate * work_us for rate, work_us in zip(rates, variant.work_us, strict=True))
    load *= pace
    total = sum(rates) or 1.0
    latency_us = sum(
        rate / total * latency for rate, latency in zip(rates, variant.latency_us, strict=True)
    )
    if latency_us == 0:  # no arrivals, only what is queued
        latency_us = min(variant.latency_us)
    bounded = min(load, _OVERLOADED)
    waiting = bounded / (1 - bounded) * (1 + _variation(snapshot.models, rates) ** 2) / 2
    response_us = pace * (latency_us * (1 + waiting) + queued_us)
    if load > _OVERLOADED:
        response_us += _ENDLESS_US * load  # queues grow: worse than any that is not
    load = max(load, 1e-9)
    shortest_us = min(model.mean_deadline_us for model in snapshot.models)
    lost = _LOST * max(variant.instance_us) / shortest_us
    return _Estimate(load, load * (1 + lost), response_us)


def _variation(models: tuple[ModelSnapshot, ...], rates: list[float]) -> float:
    """Of all arrivals: that of the models, by their rates."""
    total = sum(rates)
    if total <= 0:
        return 1.0
    return sum(m.variation * rate for m, rate in zip(models, rates, strict=True)) / total
