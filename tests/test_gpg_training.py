"""GPG's network and its training, on graphs that take no time."""

import csv
import json
import math
import random
import re
import signal
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

import top_tvm.compiler
from top_tvm.cli import main
from top_tvm.compiler.gpg.features import NUM_FEATURES, op_features
from top_tvm.compiler.gpg.graphs import (
    FAMILIES,
    UNLIMITED_MS,
    held_out_problems,
    lower_bound_us,
    training_problem,
)
from top_tvm.compiler.gpg.network import (
    Network,
    NetworkSize,
    _Neighbours,
    load_network,
    save_network,
)
from top_tvm.compiler.gpg.tensor_file import read_tensors, save_tensors
from top_tvm.compiler.gpg.train import (
    Config,
    Training,
    as_choices,
    checkpoint_path,
    imitate,
    log_probabilities,
    reinforce,
    resume,
    search_rule,
    train,
)
from top_tvm.compiler.partition import list_schedule, simulate
from top_tvm.compiler.wide_device import MulticoreDevice, OpWork, WideDevice
from top_tvm.errors import PartitionError


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in training: threads for tensors so small only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def problem():
    return training_problem(random.Random(1), 40)


@pytest.mark.parametrize("family", dict.fromkeys(FAMILIES))
def test_families_are_graphs_in_topological_order(family):
    for seed in range(20):
        edges = family(random.Random(seed), 30)
        assert all(0 <= producer < consumer for producer, consumer in edges)
        assert len(edges) >= 20


def test_most_training_graphs_leave_something_to_gain():
    gains = 0
    for seed in range(12):
        problem = training_problem(random.Random(seed), 30)
        start = list_schedule(problem)
        list_us = simulate(problem, start).makespan_us
        assert list_us > 1.04 * lower_bound_us(problem)
        found = problem.native.improve(start, UNLIMITED_MS, 500, 0.0, 0)
        gains += problem.native.simulate(found)[0] < 0.995 * list_us
    assert gains >= 7


def test_a_rule_is_found_that_beats_the_most_urgent_op():
    config = Config(rules=60, rule_graphs=8)
    rule = search_rule(config)
    assert torch.equal(rule, search_rule(config))
    ratios = {}
    for name, skip in (("found", rule.numpy()), ("urgency", np.float32([8] + [0] * 11 + [-8]))):
        logs = []
        for seed in range(16):
            problem = training_problem(random.Random(f"test {seed}"), 60)
            none = np.zeros((problem.num_ops + 1, 1), np.float32)
            weights = none, none[:13].copy(), none[0].copy(), skip
            found_us = problem.native.decode(*weights, 1, 1.0, 0)[0]
            logs.append(np.log(found_us / simulate(problem, list_schedule(problem)).makespan_us))
        ratios[name] = np.mean(logs)
    assert ratios["found"] < ratios["urgency"]


def test_features_have_no_unit_of_time(problem):
    features = op_features(problem)
    assert features.shape == (problem.num_ops, NUM_FEATURES)
    assert np.all(np.abs(features) < 10)


def test_decoder_and_network_agree_on_scores(problem):
    torch.manual_seed(0)
    network = Network()
    with torch.no_grad():
        embedding = network(problem)
        arguments = network.decoder_weights(embedding).arguments()
        choices = as_choices(problem.native.sample(*arguments, 0.0, 0))
        scores = network.scores(embedding, choices.ops, choices.features)
    for step, chosen in enumerate(choices.chosen):
        assert scores[chosen] >= scores[choices.step == step].max() - 1e-4


def test_log_probabilities_are_those_of_a_softmax_per_step(problem):
    torch.manual_seed(0)
    network = Network()
    embedding = network(problem)
    arguments = network.decoder_weights(embedding).arguments()
    choices = as_choices(problem.native.sample(*arguments, 1.0, 0))
    scores = network.scores(embedding, choices.ops, choices.features)
    logs, entropy = log_probabilities(scores, choices)
    for step in range(0, len(choices.chosen), 7):
        inside = choices.step == step
        expected = torch.log_softmax(scores[inside], 0)
        place = int(choices.chosen[step]) - int(torch.nonzero(inside)[0])
        assert torch.allclose(logs[step], expected[place], atol=1e-5)
        assert torch.allclose(entropy[step], -(expected.exp() * expected).sum(), atol=1e-4)


def test_several_rollouts_are_scored_at_once_as_one_by_one(problem):
    torch.manual_seed(0)
    network = Network()
    embedding = network(problem)
    arguments = network.decoder_weights(embedding).arguments()
    records = [problem.native.sample(*arguments, 1.0, seed) for seed in range(3)]

    def logs(*some):
        choices = as_choices(*some)
        scores = network.scores(embedding, choices.ops, choices.features)
        return choices.rollout, *log_probabilities(scores, choices)

    rollout, together, entropies = logs(*records)
    for index, record in enumerate(records):
        _, alone, entropy = logs(record)
        assert torch.allclose(together[rollout == index], alone, atol=1e-5)
        assert torch.allclose(entropies[rollout == index], entropy, atol=1e-5)


def test_gradients_go_to_senders_only():
    # Op 0 -> op 1; nothing is sent to op 0, and nothing by op 2.
    h = torch.tensor([[1.0], [-3.0], [5.0]], requires_grad=True)
    mean, largest = _Neighbours(torch.tensor([0]), torch.tensor([1]), 3).gather(h)
    assert mean.flatten().tolist() == largest.flatten().tolist() == [0, 1, 0]
    (mean + largest).sum().backward()
    assert h.grad.flatten().tolist() == [2, 0, 0]


def test_a_policy_learns_to_repeat_what_it_is_shown(problem):
    config = Config(searched_schedules=200)
    training = Training.begin(config)
    losses = []
    for _ in range(30):
        loss = imitate(training.network, problem, config, 1)
        training.optimiser.zero_grad()
        loss.backward()
        training.optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_rewards_change_what_is_likely(problem):
    training = Training.begin(Config())
    embedding = training.network(problem)
    arguments = training.network.decoder_weights(embedding).arguments()
    records = [problem.native.sample(*arguments, 1.0, seed) for seed in range(8, 24)]
    records.sort(key=lambda record: record[0])

    def likelihood(record):
        choices = as_choices(record)
        with torch.no_grad():
            embedding = training.network(problem)
            scores = training.network.scores(embedding, choices.ops, choices.features)
            return log_probabilities(scores, choices)[0].mean()

    before = likelihood(records[0]) - likelihood(records[-1])
    for _ in range(5):
        loss = reinforce(training.network, problem, Config(), 8, 0.0)
        training.optimiser.zero_grad()
        loss.backward()
        training.optimiser.step()
    assert likelihood(records[0]) - likelihood(records[-1]) > before


def test_held_out_graphs_are_always_the_same():
    problems = held_out_problems(4)
    assert problems == held_out_problems(4)
    assert {problem.device.streams for problem in problems} == {2, 4}


TINY = Config(
    updates=6,
    rules=3,
    rule_graphs=2,
    imitation=0.5,
    rollouts=4,
    smallest=10,
    largest=20,
    searched_schedules=20,
    evaluation_graphs=2,
    evaluate_every=4,
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("training") / "gpg.safetensors"
    seen = []
    curve = train(out, TINY, lambda *work: seen.append(work))
    return out, curve, seen


def without_times(curve):
    return [replace(record, seconds=0.0) for record in curve]


def equal_weights(*paths):
    first, second = (read_tensors(path)[0] for path in paths)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_training_writes_weights_and_a_curve(uninterrupted):
    out, curve, seen = uninterrupted
    assert seen == [("train", done, 6) for done in range(7)]
    assert [record.updates for record in curve] == [0, 4, 6]
    with out.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows == [{k: str(v) for k, v in asdict(record).items()} for record in curve]
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    _, about = read_tensors(out)
    assert about["command"] == ("top-tvm train gpg --out FILE.safetensors --updates 6 --seed 1")
    assert about["evaluation"] == {**asdict(curve[-1]), "graphs": 2}
    assert about["config"]["largest"] == 20
    assert about["seed"] == 1
    assert out.stat().st_size < 1_000_000


def test_a_seed_gives_the_same_weights(uninterrupted, tmp_path):
    out, curve, _ = uninterrupted
    again = train(tmp_path / "again.safetensors", TINY)
    assert without_times(again) == without_times(curve)
    assert equal_weights(tmp_path / "again.safetensors", out)
    train(tmp_path / "other.safetensors", replace(TINY, seed=2))
    assert not equal_weights(tmp_path / "other.safetensors", out)


@pytest.mark.parametrize("updates", [0, 2, 4, 5])
def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(
    uninterrupted, tmp_path, updates
):
    def interrupt(_what, done, _total):
        if done == updates:
            signal.raise_signal(signal.SIGINT)

    part = tmp_path / "part.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(part, TINY, interrupt)
    whole, curve, _ = uninterrupted
    more = resume(checkpoint_path(part), tmp_path / "more.safetensors")
    assert without_times(more) == without_times(curve)
    assert equal_weights(tmp_path / "more.safetensors", whole)
    assert equal_weights(tmp_path / "more.checkpoint", checkpoint_path(whole))


def test_interrupts_are_as_before_after_training(uninterrupted):
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_training_ends_where_a_finished_one_is_resumed(uninterrupted, tmp_path):
    whole, curve, _ = uninterrupted
    assert resume(checkpoint_path(whole), tmp_path / "more.safetensors") == curve
    assert equal_weights(tmp_path / "more.safetensors", whole)


def test_without_matplotlib_there_is_no_picture_and_a_message(monkeypatch, caplog, tmp_path):
    monkeypatch.setattr("top_tvm.compiler.gpg.train.can_draw", lambda: False)
    train(tmp_path / "gpg.safetensors", replace(TINY, updates=1))
    assert [r.message for r in caplog.records] == [
        "matplotlib is not installed (pip install 'top_tvm[train]'): the learning curve is written "
        f"as {tmp_path / 'gpg.csv'}, without a picture"
    ]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"gpg.safetensors", "gpg.csv", "gpg.checkpoint"}


def test_what_is_left_out_is_said_in_the_weights_and_honoured(tmp_path, problem):
    out = tmp_path / "gpg.safetensors"
    train(out, replace(TINY, updates=1, merged=False, network=NetworkSize(rounds=0)))
    _, about = read_tensors(out)
    assert about["config"]["merged"] is False
    assert about["command"].endswith("--no-messages --no-merged")
    network = load_network(out)
    assert len(network.rounds) == 0
    assert network(problem).shape == (problem.num_ops + 1, 32)


def test_weights_come_back_as_they_were(tmp_path, problem):
    torch.manual_seed(3)
    network = Network(NetworkSize(width=8, hidden=4, rounds=1))
    save_network(tmp_path / "x.safetensors", network, {})
    loaded = load_network(tmp_path / "x.safetensors")
    assert torch.equal(loaded(problem), network(problem))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, a: (t, {}), "has weights of version None, expected 1"),
        (lambda t, a: (t, a | {"version": 2}), "has weights of version 2, expected 1"),
        (lambda t, a: (t, a | {"network": [1]}), "does not say how large its network is"),
        (lambda t, a: (t, a | {"network": a["network"] | {"width": 10**9}}), "network of width"),
        (lambda t, a: (t, a | {"network": a["network"] | {"width": 7}}), "expected torch.float32"),
        (lambda t, a: ({k: v for k, v in t.items() if k != "out"}, a), "lacks tensor 'out'"),
        (lambda t, a: (t | {"more": torch.zeros(1)}, a), "has an unknown tensor 'more'"),
        (lambda t, a: (t | {"out": t["out"] / 0}, a), "in tensor 'out' that are not finite"),
        (lambda t, a: (t | {"out": t["out"].double()}, a), "'out' as torch.float64 of shape"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, message):
    path = tmp_path / "x.safetensors"
    save_network(path, Network(NetworkSize(width=8, hidden=4, rounds=1)), {})
    save_tensors(path, *change(*read_tensors(path)))
    with pytest.raises(PartitionError, match=message) as raised:
        load_network(path)
    assert str(path) in str(raised.value)
    assert "top-tvm train gpg --out" in str(raised.value)


@pytest.mark.parametrize("content", [None, b"", b"weights", bytes(8), b"\xff" * 100])
def test_files_that_are_not_weights_are_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    if content is not None:
        path.write_bytes(content)
    for read in (load_network, Training.load):
        with pytest.raises(PartitionError, match=re.escape(str(path))):
            read(path)


def test_weights_are_no_checkpoint(uninterrupted):
    with pytest.raises(PartitionError, match="is no checkpoint of this version"):
        Training.load(uninterrupted[0])


@pytest.mark.parametrize("size", [{"width": 0}, {"hidden": 0}, {"rounds": -1}, {"width": 2000}])
def test_networks_have_limits(size):
    with pytest.raises(PartitionError, match=r"expected \d to \d+"):
        NetworkSize(**size)


def cli(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["top-tvm", "train", *map(str, arguments)])
    main()


def test_the_command_reports_the_curve(monkeypatch, capsys, tmp_path):
    few = held_out_problems(2)
    monkeypatch.setattr("top_tvm.compiler.gpg.train.held_out_problems", lambda count: few)
    monkeypatch.setattr("top_tvm.compiler.gpg.train.search_rule", lambda config: torch.zeros(13))
    out = tmp_path / "gpg.safetensors"
    options = ("--updates", 3, "--seed", 3, "--no-messages", "--json")
    with pytest.raises(SystemExit) as ended:
        cli(monkeypatch, "gpg", "--out", out, *options)
    assert not ended.value.code
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(report) == {"reward", "seconds", "curve", "file"}
    assert report["curve"][-1]["seconds"] == report["seconds"] > 0
    assert report["reward"] == 1 - report["curve"][-1]["best_of_16"]
    assert len(load_network(out).rounds) == 0
    with pytest.raises(SystemExit) as ended:
        cli(monkeypatch, "gpg", "--out", out, "--resume", checkpoint_path(out))
    assert not ended.value.code
    assert "best of 16" in capsys.readouterr().out


def test_an_interrupted_command_says_how_to_go_on(monkeypatch, capsys, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("top_tvm.compiler.gpg.train.train", interrupted)
    out = tmp_path / "gpg.safetensors"
    with pytest.raises(SystemExit) as ended:
        cli(monkeypatch, "gpg", "--out", out)
    assert ended.value.code == 130
    checkpoint = tmp_path / "gpg.checkpoint"
    assert f"train gpg --out {out} --resume {checkpoint}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("maddpg",), "train: 'maddpg' is not one of gpg"),
        (("gpg", "--resume", "none.checkpoint"), "none.checkpoint: there is no such file"),
        (("gpg", "--resume", __file__), "is not valid safetensors"),
        (("gpg", "--resume", __file__, "--seed", "2"), "--resume goes on with the options of"),
        (("gpg", "--out", "weights"), "--out weights: expected a name that ends in .safetensors"),
    ],
)
def test_what_cannot_be_trained(monkeypatch, capsys, tmp_path, arguments, message):
    what, *options = arguments
    with pytest.raises(SystemExit) as ended:
        cli(monkeypatch, what, "--out", tmp_path / "x.safetensors", *options)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_without_dgl_the_command_says_what_is_missing(monkeypatch, capsys, tmp_path):
    # Restored afterwards: importing a package again sets it anew in the one above.
    monkeypatch.setattr(top_tvm.compiler, "gpg", top_tvm.compiler.gpg)
    for module in [name for name in sys.modules if name.startswith("top_tvm.compiler.gpg")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "dgl", None)
    with pytest.raises(SystemExit) as ended:
        cli(monkeypatch, "gpg", "--out", tmp_path / "x.safetensors")
    assert ended.value.code == 2
    assert "training needs torch and dgl" in capsys.readouterr().err


def test_small_ops_use_a_share_of_a_wide_device():
    device = WideDevice("test", streams=4)
    small = device.cost(OpWork(flops=1e6, nbytes=1e4, elements=1e3))
    large = device.cost(OpWork(flops=1e10, nbytes=1e7, elements=1e7))
    assert small.single_compute == 0.01
    assert large.single_compute == 1.0
    assert large.single_us == pytest.approx(1e10 / device.flops_per_us)
    assert device.model().streams == 4


def test_large_ops_have_a_form_for_all_cores_of_a_multicore():
    device = MulticoreDevice("test", streams=4, bandwidth_cores=2.0, gang_efficiency=0.9)
    small = device.cost(OpWork(flops=1e4, nbytes=1e3, elements=1e3))
    compute = device.cost(OpWork(flops=1e9, nbytes=1e6, elements=1e6))
    memory = device.cost(OpWork(flops=1e6, nbytes=1e8, elements=1e7))
    assert small.gang_us == math.inf
    assert compute.single_us / compute.gang_us == pytest.approx(4 * 0.9)
    assert compute.single_bandwidth == 1 / 4  # side by side as fast as alone
    assert memory.single_us / memory.gang_us == pytest.approx(2.0)
    assert memory.single_bandwidth == 1 / 2
    assert device.model().gang_us == device.gang_us
