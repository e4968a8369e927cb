"""Trainings killed by SIGKILL at random moments and begun again, against an undisturbed one: are the weights the same?

    python -m tests.benchmarks.bench_resume [--kills 20] [--modes repro exp queue] [--processes 1]

In a small project of its own, by `dvc repro`, by `dvc exp run` and in the queue. Every third kill waits for a
checkpoint that is being written; the others come at any moment of training and evaluating.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import psutil

from tests.benchmarks.measuring import Figure
from tests.conftest import AUTHOR, copy_checkout, run_in, succeeded

KILLS = 20
MODES = ("repro", "exp", "queue")
STAGE = "train@e001"
WEIGHTS = "Models/outputs/e001/train/weights.safetensors"


def make_short(processes: int, params: dict) -> None:
    """Parameters of a training of some seconds, with a checkpoint every two epochs or so."""
    params["digits"]["scenes"] = 120
    params["clean"]["max_rejected"] = 0.2
    params["experiments"]["e001"]["train"].update(epochs=6, threads=1, batch=2, processes=processes)
    params["experiments"]["e001"]["model"]["width"] = 8


def command(mode: str, name: str) -> list[str]:
    """What runs the training anew; what is killed leaves its checkpoint, so that it goes on."""
    if mode == "repro":
        return ["dvc", "repro", "--single-item", "--force", STAGE]
    run = f"dvc exp run --single-item --force --name {name} {STAGE}"
    return (
        run.split() if mode == "exp" else ["sh", "-c", f"{run} --queue && dvc queue start && dvc queue logs -f {name}"]
    )


def learners(directory: Path) -> list[psutil.Process]:
    """The processes that train in a project, or in a copy of it that DVC made."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if "Models.train" in (process.info["cmdline"] or []) and str(directory) in (process.info["cwd"] or ""):
            found.append(process)
    return found


def checkpoints(directory: Path) -> list[tuple[str, int]]:
    """The checkpoints that there are, and those that are being written."""
    return sorted((each.name, each.inode()) for key in directory.glob(".checkpoints/*") for each in os.scandir(key))


def killed(directory: Path, mode: str, number: int, seconds: float) -> str:
    """Begin the training, kill it at a random moment, and say at which; empty if it had ended before."""
    process = begun(directory, mode, f"killed-{number}")
    moment, before = random.uniform(0, seconds), checkpoints(directory)
    if number % 3 == 0:
        while checkpoints(directory) == before and process.poll() is None:
            time.sleep(0.0005)
    else:
        time.sleep(moment)
    hit = learners(directory)
    for each in hit:
        each.kill()
    if mode != "queue" and process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    while learners(directory):
        time.sleep(0.05)
    return ("in a checkpoint" if number % 3 == 0 else f"after {moment:.1f} s") if hit else ""


def begun(directory: Path, mode: str, name: str) -> subprocess.Popen:
    """The command in a session of its own, when its training has started, or it has ended without."""
    words, environment = command(mode, name), {**os.environ, **AUTHOR}
    process = subprocess.Popen(words, cwd=directory, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    while process.poll() is None and not learners(directory):
        time.sleep(0.02)
    return process


def trained(directory: Path, mode: str, name: str) -> tuple[bytes, float]:
    """The weights of a training that is left alone, and the seconds that it took."""
    process, start = begun(directory, mode, name), time.monotonic()
    while learners(directory):
        time.sleep(0.05)
    seconds = time.monotonic() - start
    assert process.wait() == 0
    if mode == "queue":
        succeeded(run_in(directory, "dvc", "exp", "apply", name, **AUTHOR))
    return (directory / WEIGHTS).read_bytes(), seconds


def figures(kills: int = KILLS, modes: Sequence[str] = MODES, processes: int = 1) -> Iterator[Figure]:
    """Kill trainings in each way that there is to run them."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary, "project")
        directory.mkdir()
        copy_checkout(directory, partial(make_short, processes))
        for step in (["dvc", "repro", STAGE], ["git", "add", "-A"], ["git", "commit", "-qm", "Lock"]):
            succeeded(run_in(directory, *step, timeout=600, **AUTHOR))
        for mode in modes:
            whole, seconds = trained(directory, mode, f"whole-{mode}")
            moments = [moment for number in range(kills) if (moment := killed(directory, mode, number, seconds))]
            print(f"{mode}: {', '.join(moments)}", file=sys.stderr)
            same = trained(directory, mode, f"again-{mode}")[0] == whole
            yield Figure(
                f"weights after {len(moments)} kills, by dvc {mode}, {processes} processes",
                "an undisturbed training",
                "the same bytes" if same else "OTHER BYTES",
                "the same bytes",
                f"{sum(moment.startswith('in') for moment in moments)} of them while a checkpoint was written or due",
            )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Kill trainings and compare what they end with.")
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--modes", nargs="+", default=MODES)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    for figure in figures(options.kills, options.modes, options.processes):
        print(figure, flush=True)


if __name__ == "__main__":
    main()
