"""What the machine is: its CPU features, and a name under which measurements can be kept."""

from __future__ import annotations

import functools
import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def host_features() -> frozenset[str]:
    """CPU features of this machine, as Linux names them (``avx2``, ``avx512f``, ``asimd``).

    Returns
    -------
    frozenset of str
        Empty where the operating system does not tell.
    """
    # x86 has "flags", ARM "Features"; all cores that execute one process have the same.
    fields = _cpuinfo()
    return frozenset((fields.get("flags") or fields.get("Features", "")).split())


def missing_features(required: Iterable[str]) -> tuple[str, ...]:
    """Those of the required CPU features that this machine lacks, sorted."""
    return tuple(sorted(set(required) - host_features()))


def host_name() -> str:
    """Stable name of this kind of device: CPU model and number of usable cores.

    Returns
    -------
    str
        For example ``"genuineintel-6-143-8-4-cores"``; safe in file names. Machines of one name run
        one kernel in about the same time, so profiles are kept under it.
    """
    fields = _cpuinfo()
    x86 = ("vendor_id", "cpu family", "model", "stepping")
    arm = ("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision")
    model = [fields[key] for key in (*x86, *arm) if key in fields]
    parts = model or [platform.processor() or platform.machine()]
    name = "-".join((*parts, str(usable_cores()), "cores")).lower()
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")


def host_description() -> str:
    """What this machine calls its CPU, for people: ``"Intel(R) Xeon(R) 8481C, 4 cores"``."""
    fields = _cpuinfo()
    name = fields.get("model name") or platform.processor() or platform.machine()
    cores = usable_cores()
    return f"{name}, {cores} core{'s'[: cores - 1]}"


def usable_cores() -> int:
    """Cores that this process may run on, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def _cpuinfo() -> dict[str, str]:
    """Fields of the first processor."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = text.split("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}
