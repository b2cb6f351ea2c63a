"""Serving on this CPU, ours and others', and merging one model's tasks: ``make bench-serving``.

    python benchmarks/serving.py --quick                 # minutes
    python benchmarks/serving.py --full                  # hours: all models, arrivals and deadlines
    python benchmarks/serving.py --only self --models bvlc_alexnet --device large-gpu,tensor-gpu
    python benchmarks/serving.py --only cells --models squeezenet+resnet50 --arrivals gamma

Parts: cells (all systems under random arrivals), self (throughput of one model against concurrency
and batch size, on this CPU and on simulated devices), overload (110 % load, and a flooded model).
All systems have queues of the same length, refuse and give up tasks by the same rules, meet the
same arrivals, and take turns. Latency counts from when a task was to arrive.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cpu.arguments import names_of, positive_numbers
from cpu.case import MODELS
from partition_support.problems import SIMULATED_DEVICES
from serving_support import overload, tables
from serving_support.arrivals import ARRIVALS
from serving_support.cells import (
    SYSTEMS,
    Effort,
    measure_baseline,
    measure_cells,
    open_systems,
)
from serving_support.front import overhead_us
from serving_support.mixes import STREAMS, build
from serving_support.self_live import measure_self
from serving_support.self_simulated import Shapes, simulate_self
from top_tvm.compare import Progress
from top_tvm.device import host_description
from top_tvm.errors import TopTVMError
from top_tvm.replace_file import write_text
from top_tvm.terminal import progress_bars

RESULTS = Path(__file__).parent / "results"
SECTIONS = ("cells", "self", "overload")
_ALL = ["squeezenet", "inception_v1", "bvlc_alexnet", "resnet50"]
FULL = {
    "models": [*_ALL, "squeezenet+inception_v1", "+".join(_ALL)],
    "arrivals": list(ARRIVALS),
    "load": [50, 85, 110],
    "deadline": [5, 15],
    "duration_s": 4.0,
    "repeats": 3,
    "self_models": [*_ALL, "zfnet512", "vgg19", "inception_v2"],
    "device": ["large-gpu", "small-gpu", "tensor-gpu"],
    "streams": [8, 16],
    "lanes": [1, 4, 8, 12, 16],
    "segments": [1, 2, 3, 4, 5, 6],
    "batch": [1, 2, 4, 8],
}
SUBSET = FULL | {
    "models": ["squeezenet", "resnet50", "squeezenet+inception_v1"],
    "arrivals": ["poisson", "gamma"],
    "duration_s": 2.0,
    "repeats": 2,
    "self_models": ["bvlc_alexnet", "inception_v1"],
    "device": ["large-gpu", "tensor-gpu"],
    "segments": [1, 2, 3, 4],
    "batch": [1, 4],
}
QUICK = SUBSET | {
    "models": ["squeezenet"],
    "arrivals": ["poisson"],
    "load": [85],
    "deadline": [15],
    "duration_s": 1.0,
    "self_models": ["bvlc_alexnet"],
    "device": ["large-gpu"],
    "streams": [16],
    "lanes": [4, 8],
    "segments": [1, 3],
}
# Lanes and segments on this CPU, as a build tries them.
CPU_LANES, CPU_SEGMENTS = (1, 2), (1, 2, 3)


def main() -> int:
    options = parse_options()
    heading = "\n".join(
        (
            "# Serving",
            "",
            f"{STREAMS} cores of {host_description()}; {_today()}; onnxruntime "
            f"{importlib.metadata.version('onnxruntime')}, openvino "
            f"{importlib.metadata.version('openvino')};",
            f"`python benchmarks/serving.py {shlex.join(sys.argv[1:])}`.",
            f"The queues in front of the peers are Python: {overhead_us():.0f} us per task.",
        )
    )
    print(heading, flush=True)
    records: list[dict[str, Any]] = []
    try:
        with progress_bars() as progress:
            for record in measure(options, progress):
                records.append({**record, "date": _today()})
                write_json(options.json, records)
    except (TopTVMError, TimeoutError) as error:
        print(f"serving.py: {error}", file=sys.stderr)
        return 1
    text = tables.report(records)
    print(text, flush=True)
    if options.out:
        write_text(options.out, f"{heading}\n{text}\n")
    return 0


def measure(options: argparse.Namespace, progress: Progress) -> Iterator[dict[str, Any]]:
    saturation_s = max(options.duration_s / 2, min(options.duration_s, 1.0))
    effort = Effort(options.duration_s, saturation_s, options.repeats)
    if "self" in options.only:
        for name in options.self_models:
            built = build(
                [name],
                batch_sizes=options.batch,
                lanes=CPU_LANES,
                segments=CPU_SEGMENTS,
                progress=progress,
            )
            yield from measure_self(built, effort)
        if options.device:
            shapes = Shapes(
                options.streams,
                options.lanes,
                options.segments,
                options.batch,
                options.partitioners,
            )
            yield from simulate_self(options.self_models, options.device, shapes, _say)
    if {"cells", "overload"}.isdisjoint(options.only):
        return
    for mix in options.models:
        names = mix.split("+")
        built = build(
            names,
            batch_sizes=options.batch,
            lanes=CPU_LANES,
            segments=CPU_SEGMENTS,
            progress=progress,
        )
        with open_systems(built, options.systems) as systems:
            _say(f"{mix}: what the systems can do")
            baseline = measure_baseline(systems, built, effort)
            yield {
                "section": "baseline",
                "mix": "+".join(built.mix.models),
                "capacity_per_s": baseline.capacity_per_s,
                "best": baseline.best_per_s,
                "lone_ms": {name: 1e3 * lone_s for name, lone_s in baseline.lone_s.items()},
                "kept": [variant.id for variant in built.kept.variants],
            }
            if "cells" in options.only:
                yield from measure_cells(
                    systems,
                    baseline,
                    options.arrivals,
                    [load / 100 for load in options.load],
                    options.deadline,
                    effort,
                )
            if "overload" in options.only:
                _say(f"{mix}: overload")
                yield from overload.measure_overload(systems, baseline, effort)
                yield from overload.measure_flood(systems, baseline, effort)


def parse_options() -> argparse.Namespace:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="benchmarks/serving.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", type=names_of(SECTIONS), default=list(SECTIONS), metavar="LIST")
    add("--models", type=_mixes, metavar="LIST", help="NAME, FILE or NAME+NAME, by commas")
    add("--self-models", type=_mixes, metavar="LIST", help="of the part self")
    add("--systems", type=names_of(SYSTEMS), default=list(SYSTEMS), metavar="LIST")
    add("--arrivals", type=names_of(ARRIVALS), metavar="LIST", help=f"of: {', '.join(ARRIVALS)}")
    add("--load", type=positive_numbers, metavar="LIST", help="per cent of the best static system")
    add("--deadline", type=positive_numbers, metavar="LIST", help="multiples of lone latencies")
    add("--duration-s", type=float, help="of a run")
    add("--repeats", type=int)
    known = names_of((*SIMULATED_DEVICES, "none"))
    add("--device", type=lambda text: [] if text == "none" else known(text), metavar="LIST")
    add("--streams", type=positive_numbers, metavar="LIST", help="of simulated devices")
    add("--lanes", type=positive_numbers, metavar="LIST", help="on simulated devices")
    add("--segments", type=positive_numbers, metavar="LIST", help="on simulated devices")
    add("--batch", type=positive_numbers, metavar="LIST", help="batch sizes; 1 is among them")
    add("--partitioners", type=names_of(("list", "gpg")), default=["list", "gpg"], metavar="LIST")
    add("--json", type=Path, metavar="FILE", help="write every record")
    add("--out", type=RESULTS.joinpath, metavar="FILE", help="under benchmarks/results/")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="other defaults: minutes")
    size.add_argument("--full", action="store_true", help="other defaults: everything, for hours")
    options = parser.parse_args()
    parser.set_defaults(**(QUICK if options.quick else FULL if options.full else SUBSET))
    options = parser.parse_args()
    options.batch = sorted({1, *options.batch})
    if options.duration_s <= 0 or options.repeats < 1:
        parser.error("--duration-s and --repeats must be positive")
    for path in filter(None, (options.json, options.out)):
        path.parent.mkdir(parents=True, exist_ok=True)  # before hours of work
    return options


def _mixes(text: str) -> list[str]:
    for name in text.replace("+", ",").split(","):
        if name not in MODELS and not Path(name).is_file():
            raise argparse.ArgumentTypeError(
                f"no model {name}; give files, or of: {', '.join(MODELS)}"
            )
    return text.split(",")


def write_json(path: Path | None, records: Sequence[object]) -> None:
    if path is not None:
        write_text(path, json.dumps(records, indent=1) + "\n")


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr)


def _today() -> str:
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


if __name__ == "__main__":
    sys.exit(main())
