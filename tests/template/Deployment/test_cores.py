"""How many cores the commands use by default."""

import os
from pathlib import Path

import pytest

from Deployment.serve import usable_cores

BOUND = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000\n", BOUND),
        ("100000 100000\n", 1),
        ("50000 100000\n", 1),
        ("110000 100000\n", min(2, BOUND)),
        ("100000000 100000\n", BOUND),
        ("", BOUND),
    ],
)
def test_a_containers_limit_counts(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert usable_cores(tmp_path / "cpu.max") == cores
    assert usable_cores(tmp_path / "none") == BOUND


def test_a_process_bound_to_one_core_counts_one() -> None:
    bound = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(bound)})
    try:
        assert usable_cores(Path("none")) == 1
    finally:
        os.sched_setaffinity(0, bound)
