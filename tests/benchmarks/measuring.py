"""Time, processor time and memory of commands, each in a process of its own, and the table of what was found."""

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import psutil

import Datasets.tools.command  # noqa: F401 - before torch: it sets how its threads wait

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Cost:
    """seconds of the wall clock and of all cores; the largest resident memory of all its processes at once, in MB."""

    seconds: float
    processor: float
    memory: float


def python(module: str, *options: object) -> list[str]:
    """The command that runs a module of the project."""
    return [sys.executable, "-m", module, *map(str, options)]


def cost(command: Sequence[str], directory: Path = ROOT) -> Cost:
    """Run a command. Its output is shown if it fails, which raises CalledProcessError.

    Memory is looked at every 20 ms; where there is one process, it is the kernel's own figure.
    """
    before, started = os.times(), time.perf_counter()
    process = subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    ended, peak = Event(), [0.0]
    watch = Thread(target=lambda: _watch(process.pid, ended, peak))
    watch.start()
    assert process.stdout
    output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds, after = time.perf_counter() - started, os.times()
    ended.set()
    watch.join()
    if process.returncode:
        print(output, file=sys.stderr)
        raise subprocess.CalledProcessError(process.returncode, command)
    processor = after.children_user - before.children_user + after.children_system - before.children_system
    return Cost(seconds, processor, max(peak[0], used.ru_maxrss / 1024))


def _watch(pid: int, ended: Event, peak: list[float]) -> None:
    while not ended.wait(0.02):
        try:
            family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
            peak[0] = max(peak[0], sum(process.memory_info().rss for process in family) / 2**20)
        except psutil.Error:
            continue


def alternated(rounds: int, **measured: Callable[[], Cost]) -> dict[str, Cost]:
    """The medians of each, measured in turns, so that a change of the machine's speed meets all alike."""
    found: dict[str, list[Cost]] = {name: [] for name in measured}
    for _ in range(rounds):
        for name, measure in measured.items():
            found[name].append(measure())
    return {name: _median(costs) for name, costs in found.items()}


def _median(costs: Sequence[Cost]) -> Cost:
    seconds, processor = ([getattr(c, name) for c in costs] for name in ("seconds", "processor"))
    return Cost(statistics.median(seconds), statistics.median(processor), max(c.memory for c in costs))


@dataclass(frozen=True)
class Figure:
    """A line of the table: what was measured against what, the ratio, the aim if there is one, and the details."""

    what: str
    against: str
    ratio: str
    aim: str
    details: str


def exports() -> list[Path]:
    """The exports of this checkout, by their ids; says so if there is none to measure with."""
    found = sorted(path.parent for path in (ROOT / "Datasets/pretrained").glob("*/manifest.json"))
    if not found:
        print("Datasets/pretrained: no export to measure with; `dvc repro`, or `dvc pull`, gives them", file=sys.stderr)
    return found


def machine() -> str:
    """The machine, in words, and how busy it was with other things."""
    memory = psutil.virtual_memory().total / 2**30
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = names[0].partition(":")[2].strip() if names else platform.processor()
    where = f"{platform.system()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, {where}; load before {psutil.getloadavg()[0]:.1f}"
