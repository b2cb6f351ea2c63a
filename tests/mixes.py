"""A small mix made by hand, with everything that is awkward: for tests without a compiler."""

import math

import numpy as np

from top_tvm.artifact import Artifact, Metadata, OpProfile, TensorSpec
from top_tvm.cost import DeviceModel
from top_tvm.mix import Lane, Mix, ModelVariant, Variant, memory_bytes
from top_tvm.plan import Call, Kernel, Plan, Tensor

STREAMS = 2


def make_plan(batch, tensors, calls, inputs, outputs, streams=STREAMS, stream=0, arena_bytes=0):
    """A plan whose calls read all tensors but the last of their own and write that one."""
    names = [tensor.name for tensor in tensors]
    return Plan(
        batch=batch,
        streams=streams,
        partitioner="list",
        tensors=tuple(tensors),
        kernels=(Kernel("tvm", "f", moldable=True),),
        calls=tuple(
            Call(op, 0, tuple(map(names.index, args)), 1, 0, 0, stream, 1) for op, args in calls
        ),
        inputs=tuple(map(names.index, inputs)),
        outputs=tuple(map(names.index, outputs)),
        arena_bytes=arena_bytes,
        predicted_us=4.0,
    )


def whole(batch, streams=STREAMS):
    """y = f(f(x, w)), and z, which is x."""
    shape = (batch, 16)
    tensors = (
        Tensor("x", "float32", shape, "input", "x"),
        Tensor("w", "float32", (16,), "constant", "w"),
        Tensor("h", "float32", shape, "arena"),
        Tensor("y", "float32", shape, "output", "y"),
        Tensor("z", "float32", shape, "input", "x"),
    )
    calls = (("first", ("x", "w", "h")), ("second", ("h", "y")))
    return make_plan(batch, tensors, calls, "x", "yz", streams, arena_bytes=batch * 64)


def halves(batch, stream=0):
    """The same in two segments, all on one of the streams."""
    shape = (batch, 16)
    first = make_plan(
        batch,
        (
            Tensor("x", "float32", shape, "input", "x"),
            Tensor("w", "float32", (16,), "constant", "w"),
            Tensor("h", "float32", shape, "output", "h"),
        ),
        (("first", ("x", "w", "h")),),
        "x",
        "h",
        stream=stream,
    )
    second = make_plan(
        batch,
        (
            Tensor("x", "float32", shape, "input", "x"),
            Tensor("h", "float32", shape, "input", "h"),
            Tensor("y", "float32", shape, "output", "y"),
            Tensor("z", "float32", shape, "input", "x"),
        ),
        (("second", ("h", "y")),),
        "xh",
        "yz",
        stream=stream,
    )
    return first, second


def make_artifact(name, plans, constants):
    batch = min(plans)
    return Artifact(
        metadata=Metadata(
            name=name,
            target="cpu",
            cpu_features=(),
            libraries={},
            creator="top_tvm 0.1.0",
            inputs=(TensorSpec("x", "float32", (batch, 16)),),
            outputs=tuple(TensorSpec(o, "float32", (batch, 16)) for o in "yz"),
            device=DeviceModel(STREAMS, 0.25, 0.5, 1.0, 4.0),
        ),
        kernels=b"\x7fELF" + bytes(99),
        constants=constants,
        plans=plans,
        profiles={
            batch: tuple(
                OpProfile(op, 32, 96, 2.0, math.inf, "Add", single_bandwidth=0.5)
                for op in ("first", "second")
            )
        },
    )


def make_variant(id, mode, in_flight, models, streams=STREAMS):
    return Variant(
        id, mode, streams, in_flight, models, 8.0, 2.5e5, memory_bytes(models, in_flight)
    )


def make_mix() -> Mix:
    """Models "a" with batch sizes 1 and 4, and "b é" with 2."""
    constants = {"w": np.arange(16, dtype=np.float32)}
    a = make_artifact("net", {1: whole(1), 4: whole(4)}, constants)
    b = make_artifact("net", {2: whole(2)}, constants)
    narrow, wide = whole(1, streams=1), whole(4, streams=1)
    other = whole(2, streams=1)
    return Mix(
        {"a": a, "b é": b},
        (
            make_variant(
                "serial",
                "serial",
                1,
                {
                    "a": ModelVariant(1, (Lane(0, {1: (a.plans[1],)}),), (1,)),
                    "b é": ModelVariant(1, (Lane(0, {2: (b.plans[2],)}),), (2,)),
                },
            ),
            make_variant(
                "free-2x1-b4",
                "free",
                2,
                {
                    "a": ModelVariant(
                        1, tuple(Lane(i, {1: (narrow,), 4: (wide,)}) for i in range(2)), (1, 4)
                    ),
                    "b é": ModelVariant(1, tuple(Lane(i, {2: (other,)}) for i in range(2)), (2,)),
                },
            ),
            make_variant(
                "merged-f2k2",
                "merged",
                0,
                {
                    "a": ModelVariant(2, tuple(Lane(0, {1: halves(1, i)}) for i in range(2)), (1,)),
                    "b é": ModelVariant(
                        2, tuple(Lane(0, {2: halves(2, i)}) for i in range(2)), (2,)
                    ),
                },
            ),
        ),
    )
