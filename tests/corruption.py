"""Try damaged files in child processes: no crash, no hang, an error or right numbers.

    python tests/corruption.py top --count 1000        # .top files of one model
    python tests/corruption.py mix --count 1000        # .top files of mixes
    python tests/corruption.py onnx --count 1000       # ONNX files
    python tests/corruption.py onnx --first 17 --count 1 --keep FOLDER

One child tries many seeds and says on stdout what it is about to do. When it dies or says nothing
for too long, the seed that it was at is at fault, and another child goes on with the next.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import os
import resource
import selectors
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

# Of processor time that one corruption may take; other processes do not count. A child that says
# nothing for ten times as long hangs.
SECONDS = 30
HANG_SECONDS = 300
# Of a child: pages in use at its worst beyond what its imports and the undamaged file take, before
# ONNX Runtime has its turn.
PEAK_BYTES = 2**30
# Address space of a child, so that a runaway allocation fails rather than harms the machine.
ADDRESS_BYTES = {"top": 16 * 2**30, "mix": 16 * 2**30, "onnx": 3 * 2**30}


@dataclass(frozen=True)
class Attempt:
    """What came of one seed.

    ``outcome`` is what the child said, or "crashed", "hung" or "failed" (another exception than
    TopTVMError, wrong numbers, too much memory); ``how`` is the kind of damage.
    """

    seed: int
    outcome: str
    how: str
    detail: str = ""
    seconds: float = 0.0

    @property
    def bad(self) -> bool:
        return self.outcome in ("crashed", "hung", "failed")


def attempts(
    kind: str, folder: Path, first: int, count: int, keep: Path | None = None
) -> Iterator[Attempt]:
    """Try the seeds from ``first`` on; ``folder`` has what :func:`prepare` left there."""
    next_seed, end = first, first + count
    while next_seed < end:
        command = [sys.executable, __file__, kind, "--work", str(folder)]
        command += ["--first", str(next_seed), "--count", str(end - next_seed)]
        command += ["--keep", str(keep)] if keep else []
        with (
            tempfile.TemporaryFile() as errors,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as child,
        ):
            for attempt in _follow(child, next_seed, errors):
                next_seed = attempt.seed + 1
                yield attempt


def _follow(child: subprocess.Popen[bytes], first: int, errors: IO[bytes]) -> Iterator[Attempt]:
    seed, how, phase = first, "", "start"
    for line in _lines(child):
        if line is None:
            child.kill()
            yield Attempt(seed, "hung", how, f"no answer for {HANG_SECONDS} s ({phase})")
            return
        said = json.loads(line)
        phase = said["phase"]
        if phase == "done":
            yield Attempt(seed, said["outcome"], how, said["detail"], said["seconds"])
            seed += 1
            phase = "next"
        elif phase != "end":
            seed, how = said["seed"], said["how"]
    code = child.wait()
    errors.seek(0)
    said_last = errors.read().decode(errors="replace")[-3000:]
    if phase == "reference":
        # Not our code: what the other runtime makes of a damaged model is its own business.
        yield Attempt(seed, "no reference", how, f"ONNX Runtime ended with {code}")
    elif code != 0 or phase != "end":
        yield Attempt(seed, "crashed", how, f"exit status {code} ({phase}): {said_last}")


def _lines(child: subprocess.Popen[bytes]) -> Iterator[bytes | None]:
    """Lines as they come; None when none came for long."""
    assert child.stdout is not None
    os.set_blocking(child.stdout.fileno(), False)
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(HANG_SECONDS + 30):
                yield None
                return
            chunk = child.stdout.read()
            if chunk == b"":
                return
            *lines, pending = (pending + (chunk or b"")).split(b"\n")
            yield from lines


def prepare(kind: str, folder: Path) -> None:
    """Make the undamaged files, and what they compute."""
    _kind(kind).prepare(folder)


def _kind(kind: str) -> Any:
    """The module that damages such files."""
    return importlib.import_module(f"corrupt_{kind}")


def _work(kind: str, folder: Path, first: int, count: int, keep: Path | None) -> None:
    """The child's side."""
    from top_tvm.errors import TopTVMError

    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    say = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer

    usual = ours = 0

    def tell(phase: str, **fields: Any) -> None:
        nonlocal ours
        if phase == "reference":  # not our memory from here on
            ours = _peak_bytes()
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        say.write(json.dumps({"phase": phase, **fields}) + "\n")

    trial: Callable[[int, Path, Callable[..., None]], str] = _kind(kind).open_trial(folder)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    usual = _peak_bytes()
    for seed in range(first, first + count):
        ours = 0
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES[kind], hard))
        with tempfile.TemporaryDirectory() as scratch:
            place = Path(keep or scratch)
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            start = time.process_time()
            outcome, detail = "failed", ""
            try:
                outcome = trial(seed, place, lambda phase, _s=seed, **f: tell(phase, seed=_s, **f))
            except TopTVMError as error:
                outcome, detail = "refused", f"{type(error).__name__}: {error}"
            except Exception as error:
                detail = "".join(traceback.format_exception(error))[-3000:]
            faulthandler.cancel_dump_traceback_later()
            seconds = time.process_time() - start
        if seconds > SECONDS:
            outcome, detail = "hung", f"took {seconds:.1f} s; {detail}"
        grown = (ours or _peak_bytes()) - usual
        if grown > PEAK_BYTES:
            outcome, detail = "failed", f"{grown / 1e6:.0f} MB of memory; {detail}"
        tell("done", outcome=outcome, detail=detail, seconds=seconds)
        if _peak_bytes() - usual > PEAK_BYTES / 4:
            break  # which would be held against the next
    tell("end")


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("kind", choices=("top", "mix", "onnx"))
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--count", type=int, default=1000, help="number of seeds")
    parser.add_argument("--keep", type=Path, help="folder for the damaged files")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work is not None:
        _work(arguments.kind, arguments.work, arguments.first, arguments.count, arguments.keep)
        return
    if arguments.keep is not None:
        arguments.keep.mkdir(parents=True, exist_ok=True)
    outcomes: Counter[tuple[str, str]] = Counter()
    slowest = 0.0
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        prepare(arguments.kind, Path(folder))
        for attempt in attempts(
            arguments.kind, Path(folder), arguments.first, arguments.count, arguments.keep
        ):
            outcomes[attempt.how, attempt.outcome] += 1
            slowest = max(slowest, attempt.seconds)
            if attempt.bad:
                bad += 1
                sys.stdout.write(f"seed {attempt.seed} ({attempt.how}) {attempt.outcome}: ")
                sys.stdout.write(f"{attempt.detail}\n")
    for (how, outcome), count in sorted(outcomes.items()):
        sys.stdout.write(f"{how:<40} {outcome:<16} {count:>5}\n")
    totals = Counter({o: 0 for _, o in outcomes})
    for (_, outcome), count in outcomes.items():
        totals[outcome] += count
    sys.stdout.write(f"{dict(totals)}, slowest {slowest:.1f} s\n")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
