"""The graph neural network of GPG: messages along the edges of an op graph, both ways.

The only module that imports DGL.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("DGLBACKEND", "pytorch")  # else DGL writes a file into the user's home

import dgl
import numpy as np
import numpy.typing as npt
import torch
from dgl import function
from torch import nn

from top_tvm.compiler.gpg.features import NUM_FEATURES, op_features
from top_tvm.compiler.partition.problem import PartitionProblem

Array = npt.NDArray[Any]
NUM_CANDIDATE_FEATURES = 13  # kNumFeatures of passes/policy.h
URGENCY, WAIT = 0, 12
_WIDTH = 48
_HIDDEN = 32
_ROUNDS = 4


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


class _Round(nn.Module):
    """One exchange of messages with predecessors and successors."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Linear(_WIDTH, _WIDTH)
        self.neighbours = nn.Linear(4 * _WIDTH, _WIDTH, bias=False)
        self.norm = nn.LayerNorm(_WIDTH)

    def forward(self, graph: dgl.DGLGraph, reverse: dgl.DGLGraph, h: torch.Tensor) -> torch.Tensor:
        messages = [_gather(g, h, how) for g in (graph, reverse) for how in ("mean", "max")]
        update = self.own(h) + self.neighbours(torch.cat(messages, dim=1))
        return h + torch.relu(self.norm(update))


def _gather(graph: dgl.DGLGraph, h: torch.Tensor, how: str) -> torch.Tensor:
    """Mean or maximum of what an op's predecessors send; 0 where there are none."""
    with graph.local_scope():
        graph.ndata["h"] = h
        reduce = function.mean("m", "n") if how == "mean" else function.max("m", "n")
        graph.update_all(function.copy_u("h", "m"), reduce)
        gathered: torch.Tensor = graph.ndata["n"]
        return gathered


class Network(nn.Module):
    """Embeds the ops of a graph for the decoder, whose weights are part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(NUM_FEATURES, _WIDTH)
        self.rounds = nn.ModuleList(_Round() for _ in range(_ROUNDS))
        self.of_op = nn.Linear(2 * _WIDTH, _HIDDEN)
        self.of_wait = nn.Linear(_WIDTH, _HIDDEN)
        self.dynamic = nn.Parameter(torch.randn(NUM_CANDIDATE_FEATURES, _HIDDEN) * 0.3)
        self.out = nn.Parameter(torch.randn(_HIDDEN) * 0.02)
        skip = torch.zeros(NUM_CANDIDATE_FEATURES)
        skip[URGENCY], skip[WAIT] = 8.0, -4.0  # to begin with: the most urgent op, and no waiting
        self.skip = nn.Parameter(skip)

    def forward(self, problem: PartitionProblem) -> torch.Tensor:
        """Embedding per op, and one for waiting: shape ``(num_ops + 1, hidden)``."""
        edges = np.array(problem.edges, dtype=np.int64).reshape(-1, 2)
        sources, targets = torch.from_numpy(edges[:, 0]), torch.from_numpy(edges[:, 1])
        graph = dgl.graph((sources, targets), num_nodes=problem.num_ops)
        reverse = dgl.graph((targets, sources), num_nodes=problem.num_ops)
        h = torch.relu(self.encode(torch.from_numpy(op_features(problem))))
        for layer in self.rounds:
            h = layer(graph, reverse, h)
        summary = h.mean(dim=0, keepdim=True)
        ops = self.of_op(torch.cat([h, summary.expand_as(h)], dim=1))
        return torch.cat([ops, self.of_wait(summary)])

    def decoder_weights(self, embedding: torch.Tensor) -> DecoderWeights:
        """Weights for the C++ decoder, without gradients."""
        arrays = [t.detach().numpy() for t in (embedding, self.dynamic, self.out, self.skip)]
        return DecoderWeights(*(np.ascontiguousarray(array) for array in arrays))

    def scores(
        self, embedding: torch.Tensor, ops: torch.Tensor, features: torch.Tensor
    ) -> torch.Tensor:
        """What the C++ decoder computes, with gradients: one score per candidate."""
        hidden = torch.relu(embedding[ops] + features @ self.dynamic)
        return hidden @ self.out + features @ self.skip
