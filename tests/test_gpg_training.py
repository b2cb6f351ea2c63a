"""GPG's network and its training, on graphs that take no time."""

import csv
import json
import random
import sys

import numpy as np
import pytest
import torch

from top_tvm.cli import main
from top_tvm.compiler.gpg.features import NUM_FEATURES, op_features
from top_tvm.compiler.gpg.graphs import FAMILIES, lower_bound_us, training_problem
from top_tvm.compiler.gpg.network import Network
from top_tvm.compiler.gpg.train import Config, as_choices, log_probabilities, train
from top_tvm.compiler.partition import list_schedule, simulate
from top_tvm.compiler.wide_device import OpWork, WideDevice


@pytest.fixture(scope="module")
def problem():
    return training_problem(random.Random(1), 40)


@pytest.mark.parametrize("family", dict.fromkeys(FAMILIES))
def test_families_are_graphs_in_topological_order(family):
    for seed in range(20):
        edges = family(random.Random(seed), 30)
        assert all(0 <= producer < consumer for producer, consumer in edges)
        assert len(edges) >= 20


def test_training_graphs_leave_something_to_gain(problem):
    assert simulate(problem, list_schedule(problem)).makespan_us > 1.04 * lower_bound_us(problem)


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


def test_training_writes_weights_and_a_curve_and_can_go_on(tmp_path):
    config = Config(minutes=0.05, largest=30, rollouts=4, evaluation_graphs=2)
    seen = []
    curve = train(tmp_path / "gpg.safetensors", config, progress=lambda *work: seen.append(work))
    assert seen[-1] == ("train", 3, 3)
    assert len(curve) >= 2
    assert curve[-1]["updates"] > 0
    with (tmp_path / "gpg.csv").open() as file:
        assert [row["updates"] for row in csv.DictReader(file)] == [
            str(record["updates"]) for record in curve
        ]
    more = train(tmp_path / "more.safetensors", config, resume=tmp_path / "gpg.safetensors")
    assert more[0]["greedy"] == pytest.approx(curve[-1]["greedy"], rel=1e-6)


def cli(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["top-tvm", "train", *map(str, arguments)])
    main()


def test_the_command_reports_the_curve(monkeypatch, capsys, tmp_path):
    out = tmp_path / "gpg.safetensors"
    with pytest.raises(SystemExit) as ended:
        cli(monkeypatch, "gpg", "--out", out, "--minutes", 0.02, "--seed", 3, "--json")
    assert not ended.value.code
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(report) >= {"reward", "seconds", "curve", "file"}
    assert report["curve"][-1]["seconds"] == report["seconds"] >= 1
    assert out.stat().st_size < 1_000_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("maddpg",), "train: 'maddpg' is not one of gpg"),
        (("gpg", "--resume", "none.safetensors"), "none.safetensors"),
    ],
)
def test_what_cannot_be_trained(monkeypatch, capsys, tmp_path, arguments, message):
    with pytest.raises(SystemExit) as ended:
        cli(monkeypatch, *arguments, "--out", tmp_path / "x.safetensors")
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_without_dgl_the_command_says_what_is_missing(monkeypatch, capsys, tmp_path):
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
