"""The whole way from a model to an executable, as one function that a reader can follow."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import tvm
import tvm_ffi

from top_tvm.artifact import Artifact
from top_tvm.compiler.assemble import assemble
from top_tvm.compiler.cache import MeasurementCache
from top_tvm.compiler.calibrate import calibrate
from top_tvm.compiler.choose_kernels import choose_kernels
from top_tvm.compiler.choose_plan import fastest_plan
from top_tvm.compiler.describe import describe_model, op_profiles
from top_tvm.compiler.estimate import check_graph_memory, estimate_build, estimate_mix
from top_tvm.compiler.extract import Extracted, extract
from top_tvm.compiler.kernel_library import (
    MCPU_VARIABLE,
    compile_kernels,
    host_target,
)
from top_tvm.compiler.measure_roofline import measure_roofline
from top_tvm.compiler.op_graph import OpGraph
from top_tvm.compiler.partition import (
    PARTITIONERS,
    PartitionProblem,
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
from top_tvm.roofline import Roofline
from top_tvm.runtime.executable import Executable
from top_tvm.runtime.native import onednn_module

_LOG = logging.getLogger(__name__)
# Relax's BlockBuilder is one per process, whatever the thread.
_TVM_LOCK = threading.Lock()
# Else Ctrl-C in a Python function that TVM calls, such as a pass, comes out as a RuntimeError.
tvm_ffi.register_error("KeyboardInterrupt", KeyboardInterrupt)
# Prediction and measurement differ by a few per cent when the profile is of the machine as it is.
_STALE = 0.3


@dataclass(frozen=True)
class CompiledGraph:
    """One batch size of a model: the optimised Relax module and what was read off it."""

    batch: int
    name: str
    module: tvm.IRModule
    extracted: Extracted


@dataclass(frozen=True)
class Compilation:
    """A model with compiled kernels, before any schedule is chosen."""

    graphs: tuple[CompiledGraph, ...]
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
    check_options(target, partitioner, streams, batch_sizes)
    report = progress or ignore_progress
    compilation = compile_model(
        model,
        streams=streams,
        batch_sizes=batch_sizes,
        shapes=shapes,
        precision=precision,
        progress=report,
    )
    planned = plan_model(compilation, partitioner, report)
    roofline = measure_roofline(streams, compilation.cache)
    return Executable(make_artifact(compilation, planned, target, precision, roofline))


@dataclass(frozen=True)
class Planned:
    """By batch size of a model: the fastest plan, and what it was made from."""

    plans: dict[int, Plan]
    problems: dict[int, PartitionProblem]


def plan_model(compilation: Compilation, partitioner: str, report: Progress) -> Planned:
    """Measure the ops of a compiled model and choose a plan for every batch size."""
    names = available_partitioners() if partitioner == "auto" else [partitioner]
    plans: dict[int, Plan] = {}
    problems: dict[int, PartitionProblem] = {}
    for compiled in compilation.graphs:
        problem = measure_ops(compilation, compiled, report)
        plan = _fastest_plan(compilation, compiled, problem, names, report)
        if abs(plan.predicted_us / plan.measured_us - 1) > _STALE:
            # The profile is of a busier or quieter day: plans made from it cannot be trusted.
            problem = measure_ops(compilation, compiled, report, fresh=True)
            plan = _fastest_plan(compilation, compiled, problem, names, report)
        plans[compiled.batch] = plan
        problems[compiled.batch] = problem
    return Planned(plans, problems)


def make_artifact(
    compilation: Compilation, planned: Planned, target: str, precision: str, roofline: Roofline
) -> Artifact:
    """Everything that running a model needs."""
    metadata = describe_model(
        compilation.graphs[0].name,
        planned.plans,
        target=target,
        precision=precision,
        roofline=roofline,
        device=compilation.device,
    )
    profiles = {
        compiled.batch: op_profiles(
            compiled.extracted.graph,
            planned.problems[compiled.batch],
            planned.plans[compiled.batch],
        )
        for compiled in compilation.graphs
    }
    constants = compilation.session.constants
    return Artifact(metadata, compilation.kernels, constants, planned.plans, profiles)


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
    models = {"": ModelOptions(model, batch_sizes, shapes)}
    return compile_models(models, streams=streams, precision=precision, progress=progress)[""]


@dataclass(frozen=True)
class ModelOptions:
    """A model and what :func:`build` is told of it."""

    model: Model
    batch_sizes: Sequence[int] | None = None
    shapes: Mapping[str, Sequence[int]] | None = None

    @property
    def batches(self) -> list[int | None]:
        """Batch sizes without repetition; None stands for what the model fixes."""
        return list(dict.fromkeys(self.batch_sizes)) if self.batch_sizes else [None]


def compile_models(
    models: Mapping[str, ModelOptions],
    *,
    streams: int = 2,
    precision: str = "fp32",
    progress: Progress = ignore_progress,
) -> dict[str, Compilation]:
    """Compile several models, by name; kernels and equal constants are shared.

    Options and errors are those of :func:`build`.
    """
    check_precision(precision)
    graphs: dict[str, list[CompiledGraph]] = {}
    with _TVM_LOCK:
        sources = {name: open_source(options.model) for name, options in models.items()}
        estimated = estimate_mix(
            {
                name: estimate_build(sources[name], options.shapes, options.batches)
                for name, options in models.items()
            }
        )
        progress(f"memory: about {estimated / 1e9:.1f} GB", 1, 1)
        for name, options in models.items():
            graphs[name] = _optimise(sources[name], options, precision, progress)
        extracted = [compiled.extracted for of_model in graphs.values() for compiled in of_model]
        prim_funcs = {symbol: f for item in extracted for symbol, f in item.prim_funcs.items()}
        progress("compile kernels", 0, 1)
        kernels = compile_kernels(prim_funcs, host_target())
        progress("compile kernels", 1, 1)
        cache = MeasurementCache(_device_name())
        device = calibrate(streams, cache)
    constants = {key: array for item in extracted for key, array in item.constants.items()}
    session = Session.open(kernels, constants)
    compilations = {}
    for name, of_model in graphs.items():
        chosen = tuple(
            _with_graph(
                compiled,
                choose_kernels(compiled.extracted.graph, session, streams, cache, progress),
            )
            for compiled in of_model
        )
        compilations[name] = Compilation(chosen, kernels, session, device, cache)
    return compilations


def _optimise(
    source: Source, options: ModelOptions, precision: str, progress: Progress
) -> list[CompiledGraph]:
    """Graphs of a model for all its batch sizes."""
    graphs = []
    for index, batch in enumerate(options.batches):
        progress("optimise the graph", index, len(options.batches))
        graphs.append(_compile_graph(source, options.shapes, batch, precision))
    progress("optimise the graph", len(options.batches), len(options.batches))
    return graphs


def optimise_model(
    model: Model,
    *,
    batch_size: int | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    precision: str = "fp32",
) -> CompiledGraph:
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
    compiled: CompiledGraph,
    progress: Progress = ignore_progress,
    *,
    fresh: bool = False,
) -> PartitionProblem:
    """What a partitioner solves: dependencies of the ops and their costs, measured or cached."""
    graph, device = compiled.extracted.graph, compilation.device
    session, cache = compilation.session, compilation.cache
    times = profile_ops(graph, session, device.streams, cache, progress, fresh=fresh)
    costs = op_costs(times, device.streams)
    return PartitionProblem(tuple(graph.edges()), costs, device)


def make_plan(
    compiled: CompiledGraph, problem: PartitionProblem, name: str, schedule: Schedule
) -> Plan:
    """Plan of a schedule, with the time that the simulator predicts."""
    return assemble(
        compiled.extracted.graph,
        schedule,
        streams=problem.device.streams,
        partitioner=name,
        batch=compiled.batch,
        predicted_us=simulate(problem, schedule).makespan_us,
    )


def check_options(
    target: str, partitioner: str, streams: int, batch_sizes: Sequence[int] | None
) -> None:
    """Refuse options that :func:`build` does not know, before any work."""
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
) -> CompiledGraph:
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
    return CompiledGraph(imported.batch, imported.name, module, extracted)


def _with_graph(compiled: CompiledGraph, graph: OpGraph) -> CompiledGraph:
    return replace(compiled, extracted=replace(compiled.extracted, graph=graph))


def _fastest_plan(
    compilation: Compilation,
    compiled: CompiledGraph,
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
    plans = {name: make_plan(compiled, problem, name, s) for name, s in schedules.items()}
    return fastest_plan(plans, compilation.session, report)
