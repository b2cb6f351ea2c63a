"""Load tests end to end: exact accounting, simulation, the command and its interruption."""

import json
import signal
import subprocess
import sys
import time

import pytest

import top_tvm
from small_model import small_model
from top_tvm.cli import main
from top_tvm.loadtest.record import LoadTask, Record, Sample
from top_tvm.loadtest.result import summarize

COMMAND = (sys.executable, "-c", "from top_tvm.cli import main; main()", "loadtest")
ENDS = ("completed", "rejected", "expired", "cancelled", "failed")
KEYS = {
    *("submitted", *ENDS, "throughput", "goodput", "p50_ms", "p95_ms", "p99_ms"),
    *("backlog_max", "utilisation"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A mix of "a" and "b", and a file with one model."""
    folder = tmp_path_factory.mktemp("load")
    models = {"a": small_model("batch"), "b": small_model("batch", size=12, seed=1)}
    top_tvm.build(models, partitioner="list", lanes=(1, 2), segments=1).save(folder / "mix.top")
    top_tvm.build(models["a"], partitioner="list").save(folder / "one.top")
    return folder


@pytest.fixture
def loadtest(files, monkeypatch, capsys):
    """Call the command on files by name: exit code, JSON or None, stderr."""

    def call(*args):
        paths = [str(files / arg) if str(arg).endswith(".top") else str(arg) for arg in args]
        monkeypatch.setattr(sys, "argv", ["top-tvm", "loadtest", *paths, "--json"])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as exit_:
            code = exit_.code or 0
        out, err = capsys.readouterr()
        return code, json.loads(out.splitlines()[-1]) if code == 0 else None, err

    return call


def assert_accounted(result):
    for part in (result, *result["models"].values()):
        assert part.keys() >= KEYS
        assert part["submitted"] == sum(part[end] for end in ENDS)
    for key in ("submitted", *ENDS):
        assert result[key] == sum(one[key] for one in result["models"].values())
    assert sum(result["variants"].values()) == pytest.approx(1)


def test_counts_latencies_and_backlog_of_a_record():
    tasks = [
        LoadTask("a", 0.0, 0.1, 1.0, "completed"),
        LoadTask("a", 0.5, 0.5, 3.5, "completed"),
        LoadTask("b", 0.6, 0.6, 0.6, "rejected"),
        LoadTask("b", 1.0, 1.0, 2.0, "expired"),
    ]
    samples = [Sample(0.0, "x", 1.0), Sample(2.0, "y", 3.0), Sample(4.0, "y", 5.0)]
    result = summarize(
        Record(("a", "b"), 2, (1.0, 1.0), tasks, samples, elapsed_s=4.0), deadline_ms=1500
    )
    total, b = result.total, result.models["b"]
    assert (total.submitted, total.completed, total.rejected, total.expired) == (4, 2, 1, 1)
    assert (total.throughput, total.goodput) == (0.5, 0.25)
    assert total.p50_ms == pytest.approx(2000)  # from the intended arrival: 1 s and 3 s
    assert total.backlog_max == 2
    assert total.utilisation == pytest.approx(0.5)
    assert (b.p50_ms, b.p99_ms, b.throughput, b.utilisation) == (None, None, 0.0, 0.0)
    assert result.variants == {"y": pytest.approx(2 / 3), "x": pytest.approx(1 / 3)}


def test_a_task_that_has_not_ended_is_not_passed_over():
    record = Record(("a",), 1, (1.0,), [LoadTask("a", 0.0, 0.0)], elapsed_s=1.0)
    with pytest.raises(ValueError, match="waiting"):
        summarize(record)


@pytest.mark.parametrize("arrivals", ["poisson", "uniform", "mmpp", "gamma", "closed"])
def test_every_task_is_accounted_for(loadtest, arrivals):
    code, result, err = loadtest("mix.top", "--arrivals", arrivals, "--duration", 0.4)
    assert code == 0, err
    assert_accounted(result)
    assert result["completed"] > 0
    assert result["failed"] == result["cancelled"] == 0
    assert not result["simulated"] and not result["interrupted"]


def test_overload_with_deadlines_is_accounted_for(loadtest):
    options = ("--rate", 50000, "--duration", 0.3, "--deadline-ms", 1)
    code, result, err = loadtest("mix.top", *options)
    assert code == 0, err
    assert_accounted(result)
    assert result["submitted"] > 10000
    assert result["goodput"] <= result["throughput"]


def test_simulated_results_repeat_and_say_so(loadtest):
    options = ("mix.top", "--simulate", "--rate", 400000, "--duration", 0.1, "--seed", 3)
    code, result, err = loadtest(*options, "--deadline-ms", 2)
    assert code == 0, err
    assert_accounted(result)
    assert result["simulated"] is True
    assert loadtest(*options, "--deadline-ms", 2)[1] == result
    code, serial, _ = loadtest(*options, "--controller", "static:serial")
    assert serial["variants"] == {"serial": 1.0}
    assert serial["rejected"] + serial["expired"] > 0
    assert 0.5 < serial["utilisation"] <= 1


def test_clients_that_wait_are_simulated_too(loadtest):
    options = ("mix.top", "--simulate", "--arrivals", "closed", "--duration", 0.02)
    code, few, err = loadtest(*options, "--clients", 1)
    assert code == 0, err
    assert_accounted(few)
    assert few["backlog_max"] == 1
    _, more, _ = loadtest(*options, "--clients", 6)
    assert_accounted(more)
    assert more["backlog_max"] == 6
    assert more["throughput"] > few["throughput"]
    assert loadtest(*options, "--clients", 6)[1] == more


def test_a_trace_and_shares_say_which_model_gets_what(loadtest, tmp_path):
    trace = tmp_path / "t.csv"
    trace.write_text("arrival_time_s,model\n0,a\n0.01,b\n0.02,b\n")
    code, result, _ = loadtest("mix.top", "--arrivals", "trace", "--trace", trace)
    assert code == 0
    assert [one["completed"] for one in result["models"].values()] == [1, 2]
    code, result, _ = loadtest("mix.top", "--share", "a=9,b=1", "--simulate", "--duration", 1)
    a, b = (one["submitted"] for one in result["models"].values())
    assert 5 * b < a


def test_a_page_is_written_live_and_simulated(loadtest, tmp_path):
    path = tmp_path / "page.html"
    for more in ((), ("--simulate",)):
        code, _, err = loadtest("mix.top", "--duration", 0.3, "--html", path, *more)
        assert code == 0, err
        assert '"simulated":' + ("true" if more else "false") in path.read_text(encoding="utf-8")
        path.unlink()


def test_files_of_single_models_are_served_together(loadtest, files, tmp_path):
    other = tmp_path / "other.top"
    other.write_bytes((files / "one.top").read_bytes())
    code, result, err = loadtest("one.top", other, "--rate", 200, "--duration", 0.3)
    assert code == 0, err
    assert result["models"].keys() == {"one", "other"}
    assert_accounted(result)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("mix.top", "one.top"), "is served alone"),
        (("one.top", "one.top"), "another model 'one'"),
        (("mix.top", "--arrivals", "normal"), "'normal' is not one of"),
        (("mix.top", "--rate", "-1"), "--rate -1: expected a positive number"),
        (("mix.top", "--arrivals", "trace"), "--trace FILE.csv go together"),
        (("mix.top", "--trace", "no.csv"), "--trace FILE.csv go together"),
        (("mix.top", "--arrivals", "trace", "--trace", "no.csv"), "no.csv"),
        (("mix.top", "--clients", "2"), "--clients is for"),
        (("mix.top", "--arrivals", "closed", "--rate", "2"), "--rate has no meaning"),
        (("mix.top", "--share", "a=1"), "no share for b"),
        (("mix.top", "--share", "a=1,c=1"), "models: a, b"),
        (("mix.top", "--mode", "fast"), "no mode 'fast'"),
        (("mix.top", "--controller", "static:x"), "no variant 'x'"),
        (("mix.top", "--rate", "1e9"), "too many"),
    ],
)
def test_what_cannot_be_done_is_named(loadtest, options, message):
    code, _, err = loadtest(*options)
    assert code == 2
    assert err.startswith("top-tvm: error: ") and err.count("\n") == 1
    assert message in err


def test_an_interrupt_ends_the_command_with_what_there_is(files):
    command = [*COMMAND, str(files / "mix.top"), "--rate", "500", "--duration", "100", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=5)
    assert process.returncode == 0
    result = json.loads(out.splitlines()[-1])
    assert result["interrupted"] and result["completed"] > 0
    assert_accounted(result)
