"""The nine networks of the onnx wheel against other systems: the table of the README.

    python benchmarks/light_models.py --models squeezenet,resnet50 --peers onnxruntime

All systems run in float32 with the same number of threads, one request at a time, in turns. Times
are in milliseconds, the 20th percentile of all runs, which neighbours on the machine disturb least;
``--json`` keeps medians and spread, too. Weights are random with a fixed seed.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import top_tvm
from top_tvm.compare import PEERS, compare, executable_system
from top_tvm.compiler.light_models import LIGHT_MODELS, light_model
from top_tvm.random_inputs import random_inputs
from top_tvm.terminal import progress_bars


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(LIGHT_MODELS), metavar="LIST")
    parser.add_argument("--peers", default="onnxruntime,openvino", metavar="LIST")
    parser.add_argument("--partitioners", default="sequential,auto", metavar="LIST")
    parser.add_argument("--streams", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10, help="how often each system is visited")
    parser.add_argument("--json", metavar="FILE", help="write every record")
    options = parser.parse_args()
    peers, partitioners = options.peers.split(","), options.partitioners.split(",")
    systems = [*peers, *partitioners]
    print(f"| model | {' | '.join(systems)} | {partitioners[-1]} / {peers[0]} |")
    print("| --- |" + " ---: |" * (len(systems) + 1))
    report = []
    for name in options.models.split(","):
        records = measure_model(name, peers, partitioners, options)
        report += [{"model": name, **record} for record in records.values()]
        times = " | ".join(f"{records[system]['low_us'] / 1e3:.2f}" for system in systems)
        print(f"| {name} | {times} | {records[partitioners[-1]]['ratio']:.2f} |", flush=True)
        wrong = [system for system in systems if records[system]["error"] > 1e-3]
        if wrong:
            sys.exit(f"{name}: the outputs of {', '.join(wrong)} differ from those of {peers[0]}")
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")


def measure_model(
    name: str, peers: list[str], partitioners: list[str], options: argparse.Namespace
) -> Mapping[str, dict[str, Any]]:
    model = light_model(name, options.batch)
    with progress_bars() as progress:
        executables = {
            partitioner: top_tvm.build(
                model, partitioner=partitioner, streams=options.streams, progress=progress
            )
            for partitioner in partitioners
        }
        inputs = random_inputs(executables[partitioners[0]].artifact.plans[options.batch])
        content = model.SerializeToString()
        systems = [PEERS[peer](peer, content, inputs, options.streams) for peer in peers]
        systems += [executable_system(key, exe, inputs) for key, exe in executables.items()]
        records = compare(systems, rounds=options.rounds, progress=progress)
    return {record["system"]: record for record in records}


if __name__ == "__main__":
    main()
