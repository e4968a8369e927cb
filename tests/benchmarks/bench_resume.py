"""Trainings killed by SIGKILL at random moments and begun again, against an undisturbed one: are the weights the same?

    python -m tests.benchmarks.bench_resume [--kills 20] [--modes repro exp queue] [--processes 1]

In a small project of its own, by `dvc repro`, by `dvc exp run` and in the queue. Kills meet in turn a step, a
checkpoint that is being written, and the evaluation after an epoch, each the next of its kind after a random moment.
Trainings are begun until so many were killed, and each that comes to its end is compared. Then one is ended by Ctrl-C
(in the queue by `dvc queue stop --kill`), and what is still running is counted.
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
from itertools import count
from pathlib import Path
from subprocess import DEVNULL

import dvc.api
import psutil

from tests.benchmarks.measuring import Figure
from tests.template.conftest import AUTHOR, copy_checkout, run_in, succeeded

KILLS = 20
MODES = ("repro", "exp", "queue")
STAGE = "train@e001"
WEIGHTS = "Models/outputs/e001/train/weights.safetensors"
PHASES = {  # and the function of Models that is then running
    "in a step": "update",
    "while a checkpoint was written": "save_checkpoint",
    "in evaluation": "validate",
}
LOST = 120  # seconds after which a queued training never began: DVC's worker may lose one on a very busy machine
SHARE = 0.3  # of a training's seconds within which it is killed: so that it takes several kills to its end
# Python runs a file of this name when it starts: a training then tells, at each SIGUSR1, which functions it is in.
TELL = """import atexit, os, signal
FILE = os.path.join(os.path.dirname(__file__), str(os.getpid()))

def tell(_, frame):
    names = []
    while frame:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    with open(FILE, "a") as file:
        file.write(" ".join(names) + "\\n")

signal.signal(signal.SIGUSR1, tell)
atexit.register(signal.signal, signal.SIGUSR1, signal.SIG_IGN)  # for Python takes its handlers away when it ends
open(FILE, "a").close()
"""


def make_short(processes: int, params: dict) -> None:
    """Parameters of a training of some seconds, with a checkpoint in every epoch or so."""
    params["digits"]["scenes"] = 120
    params["clean"]["max_rejected"] = 0.2
    params["experiments"]["e001"]["train"].update(epochs=5, size=48, threads=1, batch=2, processes=processes)
    params["experiments"]["e001"]["model"]["width"] = 8


def command(mode: str, name: str) -> list[str]:
    """What runs the training anew; what is killed leaves its checkpoint, so that it goes on."""
    if mode == "repro":
        return ["dvc", "repro", "--single-item", "--force", STAGE]
    run = f"dvc exp run --single-item --force --name {name} {STAGE}"
    if mode == "exp":
        return run.split()
    follow = f"until dvc queue logs -f {name} 2> /dev/null; do sleep 0.5; done"  # which fails until a worker has begun
    return ["sh", "-c", f"{run} --queue && dvc queue start && {follow}"]


class Project:
    """A small project whose trainings tell what they are doing."""

    def __init__(self, home: Path, processes: int) -> None:
        self.directory, self.stacks = home / "project", home / "stacks"
        self.numbers, self.name = count(), ""  # of what was begun; the last
        for each in (self.directory, self.stacks):
            each.mkdir()
        (self.stacks / "sitecustomize.py").write_text(TELL)
        copy_checkout(self.directory, partial(make_short, processes))
        for step in (["dvc", "repro", STAGE], ["git", "add", "-A"], ["git", "commit", "-qm", "Lock"]):
            succeeded(run_in(self.directory, *step, timeout=600, **AUTHOR))

    def begun(self, mode: str) -> subprocess.Popen:
        """The command in a session of its own, when its training has started, or it has ended without."""
        self.name = f"{mode}-{next(self.numbers)}"
        environment = {**os.environ, **AUTHOR, "PYTHONPATH": str(self.stacks)}
        start = time.monotonic()
        process = subprocess.Popen(
            command(mode, self.name), cwd=self.directory, env=environment, start_new_session=True, stdout=DEVNULL
        )
        while process.poll() is None and not self.running("Models.train"):
            time.sleep(0.02)
            if time.monotonic() - start > LOST:
                print(f"{self.name} did not begin", file=sys.stderr)
                os.killpg(process.pid, signal.SIGKILL)
                return self.begun(mode)
        return process

    def running(self, word: str = "") -> list[psutil.Process]:
        """The processes in the project, or in a copy of it that DVC made, that have a word among theirs."""
        found = []
        for process in psutil.process_iter(["cmdline", "cwd"]):
            words, where = process.info["cmdline"] or [], str(process.info["cwd"])
            if Path(where).is_relative_to(self.directory) and (not word or word in words):
                found.append(process)
        return found

    def doing(self, process: psutil.Process) -> list[str]:
        """The functions that a training is in, or nothing while it starts. Raises psutil.Error when it has ended."""
        file = self.stacks / str(process.pid)
        if not file.exists():
            time.sleep(0.01)
            return [process.status()]
        before = len(file.read_text())
        process.send_signal(signal.SIGUSR1)
        while len(told := file.read_text()) == before and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.0005)
        return told[before:].split()

    def reach(self, phase: str, seconds: float) -> list[psutil.Process]:
        """Wait until a training is in a phase, some seconds after its first step; its processes, if it came to that."""
        learners, first = self.running("Models.train"), 0.0
        try:
            while learners:
                told = [name for each in learners for name in self.doing(each)]
                first = first or (time.monotonic() if "train" in told else 0.0)
                if first and time.monotonic() - first >= seconds and PHASES[phase] in told:
                    return learners
                learners = learners if first else self.running("Models.train")
        except psutil.Error:
            pass
        return []

    def killed(self, mode: str, phase: str, seconds: float) -> bool:
        """Begin the training and kill it; whether it had not ended before."""
        process = self.begun(mode)
        hit = self.reach(phase, random.uniform(0, seconds))
        for each in hit:
            each.kill()
        if hit and mode != "queue":
            os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == 0 or hit
        while self.running("Models.train"):
            time.sleep(0.05)
        return bool(hit)

    def weights(self, mode: str) -> bytes:
        """What the last training ended with."""
        if mode == "repro":
            return (self.directory / WEIGHTS).read_bytes()
        start = time.monotonic()  # the queue's worker is still taking the results into the repository
        while f"{self.name}]" not in run_in(self.directory, "dvc", "exp", "list", "--all").stdout:
            assert time.monotonic() - start < LOST, f"{self.name} failed"
        found: bytes = dvc.api.read(WEIGHTS, repo=str(self.directory), rev=self.name, mode="rb")
        return found

    def trained(self, mode: str) -> tuple[bytes, float]:
        """The weights of a training that is left alone, and the seconds from its start on."""
        process, start = self.begun(mode), time.monotonic()
        while self.running("Models.train"):
            time.sleep(0.05)
        seconds = time.monotonic() - start
        assert process.wait() == 0
        return self.weights(mode), seconds

    def interrupted(self, mode: str) -> int:
        """Begin a training, end it as a user does, and count what is running 10 seconds later."""
        process = self.begun(mode)
        assert self.reach("in a step", 0)
        if mode == "queue":
            succeeded(run_in(self.directory, "dvc", "queue", "stop", "--kill"))
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
        _, left = psutil.wait_procs(self.running(), timeout=10)
        return len(left)


def figures(kills: int = KILLS, modes: Sequence[str] = MODES, processes: int = 1) -> Iterator[Figure]:
    """Kill trainings in each way that there is to run them."""
    with tempfile.TemporaryDirectory() as temporary:
        project = Project(Path(temporary), processes)
        for mode in modes:
            yield from _of_mode(project, mode, kills)


def _of_mode(project: Project, mode: str, kills: int) -> Iterator[Figure]:
    whole, seconds = project.trained(mode)
    hits = dict.fromkeys(PHASES, 0)
    ended: list[bytes] = []
    while (number := sum(hits.values())) < kills:
        phase = list(PHASES)[number % len(PHASES)]
        if project.killed(mode, phase, SHARE * seconds):
            hits[phase] += 1
        else:
            ended.append(project.weights(mode))
        same = sum(each == whole for each in ended)
        print(f"{mode}: killed {hits}, {len(ended)} ended, {same} with the same bytes", file=sys.stderr, flush=True)
    ended.append(project.trained(mode)[0])
    other = sum(each != whole for each in ended)
    yield Figure(
        f"weights after {kills} kills, by dvc {mode}",
        "an undisturbed training",
        f"OTHER BYTES in {other} of {len(ended)}" if other else "the same bytes",
        "the same bytes",
        f"{', '.join(f'{number} {phase}' for phase, number in hits.items())}; {len(ended)} trainings ended",
    )
    left = project.interrupted(mode)
    yield Figure(f"processes left after Ctrl-C, by dvc {mode}", "", str(left), "0", "")


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
