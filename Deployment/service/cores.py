"""How much of the machine this process may use: a container, or a batch system, rarely gives it all."""

import math
import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2: "microseconds of a core, or max" and "in each period of so many"
MOST_PROCESSES = 256  # more than any of the commands can make use of on one machine


def usable_cores(quota: Path = QUOTA) -> int:
    """The cores that this process is bound to, or fewer where a container's limit on processor time leaves fewer."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        microseconds, period = quota.read_text().split()
        return max(1, min(bound, math.ceil(int(microseconds) / int(period))))
    except (OSError, ValueError):  # no such file, or no limit: "max 100000"
        return bound
