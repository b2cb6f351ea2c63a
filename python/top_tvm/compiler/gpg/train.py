"""Training of GPG: first imitation of searched schedules, then policy gradient.

One file, to be read from top to bottom. Notation: a rollout makes choices a_1..a_T, each among the
candidates of its state; pi is the policy; R = -makespan. The gradient of the expected reward is
(Williams 1992)

    E[ (R - b) sum_t grad log pi(a_t) ]

with the mean of several rollouts of the same graph as baseline b, divided by their standard
deviation, so that graphs of all sizes weigh the same. Both kinds of steps use the same recorded
choices: those of a searched schedule have weight 1.
"""

from __future__ import annotations

import csv
import json
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from top_tvm.compiler.gpg.graphs import training_problem
from top_tvm.compiler.gpg.network import NUM_CANDIDATE_FEATURES, Network
from top_tvm.compiler.partition import PartitionProblem, list_schedule, simulate
from top_tvm.compiler.profile import Progress, ignore_progress

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """All constants of the training."""

    seed: int = 1
    minutes: float = 60.0
    imitation: float = 0.3  # share of the time
    rollouts: int = 16  # per graph
    learning_rate: float = 1e-3
    entropy: float = 0.01  # weight at the begin; falls to 0
    temperature: float = 1.0
    smallest: int = 20  # ops per graph, at the begin of the curriculum
    largest: int = 300  # at its end
    search_us_per_op: float = 300.0  # that an imitated schedule was searched for
    gradient_norm: float = 1.0
    evaluation_graphs: int = 24
    evaluate_every_s: float = 60.0


@dataclass(frozen=True)
class Choices:
    """A recorded rollout: candidates of all steps, one after the other."""

    makespan_us: float
    ops: torch.Tensor
    features: torch.Tensor
    step: torch.Tensor  # per candidate
    chosen: torch.Tensor  # per step


def as_choices(record: tuple[Any, ...]) -> Choices:
    """What the C++ decoder recorded, as tensors."""
    makespan_us, ops, features, begin, chosen = record
    lengths = np.diff(np.append(begin, len(ops)))
    return Choices(
        makespan_us,
        torch.from_numpy(ops).long(),
        torch.from_numpy(features).reshape(-1, NUM_CANDIDATE_FEATURES),
        torch.from_numpy(np.repeat(np.arange(len(begin)), lengths)),
        torch.from_numpy(chosen).long(),
    )


def log_probabilities(scores: torch.Tensor, choices: Choices) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of every choice, and the entropy of its state."""
    steps = len(choices.chosen)
    top = torch.full((steps,), -torch.inf).scatter_reduce(0, choices.step, scores, "amax")
    shifted = scores - top.detach()[choices.step]
    total = torch.zeros(steps).scatter_add(0, choices.step, shifted.exp())
    logs = shifted - total.log()[choices.step]
    entropy = torch.zeros(steps).scatter_add(0, choices.step, -logs.exp() * logs)
    return logs[choices.chosen], entropy


def imitate(network: Network, problem: PartitionProblem, config: Config, seed: int) -> torch.Tensor:
    """Loss of one graph: how unlikely the choices of a searched schedule are."""
    ms = config.search_us_per_op * problem.num_ops / 1000
    found = problem.native.improve(list_schedule(problem), ms, 0, 0.5, seed)
    choices = as_choices(problem.native.follow(found))
    embedding = network(problem)
    logs, _ = log_probabilities(network.scores(embedding, choices.ops, choices.features), choices)
    return -logs.mean()


def reinforce(
    network: Network, problem: PartitionProblem, config: Config, seed: int, entropy_weight: float
) -> torch.Tensor:
    """Loss of one graph: rollouts better than their mean become more likely."""
    embedding = network(problem)
    weights = network.decoder_weights(embedding).arguments()
    rollouts = [
        as_choices(problem.native.sample(*weights, config.temperature, seed + index))
        for index in range(config.rollouts)
    ]
    times = torch.tensor([rollout.makespan_us for rollout in rollouts])
    advantages = (times.mean() - times) / (times.std() + 1e-4 * times.mean())
    loss = torch.zeros(())
    for rollout, advantage in zip(rollouts, advantages, strict=True):
        scores = network.scores(embedding, rollout.ops, rollout.features)
        logs, entropy = log_probabilities(scores, rollout)
        loss = loss - advantage * logs.mean() - entropy_weight * entropy.mean()
    return loss / config.rollouts


def evaluate(network: Network, problems: Sequence[PartitionProblem], samples: int) -> float:
    """Geometric mean of the policy's times relative to list scheduling."""
    ratios = []
    for problem in problems:
        with torch.no_grad():
            weights = network.decoder_weights(network(problem)).arguments()
        found_us, _ = problem.native.decode(*weights, samples, 1.0, 0)
        ratios.append(found_us / simulate(problem, list_schedule(problem)).makespan_us)
    return float(np.exp(np.mean(np.log(ratios))))


def train(
    out: Path,
    config: Config,
    resume: Path | None = None,
    progress: Progress = ignore_progress,
) -> list[dict[str, float]]:
    """Train a policy.

    Parameters
    ----------
    out : Path
        The weights, written at every evaluation; the learning curve, as CSV, goes beside them.
    config : Config
        How, and for how long.
    resume : Path, optional
        Weights to begin with.
    progress : callable, optional
        Called with (what, seconds done, seconds in all).

    Returns
    -------
    list of dict
        The learning curve: ``seconds``, ``updates``, and the time of schedules on graphs that are
        not trained on, relative to list scheduling: ``greedy`` and ``best_of_16`` samples.
    """
    torch.manual_seed(config.seed)
    torch.set_num_threads(1)
    rng = random.Random(config.seed)
    network = Network()
    if resume is not None:
        network.load_state_dict(load_file(resume))
    held_out = random.Random(10**6)
    problems = [
        training_problem(held_out, held_out.choice([30, 60, 120, 240]))
        for _ in range(config.evaluation_graphs)
    ]
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    begin, curve, updates, next_evaluation = time.monotonic(), [], 0, 0.0
    while True:
        seconds = time.monotonic() - begin
        done = seconds / (60 * config.minutes)
        all_seconds = round(60 * config.minutes)
        progress("train", min(round(seconds), all_seconds), all_seconds)
        if seconds >= next_evaluation or done >= 1:
            record = {
                "seconds": seconds,
                "updates": updates,
                "greedy": evaluate(network, problems, 1),
                "best_of_16": evaluate(network, problems, 16),
            }
            curve.append(record)
            _LOG.info("%s", record)
            next_evaluation = seconds + config.evaluate_every_s
            save_file(network.state_dict(), out, metadata={"config": json.dumps(asdict(config))})
            if done >= 1:
                break
        largest = config.smallest + (config.largest - config.smallest) * min(1.0, 2 * done)
        problem = training_problem(rng, round(rng.uniform(config.smallest, largest)))
        seed = rng.getrandbits(32)
        if done < config.imitation:
            loss = imitate(network, problem, config, seed)
        else:
            loss = reinforce(network, problem, config, seed, config.entropy * (1 - done))
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * max(0.02, 1 - done)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.gradient_norm)
        optimiser.step()
        updates += 1
    with out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(curve[0]))
        writer.writeheader()
        writer.writerows(curve)
    return curve
