from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from top_tvm.plan import Plan

_Array = npt.NDArray[Any]

_PlacementFields = tuple[int, int, int, int, int]

def derive_waits(
    num_ops: int,
    edges: Sequence[tuple[int, int]],
    placements: Sequence[_PlacementFields],
    streams: int,
) -> list[list[int]]: ...
def plan_arena(
    streams: int,
    calls: Sequence[tuple[int, int, Sequence[int]]],
    buffers: Sequence[tuple[int, Sequence[int], Sequence[int]]],
) -> tuple[list[int], int, int]: ...

class Problem:
    def __init__(
        self,
        num_ops: int,
        edges: Sequence[tuple[int, int]],
        costs: Sequence[tuple[float, float, float, float, float, float]],
        streams: int,
        overheads: tuple[float, float, float, float],
        names: Sequence[str],
    ) -> None: ...
    def validate_schedule(self, placements: Sequence[_PlacementFields]) -> None: ...
    def assign_stages(self, placements: Sequence[_PlacementFields]) -> list[_PlacementFields]: ...
    def simulate(
        self, placements: Sequence[_PlacementFields]
    ) -> tuple[float, list[float], list[float]]: ...
    def staged_objective(self, placements: Sequence[_PlacementFields]) -> float: ...
    def sequential(self) -> list[_PlacementFields]: ...
    def greedy(self) -> list[_PlacementFields]: ...
    def list_schedule(self) -> list[_PlacementFields]: ...
    def ios(
        self, max_group_ops: int, max_groups: int, max_stages: int
    ) -> list[_PlacementFields]: ...
    def beam(self, width: int, candidates: int, max_ms: float = 1e9) -> list[_PlacementFields]: ...
    def improve(
        self,
        placements: Sequence[_PlacementFields],
        max_ms: float,
        max_schedules: int,
        temperature: float,
        seed: int,
        waits: bool = False,
    ) -> list[_PlacementFields]: ...
    def decode(
        self,
        embedding: _Array,
        dynamic: _Array,
        out: _Array,
        skip: _Array,
        samples: int,
        temperature: float,
        seed: int,
    ) -> tuple[float, list[_PlacementFields]]: ...
    def sample(
        self,
        embedding: _Array,
        dynamic: _Array,
        out: _Array,
        skip: _Array,
        temperature: float,
        seed: int,
    ) -> tuple[float, _Array, _Array, _Array, _Array]: ...
    def follow(
        self, placements: Sequence[_PlacementFields]
    ) -> tuple[float, _Array, _Array, _Array, _Array]: ...
    def cut_stages(self, order: Sequence[int]) -> list[_PlacementFields]: ...
    def improve_stages(
        self,
        orders: Sequence[Sequence[int]],
        max_ms: float,
        max_schedules: int,
        temperature: float,
        seed: int,
    ) -> list[_PlacementFields]: ...

class KernelLibrary:
    def __init__(self, image: bytes) -> None: ...

class Executor:
    def __init__(
        self,
        plan: Plan,
        constants: Mapping[str, _Array],
        library: KernelLibrary | None,
        library_kernels: str | None,
    ) -> None: ...
    def run(self, inputs: Sequence[_Array]) -> list[_Array]: ...
    def time(self, inputs: Sequence[_Array], warmup: int, repeats: int) -> _Array: ...
    def timeline(self, inputs: Sequence[_Array], warmup: int, repeats: int) -> _Array: ...

def aligned_empty(shape: Sequence[int], dtype: str) -> _Array: ...
def is_ready(array: _Array) -> bool: ...
def allowed_cores() -> list[int]: ...

_LaneFields = tuple[int, Sequence[Sequence[int]]]
_ModelFields = tuple[int, Sequence[_LaneFields], Sequence[float], Sequence[float]]
_VariantFields = tuple[str, int, bool, float, Sequence[_ModelFields]]
_SetFields = tuple[Sequence[str], Sequence[Sequence[int]], Sequence[_VariantFields]]
_TensorFields = tuple[str, str, Sequence[int]]
_CallFields = tuple[int, int, Sequence[int]]
_PlanFields = tuple[
    int,
    Sequence[_CallFields],
    Sequence[tuple[float, float, float, float, float, float]],
    Sequence[float],
]

class LiveRuntime:
    def __init__(
        self,
        variants: _SetFields,
        executors: Sequence[Sequence[Executor]],
        inputs: Sequence[Sequence[_TensorFields]],
        outputs: Sequence[Sequence[_TensorFields]],
        streams: int,
        queue_size: int,
    ) -> None: ...
    def submit(
        self,
        model: int,
        inputs: Sequence[_Array],
        priority: int,
        deadline_us: float,
        client: object,
    ) -> tuple[int, int, int]: ...
    def cancel(self, slot: int, generation: int) -> bool: ...
    def wait_finished(
        self, timeout_s: float
    ) -> list[tuple[Any, int, str, list[_Array], int, int, int]]: ...
    def wait_idle(self, timeout_s: float) -> bool: ...
    def close(self, cancel_queued: bool) -> None: ...
    def apply(self, variant: int, frequency: Sequence[float]) -> None: ...
    def snapshot(self) -> dict[str, Any]: ...
    def statistics(self) -> list[dict[str, Any]]: ...
    def stuck_workers(self, longer_than_s: float) -> list[tuple[int, str, str, float]]: ...
    def measure_capacity(
        self, inputs: Sequence[Sequence[_Array]], outstanding: int, seconds: float
    ) -> float: ...
    def time_lone_tasks(
        self, model: int, inputs: Sequence[_Array], warmup: int, repeats: int
    ) -> list[float]: ...
    def busy_s(self) -> list[float]: ...
    def abandon(self) -> list[Any]: ...
    @property
    def forked(self) -> bool: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...

class VirtualRuntime:
    def __init__(
        self,
        variants: _SetFields,
        plans: Sequence[Sequence[_PlanFields]],
        streams: int,
        overheads: tuple[float, float, float, float],
        queue_size: int,
    ) -> None: ...
    def add_arrivals(self, arrivals: Sequence[tuple[float, int, int, float]]) -> None: ...
    def run_until(self, time_us: float) -> None: ...
    def drain(self) -> float: ...
    def cancel(self, id: int) -> None: ...
    def apply(self, variant: int, frequency: Sequence[float]) -> None: ...
    def snapshot(self) -> dict[str, Any]: ...
    def statistics(self, model: int) -> dict[str, Any]: ...
    def busy_us(self, stream: int) -> float: ...
    @property
    def now_us(self) -> float: ...
    @property
    def segments_started(self) -> int: ...
    def take_records(self) -> list[tuple[int, int, int, float, float, float, float]]: ...
