"""What the machine is: its CPU features, and a name under which measurements can be kept."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import resource
from collections.abc import Iterable, Iterator
from pathlib import Path

_PROC = Path("/proc")
_CPUINFO = _PROC / "cpuinfo"
_CGROUPS = Path("/sys/fs/cgroup")


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


def memory_limit_bytes() -> int:
    """Memory that this process can have: the machine's, or what limits leave of it.

    Limits are those of its control groups and of its address space (``ulimit -v``).

    Returns
    -------
    int
        Bytes; 2**63 - 1 where the operating system does not tell.
    """
    limits = [_integer(path) for path in _cgroup_limits()]
    with contextlib.suppress(ValueError, OSError):  # no such names on this system
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    limits.append(resource.getrlimit(resource.RLIMIT_AS)[0])  # negative without a limit
    return min((limit for limit in limits if limit is not None and limit > 0), default=2**63 - 1)


def _cgroup_limits() -> Iterator[Path]:
    """Files with limits of the control groups, of version 2 and 1, that this process is in."""
    try:
        lines = (_PROC / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        unified = not controllers
        if not unified and "memory" not in controllers.split(","):
            continue
        root = _CGROUPS if unified else _CGROUPS / "memory"
        name = "memory.max" if unified else "memory.limit_in_bytes"
        # A group has at most what those around it have. In a container the path can be that of the
        # host, where nothing is found; the group itself is mounted as the root then.
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(root):
                yield folder / name


def _integer(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such file, or "max"
        return None


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
