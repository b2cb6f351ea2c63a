"""Partitioners compared on real models, alone and merged: ``make bench-partition``.

    python benchmarks/partition.py --quick                        # minutes instead of hours
    python benchmarks/partition.py --models inception_v1 my.onnx --streams 4 --merge none,4x3
    python benchmarks/partition.py --merge resnet50+bert_small+squeezenet:2x2 --long-s 10
    python benchmarks/partition.py --measured only --json r.json  # plans executed on this CPU

Times are what the simulator predicts for the schedules. Devices other than the CPU are simulated,
too: their costs follow from parameters. Searching has one core and one thread. docs/gpg.md explains
the methods and columns under "Benchmarks".
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpu.arguments import names_of, positive_numbers
from cpu.case import MODELS
from partition_support import measured, report
from partition_support.comparison import compare_methods, one_core, warm_up
from partition_support.methods import METHODS, Budget
from partition_support.problems import CPU, CPU_STREAMS, DEVICES, ModelZoo, make_cases, parse_merges
from top_tvm.compare import Progress
from top_tvm.compiler.partition import available_partitioners
from top_tvm.device import host_description
from top_tvm.errors import TopTVMError
from top_tvm.replace_file import write_text
from top_tvm.terminal import progress_bars

RESULTS = Path(__file__).parent / "results"
FULL = {
    "models": list(MODELS),
    "streams": "2,4,8",
    "merge": "none,4x3,squeezenet+bvlc_alexnet:1x1,squeezenet+inception_v1:1x1,"
    "resnet50+bert_small+squeezenet:2x2,densenet121+inception_v2+vit_small:4x3",
    "device": ",".join(("large-gpu", CPU)),
    "long_s": 60.0,
    "ios_minutes": 10.0,
    "rounds": 6,
}
QUICK = {
    "models": ["squeezenet", "inception_v1"],
    "streams": "2,4",
    "merge": "none,2x2",
    "device": "large-gpu",
    "long_s": 2.0,
    "ios_minutes": 0.5,
    "rounds": 3,
}


def main() -> int:
    options = parse_options()
    heading = "\n".join(
        (
            "# Partitioners",
            "",
            f"Searched on one core of {host_description()}; {_today()};",
            f"`python benchmarks/partition.py {shlex.join(sys.argv[1:])}`.",
            f"search-long: {options.long_s:g} s. ios: at most {options.ios_minutes:g} min.",
        )
    )
    print(heading, flush=True)
    try:
        with progress_bars() as progress:
            tables = run(options, progress)
    except TopTVMError as error:
        print(f"partition.py: {error}", file=sys.stderr)
        return 1
    print("\n".join(tables), flush=True)
    if options.out:
        write_text(options.out, "\n".join((heading, *tables)) + "\n")
    return 0


def run(options: argparse.Namespace, progress: Progress) -> list[str]:
    """Write records as they come, and return the tables."""
    records: list[dict[str, Any]] = []
    tables = []
    if options.measured != "only":
        cases = make_cases(options.zoo, options.merge, options.device, options.streams, progress)
        budget = Budget(
            search_ms=options.search_ms,
            long_s=options.long_s,
            ios_s=60 * options.ios_minutes,
            seed=options.seed,
            ios_exact=options.ios_exact,
        )
        minutes = len(cases) * options.long_s / 60 if "search-long" in options.methods else 0
        print(
            f"{len(cases)} problems: {minutes:.0f} minutes of search-long, and the other methods",
            file=sys.stderr,
        )
        given_up: set[str] = set()
        with one_core():
            warm_up(options.methods)
            for number, case in enumerate(cases, 1):
                print(
                    f"{time.strftime('%H:%M:%S')} {number} of {len(cases)}: {case.graph}, "
                    f"{case.problem.num_ops} ops, {case.device}, {case.streams} streams",
                    file=sys.stderr,
                )
                found = compare_methods(case, options.methods, budget, given_up)
                records += [{**record, "date": _today()} for record in found]
                write_json(options.json, records)
        tables.append(report.report(records))
    if options.measured:
        found = measured.measure_models(options.zoo, options.rounds, progress)
        records += [{**record, "date": _today()} for record in found]
        write_json(options.json, records)
        tables.append(measured.report(found))
        if options.json:
            plot(found, options.json.with_suffix(".png"))
    return tables


def parse_options() -> argparse.Namespace:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="benchmarks/partition.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--models", nargs="+", metavar="FILE", help=f"or of: {', '.join(MODELS)}")
    add("--streams", type=positive_numbers, metavar="LIST")
    add(
        "--merge",
        type=parse_merges,
        metavar="LIST",
        help="none: each model by itself; LANESxSEGMENTS: tasks of each; A+B:LANESxSEGMENTS",
    )
    add("--device", type=names_of(DEVICES), metavar="LIST", help=f"of: {', '.join(DEVICES)}")
    # gpg is left out by default where it cannot be used.
    has_gpg = "gpg" in available_partitioners()
    default = [name for name in METHODS if has_gpg or not name.startswith(("gpg", "policy"))]
    add("--methods", type=names_of(METHODS), default=default, metavar="LIST")
    add("--search-ms", type=float, default=100.0, help="of searches, if there is no gpg: its time")
    add("--long-s", type=float, help="of search-long")
    add("--ios-minutes", type=float, help="after which ios is killed")
    add("--ios-exact", action="store_true", help="without the limits of its paper on groups")
    add("--seed", type=int, default=0)
    add(
        "--measured",
        nargs="?",
        choices=("also", "only"),
        const="also",
        help="execute plans on this CPU, too, or only do that",
    )
    add("--rounds", type=int, help="of measuring")
    add("--json", type=Path, metavar="FILE", help="write every record, and plots next to it")
    add(
        "--out",
        type=RESULTS.joinpath,
        metavar="FILE",
        help="write the tables under benchmarks/results/",
    )
    add("--quick", action="store_true", help="other defaults: two models, little time")
    options = parser.parse_args()
    parser.set_defaults(**(QUICK if options.quick else FULL))
    options = parser.parse_args()
    if "list" not in options.methods:
        options.methods.append("list")  # what the others are compared with
    try:
        options.zoo = ModelZoo(options.models)
        options.zoo.check(options.merge)
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    if options.device == [CPU] and CPU_STREAMS not in options.streams:
        parser.error(f"the cpu is measured with {CPU_STREAMS} streams only")
    for path in filter(None, (options.json, options.out)):
        path.parent.mkdir(parents=True, exist_ok=True)  # before hours of work
    return options


def plot(records: Sequence[dict[str, Any]], path: Path) -> None:
    try:
        measured.plot(records, path)
    except ModuleNotFoundError as error:
        print(f"no plot: {error.name} is not installed", file=sys.stderr)


def write_json(path: Path | None, records: object) -> None:
    if path is not None:
        write_text(path, json.dumps(records, indent=1) + "\n")


def _today() -> str:
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


if __name__ == "__main__":
    sys.exit(main())
