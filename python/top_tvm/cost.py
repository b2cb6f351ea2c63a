"""The cost model: what an op costs in each form, and what synchronisation costs on the device.

The simulator (``runtime/simulator.h``) turns these numbers into the time of a schedule; its header
states the law by which concurrent ops slow each other down.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from top_tvm.errors import DeviceError


@dataclass(frozen=True)
class OpCost:
    """Measured cost of one op in its single-stream and its all-streams (gang) form.

    Attributes
    ----------
    single_us, gang_us : float
        Kernel time when nothing else runs, in microseconds. ``gang_us`` is infinite for an op that
        has no multi-threaded form.
    single_bandwidth, gang_bandwidth : float
        Share of what memory and other shared resources can do that the form uses while it runs
        alone, 0 to 1; on CPU, what makes equal ops side by side as slow as measured.
    single_compute, gang_compute : float
        Share of the device's compute likewise. A single-stream op on CPU has ``1 / streams``, so
        that compute never saturates; on a wide device it may.
    """

    single_us: float
    gang_us: float = math.inf
    single_bandwidth: float = 0.0
    gang_bandwidth: float = 0.0
    single_compute: float = 0.0
    gang_compute: float = 0.0

    @property
    def numbers(self) -> tuple[float, float, float, float, float, float]:
        """All fields, in their order, as native code takes them."""
        return (
            self.single_us,
            self.gang_us,
            self.single_bandwidth,
            self.gang_bandwidth,
            self.single_compute,
            self.gang_compute,
        )


@dataclass(frozen=True)
class DeviceModel:
    """Calibrated overheads of the executor on one device, in microseconds.

    Attributes
    ----------
    streams : int
        Streams that a schedule may use.
    dispatch_us : float
        Paid by every call on its stream.
    wait_us : float
        Paid for every wait on another stream that stream order does not imply already.
    gang_us : float
        Paid by a call on all streams, for gathering them.
    run_us : float
        Paid once per run.
    """

    streams: int
    dispatch_us: float = 0.0
    wait_us: float = 0.0
    gang_us: float = 0.0
    run_us: float = 0.0

    @property
    def overheads_us(self) -> tuple[float, float, float, float]:
        """Dispatch, wait, gang and run, as native code takes them."""
        return (self.dispatch_us, self.wait_us, self.gang_us, self.run_us)

    def to_json(self) -> dict[str, float]:
        """Return the fields as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, float]) -> DeviceModel:
        """Build the model from :meth:`to_json`'s object.

        Raises
        ------
        DeviceError
            If a field is missing, unknown or not a number.
        """
        try:
            fields = {name: float(value) for name, value in record.items() if name != "streams"}
            return cls(streams=int(record["streams"]), **fields)
        except (KeyError, TypeError, ValueError) as error:
            raise DeviceError(
                f"Not a device model: {record!r} ({error}). Calibrate again."
            ) from error
