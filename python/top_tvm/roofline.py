"""What the device could do at best, and how near to it an op comes.

The roofline model (Williams, Waterman and Patterson, 2009, doi 10.1145/1498765.1498785): an op can
be no faster than its arithmetic at peak speed, nor than its bytes at memory speed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Roofline:
    """Measured limits of a device, infinite where they are not known.

    Attributes
    ----------
    single_gflops, gang_gflops : float
        Arithmetic in 1e9 float32 operations per second, on one thread and on all.
    single_gb_per_s, gang_gb_per_s : float
        Bytes read and written in 1e9 per second, of tensors of a few megabytes.
    """

    single_gflops: float = math.inf
    gang_gflops: float = math.inf
    single_gb_per_s: float = math.inf
    gang_gb_per_s: float = math.inf

    def percent(self, flops: int, nbytes: int, time_us: float, *, gang: bool) -> float | None:
        """Share of the roofline that an op reaches, or None where that is not known.

        More than 100 % is possible: tensors that the op before left in cache are read faster.
        """
        gflops = self.gang_gflops if gang else self.single_gflops
        gb_per_s = self.gang_gb_per_s if gang else self.single_gb_per_s
        if not (math.isfinite(gflops) and math.isfinite(time_us) and time_us > 0):
            return None
        least_us = max(flops / (gflops * 1e3), nbytes / (gb_per_s * 1e3))
        return 100 * least_us / time_us
