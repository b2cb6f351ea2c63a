"""Checks that a plan is well-formed: indices, sizes, schedule, the memory of inputs and outputs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from top_tvm.errors import PlanError
from top_tvm.plan import ALIGNMENT_BYTES, DTYPE_BYTES, PLAN_FORMAT, Call, Plan, Tensor
from top_tvm.plan_races import check_races

MAX_STREAMS = 1024
MAX_BYTES = 2**62  # of one memory: sums of two sizes stay within 64 bits
MAX_DIMENSIONS = 32
# Kernels of the compiler: a name, the number of outputs when there are several, a hash.
_SYMBOL = re.compile(r"(?:_writes(\d{1,6}))?_[0-9a-f]{16}\Z")
# Ten times what networks with thousands of operators have; the time of the checks is bounded by it.
MAX_CALLS = 20_000
MAX_TENSORS = 200_000
MAX_ARGUMENTS = 200_000  # of all calls together, and likewise waits


def check_plan(plan: Plan) -> None:
    """Check a plan whose fields already have the declared types.

    Raises
    ------
    PlanError
        Naming the tensor or call at fault.
    """
    _check_numbers(plan)
    _check_size(plan)
    _check_tensors(plan)
    _check_boundary(plan)
    for index, call in enumerate(plan.calls):
        _check_call(plan, index, call)
    _check_schedule(plan.calls)
    check_races(plan)


def _check_numbers(plan: Plan) -> None:
    if plan.format != PLAN_FORMAT:
        raise PlanError(f"plan: format is {plan.format}, expected {PLAN_FORMAT}")
    if plan.batch < 1:
        raise PlanError(f"plan: batch is {plan.batch}, expected at least 1")
    if not 1 <= plan.streams <= MAX_STREAMS:
        raise PlanError(f"plan: streams is {plan.streams}, expected 1 to {MAX_STREAMS}")
    if not 0 <= plan.arena_bytes <= MAX_BYTES:
        raise PlanError(f"plan: arena_bytes is {plan.arena_bytes}, expected 0 to {MAX_BYTES}")
    for name in ("predicted_us", "measured_us"):
        if not 0 <= getattr(plan, name) < math.inf:
            raise PlanError(f"plan: {name} is {getattr(plan, name)}, expected a time")
    for index, kernel in enumerate(plan.kernels):
        if not kernel.symbol:
            raise PlanError(f"kernels[{index}]: symbol is empty")


def _check_size(plan: Plan) -> None:
    for what, count, limit in (
        ("calls", len(plan.calls), MAX_CALLS),
        ("kernels", len(plan.kernels), MAX_CALLS),
        ("tensors", len(plan.tensors), MAX_TENSORS),
        ("arguments of calls", sum(len(call.args) for call in plan.calls), MAX_ARGUMENTS),
        ("waits", sum(len(call.waits) for call in plan.calls), MAX_ARGUMENTS),
    ):
        if count > limit:
            raise PlanError(f"plan: {count} {what}; at most {limit} are supported")


def _check_tensors(plan: Plan) -> None:
    _check_unique((t.name for t in plan.tensors), "tensors")
    in_arena = {tensor.name: tensor for tensor in plan.tensors if tensor.space == "arena"}
    for index, tensor in enumerate(plan.tensors):
        place = f"tensors[{index}] ({tensor.name!r})"
        if tensor.dtype not in DTYPE_BYTES:
            known = ", ".join(DTYPE_BYTES)
            raise PlanError(f"{place}: dtype {tensor.dtype!r} is not supported; known: {known}")
        _check_shape(place, tensor)
        if tensor.offset < 0 or tensor.offset % ALIGNMENT_BYTES:
            raise PlanError(
                f"{place}: offset {tensor.offset} is not a multiple of {ALIGNMENT_BYTES}"
            )
        try:
            extent_bytes = tensor.extent_bytes
        except ValueError as error:
            raise PlanError(f"{place}: strides {tensor.strides}: {error}") from error
        if tensor.offset > MAX_BYTES or extent_bytes > MAX_BYTES:
            raise PlanError(f"{place}: more than {MAX_BYTES} bytes")
        if tensor.strides and tensor.space in ("input", "constant"):
            raise PlanError(f"{place}: strides are only for slices in the arena or an output")
        if tensor.space == "arena":
            _check_within(place, tensor, plan.arena_bytes)
            _check_view(place, tensor, in_arena)
        elif not tensor.storage:
            raise PlanError(f"{place}: storage is empty, but its space is {tensor.space!r}")
    # A run allocates it: no more than tensors reach, or would take side by side.
    apart = sum(t.nbytes + ALIGNMENT_BYTES for t in in_arena.values() if not t.storage)
    end = max((t.offset + t.extent_bytes for t in in_arena.values()), default=0)
    if plan.arena_bytes > max(apart, end + ALIGNMENT_BYTES):
        raise PlanError(f"plan: arena_bytes is {plan.arena_bytes}, more than its tensors can use")


def _check_shape(place: str, tensor: Tensor) -> None:
    if len(tensor.shape) > MAX_DIMENSIONS:
        raise PlanError(
            f"{place}: {len(tensor.shape)} dimensions; at most {MAX_DIMENSIONS} are supported"
        )
    if any(dim < 0 for dim in tensor.shape):
        raise PlanError(f"{place}: shape {tensor.shape} has a negative dimension")
    if any(not 0 <= stride <= MAX_BYTES for stride in tensor.strides):
        raise PlanError(f"{place}: strides {tensor.strides!r:.80} are out of range")


def _check_view(place: str, tensor: Tensor, in_arena: Mapping[str, Tensor]) -> None:
    """A view lies within a tensor that is none."""
    if not tensor.storage:
        if tensor.strides:
            raise PlanError(f"{place}: has strides, but is no view of another tensor")
        return
    whole = in_arena.get(tensor.storage)
    if whole is None:
        raise PlanError(f"{place}: is a view of {tensor.storage!r}, not an arena tensor")
    if whole.storage:
        raise PlanError(f"{place}: is a view of {tensor.storage!r}, which is a view itself")
    start = tensor.offset - whole.offset
    if start < 0 or start + tensor.extent_bytes > whole.nbytes:
        raise PlanError(f"{place}: is a view of {tensor.storage!r}, but not within it")


def _check_boundary(plan: Plan) -> None:
    """Inputs and outputs are whole memories of their own, and views stay within them."""
    sizes: dict[tuple[str, str], int] = {}
    for place, tensor in _tensors_at(plan, "inputs", plan.inputs):
        if tensor.space != "input":
            raise PlanError(f"{place}: space is {tensor.space!r}, expected 'input'")
        _check_array(place, tensor)
        if tensor.name != tensor.storage:
            raise PlanError(f"{place}: its storage has another name, {tensor.storage!r}")
        if ("input", tensor.storage) in sizes:
            raise PlanError(f"{place}: input {tensor.storage!r} is listed twice")
        sizes["input", tensor.storage] = tensor.nbytes
    for place, tensor in _tensors_at(plan, "outputs", plan.outputs):
        _check_array(place, tensor)
        if tensor.space == "output":
            memory = (tensor.space, tensor.storage)
            sizes[memory] = max(tensor.nbytes, sizes.get(memory, 0))
    for index, tensor in enumerate(plan.tensors):
        if tensor.space in ("input", "output"):
            place = f"tensors[{index}] ({tensor.name!r})"
            size = sizes.get((tensor.space, tensor.storage))
            if size is None:
                raise PlanError(
                    f"{place}: {tensor.space} {tensor.storage!r} is not in plan.{tensor.space}s"
                )
            _check_within(place, tensor, size)


def _check_array(place: str, tensor: Tensor) -> None:
    if tensor.strides:
        raise PlanError(f"{place}: has strides, but inputs and outputs are contiguous")
    if tensor.dtype == "bfloat16":
        raise PlanError(f"{place}: dtype bfloat16 is for use inside; NumPy has no such type")


def _check_call(plan: Plan, index: int, call: Call) -> None:
    place = _place(plan, index)
    if not 0 <= call.kernel < len(plan.kernels):
        raise PlanError(f"{place}: kernel {call.kernel} is not in plan.kernels")
    for argument in call.args:
        if not 0 <= argument < len(plan.tensors):
            raise PlanError(f"{place}: argument {argument} is not in plan.tensors")
    if not 1 <= call.num_outputs <= len(call.args):
        raise PlanError(
            f"{place}: num_outputs is {call.num_outputs}, expected 1 to {len(call.args)}"
        )
    kernel = plan.kernels[call.kernel]
    if kernel.library == "tvm" and (name := _SYMBOL.search(kernel.symbol)):
        # A kernel writes what it was compiled to write, whatever a damaged plan says.
        writes = int(name[1] or 1)
        if call.num_outputs != writes:
            raise PlanError(
                f"{place}: num_outputs is {call.num_outputs}, but its kernel writes {writes}"
            )
    _check_streams(plan, index, call)


def _check_streams(plan: Plan, index: int, call: Call) -> None:
    place = _place(plan, index)
    if not 0 <= call.stream < plan.streams:
        raise PlanError(f"{place}: stream is {call.stream}, expected 0 to {plan.streams - 1}")
    if call.threads not in (1, plan.streams):
        raise PlanError(f"{place}: threads is {call.threads}, expected 1 or {plan.streams}")
    if call.threads > 1 and not plan.kernels[call.kernel].moldable:
        raise PlanError(f"{place}: threads is {call.threads}, but its kernel is not moldable")
    for wait in call.waits:
        if not 0 <= wait < index:
            raise PlanError(f"{place}: waits for call {wait}, which is not an earlier call")
        if plan.calls[wait].stream == call.stream:
            raise PlanError(f"{place}: waits for call {wait}, which is on the same stream")


def _check_schedule(calls: Sequence[Call]) -> None:
    _check_unique((call.op for call in calls), "calls")
    stage = 0
    streams: dict[tuple[int, int], int] = {}
    for index, call in enumerate(calls):
        place = f"calls[{index}] ({call.op!r})"
        if call.stage < stage:
            raise PlanError(f"{place}: stage is {call.stage}, but an earlier call has {stage}")
        stage = call.stage
        if call.group < 0:
            raise PlanError(f"{place}: group is {call.group}, expected at least 0")
        stream = streams.setdefault((call.stage, call.group), call.stream)
        if stream != call.stream:
            raise PlanError(
                f"{place}: stage {call.stage}, group {call.group} is on stream {stream} and on "
                f"stream {call.stream}; a group has one stream"
            )


def _place(plan: Plan, index: int) -> str:
    return f"calls[{index}] ({plan.calls[index].op!r})"


def _tensors_at(plan: Plan, member: str, indices: Sequence[int]) -> Iterable[tuple[str, Tensor]]:
    seen = set()
    for position, index in enumerate(indices):
        if not 0 <= index < len(plan.tensors):
            raise PlanError(f"{member}[{position}]: tensor {index} is not in plan.tensors")
        if index in seen:
            raise PlanError(f"{member}[{position}]: tensor {index} is listed twice")
        seen.add(index)
        yield f"{member}[{position}] ({plan.tensors[index].name!r})", plan.tensors[index]


def _check_within(place: str, tensor: Tensor, size: int) -> None:
    end = tensor.offset + tensor.extent_bytes
    if end > size:
        raise PlanError(f"{place}: ends at byte {end} of a memory of {size} bytes")


def _check_unique(names: Iterable[str], member: str) -> None:
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in seen:
            raise PlanError(f"{member}[{index}]: name {name!r} is already that of {seen[name]}")
        if not name:
            raise PlanError(f"{member}[{index}]: name is empty")
        seen[name] = index
