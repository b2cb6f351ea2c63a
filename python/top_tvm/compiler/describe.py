"""What an artifact says of a compiled model: its metadata, and the profile of its ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from top_tvm import __version__
from top_tvm.artifact import Metadata, OpProfile, TensorSpec
from top_tvm.compiler.kernel_library import host_target, used_features
from top_tvm.compiler.op_graph import OpGraph
from top_tvm.compiler.partition import PartitionProblem, Placement, simulate
from top_tvm.cost import DeviceModel
from top_tvm.plan import Plan
from top_tvm.roofline import Roofline
from top_tvm.runtime.native import onednn_version


def op_profiles(graph: OpGraph, problem: PartitionProblem, plan: Plan) -> tuple[OpProfile, ...]:
    """What is known of every op: its costs, and when the simulator has it run under the plan."""
    number = {op.name: index for index, op in enumerate(graph.ops)}
    predicted = simulate(
        problem,
        tuple(Placement(number[c.op], c.stage, c.group, c.stream, c.threads) for c in plan.calls),
    )
    return tuple(
        OpProfile(
            name=op.name,
            flops=op.flops,
            nbytes=op.nbytes,
            origin=op.origin,
            predicted_start_us=start,
            predicted_end_us=end,
            **asdict(cost),
        )
        for op, cost, start, end in zip(
            graph.ops, problem.costs, predicted.start_us, predicted.end_us, strict=True
        )
    )


def describe_model(
    name: str,
    plans: Mapping[int, Plan],
    *,
    target: str,
    precision: str,
    roofline: Roofline,
    device: DeviceModel,
) -> Metadata:
    """What a model with these plans is and needs."""
    smallest = plans[min(plans)]

    def specs(indices: Sequence[int]) -> tuple[TensorSpec, ...]:
        tensors = [smallest.tensors[index] for index in indices]
        return tuple(TensorSpec(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors)

    used = {kernel.library for plan in plans.values() for kernel in plan.kernels}
    return Metadata(
        name=name,
        target=target,
        cpu_features=used_features(host_target(), precision),
        libraries={"onednn": onednn_version()} if "onednn" in used else {},
        creator=f"top_tvm {__version__}",
        inputs=specs(smallest.inputs),
        outputs=specs(smallest.outputs),
        roofline=roofline,
        device=device,
    )
