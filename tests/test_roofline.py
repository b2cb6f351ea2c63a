"""Arithmetic of the roofline, and that the calibration measures something plausible."""

import math

import pytest

from top_tvm.compiler.cache import MeasurementCache
from top_tvm.compiler.measure_roofline import measure_roofline
from top_tvm.roofline import Roofline

LIMITS = Roofline(single_gflops=100.0, gang_gflops=200.0, single_gb_per_s=10.0, gang_gb_per_s=20.0)


@pytest.mark.parametrize(
    ("flops", "nbytes", "gang", "percent"),
    [
        (1_000_000, 0, False, 50.0),  # 10 us of arithmetic
        (1_000_000, 0, True, 25.0),
        (0, 100_000, False, 50.0),  # 10 us of memory
        (1_000_000, 200_000, False, 100.0),  # memory is what limits
    ],
)
def test_the_slower_of_arithmetic_and_memory_is_the_limit(flops, nbytes, gang, percent):
    assert LIMITS.percent(flops, nbytes, 20.0, gang=gang) == pytest.approx(percent)


def test_unknown_limits_and_times_give_no_share():
    assert Roofline().percent(1, 1, 1.0, gang=False) is None
    assert LIMITS.percent(1, 1, math.inf, gang=True) is None
    assert LIMITS.percent(1, 1, 0.0, gang=True) is None


def test_limits_are_measured_once(tmp_path):
    cache = MeasurementCache("test", tmp_path)
    limits = measure_roofline(2, cache)
    assert 1 < limits.single_gflops < 10_000
    assert 0.1 < limits.single_gb_per_s < 10_000
    assert measure_roofline(2, MeasurementCache("test", tmp_path)) == limits
