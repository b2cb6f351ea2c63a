"""Arrivals: mean rates, variation, seeds, and files that are refused by line."""

import numpy as np
import pytest

from top_tvm.errors import InputError
from top_tvm.loadtest.arrivals import GAMMA_CV, PROCESSES, random_arrivals, read_trace


@pytest.mark.parametrize("process", PROCESSES)
def test_mean_rates_are_as_asked(process):
    duration_s = 3000.0
    arrivals = random_arrivals(process, {"a": 30.0, "b": 10.0}, duration_s, seed=1)
    assert (np.diff(arrivals.times_s) >= 0).all()
    assert arrivals.times_s[0] >= 0 and arrivals.times_s[-1] < duration_s
    for model, rate in (("a", 30.0), ("b", 10.0)):
        assert arrivals.models.count(model) / duration_s == pytest.approx(rate, rel=0.1)


@pytest.mark.parametrize(
    ("process", "low", "high"),
    [
        ("uniform", 0.0, 1e-6),
        ("poisson", 0.97, 1.03),
        ("mmpp", 1.1, 2.0),
        ("gamma", 0.9 * GAMMA_CV, 1.1 * GAMMA_CV),
    ],
)
def test_the_variation_is_that_of_the_process(process, low, high):
    distances = np.diff(random_arrivals(process, {"a": 20.0}, 5000.0, seed=2).times_s)
    assert low <= distances.std() / distances.mean() <= high


@pytest.mark.parametrize("process", PROCESSES)
def test_a_seed_decides_and_models_behind_do_not_matter(process):
    def times(seed, **rates):
        arrivals = random_arrivals(process, rates, 20.0, seed)
        return [t for t, m in zip(arrivals.times_s, arrivals.models, strict=True) if m == "a"]

    assert times(3, a=10.0) == times(3, a=10.0) == times(3, a=10.0, b=5.0)
    assert times(3, a=10.0) != times(4, a=10.0)


@pytest.mark.parametrize(
    ("process", "rate", "duration_s", "message"),
    [
        ("normal", 1.0, 1.0, "no arrivals 'normal'; there are: poisson"),
        ("poisson", 0.0, 1.0, "model 'a': the rate must be positive"),
        ("poisson", 1.0, float("inf"), "the duration must be positive"),
        ("poisson", 1e9, 10.0, "too many"),
    ],
)
def test_parameters_out_of_range_are_refused(process, rate, duration_s, message):
    with pytest.raises(InputError, match=message):
        random_arrivals(process, {"a": rate}, duration_s, seed=0)


def test_a_trace_is_read_up_to_the_duration(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("arrival_time_s,model\n0,a\n0.5,b\n0.5,a\n2e0,b\n")
    arrivals = read_trace(path, ("a", "b"))
    assert arrivals.times_s.tolist() == [0, 0.5, 0.5, 2]
    assert arrivals.models == ("a", "b", "a", "b")
    assert read_trace(path, ("a", "b"), 1.0).models == ("a", "b", "a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected the header"),
        ("time,model\n0,a\n", "line 1: expected the header"),
        ("arrival_time_s,model\n", "there is no arrival"),
        ("arrival_time_s,model\n0,a\n1\n", "line 3: expected a time and a model"),
        ("arrival_time_s,model\n0,a,\n", "line 2: expected a time and a model"),
        ("arrival_time_s,model\nx,a\n", "line 2: 'x' is no time"),
        ("arrival_time_s,model\nnan,a\n", "line 2: 'nan' is no time"),
        ("arrival_time_s,model\n-1,a\n", "line 2: '-1' is no time"),
        ("arrival_time_s,model\n2,a\n1,a\n", "line 3: 1 s is before the line above"),
        ("arrival_time_s,model\n0,c\n", "line 2: there is no model 'c'; there are: a, b"),
    ],
)
def test_what_is_wrong_with_a_trace_is_named_by_line(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_trace(path, ("a", "b"))
