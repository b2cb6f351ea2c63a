"""top_tvm against ONNX Runtime and OpenVINO on this CPU: ``make bench-cpu``.

    python benchmarks/cpu --only latency,throughput --models squeezenet,vit_small --batch 1
    python benchmarks/cpu --quick                   # minutes instead of half an hour
    python benchmarks/cpu --only ops --ops resnet50 # every op against the roofline

All systems get the same cores, threads and inputs and take turns; weights are random with a fixed
seed. A ratio is the median over the rounds, with quartiles; above 1 top_tvm is ahead. Of the plans
of one model, "sequential" runs op after op and "auto" is the fastest of all.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import itertools
import json
import os
import platform
import re
import sys
import time
from pathlib import Path
from typing import Any

import tables
from arguments import names_of, positive_numbers
from case import MODELS, TOLERANCE, Case
from kernels import measure_ops
from latency import measure_error, measure_latency
from resources import measure_build, measure_memory
from throughput import measure_throughput
from top_tvm.compare import Progress
from top_tvm.device import usable_cores
from top_tvm.errors import TopTVMError
from top_tvm.runtime.native import onednn_version
from top_tvm.terminal import progress_bars

SECTIONS = ("latency", "error", "throughput", "ops", "memory", "build")
TABLES = {
    "latency": tables.latency_table,
    "error": tables.error_table,
    "throughput": tables.throughput_table,
    "ops": tables.kernels_table,
    "memory": tables.memory_table,
}
# Where the error of the method is measured: short runs show it most.
ERROR_MODEL = "squeezenet"


def main() -> int:
    options = parse_options()
    pin_process(options.threads)
    context = describe_context(options.threads)
    print("; ".join(f"{key} {value}" for key, value in context.items()), flush=True)
    records: list[dict[str, Any]] = []
    with progress_bars() as progress:
        for precision, batch in itertools.product(options.precision, options.batch):
            records += measure_group(options, batch, precision, progress)
            write_report(options.json, context, records)
    if "build" in options.only:
        seconds = measure_build(options.build_model, options.threads)
        records.append({"section": "build", "model": options.build_model, "seconds": seconds})
        print(tables.build_table("fp32", records[-1:]), flush=True)
    write_report(options.json, context, records)
    failures = [line for record in records for line in find_failures(record)]
    for line in failures:
        print(line, file=sys.stderr)
    return 1 if failures else 0


def write_report(path: Path | None, context: object, records: object) -> None:
    if path is not None:
        report = {"context": context, "records": records}
        path.write_text(json.dumps(report, indent=1) + "\n")


def parse_options() -> argparse.Namespace:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="benchmarks/cpu",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", type=names_of(SECTIONS), default=list(SECTIONS), metavar="LIST")
    parser.add_argument("--models", type=names_of(MODELS), default=list(MODELS), metavar="LIST")
    parser.add_argument("--batch", type=positive_numbers, default=[1, 8], metavar="LIST")
    parser.add_argument(
        "--precision", type=names_of(TOLERANCE), default=["fp32", "bf16"], metavar="LIST"
    )
    parser.add_argument("--rounds", type=int, default=6, help="half as many for larger batches")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="and streams")
    parser.add_argument("--ops", type=names_of(MODELS), default=[], metavar="LIST")
    parser.add_argument("--build-model", choices=MODELS, default="resnet50")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every record")
    parser.add_argument(
        "--quick", action="store_true", help="batch 1, fp32, 3 rounds, no memory and builds"
    )
    options = parser.parse_args()
    if options.quick:
        options.batch, options.precision, options.rounds = [1], ["fp32"], 3
        options.only = [name for name in options.only if name not in ("memory", "build")]
    return options


def pin_process(threads: int) -> None:
    """Leave the process as many cores as every system gets threads."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def describe_context(threads: int) -> dict[str, str]:
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return {
        "device": f"{threads} cores of {model.group(1) if model else platform.machine()}",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "top_tvm": importlib.metadata.version("top_tvm"),
        "onnxruntime": importlib.metadata.version("onnxruntime"),
        "openvino": importlib.metadata.version("openvino"),
        "oneDNN": onednn_version(),
        "TVM": importlib.metadata.version("apache-tvm"),
    }


def measure_group(
    options: argparse.Namespace, batch: int, precision: str, progress: Progress
) -> list[dict[str, Any]]:
    """Records of all models at one batch size and precision; prints their tables."""
    title = f"{precision}, batch {batch}"
    rounds = options.rounds if batch == 1 else max(2, options.rounds // 2)
    wanted = [name for name in SECTIONS if name in options.only and name != "build"]
    if batch != options.batch[0] and "memory" in wanted:
        wanted.remove("memory")  # once is enough
    records = []
    for model in options.models:
        case = Case(model, batch, precision, options.threads, progress)
        for section in wanted:
            if section == "error" and (model != ERROR_MODEL or precision != "fp32"):
                continue
            print(f"{time.strftime('%H:%M:%S')} {title}, {model}: {section}", file=sys.stderr)
            record = {"section": section, "model": model, "batch": batch, "precision": precision}
            try:
                record |= measure(section, case, rounds)
            except TopTVMError as error:  # not every CPU has every precision
                record |= {"section": "failure", "message": f"{section} not measured: {error}"}
            records.append(record)
    for section in wanted:
        if chosen := [record for record in records if record["section"] == section]:
            print(TABLES[section](title, chosen), flush=True)
    for record in records:
        if record["section"] == "ops" and record["model"] in options.ops:
            print(tables.ops_table(f"{title}, {record['model']}: ops", record["ops"]))
    return records


def measure(section: str, case: Case, rounds: int) -> dict[str, Any]:
    if section == "latency":
        return measure_latency(case, rounds)
    if section == "error":
        return measure_error(case, rounds)
    if section == "throughput":
        return measure_throughput(case, rounds)
    return measure_ops(case) if section == "ops" else measure_memory(case)


def find_failures(record: dict[str, Any]) -> list[str]:
    """What could not be measured, and outputs that are not ONNX Runtime's within the tolerance."""
    if record["section"] == "build":
        return []
    place = f"{record['model']}, {record['precision']}, batch {record['batch']}"
    if record["section"] == "failure":
        return [f"{place}: {record['message']}"]
    return [
        f"{place}: the outputs of {system} differ from ONNX Runtime's by {error:.1e}"
        for system, error in record.get("errors", {}).items()
        if error > TOLERANCE[record["precision"]]
    ]


if __name__ == "__main__":
    sys.exit(main())
