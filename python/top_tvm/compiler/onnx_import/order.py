"""Which nodes of a graph its outputs need, in an order in which they can be computed."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Set

import onnx

from top_tvm.errors import ModelError


def needed_nodes(graph: onnx.GraphProto, name: str) -> list[onnx.NodeProto]:
    """Nodes that the outputs depend on; the order of the file is kept where it is possible.

    Parameters
    ----------
    graph : onnx.GraphProto
        The main graph of a model.
    name : str
        Of the model, for messages.

    Raises
    ------
    ModelError
        If nodes depend on each other in a circle, or two compute the same value.
    """
    return [graph.node[index] for index in _needed(graph, name)]


def keep_needed_nodes(graph: onnx.GraphProto, name: str) -> None:
    """Leave nothing but :func:`needed_nodes` in a graph, in their order."""
    order = _needed(graph, name)
    if order != list(range(len(graph.node))):
        kept = [onnx.NodeProto.FromString(graph.node[i].SerializeToString()) for i in order]
        del graph.node[:]
        graph.node.extend(kept)


def _needed(graph: onnx.GraphProto, name: str) -> list[int]:
    producers: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for output in node.output:
            if output and output in producers:
                raise ModelError(f"{name}: two nodes compute {output!r}")
            producers[output] = index
    sources: dict[int, set[int]] = {}
    pending = [producers[output.name] for output in graph.output if output.name in producers]
    while pending:
        index = pending.pop()
        if index not in sources:
            used = set(_names_used(graph.node[index]))
            sources[index] = {producers[name] for name in used if name and name in producers}
            pending.extend(sources[index])
    order = _topological_order(sources)
    if len(order) < len(sources):
        node = graph.node[min(set(sources) - set(order))]
        raise ModelError(f"{name}: node {node.name!r} ({node.op_type}) depends on itself")
    return order


def _topological_order(sources: Mapping[int, Set[int]]) -> list[int]:
    """Numbers, each behind its sources, the smallest first; without those on or behind circles."""
    users: dict[int, list[int]] = {index: [] for index in sources}
    for index, needed in sources.items():
        for source in needed:
            users[source].append(index)
    missing = {index: len(needed) for index, needed in sources.items()}
    ready = [index for index, count in missing.items() if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        order.append(heapq.heappop(ready))
        for user in users[order[-1]]:
            missing[user] -= 1
            if not missing[user]:
                heapq.heappush(ready, user)
    return order


def _names_used(node: onnx.NodeProto) -> Iterable[str]:
    """Inputs of a node, and what its branches use of the graph around them."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield from _names_used(inner)
            yield from (output.name for output in attribute.g.output)
