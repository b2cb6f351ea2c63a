"""What the load is offered to: our runtime in its modes, behind one interface with its peers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from top_tvm.errors import DeadlineExceeded, QueueFull
from top_tvm.mix import Mix, Variant
from top_tvm.runtime.mix_executable import MixExecutable
from top_tvm.runtime.runtime import Runtime

Array = npt.NDArray[Any]
Inputs = Mapping[str, Mapping[str, Array]]  # of every model, by its name
Done = Callable[[str], object]  # called once per task with how it ended

QUEUE_SIZE = 64  # tasks of each model that may wait, in every system


class System(Protocol):
    """Executes tasks of several models; ``done`` may be called by any thread, also at once."""

    name: str

    def submit(self, model: str, deadline_s: float, done: Done) -> None: ...

    def detail(self) -> dict[str, Any]: ...

    def close(self) -> None: ...


class OwnRuntime:
    """Our runtime, with the variants and the controller that make the mode."""

    def __init__(
        self,
        name: str,
        executable: MixExecutable,
        inputs: Inputs,
        *,
        controller: str = "heuristic",
        barriers: bool = False,
    ) -> None:
        self.name = name
        self.variants = [variant.id for variant in executable.variants]
        self._inputs = inputs
        self._runtime = Runtime(
            executable, queue_size=QUEUE_SIZE, controller=controller, barriers=barriers
        )

    def submit(self, model: str, deadline_s: float, done: Done) -> None:
        deadline_ms = None if np.isinf(deadline_s) else 1e3 * deadline_s
        try:
            future = self._runtime.submit(model, self._inputs[model], deadline_ms=deadline_ms)
        except QueueFull:
            done("rejected")
        except DeadlineExceeded:
            done("expired")
        else:
            future.add_done_callback(lambda ended: done(_end_of(ended)))

    def detail(self) -> dict[str, Any]:
        """State after a run: which variant it was in, and its pace."""
        stats = self._runtime.stats()
        return {"variant": stats["variant"], "pace": stats["pace"]}

    def close(self) -> None:
        self._runtime.close()


def _end_of(future: Future[Any]) -> str:
    error = future.exception()
    if error is None:
        return "completed"
    return "expired" if isinstance(error, DeadlineExceeded) else "failed"


def own_systems(
    mix: Mix, chosen: MixExecutable, inputs: Inputs, wanted: list[str]
) -> list[OwnRuntime]:
    """Our runtime in every wanted mode.

    Parameters
    ----------
    mix : Mix
        All variants that were planned, good and bad.
    chosen : MixExecutable
        Those that a build keeps: what ``auto`` chooses from.
    inputs : mapping
        Of every task.
    wanted : list of str
        Names of systems; others than ours are ignored.
    """
    systems = []
    for name, variant in static_variants(mix).items():
        if name in wanted:
            serial = mix.variants[0]
            variants = (serial,) if variant is serial else (serial, variant)
            fixed = MixExecutable(Mix(mix.models, variants))
            systems.append(
                OwnRuntime(
                    name,
                    fixed,
                    inputs,
                    controller=f"static:{variant.id}",
                    barriers=name == "merged-barriers",
                )
            )
    if "auto" in wanted:
        systems.append(OwnRuntime("auto", chosen, inputs))
    return systems


def static_variants(mix: Mix) -> dict[str, Variant]:
    """The variant of every mode that was measured to have the most capacity."""

    def best(mode: str, batched: bool) -> Variant | None:
        found = [
            variant
            for variant in mix.variants
            if variant.mode == mode and batched == ("-b" in variant.id)
        ]
        return max(found, key=lambda variant: variant.capacity_per_s, default=None)

    merged = best("merged", batched=False)
    variants = {
        "serial": mix.variants[0],
        "free": best("free", batched=False),
        "merged": merged,
        "merged-barriers": merged,
        "batching": best("serial", batched=True),
    }
    return {name: variant for name, variant in variants.items() if variant is not None}
