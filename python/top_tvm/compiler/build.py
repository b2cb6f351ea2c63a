"""The whole way from a model to an executable, as one function that a reader can follow."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
import tvm_ffi

from top_tvm import __version__
from top_tvm.artifact import Artifact, Metadata, OpProfile, TensorSpec
from top_tvm.compiler.assemble import assemble
from top_tvm.compiler.cache import MeasurementCache
from top_tvm.compiler.calibrate import calibrate
from top_tvm.compiler.choose_kernels import choose_kernels
from top_tvm.compiler.estimate import check_graph_memory, estimate_build
from top_tvm.compiler.extract import Extracted, extract
from top_tvm.compiler.kernel_library import (
    MCPU_VARIABLE,
    compile_kernels,
    host_target,
    used_features,
)
from top_tvm.compiler.measure_roofline import measure_roofline
from top_tvm.compiler.op_graph import OpGraph
from top_tvm.compiler.partition import (
    PARTITIONERS,
    PartitionProblem,
    Placement,
    Schedule,
    available_partitioners,
    simulate,
)
from top_tvm.compiler.pipeline import cpu_pipeline
from top_tvm.compiler.precision import check_precision
from top_tvm.compiler.profile import Progress, ignore_progress, op_costs, profile_ops
from top_tvm.compiler.session import Session
from top_tvm.compiler.sources import Model, Source, import_source, open_source
from top_tvm.cost import DeviceModel
from top_tvm.device import host_name
from top_tvm.errors import ModelError, PartitionError
from top_tvm.plan import Plan
from top_tvm.plan_check import MAX_STREAMS
from top_tvm.random_inputs import random_inputs
from top_tvm.roofline import Roofline
from top_tvm.runtime.executable import Executable
from top_tvm.runtime.native import onednn_module, onednn_version

_LOG = logging.getLogger(__name__)
# Relax's BlockBuilder is one per process, whatever the thread.
_TVM_LOCK = threading.Lock()
# Else Ctrl-C in a Python function that TVM calls, such as a pass, comes out as a RuntimeError.
tvm_ffi.register_error("KeyboardInterrupt", KeyboardInterrupt)
_ROUNDS = 5
_SECONDS_PER_PLAN = 0.4
# A schedule must beat sequential by more than the noise of the measurement to be preferred.
_MARGIN = 0.97
# Prediction and measurement differ by a few per cent when the profile is of the machine as it is.
_STALE = 0.3


@dataclass(frozen=True)
class Variant:
    """One batch size of a model: the optimised Relax module and what was read off it."""

    batch: int
    name: str
    module: tvm.IRModule
    extracted: Extracted


@dataclass(frozen=True)
class Compilation:
    """A model with compiled kernels, before any schedule is chosen."""

    variants: tuple[Variant, ...]
    kernels: bytes
    session: Session
    device: DeviceModel
    cache: MeasurementCache


def build(
    model: Model,
    *,
    target: str = "cpu",
    partitioner: str = "auto",
    streams: int = 2,
    batch_sizes: Sequence[int] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    precision: str = "fp32",
    progress: Progress | None = None,
) -> Executable:
    """Compile a model into a multi-stream executable.

    Parameters
    ----------
    model : str, Path, bytes, onnx.ModelProto, torch.export.ExportedProgram or tvm.IRModule
        An ONNX model, an exported program of PyTorch, or a Relax module. A path is that of an ONNX
        file, next to which external data is found, too, or of a file that ``torch.export.save``
        wrote (``.pt2``).
    target : {"cpu"}
        Device to compile for: the CPU of this machine.
    partitioner : {"auto", "sequential", "greedy", "list", "ios", "gpg"}
        How to cut the graph into stages. ``"auto"`` measures the schedule of every partitioner,
        interleaved, and keeps the fastest; ``sequential`` is among them, so that a build is never
        slower than sequential execution of the same kernels.
    streams : int
        Number of streams: worker threads, each pinned to a core of its own while cores last.
    batch_sizes : sequence of int, optional
        One plan is made per batch size. By default 1, or what the model fixes.
    shapes : mapping of str to sequence of int, optional
        Full shapes of inputs with symbolic dimensions other than the leading one.
    precision : {"fp32", "bf16"}
        ``"bf16"`` stores weights and what kernels hand to each other in bfloat16, multiplies in it
        and accumulates in float32; it needs oneDNN and a CPU with AVX512-BF16 or AMX. Inputs and
        outputs stay float32.
    progress : callable, optional
        Called with (what, done, total) as work goes on.

    Returns
    -------
    Executable
        Ready to run; save it with :meth:`Executable.save`.

    Raises
    ------
    ModelError
        If the model cannot be read, uses something unsupported, or a build would take more memory
        than this machine has.
    PartitionError
        If an option is not one of those above.
    DeviceError
        If this machine cannot compute in the precision.
    """
    _check_options(target, partitioner, streams, batch_sizes)
    report = progress or ignore_progress
    compilation = compile_model(
        model,
        streams=streams,
        batch_sizes=batch_sizes,
        shapes=shapes,
        precision=precision,
        progress=report,
    )
    plans: dict[int, Plan] = {}
    profiles: dict[int, tuple[OpProfile, ...]] = {}
    names = available_partitioners() if partitioner == "auto" else [partitioner]
    for variant in compilation.variants:
        problem = measure_ops(compilation, variant, report)
        plan = _fastest_plan(compilation, variant, problem, names, report)
        if abs(plan.predicted_us / plan.measured_us - 1) > _STALE:
            # The profile is of a busier or quieter day: plans made from it cannot be trusted.
            problem = measure_ops(compilation, variant, report, fresh=True)
            plan = _fastest_plan(compilation, variant, problem, names, report)
        plans[variant.batch] = plan
        profiles[variant.batch] = _profiles(variant, problem, plan)
    roofline = measure_roofline(streams, compilation.cache)
    metadata = _metadata(compilation.variants[0].name, plans, target, precision, roofline)
    constants = compilation.session.constants
    return Executable(Artifact(metadata, compilation.kernels, constants, plans, profiles))


def compile_model(
    model: Model,
    *,
    streams: int = 2,
    batch_sizes: Sequence[int] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    precision: str = "fp32",
    progress: Progress = ignore_progress,
) -> Compilation:
    """Import, optimise and compile the kernels of a model for every batch size.

    Parameters are those of :func:`build`; so are the errors.
    """
    check_precision(precision)
    batches: Sequence[int | None] = list(dict.fromkeys(batch_sizes)) if batch_sizes else [None]
    with _TVM_LOCK:
        source = open_source(model)
        estimated = estimate_build(source, shapes, batches)
        progress(f"memory: about {estimated / 1e9:.1f} GB", 1, 1)
        variants = []
        for index, batch in enumerate(batches):
            progress("optimise the graph", index, len(batches))
            variants.append(_compile_graph(source, shapes, batch, precision))
        progress("optimise the graph", len(batches), len(batches))
        prim_funcs = {k: f for variant in variants for k, f in variant.extracted.prim_funcs.items()}
        progress("compile kernels", 0, 1)
        kernels = compile_kernels(prim_funcs, host_target())
        progress("compile kernels", 1, 1)
        cache = MeasurementCache(_device_name())
        device = calibrate(streams, cache)
    constants = {k: v for variant in variants for k, v in variant.extracted.constants.items()}
    session = Session.open(kernels, constants)
    chosen = tuple(
        _with_graph(v, choose_kernels(v.extracted.graph, session, streams, cache, progress))
        for v in variants
    )
    return Compilation(chosen, kernels, session, device, cache)


def optimise_model(
    model: Model,
    *,
    batch_size: int | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    precision: str = "fp32",
) -> Variant:
    """Import and optimise a model for one batch size, without compiling kernels.

    Enough to plan for devices that are not at hand. Parameters are those of :func:`build`; so are
    the errors.
    """
    check_precision(precision)
    with _TVM_LOCK:
        return _compile_graph(open_source(model), shapes, batch_size, precision)


def _device_name() -> str:
    """Name under which times are kept: kernels for another CPU take other times."""
    wanted = os.environ.get(MCPU_VARIABLE, "")
    return f"{host_name()}-{wanted}" if wanted else host_name()


def measure_ops(
    compilation: Compilation,
    variant: Variant,
    progress: Progress = ignore_progress,
    *,
    fresh: bool = False,
) -> PartitionProblem:
    """What a partitioner solves: dependencies of the ops and their costs, measured or cached."""
    graph, device = variant.extracted.graph, compilation.device
    session, cache = compilation.session, compilation.cache
    times = profile_ops(graph, session, device.streams, cache, progress, fresh=fresh)
    costs = op_costs(times, device.streams)
    return PartitionProblem(tuple(graph.edges()), costs, device)


def make_plan(variant: Variant, problem: PartitionProblem, name: str, schedule: Schedule) -> Plan:
    """Plan of a schedule, with the time that the simulator predicts."""
    return assemble(
        variant.extracted.graph,
        schedule,
        streams=problem.device.streams,
        partitioner=name,
        batch=variant.batch,
        predicted_us=simulate(problem, schedule).makespan_us,
    )


def _check_options(
    target: str, partitioner: str, streams: int, batch_sizes: Sequence[int] | None
) -> None:
    if target != "cpu":
        raise PartitionError(f"target {target!r} is not supported; there is: 'cpu'")
    known = ["auto", *PARTITIONERS]
    if partitioner not in known:
        raise PartitionError(f"no partitioner {partitioner!r}; there are: {', '.join(known)}")
    if not 1 <= streams <= MAX_STREAMS:
        raise PartitionError(f"streams must be 1 to {MAX_STREAMS}, not {streams}")
    for batch in batch_sizes or ():
        if batch < 1:
            raise PartitionError(f"batch sizes must be at least 1, not {batch}")


def _compile_graph(
    source: Source, shapes: Mapping[str, Sequence[int]] | None, batch: int | None, precision: str
) -> Variant:
    imported = import_source(source, shapes, batch)
    pipeline = cpu_pipeline(onednn=onednn_module() is not None, precision=precision)
    try:
        module = pipeline(imported.module)
        extracted = extract(module, imported.inputs, imported.outputs)
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, ZeroDivisionError) as error:
        # TVM's passes raise what they like where a graph asks for something impossible.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelError(
            f"{imported.name}: cannot be compiled: {lines[-1] if lines else type(error).__name__}"
        ) from error
    check_graph_memory(extracted.graph, imported.name)
    return Variant(imported.batch, imported.name, module, extracted)


def _with_graph(variant: Variant, graph: OpGraph) -> Variant:
    return replace(variant, extracted=replace(variant.extracted, graph=graph))


def _fastest_plan(
    compilation: Compilation,
    variant: Variant,
    problem: PartitionProblem,
    names: Sequence[str],
    report: Progress,
) -> Plan:
    """Measure the schedules of the named partitioners and keep the fastest."""
    schedules: dict[str, Schedule] = {}
    for index, name in enumerate(names):
        report("partition", index, len(names))
        schedule = PARTITIONERS[name](problem)
        if schedule not in schedules.values():
            schedules[name] = schedule
    report("partition", len(names), len(names))
    plans = {name: make_plan(variant, problem, name, s) for name, s in schedules.items()}
    measured = measure_plans(plans, compilation.session, report)
    best = _choose(measured)
    if best != "sequential" and "sequential" in plans:
        # The least of several noisy times is too low by chance, so the winner has to win twice.
        final = {name: plans[name] for name in ("sequential", best)}
        again = measure_plans(final, compilation.session, report)
        measured |= again
        best = _choose(again)
    _LOG.info("batch %d: %s is the fastest of %s", variant.batch, best, measured)
    return replace(plans[best], measured_us=measured[best])


def _choose(measured_us: Mapping[str, float]) -> str:
    """The fastest plan; sequential, if there is, unless it is beaten by more than noise."""
    margins = {"sequential": _MARGIN}
    return min(measured_us, key=lambda name: measured_us[name] * margins.get(name, 1.0))


def measure_plans(
    plans: Mapping[str, Plan], session: Session, report: Progress
) -> dict[str, float]:
    """Median time of one run of every plan, in microseconds, measured in turns."""
    executors = {name: session.executor(plan) for name, plan in plans.items()}
    inputs = list(random_inputs(next(iter(plans.values()))).values())
    runs: dict[str, int] = {}
    for name, executor in executors.items():
        once_us = float(np.min(executor.time(inputs, 1, 2)))
        runs[name] = min(max(int(_SECONDS_PER_PLAN * 1e6 / once_us / _ROUNDS), 2), 100)
    samples: dict[str, list[Any]] = {name: [] for name in plans}
    for index in range(_ROUNDS):
        report("measure plans", index, _ROUNDS)
        for name, executor in executors.items():
            samples[name].append(executor.time(inputs, 1, runs[name]))
    report("measure plans", _ROUNDS, _ROUNDS)
    return {name: float(np.median(np.concatenate(times))) for name, times in samples.items()}


def _profiles(variant: Variant, problem: PartitionProblem, plan: Plan) -> tuple[OpProfile, ...]:
    """What is known of every op: its costs, and when the simulator has it run under the plan."""
    ops = variant.extracted.graph.ops
    number = {op.name: index for index, op in enumerate(ops)}
    predicted = simulate(
        problem,
        tuple(Placement(number[c.op], c.stage, c.group, c.stream, c.threads) for c in plan.calls),
    )
    return tuple(
        OpProfile(op.name, op.flops, op.nbytes, cost.single_us, cost.gang_us, op.origin, start, end)
        for op, cost, start, end in zip(
            ops, problem.costs, predicted.start_us, predicted.end_us, strict=True
        )
    )


def _metadata(
    name: str, plans: Mapping[int, Plan], target: str, precision: str, roofline: Roofline
) -> Metadata:
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
    )
