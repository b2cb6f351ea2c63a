"""A mix as data: what instances take, and measured times."""

from dataclasses import replace

import pytest

from mixes import halves, make_mix, whole
from top_tvm.errors import PartitionError
from top_tvm.mix import Lane, ModelVariant, instance_bytes, memory_bytes, with_measured


def test_an_instance_has_inputs_boundary_values_outputs_and_the_largest_arena():
    whole_model = ModelVariant(1, (Lane(0, {1: (whole(1),)}),), (1,))
    assert instance_bytes(whole_model) == 3 * 64 + 64  # x, y, z, arena
    cut = ModelVariant(2, tuple(Lane(0, {1: halves(1, i)}) for i in range(2)), (1,))
    assert instance_bytes(cut) == 4 * 64  # x, h, y, z
    plans = tuple(replace(plan, arena_bytes=100 * n) for n, plan in enumerate(halves(1), 1))
    mixed = ModelVariant(2, (Lane(0, {1: plans}), Lane(0, {1: plans[::-1]})), (1,))
    assert instance_bytes(mixed) == 4 * 64 + 256  # 200 bytes, aligned


def test_the_largest_batch_counts():
    model = ModelVariant(1, (Lane(0, {1: (whole(1),), 4: (whole(4),)}),), (1, 4))
    assert instance_bytes(model) == 4 * (3 * 64 + 64)


def test_memory_is_that_of_all_instances_in_flight():
    small = ModelVariant(2, tuple(Lane(0, {1: halves(1, i)}) for i in range(2)), (1,))
    large = ModelVariant(1, (Lane(0, {2: (whole(2),)}),), (2,))
    sizes = (instance_bytes(small), instance_bytes(large))
    models = {"a": small, "b": large}
    assert memory_bytes(models, 0) == 4 * sizes[0] + sizes[1]
    assert memory_bytes(models, 1) == max(sizes)
    assert memory_bytes(models, 2) == sum(sizes)
    assert memory_bytes(models, 100) == memory_bytes(models, 0)


def test_measured_times_replace_predicted_ones():
    mix = make_mix()
    measured = with_measured(mix, {"free-2x1-b4": 5e5})
    assert [v.period_us for v in measured.variants] == [8.0, 4.0, 8.0]
    assert [v.capacity_per_s for v in measured.variants] == [2.5e5, 5e5, 2.5e5]
    assert measured.models is mix.models
    assert mix.variants[1].period_us == 8.0
    with pytest.raises(PartitionError, match="the mix has no variants free-9x9, serial-b2"):
        with_measured(mix, {"serial-b2": 1.0, "free-9x9": 1.0})
