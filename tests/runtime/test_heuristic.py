"""The heuristic as a pure function, with numbers made up."""

import math

import pytest

from top_tvm.errors import InputError
from top_tvm.runtime.controller import heuristic
from top_tvm.runtime.controller.decision import (
    Decision,
    ModelSnapshot,
    Snapshot,
    VariantFeatures,
    unlimited,
)
from top_tvm.runtime.controller.named import controller_named

# Low latency and capacity; more of both; the most capacity and twice the latency.
VARIANTS = (
    VariantFeatures("serial", 100.0, (100.0,), (100.0,), 0, (100.0,)),
    VariantFeatures("free", 160.0, (150.0,), (80.0,), 0, (150.0,)),
    VariantFeatures("merged", 400.0, (300.0,), (60.0,), 0, (300.0,)),
)


def snapshot(
    rate, *, variant=0, queued=0, variation=1.0, since_us=1e6, pace=1.0, deadline_us=math.inf
):
    model = ModelSnapshot(
        queued, 0, 0.0, math.inf, rate, rate, variation, math.inf, deadline_us, (0,)
    )
    paces = pace if isinstance(pace, tuple) else (pace,) * len(VARIANTS)
    return Snapshot(1e9, variant, since_us, paces, (model,))


def choose(*args, **options):
    decision = heuristic.decide(snapshot(*args, **options), VARIANTS)
    assert decision.frequency == (math.inf,)
    assert decision.reason
    return VARIANTS[decision.variant].id


def test_light_loads_get_low_latency_and_heavy_ones_capacity():
    assert choose(100) == "serial"
    assert choose(9_700, variant=0) in ("free", "merged")
    assert choose(13_000) == "merged"
    assert choose(1e6) == "merged"


def test_the_busier_the_more_capacity():
    chosen = [
        VARIANTS.index(next(v for v in VARIANTS if v.id == choose(rate)))
        for rate in range(100, 17_000, 100)
    ]
    assert chosen == sorted(chosen)
    assert set(chosen) >= {0, 2}


def test_a_backlog_without_arrivals_is_worked_off_by_capacity():
    assert choose(0, queued=1000) == "merged"


def test_nothing_to_do_changes_nothing():
    assert choose(0, variant=1) == "free"


def test_a_slower_device_needs_more_capacity_earlier():
    rate = next(r for r in range(1000, 20_000, 100) if choose(r) != "serial")
    assert choose(rate - 200) == "serial"
    assert choose(rate - 200, pace=1.2) != "serial"


def test_a_variant_that_does_not_keep_its_promise_is_left():
    assert choose(13_000, variant=2) == "merged"
    assert choose(13_000, variant=2, pace=(1.0, 1.0, 1.5)) == "free"


def test_latency_counts_under_overload_where_deadlines_are_tight():
    assert choose(20_000, deadline_us=10_000) == "merged"
    assert choose(20_000, deadline_us=110) == "free"


def test_bursts_need_more_capacity_earlier():
    rate = next(r for r in range(1000, 20_000, 100) if choose(r) != "serial")
    assert choose(rate - 300, variation=4.0) != "serial"


def test_it_does_not_waver():
    """From either side of a threshold the present variant stays for a while."""
    up = next(r for r in range(1000, 20_000, 50) if choose(r, variant=0) != "serial")
    chosen = next(n for n, v in enumerate(VARIANTS) if v.id == choose(up, variant=0))
    down = next(r for r in range(up, 0, -50) if choose(r, variant=chosen) == "serial")
    assert down < up - 100
    # Nor does it leave a variant that it has just chosen.
    assert choose(1e6, variant=1, since_us=100.0) == "free"


def test_only_some_variants_may_be_chosen():
    decision = heuristic.decide(snapshot(10), VARIANTS, first=1)
    assert VARIANTS[decision.variant].id == "free"
    for mode, first in (("auto", 0), ("serial", 0), ("free", 1), ("merged", 1)):
        controller = controller_named("heuristic", VARIANTS, mode=mode)
        assert controller(snapshot(10), VARIANTS).variant == first


def test_controllers_have_names():
    fixed = controller_named("static:merged", VARIANTS)
    assert fixed(snapshot(1), VARIANTS) == Decision(2, unlimited(1))
    own = lambda *_: Decision(1, (2.0,))  # noqa: E731
    assert controller_named(own, VARIANTS) is own
    with pytest.raises(InputError, match="no variant 'x'; there are: serial, free, merged"):
        controller_named("static:x", VARIANTS)
    with pytest.raises(InputError, match="no controller 'best'"):
        controller_named("best", VARIANTS)
