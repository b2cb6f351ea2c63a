"""ONNX's own test cases of single operators, each compiled and run in a process that may crash.

``make conformance`` runs all of them and writes the table in ``docs/conformance.md``;
``test_conformance.py`` runs some. The cases come with the onnx package: model, inputs, and the
outputs of the reference implementation.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

import top_tvm
import top_tvm.compiler.build  # here, not in every process
from top_tvm.errors import TopTVMError

OUTCOMES = ("passed", "refused", "wrong", "crashed", "not tensors")
# Inputs that say how, rather than on what: models fix them, so they become initializers.
SHAPE_LIKE: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Reshape", "Expand", "Tile", "Squeeze", "Unsqueeze", "TopK", "OneHot"), (1,)),
    **dict.fromkeys(("Split", "CumSum", "CumProd", "CenterCropPad", "AffineGrid", "Trilu"), (1,)),
    **dict.fromkeys(("Upsample",), (1,)),
    **dict.fromkeys(("ConstantOfShape", "BlackmanWindow", "HammingWindow", "HannWindow"), (0,)),
    **dict.fromkeys(("MelWeightMatrix", "Range"), (0, 1, 2, 3, 4)),
    **dict.fromkeys(("Slice",), (1, 2, 3, 4)),
    **dict.fromkeys(("Resize",), (1, 2, 3)),
    **dict.fromkeys(("Pad",), (1, 3)),
    **dict.fromkeys(("Dropout", "DFT", "Col2Im"), (1, 2)),
    **dict.fromkeys(("STFT",), (1, 3)),
    **dict.fromkeys(("MaxUnpool",), (2,)),
}
# Sums over a signal: of an expected zero, what is left is the rounding error of the other terms.
TRANSFORMS = ("DFT", "STFT")
SECONDS_PER_CASE = 60


@dataclass(frozen=True)
class Result:
    """What became of a case."""

    name: str
    op_type: str
    outcome: str
    detail: str = ""


def load_cases() -> dict[str, TestCase]:
    """All cases of single operators by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for case in load_model_tests(kind="node")}


def base_name(name: str) -> str:
    """The case whose operator a case spells out by its definition, or the case itself."""
    return name.split("_expanded")[0]


def op_type(cases: dict[str, TestCase], name: str) -> str:
    """Operator that a case is about."""
    case = cases.get(base_name(name), cases[name])
    return str(case.model.graph.node[-1].op_type)


def fixed_inputs(cases: dict[str, TestCase], name: str) -> set[str]:
    """Names of the inputs that become initializers."""
    model = cases.get(base_name(name), cases[name]).model
    fixed = set()
    for node in model.graph.node:
        positions = SHAPE_LIKE.get(node.op_type, ())
        if node.op_type.startswith("Reduce"):
            positions = (1,)
        fixed |= {node.input[index] for index in positions if index < len(node.input)}
    return fixed - {""}


def has_tensors_only(model: onnx.ModelProto) -> bool:
    """Whether all inputs and outputs are tensors of numbers."""
    return all(
        value.type.HasField("tensor_type")
        and value.type.tensor_type.elem_type != onnx.TensorProto.STRING
        for value in (*model.graph.input, *model.graph.output)
    )


def run_case(cases: dict[str, TestCase], name: str) -> Result:
    """Build a case, run it and compare the outputs."""
    case, kind = cases[name], op_type(cases, name)
    if not has_tensors_only(case.model):
        return Result(name, kind, "not tensors")
    try:
        for inputs, outputs in case.data_sets:
            detail = _run(case, fixed_inputs(cases, name), inputs, outputs)
            if detail:
                return Result(name, kind, "wrong", detail)
    except TopTVMError as error:
        return Result(name, kind, "refused", str(error))
    except Exception as error:  # whatever is no error of ours is a defect of ours
        return Result(name, kind, "crashed", f"{type(error).__name__}: {error}")
    return Result(name, kind, "passed")


def _run(case: TestCase, fixed: set[str], inputs: Any, outputs: Any) -> str:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    feeds = {}
    del model.graph.input[:]
    for info, value in zip(case.model.graph.input, inputs, strict=False):
        array = as_array(value)
        if info.name in fixed:
            model.graph.initializer.append(numpy_helper.from_array(array, info.name))
            continue
        model.graph.input.append(info)
        feeds[info.name] = array
        shape = model.graph.input[-1].type.tensor_type.shape
        del shape.dim[:]
        for extent in array.shape:
            shape.dim.add().dim_value = extent
    executable = top_tvm.build(model, partitioner="sequential", streams=1)
    results = executable.run(feeds)
    for info, output in zip(case.model.graph.output, outputs, strict=True):
        expected = as_array(output)
        detail = difference(results[info.name], expected, *tolerances(case, expected))
        if detail:
            return f"output {info.name!r}: {detail}"
    return ""


def tolerances(case: TestCase, expected: Any) -> tuple[float, float]:
    """Relative and absolute; those of the case, but for two kinds that it is too strict for.

    In float16 the neighbours of a number are almost 1e-3 away, which is the tolerance of cases: two
    units in the last place are admitted.
    """
    rtol, atol = case.rtol, case.atol
    if expected.dtype == np.float16:
        rtol = max(rtol, 2 * float(np.finfo(np.float16).eps))
    if any(node.op_type in TRANSFORMS for node in case.model.graph.node):
        atol = max(atol, float(np.finfo(expected.dtype).eps * np.abs(expected).max()))
    return rtol, atol


def as_array(value: Any) -> Any:
    """Input or output of a case as an array: those of casts are protocol buffers."""
    is_proto = isinstance(value, onnx.TensorProto)
    return numpy_helper.to_array(value) if is_proto else np.asarray(value)


def difference(actual: Any, expected: Any, rtol: float, atol: float) -> str:
    """How an output differs from the expected one; empty if it does not."""
    if actual.dtype != expected.dtype:
        return f"is {actual.dtype}, not {expected.dtype}"
    if actual.shape != expected.shape:
        return f"has shape {actual.shape}, not {expected.shape}"
    if actual.dtype.kind not in "fc":
        wrong = actual != expected
    else:
        wide = np.float64
        wrong = ~np.isclose(actual.astype(wide), expected.astype(wide), rtol, atol, equal_nan=True)
    if not wrong.any():
        return ""
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    return (
        f"{int(wrong.sum())} of {wrong.size} elements differ, e.g. at {where}: "
        f"{actual[where]} instead of {expected[where]}"
    )


def _work(cases: dict[str, TestCase], connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null):
        os.dup2(null.fileno(), 2)
        while (name := connection.recv()) is not None:
            warnings.simplefilter("ignore")
            connection.send(run_case(cases, name))


class _Worker:
    """A process that runs one case after the other, and may die of one."""

    def __init__(self, cases: dict[str, TestCase]) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=_work, args=(cases, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.case = ""
        self.deadline = 0.0

    def start(self, name: str) -> None:
        self.case, self.deadline = name, time.monotonic() + SECONDS_PER_CASE
        self.connection.send(name)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def run_cases(cases: dict[str, TestCase], names: list[str], processes: int) -> list[Result]:
    """Run cases in processes of their own; a process that dies is replaced."""
    results: list[Result] = []
    waiting = list(reversed(names))
    workers = [_Worker(cases) for _ in range(min(processes, len(names)))]
    for worker in workers:
        worker.start(waiting.pop())
    try:
        while workers:
            wait([w.connection for w in workers], timeout=1)
            for worker in list(workers):
                result = _poll(cases, worker)
                if result is None:
                    continue
                results.append(result)
                print(f"\r{len(results)}/{len(names)}", end="", file=sys.stderr, flush=True)
                if not worker.process.is_alive() or result.outcome == "crashed":
                    worker.stop()
                    workers.remove(worker)
                    worker = _Worker(cases)
                    workers.append(worker)
                if waiting:
                    worker.start(waiting.pop())
                else:
                    worker.stop()
                    workers.remove(worker)
    finally:
        for worker in workers:
            worker.stop()
    order = {name: index for index, name in enumerate(names)}
    return sorted(results, key=lambda result: order[result.name])


def _poll(cases: dict[str, TestCase], worker: _Worker) -> Result | None:
    kind = op_type(cases, worker.case)
    if worker.connection.poll():
        try:
            received: Result = worker.connection.recv()
        except EOFError:
            worker.process.join()
            detail = f"the process died with {worker.process.exitcode}"
            return Result(worker.case, kind, "crashed", detail)
        return received
    if time.monotonic() > worker.deadline:
        worker.process.kill()
        worker.process.join()
        return Result(worker.case, kind, "crashed", f"took more than {SECONDS_PER_CASE} s")
    return None


def main() -> None:
    """Run the cases and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--filter", default="", help="only cases whose name contains this")
    parser.add_argument("--op", default="", help="only cases of these operators, A,B")
    parser.add_argument("--only", default="", help="print cases with these outcomes: wrong,crashed")
    parser.add_argument("--json", type=Path, help="write all results to this file")
    parser.add_argument("--table", type=Path, help="write the table to this file")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    cases = load_cases()
    wanted = set(arguments.op.split(",")) - {""}
    names = [
        name
        for name in sorted(cases)
        if arguments.filter in name and (not wanted or op_type(cases, name) in wanted)
    ]
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("TOP_TVM_CACHE_DIR", folder)
        results = run_cases(cases, names, arguments.jobs)
    print(file=sys.stderr)
    counts = collections.Counter(result.outcome for result in results)
    shown = set(arguments.only.split(","))
    for result in results:
        if result.outcome in shown:
            print(f"{result.outcome}: {result.name} ({result.op_type}): {result.detail}")
    print(f"{len(results)} cases: {', '.join(f'{counts[o]} {o}' for o in OUTCOMES)}")
    if arguments.json:
        arguments.json.write_text(json.dumps([vars(result) for result in results], indent=1))
    if arguments.table:
        arguments.table.write_text(table(results))
    sys.exit(bool(counts["wrong"] or counts["crashed"]))


def table(results: list[Result]) -> str:
    """Markdown: what became of the cases of every operator."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for result in results:
        counts[result.op_type][result.outcome] += 1
        counts[""][result.outcome] += 1
    total = counts.pop("")
    lines = [
        "# Conformance",
        "",
        f"The {len(results)} cases of `onnx.backend.test` for single operators, onnx "
        f"{onnx.__version__}: made by `make conformance`.",
        "Inputs that describe shapes are initializers. *Refused* cases end in an error that names",
        "the node and the reason before anything runs; *not tensors* have sequences, optionals or",
        "strings as inputs or outputs. Numbers may differ from the reference's as the cases say;",
        "by two units in the last place in float16; by the rounding error of the largest result",
        "in Fourier transforms.",
        "",
        "| operator | " + " | ".join(OUTCOMES) + " |",
        "| --- |" + " ---: |" * len(OUTCOMES),
        "| **all** | " + " | ".join(f"**{total[o]}**" for o in OUTCOMES) + " |",
    ]
    for kind in sorted(counts):
        lines.append(
            f"| {kind} | " + " | ".join(str(counts[kind][o] or "") for o in OUTCOMES) + " |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
