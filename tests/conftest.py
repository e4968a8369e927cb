"""What all tests share."""

import os


def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores: often one waits for a service or for DVC, which it started."""
    return len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)) + 1
