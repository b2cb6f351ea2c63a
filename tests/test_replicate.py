"""Instances side by side: valid together, apart but for constants."""

from small_model import small_model
from top_tvm.compiler.build import compile_model
from top_tvm.compiler.replicate import replicate


def test_instances_share_constants_only():
    (compiled,) = compile_model(small_model()).graphs
    graph = compiled.extracted.graph
    union = replicate(graph, 3)
    union.validate()
    count = len(graph.ops)
    assert len(union.ops) == 3 * count
    assert union.output_names == ("scores", "scores#1", "scores#2")
    # No dependency crosses from one instance to another, and each has those of the original.
    for first, second in union.edges():
        assert first // count == second // count
    assert len(union.edges()) == 3 * len(graph.edges())
    constants = [s.key for s in union.storages if s.kind == "constant"]
    assert sorted(constants) == sorted(s.key for s in graph.storages if s.kind == "constant")
    keys = [s.key for s in union.storages if s.kind in ("input", "output")]
    assert len(keys) == len(set(keys)) == 6


def test_one_instance_is_the_graph_itself():
    (compiled,) = compile_model(small_model()).graphs
    assert replicate(compiled.extracted.graph, 1) == compiled.extracted.graph
