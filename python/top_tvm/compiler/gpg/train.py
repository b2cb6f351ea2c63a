"""Training of GPG: a rule first, then imitation of searched schedules, then policy gradient.

One file, to be read from top to bottom. The score of a candidate is the sum of a rule, linear in
its features, and of what the network adds. Random search over rules takes seconds and gets what
gradients need hours for, so the network starts from the best one.

Notation of the policy gradient: a rollout makes choices a_1..a_T, each among the
candidates of its state; pi is the policy; R = -makespan. The gradient of the expected reward is
(Williams 1992)

    E[ (R - b) sum_t grad log pi(a_t) ]

with the mean of several rollouts of the same graph as baseline b, divided by their standard
deviation, so that graphs of all sizes weigh the same. Both kinds of steps use the same recorded
choices: those of a searched schedule have weight 1.

Everything that is drawn for an update comes from a generator of its own, seeded by the seed and the
number of the update, and nothing depends on the clock: a seed gives the same weights, bit for bit,
also when the training was interrupted and goes on from a checkpoint.
"""

from __future__ import annotations

import datetime
import logging
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from top_tvm import __version__
from top_tvm.compiler.gpg.curve import Record, can_draw, draw_png, write_csv
from top_tvm.compiler.gpg.graphs import (
    UNLIMITED_MS,
    held_out_problems,
    problem_with_room,
    training_problem,
)
from top_tvm.compiler.gpg.network import (
    COMMON,
    NUM_CANDIDATE_FEATURES,
    URGENCY,
    WAIT,
    Network,
    NetworkSize,
    one_thread,
    save_network,
)
from top_tvm.compiler.gpg.tensor_file import check_tensors, read_tensors, save_tensors, unusable
from top_tvm.compiler.partition import PartitionProblem, list_schedule, simulate
from top_tvm.compiler.profile import Progress, ignore_progress
from top_tvm.errors import PartitionError
from top_tvm.strict_json import StrictJSONError, decode, encode

_LOG = logging.getLogger(__name__)
_PROGRESS = "%6d updates, %5.0f s: greedy %.4f, best of 16 %.4f of list scheduling"
_RULE_SIZES = (40, 60, 120, 240)  # ops
_RULE_LENGTH = 25.0
_ADAM = ("step", "exp_avg", "exp_avg_sq")  # what torch.optim.Adam keeps per parameter


@dataclass(frozen=True)
class Config:
    """All constants of the training."""

    seed: int = 1
    updates: int = 8_000
    rules: int = 600  # that the start is the best of
    rule_graphs: int = 128  # that they are judged on
    imitation: float = 0.2  # share of the updates
    rollouts: int = 16  # per graph
    learning_rate: float = 5e-4
    decoder_rate: float = 3.0  # by how much the last layer's learning rate is higher
    entropy: float = 0.01  # weight at the begin; falls to 0
    temperature: float = 1.0
    smallest: int = 20  # ops per graph, at the begin of the curriculum
    largest: int = 400  # at its end
    merged: bool = True  # half of the graphs are periods of several tasks; else none
    searched_schedules: int = 800  # that an imitated schedule is the best of
    gradient_norm: float = 1.0
    network: NetworkSize = field(default_factory=NetworkSize)
    evaluation_graphs: int = 24
    evaluate_every: int = 400  # updates

    def command(self) -> str:
        """The command line that trains with this seed and the options that change the method."""
        options = [f"--updates {self.updates}", f"--seed {self.seed}"]
        options += ["--no-messages"] * (self.network.rounds == 0)
        options += ["--no-merged"] * (not self.merged)
        return " ".join(["top-tvm train gpg --out FILE.safetensors", *options])


# --- Choices and how likely they are -------------------------------------------------------------


@dataclass(frozen=True)
class Choices:
    """Recorded rollouts of one graph: candidates of all steps, one after the other."""

    makespan_us: torch.Tensor  # per rollout
    ops: torch.Tensor  # per candidate
    features: torch.Tensor  # per candidate
    step: torch.Tensor  # per candidate
    chosen: torch.Tensor  # per step, index of a candidate
    rollout: torch.Tensor  # per step


def as_choices(*records: tuple[Any, ...]) -> Choices:
    """What the C++ decoder recorded, as tensors."""
    times, ops, features, begins, chosen = zip(*records, strict=True)
    num_candidates = [len(array) for array in ops]
    num_steps = [len(array) for array in begins]
    before = np.repeat(np.cumsum([0, *num_candidates[:-1]]), num_steps)
    begin = np.concatenate(begins) + before
    lengths = np.diff(np.append(begin, sum(num_candidates)))
    return Choices(
        torch.tensor(times, dtype=torch.float64),
        torch.from_numpy(np.concatenate(ops)).long(),
        torch.from_numpy(np.concatenate(features)).reshape(-1, NUM_CANDIDATE_FEATURES),
        torch.from_numpy(np.repeat(np.arange(len(begin)), lengths)),
        torch.from_numpy(np.concatenate(chosen) + before),
        torch.from_numpy(np.repeat(np.arange(len(records)), num_steps)),
    )


def log_probabilities(scores: torch.Tensor, choices: Choices) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of every choice, and the entropy of its state."""
    steps = len(choices.chosen)
    top = torch.full((steps,), -torch.inf)
    top = top.scatter_reduce(0, choices.step, scores.detach(), "amax")
    shifted = scores - top[choices.step]
    exponentials = shifted.exp()
    total = torch.zeros(steps).scatter_add(0, choices.step, exponentials)
    weighted = torch.zeros(steps).scatter_add(0, choices.step, exponentials * shifted)
    log_total = total.log()
    return shifted[choices.chosen] - log_total, log_total - weighted / total


# --- The start: a linear rule ---------------------------------------------------------------------


def search_rule(config: Config) -> torch.Tensor:
    """Weights of the candidates' features that make the best greedy schedules; shape (features,).

    Random search: a few weights of the best rule so far are changed at a time, by less and less
    while nothing better is found. A graph counts with at most twice the time of list scheduling.
    """
    rng = random.Random(f"{config.seed} rule")
    problems = [
        problem_with_room(rng, rng.choice(_RULE_SIZES), merged=None if config.merged else False)
        for _ in range(config.rule_graphs)
    ]
    list_us = [simulate(problem, list_schedule(problem)).makespan_us for problem in problems]
    hidden, draw = np.zeros(1, np.float32), np.random.default_rng(rng.getrandbits(64))

    def judge(rule: npt.NDArray[np.float64]) -> float:
        logs = []
        for problem, reference_us in zip(problems, list_us, strict=True):
            weights = (
                np.zeros((problem.num_ops + 1, 1), np.float32),
                np.zeros((NUM_CANDIDATE_FEATURES, 1), np.float32),
                hidden,
                rule.astype(np.float32),
            )
            logs.append(np.log(problem.native.decode(*weights, 1, 1.0, 0)[0] / reference_us))
        return float(np.minimum(logs, np.log(2)).mean())

    best = np.zeros(NUM_CANDIDATE_FEATURES)
    best[URGENCY], best[WAIT] = 8.0, -8.0  # to begin with: the most urgent op, and no waiting
    found, spread = judge(best), 2.0
    for _ in range(config.rules):
        change = draw.normal(size=best.shape) * spread * (draw.random(best.shape) < 0.3)
        change[list(COMMON)] = 0  # to all candidates of a moment: has no effect
        result = judge(best + change)
        if result < found:
            found, best, spread = result, best + change, min(1.3 * spread, 4.0)
        else:
            spread = max(0.97 * spread, 0.2)
    _LOG.info("rule: %.4f of list scheduling on %d graphs", np.exp(found), len(problems))
    # The length decides how much samples differ from the best-scored choices, and from each other.
    return torch.from_numpy((best * _RULE_LENGTH / np.linalg.norm(best)).astype(np.float32))


# --- The two kinds of steps ----------------------------------------------------------------------


def imitate(network: Network, problem: PartitionProblem, config: Config, seed: int) -> torch.Tensor:
    """Loss of one graph: how unlikely the choices of a searched schedule are."""
    start = list_schedule(problem)
    found = problem.native.improve(start, UNLIMITED_MS, config.searched_schedules, 0.5, seed)
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
    choices = as_choices(
        *(
            problem.native.sample(*weights, config.temperature, seed + index)
            for index in range(config.rollouts)
        )
    )
    times = choices.makespan_us
    advantages = (times.mean() - times) / (times.std() + 1e-4 * times.mean())
    share = 1 / (torch.bincount(choices.rollout) * config.rollouts)  # of a step, per rollout
    scores = network.scores(embedding, choices.ops, choices.features)
    logs, entropy = log_probabilities(scores, choices)
    of_log = (advantages * share).float()[choices.rollout]
    of_entropy = entropy_weight * share[choices.rollout]
    return -(of_log * logs + of_entropy * entropy).sum()


def evaluate(network: Network, problems: Sequence[PartitionProblem], samples: int) -> float:
    """Geometric mean of the policy's times relative to list scheduling."""
    ratios = []
    for problem in problems:
        weights = network.policy_of(problem).arguments()
        found_us, _ = problem.native.decode(*weights, samples, 1.0, 0)
        ratios.append(found_us / simulate(problem, list_schedule(problem)).makespan_us)
    return float(np.exp(np.mean(np.log(ratios))))


# --- A training and its checkpoints --------------------------------------------------------------


@dataclass
class Training:
    """A training at some moment. One thread at a time."""

    config: Config
    network: Network
    optimiser: torch.optim.Adam
    updates: int = 0
    seconds: float = 0.0
    curve: list[Record] = field(default_factory=list)

    @staticmethod
    def begin(config: Config) -> Training:
        """Random weights of the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = Network(config.network)
        fast = [network.out, network.skip]
        slow = [p for p in network.parameters() if all(p is not other for other in fast)]
        groups = [{"params": slow}, {"params": fast}]
        return Training(config, network, torch.optim.Adam(groups))

    def update(self) -> None:
        """One step of the optimiser, on one graph."""
        config, done = self.config, self.updates / self.config.updates
        rng = random.Random(f"{config.seed} {self.updates}")
        largest = config.smallest + (config.largest - config.smallest) * min(1.0, 2 * done)
        size = round(rng.uniform(config.smallest, largest))
        problem = training_problem(rng, size, merged=None if config.merged else False)
        seed = rng.getrandbits(32)
        if done < config.imitation:
            loss = imitate(self.network, problem, config, seed)
        else:
            loss = reinforce(self.network, problem, config, seed, config.entropy * (1 - done))
        rates = (config.learning_rate, config.learning_rate * config.decoder_rate)
        for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * max(0.02, 1 - done)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.gradient_norm)
        self.optimiser.step()
        self.updates += 1

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights and the optimiser's state by name."""
        named = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            named |= {f"adam.{index}.{key}": state[key] for key in _ADAM}
        return named

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        about = {
            "config": encode(self.config),
            "updates": self.updates,
            "seconds": self.seconds,
            "curve": encode(tuple(self.curve)),
        }
        save_tensors(path, self.tensors(), about)

    @staticmethod
    def load(path: Path) -> Training:
        """Read a checkpoint.

        Raises
        ------
        PartitionError
            If the file is missing, damaged, or no checkpoint of this version.
        """
        tensors, about = read_tensors(path)
        try:
            training = Training.begin(decode(Config, about.get("config")))
            training.updates = decode(int, about.get("updates"))
            training.seconds = decode(float, about.get("seconds"))
            training.curve = list(decode(tuple[Record, ...], about.get("curve")))
        except (StrictJSONError, PartitionError) as error:
            raise unusable(path, f"is no checkpoint of this version: {error}") from error
        state: dict[int, dict[str, torch.Tensor]] = {}
        if training.updates > 0:
            groups = training.optimiser.param_groups
            for index, weights in enumerate(p for group in groups for p in group["params"]):
                zeros = torch.zeros(()), torch.zeros_like(weights), torch.zeros_like(weights)
                state[index] = dict(zip(_ADAM, zeros, strict=True))
        known = training.optimiser.state_dict()
        training.optimiser.load_state_dict({**known, "state": state})
        expected = training.tensors()
        check_tensors(path, tensors, expected)
        with torch.no_grad():
            for name, tensor in expected.items():
                tensor.copy_(tensors[name])
        return training


def train(out: Path, config: Config, progress: Progress = ignore_progress) -> list[Record]:
    """Train a policy.

    Parameters
    ----------
    out : Path
        The weights, written at every evaluation. Beside them, with other suffixes: the learning
        curve (``.csv``, and ``.png`` if matplotlib is installed) and what is needed to go on after
        an interruption (``.checkpoint``).
    config : Config
        How, and for how long.
    progress : callable, optional
        Called with (what, updates done, updates in all).

    Returns
    -------
    list of Record
        The learning curve.

    Raises
    ------
    KeyboardInterrupt
        After SIGINT and the end of the present update; the checkpoint is written.
    """
    training = Training.begin(config)
    with torch.no_grad():
        training.network.skip.copy_(search_rule(config))
    return _run(training, out, progress)


def resume(checkpoint: Path, out: Path, progress: Progress = ignore_progress) -> list[Record]:
    """Go on from a checkpoint, with its configuration, as if there had been no interruption.

    Parameters, results and errors are those of :func:`train`, and

    Raises
    ------
    PartitionError
        If the file is missing, damaged, or no checkpoint of this version.
    """
    return _run(Training.load(checkpoint), out, progress)


def checkpoint_path(out: Path) -> Path:
    """Where :func:`train` writes checkpoints."""
    return out.with_suffix(".checkpoint")


def _run(training: Training, out: Path, progress: Progress) -> list[Record]:
    config, curve = training.config, training.curve
    problems = held_out_problems(config.evaluation_graphs)
    if not can_draw():
        _LOG.warning(
            "matplotlib is not installed (pip install 'top_tvm[train]'): the learning curve is "
            "written as %s, without a picture",
            out.with_suffix(".csv"),
        )
    begin = time.monotonic() - training.seconds
    with one_thread(), _late_interrupts() as interrupted:
        while True:
            training.seconds = time.monotonic() - begin
            progress("train", training.updates, config.updates)
            last = training.updates >= config.updates
            if last or training.updates % config.evaluate_every == 0:
                if not curve or curve[-1].updates < training.updates:
                    greedy, best = (evaluate(training.network, problems, n) for n in (1, 16))
                    training.seconds = time.monotonic() - begin
                    curve.append(Record(training.updates, training.seconds, greedy, best))
                    _LOG.info(_PROGRESS, *astuple(curve[-1]))
                _write(training, out)
            if last:
                return curve
            if interrupted():
                training.save(checkpoint_path(out))
                raise KeyboardInterrupt
            training.update()


def _write(training: Training, out: Path) -> None:
    """All files; the checkpoint last, so that going on from it repeats what was not written."""
    config, curve = training.config, training.curve
    about = {
        "command": config.command(),
        "config": encode(config),
        "seed": config.seed,
        "updates": training.updates,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "top_tvm": __version__,
        "evaluation": asdict(curve[-1]) | {"graphs": config.evaluation_graphs},
    }
    save_network(out, training.network, about)
    write_csv(out.with_suffix(".csv"), curve)
    if can_draw():
        draw_png(out.with_suffix(".png"), curve)
    training.save(checkpoint_path(out))


@contextmanager
def _late_interrupts() -> Iterator[Callable[[], bool]]:
    """Yield whether SIGINT came: an interrupt within an update would leave half of it behind.

    A second one has its usual effect. Only the main thread can do that; on others nothing changes.
    """
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return
    usual = signal.getsignal(signal.SIGINT) or signal.SIG_DFL

    def note(_number: int, _frame: FrameType | None) -> None:
        came.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, note)
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGINT, usual)
