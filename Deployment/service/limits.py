"""What one request may cost the service, how many it takes at once, and how many cores there are for them."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

MOST_PROCESSES = 256  # more than any of the commands can make use of on one machine
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2: "QUOTA PERIOD" in microseconds, or "max PERIOD"


@dataclass(frozen=True)
class Limits:
    """The service's limits, each an option of Deployment/serve.py.

    body: bytes, of a batch all together. pixels: of an image. images: of a batch. formats: of image files, Pillow's
    names. seconds: from the request's headers to its answer. parallel: worker processes. waiting: requests that may
    wait for one. memory: bytes of all bodies held at once.
    """

    body: int = 20_000_000
    pixels: int = 50_000_000
    images: int = 64
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "BMP")
    seconds: int = 30
    parallel: int = 1
    waiting: int = 64
    memory: int = 400_000_000


def usable_cores(quota: Path = _CPU_QUOTA) -> int:
    """The cores that this process may run on, or fewer where a container's CPU limit allows fewer."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        microseconds, period = quota.read_text().split()
        return max(1, min(cores, math.ceil(int(microseconds) / int(period))))
    except (OSError, ValueError):  # no such file, or no limit
        return cores
