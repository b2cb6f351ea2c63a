"""Every exception that top_tvm raises on purpose.

All of them derive from :class:`TopTVMError`, so one ``except`` clause separates "the input or the
machine is at fault" from a bug. Messages say what is wrong, where, and what to do about it.
"""

from __future__ import annotations

from concurrent.futures import CancelledError


class TopTVMError(Exception):
    """Root of the tree."""


class ModelError(TopTVMError):
    """The model cannot be read, or uses something that is not supported."""


class GraphError(TopTVMError):
    """An op graph is not a valid DAG, or its costs do not fit it."""


class PartitionError(TopTVMError):
    """A partitioner was asked for something it cannot do, or returned an illegal schedule."""


class PlanError(TopTVMError):
    """A plan is malformed: it would race, deadlock, or read outside its buffers."""


class ArtifactError(TopTVMError):
    """A ``.top`` file is damaged, of another version, or built for another machine."""


class DeviceError(TopTVMError):
    """A kernel failed, or the device lacks what the plan needs."""


class InputError(TopTVMError, ValueError):
    """An input tensor has another name, shape or dtype than the model expects."""


class DependencyError(TopTVMError, ImportError):
    """An optional package is needed for this and not installed."""


class QueueFull(TopTVMError):
    """A task was refused because too many of its model are waiting: submit it later."""


class DeadlineExceeded(TopTVMError, TimeoutError):
    """A task cannot meet its deadline any more, so no work was done for it."""


class Cancelled(TopTVMError, CancelledError):
    """A task was given up after it had been launched, when its segment ended."""


class Closed(TopTVMError):
    """The runtime takes no more tasks, or ended before this one did."""
