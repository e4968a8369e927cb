import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from Models.learning.hardware import Precision, resolve_precision, usable_device
from tests.template.conftest import run_in, succeeded, until
from tests.template.Models.shape_scenes import ROOT, refused, run_stage

HAS_BF16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()

SHARED = ["--size=48", "--epochs=3", "--batch=4", "--threads=1", "--zoom=0.2", "--processes=2", "--", "--width=8"]
FILES = ("weights.safetensors", "history.tsv", "metrics.json", "run.json")


@pytest.mark.long
def test_two_processes_have_the_losses_of_one(shapes):
    """In float64, where rounding does not grow, and without batch normalisation: its statistics differ."""
    steps = run_in(ROOT, "python", "-m", "tests.template.Models.shared_steps", shapes, "20", "float64")
    alone, shared = json.loads(succeeded(steps).stdout).values()
    for task in alone:
        np.testing.assert_allclose(shared[task], alone[task], rtol=1e-9, err_msg=task)
        assert alone[task][-1] < alone[task][0] / 2


def shared(curated: Path, home: Path) -> list[str | Path]:
    """The options of a training in two processes."""
    return ["--script=e001_center_detector", "--curated", curated, "--out", home / "out", *SHARED]


class Training:
    """A training in two processes, in a session of its own, whose checkpoints lie in `home`."""

    def __init__(self, curated: Path, home: Path) -> None:
        self.home = home
        words = shared(curated, home)
        environment = {**os.environ, "DVC_ROOT": str(home)}
        command = [sys.executable, "-m", "Models.train", *map(str, words)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def after_a_new(self, name: str) -> list[psutil.Process]:
        """Wait until it has written a file of such a name; the two processes that learn."""
        before = self.changed(name)
        until(lambda: self.process.poll() is not None or self.changed(name) != before, 100)
        assert self.process.poll() is None, self.process.stderr.read()
        return psutil.Process(self.process.pid).children()

    def changed(self, name: str) -> list[int]:
        return [path.stat().st_mtime_ns for path in self.home.rglob(name)]

    def ended(self, processes: list[psutil.Process]) -> tuple[int, list[str]]:
        """The exit code and the last lines; no process of it is left."""
        errors = self.process.communicate(timeout=100)[1]
        assert psutil.wait_procs(processes, timeout=20)[1] == []
        assert "Traceback" not in errors, errors
        return self.process.returncode, errors.splitlines()


KILLED = """
import os, signal, time

if os.environ["RANK"] == "1":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(600)
"""
LAUNCH = "import Models.learning.hardware as h; h.launch(2, 1, 'killed', [])"


def test_a_process_that_is_killed_is_named_and_ends_the_others(tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run([sys.executable, "-c", LAUNCH], env=environment, capture_output=True, text=True, timeout=100)
    assert "UserError: process 1 of 2 was killed by SIGKILL" in done.stderr


@pytest.mark.long
def test_two_processes_resume_exactly_and_end_together(shapes, tmp_path):
    lines = run_stage("train", *shared(shapes, tmp_path / "whole"), home=tmp_path / "whole").stderr.splitlines()
    assert sum(line.startswith("epoch") for line in lines) == 3, lines

    training = Training(shapes, tmp_path / "disturbed")
    learners = training.after_a_new("*.pt")  # there are steps to go
    os.killpg(training.process.pid, signal.SIGINT)  # what Ctrl-C does
    code, lines = training.ended(learners)
    assert code == 130, lines
    assert not any("Warning" in line or "warning:" in line for line in lines), lines

    lines = run_stage("train", *shared(shapes, tmp_path / "disturbed"), home=tmp_path / "disturbed").stderr.splitlines()
    assert any(line.startswith("resumed at step") for line in lines), lines
    for name in FILES:
        assert (tmp_path / "whole/out" / name).read_bytes() == (tmp_path / "disturbed/out" / name).read_bytes(), name
    assert json.loads((tmp_path / "whole/out/run.json").read_text())["train"]["processes"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--processes", "9", "--batch", "8"], "processes: 9 cannot share the 8 images of a step"),
        (["--processes", "0"], "--processes"),
        (["--precision", "fp8"], "--precision"),
    ],
)
def test_a_mistake_is_reported_in_one_line(shapes, tmp_path, words, message):
    common = ["--script", "e001_center_detector", "--curated", shapes, "--out", tmp_path / "out"]
    assert message in refused("train", *common, *words)
    assert not (tmp_path / "out").exists()


def test_a_mistake_of_all_processes_is_reported_once(tmp_path):
    words = ["--script=e001_center_detector", "--curated=nowhere", "--out", tmp_path / "out", "--processes=2"]
    done = run_in(ROOT, "python", "-m", "Models.train", *words)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["error: nowhere/classes.json: not found; run the curate stage, or `dvc pull`"]


COMMON = ["--script=e001_center_detector", "--size=48", "--epochs=2"]


@pytest.mark.skipif(not HAS_BF16, reason="this CPU has neither avx512_bf16 nor amx")
def test_it_learns_in_bfloat16_and_keeps_weights_in_float32(shapes, tmp_path):
    words = [*COMMON, "--curated", shapes, "--out", tmp_path / "out", "--precision=bf16", "--", "--width=8"]
    run_stage("train", *words, home=tmp_path)
    assert json.loads((tmp_path / "out/run.json").read_text())["train"]["precision"] == "bf16"
    weights = load_file(tmp_path / "out/weights.safetensors")
    assert {values.dtype for values in weights.values()} == {torch.float32, torch.int64}


@pytest.mark.skipif(HAS_BF16, reason="this CPU has bfloat16 arithmetic")
def test_bfloat16_is_refused_where_it_is_slow(shapes, tmp_path):
    words = [*COMMON, "--curated", shapes, "--out", tmp_path / "out", "--precision=bf16"]
    assert "precision: bf16: this cpu has no bfloat16 arithmetic; use fp32, or auto" in refused("train", *words)


def test_auto_is_the_cpu_in_float32_where_there_is_no_gpu():
    assert usable_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_precision(Precision.auto, "cpu") == Precision.fp32


WATCHED = """
import os, sys

def stop(event, found):
    if event == "import" and found[0] == "torch":
        print(os.environ.get("GOMP_SPINCOUNT"), flush=True)
        os._exit(0)

sys.addaudithook(stop)
import Models.{}, torch
"""


@pytest.mark.parametrize("command", ["train", "evaluate", "export", "experiment"])
def test_threads_do_not_wait_by_spinning(command):
    """The OpenMP runtime reads its setting when torch is imported."""
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    words = [sys.executable, "-c", WATCHED.format(command)]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "1000\n"
