"""Times of several systems that run the same model, measured so that they can be compared.

On a machine with few cores the threads of one runtime go on spinning after its run and slow down
whoever runs next, clocks drift, and neighbours come and go. Therefore systems take turns: in every
round each is visited once, in a rotating order, after a pause that lets other threads go to sleep,
with warm-up runs that are not counted. Naming one system twice shows the error that remains.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from top_tvm.errors import DependencyError, ModelError

if TYPE_CHECKING:
    from top_tvm.runtime.executable import Executable

Array = npt.NDArray[Any]
Progress = Callable[[str, int, int], None]
T = TypeVar("T")

WARMUP_RUNS = 2
PAUSE_S = 0.1
VISIT_S = 0.1
MAX_RUNS_PER_VISIT = 100


@dataclass(frozen=True)
class System:
    """Something that runs the model on fixed inputs.

    Attributes
    ----------
    name : str
        Unique among the systems compared.
    run : callable
        One inference; returns the outputs in the order of the model.
    """

    name: str
    run: Callable[[], Sequence[Array]]


@dataclass(frozen=True)
class Timing:
    """Times of one system, in microseconds per run.

    Attributes
    ----------
    system : str
        Name of the system.
    median_us, min_us : float
        Middle and least time of all counted runs.
    low_us, high_us : float
        20th and 80th percentile: the spread without the outliers.
    runs : int
        How many runs were counted.
    """

    system: str
    median_us: float
    min_us: float
    low_us: float
    high_us: float
    runs: int


def measure(
    systems: Sequence[System], *, rounds: int = 10, progress: Progress | None = None
) -> list[Timing]:
    """Time the systems in turns.

    Parameters
    ----------
    systems : sequence of System
        What to compare; one is possible, too.
    rounds : int
        How often each is visited. A visit takes about 0.2 s, or 3 runs where these take longer.
    progress : callable, optional
        Called as ``progress("measure", visits_done, visits)``.

    Returns
    -------
    list of Timing
        In the order of ``systems``.
    """
    visits = measure_visits(systems, rounds=rounds, progress=progress)
    return [summary(system.name, times) for system, times in zip(systems, visits, strict=True)]


def measure_visits(
    systems: Sequence[System], *, rounds: int = 10, progress: Progress | None = None
) -> list[list[list[float]]]:
    """Time the systems in turns, as :func:`measure`.

    Returns
    -------
    list of list of list of float
        Microseconds of every counted run: per system, then per round.
    """
    return take_turns([partial(_visit, system.run) for system in systems], rounds, progress)


def take_turns(
    visits: Sequence[Callable[[], T]], rounds: int, progress: Progress | None = None
) -> list[list[T]]:
    """Make every visit once per round, in a rotating order, each after a pause.

    Returns
    -------
    list of list
        What the visits returned: per visit, then per round.
    """
    results: list[list[T]] = [[] for _ in visits]
    for number in range(rounds * len(visits)):
        round_, place = divmod(number, len(visits))
        index = (round_ + place) % len(visits)
        time.sleep(PAUSE_S)
        results[index].append(visits[index]())
        if progress is not None:
            progress("measure", number + 1, rounds * len(visits))
    return results


def _visit(run: Callable[[], object]) -> list[float]:
    estimate_us = min(_time_us(run) for _ in range(WARMUP_RUNS))
    runs = max(3, min(MAX_RUNS_PER_VISIT, int(VISIT_S * 1e6 / estimate_us)))
    return [_time_us(run) for _ in range(runs)]


@dataclass(frozen=True)
class Ratio:
    """A ratio of times: middle and quartiles of the ratios of single rounds."""

    median: float
    low: float
    high: float


def ratio_over_rounds(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """Ratio of the times of two systems, given one time of each per round.

    Within a round both met about the same neighbours, hence ratios first, statistics then.
    """
    ratios = np.asarray(numerators) / np.asarray(denominators)
    low, median, high = (float(value) for value in np.percentile(ratios, (25, 50, 75)))
    return Ratio(median, low, high)


def _time_us(run: Callable[[], object]) -> float:
    start_ns = time.perf_counter_ns()
    run()
    return max(1, time.perf_counter_ns() - start_ns) / 1e3


def summary(name: str, visits: Sequence[Sequence[float]]) -> Timing:
    """Times of one system over all visits."""
    times_us = [time_us for visit in visits for time_us in visit]
    low, median, high = (float(value) for value in np.percentile(times_us, (20, 50, 80)))
    return Timing(name, median, min(times_us), low, high, len(times_us))


def compare(
    systems: Sequence[System], *, rounds: int = 10, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Measure the systems and check that they compute the same.

    Returns
    -------
    list of dict
        One record per system: the fields of :class:`Timing`, ``ratio`` of its ``low_us`` (what
        neighbours on the machine disturb least) to that of the first system, and ``error``, the
        :func:`scaled_error` of its outputs against those of the first.
    """
    reference = [np.array(output) for output in systems[0].run()]
    errors = [scaled_error(system.run(), reference) for system in systems]
    timings = measure(systems, rounds=rounds, progress=progress)
    return [
        {**asdict(timing), "ratio": timing.low_us / timings[0].low_us, "error": error}
        for timing, error in zip(timings, errors, strict=True)
    ]


def scaled_error(outputs: Sequence[Array], reference: Sequence[Array]) -> float:
    """Largest difference between outputs, relative to the largest magnitude of each reference.

    Returns
    -------
    float
        ``max |output - reference| / max |reference|`` over all outputs; infinite where shapes
        differ or a value is not finite in only one of the two.
    """
    if [a.shape for a in outputs] != [b.shape for b in reference]:
        return float("inf")
    worst = 0.0
    for output, expected in zip(outputs, reference, strict=True):
        ours, theirs = np.asarray(output, np.float64), np.asarray(expected, np.float64)
        finite = np.isfinite(theirs)
        if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=True):
            return float("inf")
        difference = np.abs(ours[finite] - theirs[finite])
        if not np.isfinite(difference).all():
            return float("inf")
        scale = float(np.abs(theirs[finite]).max(initial=0.0)) or 1.0
        worst = max(worst, float(difference.max(initial=0.0)) / scale)
    return worst


def executable_system(name: str, executable: Executable, inputs: Mapping[str, Array]) -> System:
    """One of our own executables, called through its Python interface as the peers are."""
    return System(name, lambda: list(executable.run(inputs).values()))


def onnxruntime_system(
    name: str, model: str | bytes, inputs: Mapping[str, Array], threads: int
) -> System:
    """ONNX Runtime's CPU provider with all graph optimisations.

    Parameters
    ----------
    name : str
        Name of the system.
    model : str or bytes
        Path or content of the ONNX model.
    inputs : mapping of str to numpy.ndarray
        Inputs of every run.
    threads : int
        Threads of each operator. Spinning between operators stays on, the provider's default.

    Raises
    ------
    DependencyError
        If ONNX Runtime is not installed.
    ModelError
        If it cannot load the model.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise _not_installed("onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    try:
        session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base class
        raise ModelError(f"onnxruntime cannot load the model: {error}") from error
    feed = dict(inputs)
    return System(name, lambda: session.run(None, feed))


def openvino_system(
    name: str,
    model: str | bytes,
    inputs: Mapping[str, Array],
    threads: int,
    precision: str = "fp32",
) -> System:
    """OpenVINO's CPU plugin with one request at a time; parameters as above.

    ``precision`` is ``"fp32"`` or ``"bf16"``.

    Raises
    ------
    DependencyError
        If OpenVINO is not installed.
    ModelError
        If it cannot load the model.
    """
    request = compile_openvino(model, inputs, threads, "LATENCY", precision).create_infer_request()
    feed = dict(inputs)
    return System(name, lambda: list(request.infer(feed, share_inputs=True).values()))


def compile_openvino(
    model: str | bytes, inputs: Mapping[str, Array], threads: int, hint: str, precision: str
) -> Any:
    """OpenVINO's ``CompiledModel`` for a performance hint; otherwise as :func:`openvino_system`."""
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise _not_installed("openvino") from error
    settings = {
        "PERFORMANCE_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        # Where the CPU has bfloat16, that is OpenVINO's default.
        "INFERENCE_PRECISION_HINT": {"fp32": "f32"}.get(precision, precision),
    }
    core = openvino.Core()
    try:
        network = core.read_model(model)
        if network.is_dynamic():
            network.reshape({key: list(value.shape) for key, value in inputs.items()})
        return core.compile_model(network, "CPU", settings)
    except RuntimeError as error:
        raise ModelError(f"openvino cannot load the model: {error}") from error


def _not_installed(package: str) -> DependencyError:
    return DependencyError(
        f"the peer {package!r} is not installed: pip install 'top_tvm[bench]', or leave it out"
    )


PEERS: dict[str, Callable[[str, str | bytes, Mapping[str, Array], int], System]] = {
    "onnxruntime": onnxruntime_system,
    "openvino": openvino_system,
}
