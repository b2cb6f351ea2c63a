"""The graph neural network of GPG: messages along the edges of an op graph, both ways.

The only module that imports DGL.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("DGLBACKEND", "pytorch")  # else DGL writes a file into the user's home

import dgl
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from top_tvm.compiler.gpg.features import NUM_FEATURES, op_features
from top_tvm.compiler.gpg.tensor_file import check_tensors, read_tensors, save_tensors, unusable
from top_tvm.compiler.partition.problem import PartitionProblem
from top_tvm.errors import PartitionError
from top_tvm.strict_json import StrictJSONError, decode, encode

Array = npt.NDArray[Any]
NUM_CANDIDATE_FEATURES = 13  # kNumFeatures of passes/policy.h
URGENCY, WAIT = 0, 12
COMMON = (5, 6)  # features that all candidates of a moment share
# Of a file with weights. To be raised when features change their meaning: weights do not fit then,
# although their shapes may.
WEIGHTS_VERSION = 1


@dataclass(frozen=True)
class NetworkSize:
    """How large a network is.

    Attributes
    ----------
    width : int
        Of an op's embedding, at most 1024.
    hidden : int
        Of the decoder's hidden layer, at most 1024.
    rounds : int
        Of messages, at most 64. With 0 there is no graph neural network: an op sees its own
        features and their mean over the graph.

    Raises
    ------
    PartitionError
        If a number is out of range.
    """

    width: int = 48
    hidden: int = 32
    rounds: int = 4

    def __post_init__(self) -> None:
        for name, least, most in (("width", 1, 1024), ("hidden", 1, 1024), ("rounds", 0, 64)):
            value = getattr(self, name)
            if not least <= value <= most:
                raise PartitionError(f"a network of {name} {value}: expected {least} to {most}")


@dataclass(frozen=True)
class DecoderWeights:
    """What the C++ decoder needs for one graph; see ``passes/policy.h``. All float32."""

    embedding: Array
    dynamic: Array
    out: Array
    skip: Array

    def arguments(self) -> tuple[Array, Array, Array, Array]:
        """In the order of the native functions."""
        return self.embedding, self.dynamic, self.out, self.skip


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: graphs are too small for more, and sums have one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Neighbours:
    """The edges of a graph in one direction: from the ops that send to those that receive."""

    def __init__(self, senders: torch.Tensor, receivers: torch.Tensor, num_ops: int) -> None:
        self._graph = dgl.graph((senders, receivers), num_nodes=num_ops)
        self._receives_nothing = (self._graph.in_degrees() == 0).unsqueeze(1)

    def gather(self, h: torch.Tensor) -> list[torch.Tensor]:
        """Mean and maximum of what an op receives; 0 where it receives nothing."""
        mean, largest = dgl.ops.copy_u_mean(self._graph, h), dgl.ops.copy_u_max(self._graph, h)
        return [mean, largest.masked_fill(self._receives_nothing, 0.0)]  # DGL's is -inf


class _Round(nn.Module):
    """One exchange of messages with predecessors and successors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own = nn.Linear(width, width)
        self.neighbours = nn.Linear(4 * width, width, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, forwards: _Neighbours, backwards: _Neighbours, h: torch.Tensor
    ) -> torch.Tensor:
        messages = torch.cat([*forwards.gather(h), *backwards.gather(h)], dim=1)
        return h + torch.relu(self.norm(self.own(h) + self.neighbours(messages)))


class Network(nn.Module):
    """Embeds the ops of a graph for the decoder, whose weights are part of it."""

    def __init__(self, size: NetworkSize | None = None) -> None:
        super().__init__()
        self.size = size = size or NetworkSize()
        self.encode = nn.Linear(NUM_FEATURES, size.width)
        self.rounds = nn.ModuleList(_Round(size.width) for _ in range(size.rounds))
        self.of_op = nn.Linear(2 * size.width, size.hidden)
        self.of_wait = nn.Linear(size.width, size.hidden)
        self.dynamic = nn.Parameter(torch.randn(NUM_CANDIDATE_FEATURES, size.hidden) * 0.3)
        self.out = nn.Parameter(torch.randn(size.hidden) * 0.02)
        skip = torch.zeros(NUM_CANDIDATE_FEATURES)
        skip[URGENCY], skip[WAIT] = 8.0, -4.0  # to begin with: the most urgent op, and no waiting
        self.skip = nn.Parameter(skip)

    def forward(self, problem: PartitionProblem) -> torch.Tensor:
        """Embedding per op, and one for waiting: shape ``(num_ops + 1, hidden)``."""
        h = torch.relu(self.encode(torch.from_numpy(op_features(problem))))
        if len(self.rounds) > 0:
            edges = np.array(problem.edges, dtype=np.int64).reshape(-1, 2)
            producers, consumers = torch.from_numpy(edges[:, 0]), torch.from_numpy(edges[:, 1])
            forwards = _Neighbours(producers, consumers, problem.num_ops)
            backwards = _Neighbours(consumers, producers, problem.num_ops)
            for layer in self.rounds:
                h = layer(forwards, backwards, h)
        summary = h.mean(dim=0, keepdim=True)
        ops = self.of_op(torch.cat([h, summary.expand_as(h)], dim=1))
        return torch.cat([ops, self.of_wait(summary)])

    def decoder_weights(self, embedding: torch.Tensor) -> DecoderWeights:
        """Weights for the C++ decoder, without gradients."""
        arrays = [t.detach().numpy() for t in (embedding, self.dynamic, self.out, self.skip)]
        return DecoderWeights(*(np.ascontiguousarray(array) for array in arrays))

    def policy_of(self, problem: PartitionProblem) -> DecoderWeights:
        """What the C++ decoder needs to make schedules of a graph."""
        with torch.no_grad(), one_thread():
            return self.decoder_weights(self(problem))

    def scores(
        self, embedding: torch.Tensor, ops: torch.Tensor, features: torch.Tensor
    ) -> torch.Tensor:
        """What the C++ decoder computes, with gradients: one score per candidate."""
        # index_select, because the gradient of embedding[ops] is much slower.
        hidden = torch.relu(torch.addmm(embedding.index_select(0, ops), features, self.dynamic))
        return hidden @ self.out + features @ self.skip


def save_network(path: Path, network: Network, about: Mapping[str, object]) -> None:
    """Write weights; an existing file is replaced as a whole.

    Parameters
    ----------
    path : Path
        The file.
    network : Network
        What to write.
    about : mapping of str to value
        How the weights were made: kept in the file's metadata, as JSON.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    about = {**about, "version": WEIGHTS_VERSION, "network": encode(network.size)}
    save_tensors(path, network.state_dict(), about)


def load_network(path: Path) -> Network:
    """Read weights that :func:`save_network` wrote.

    Raises
    ------
    PartitionError
        If the file is missing, damaged, or of a version that saw other features: naming it, and
        what to do.
    """
    tensors, about = read_tensors(path)
    if about.get("version") != WEIGHTS_VERSION:
        raise unusable(
            path, f"has weights of version {about.get('version')!r:.80}, expected {WEIGHTS_VERSION}"
        )
    try:
        size = decode(NetworkSize, about.get("network"))
    except (StrictJSONError, PartitionError) as error:
        raise unusable(path, f"does not say how large its network is: {error}") from error
    network = Network(size)
    check_tensors(path, tensors, network.state_dict())
    network.load_state_dict(tensors)
    return network
