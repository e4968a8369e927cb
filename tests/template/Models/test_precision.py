import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from Models.learning.precision import Precision, chosen
from tests.template.conftest import ROOT
from tests.template.Models.shape_scenes import refused, run_stage

HERE = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
COMMON = ["--script=e001_center_detector", "--size=48", "--epochs=2"]


@pytest.mark.skipif(not HERE, reason="this CPU has neither avx512_bf16 nor amx")
def test_with_auto_it_learns_in_bfloat16_says_so_and_keeps_weights_in_float32(shapes, tmp_path):
    words = [*COMMON, "--curated", shapes, "--out", tmp_path / "out", "--precision=auto", "--", "--width=8"]
    said = run_stage("train", *words, home=tmp_path).stderr
    assert "precision: bf16, for cpu has bfloat16 arithmetic" in said
    assert json.loads((tmp_path / "out/run.json").read_text())["train"]["precision"] == "bf16"
    weights = load_file(tmp_path / "out/weights.safetensors")
    assert {values.dtype for values in weights.values()} == {torch.float32, torch.int64}


@pytest.mark.skipif(HERE, reason="this CPU has bfloat16 arithmetic")
def test_bfloat16_is_refused_where_it_is_slow_and_auto_does_without(shapes, tmp_path, capsys):
    words = [*COMMON, "--curated", shapes, "--out", tmp_path / "out", "--precision=bf16"]
    assert "precision: bf16: this cpu has no bfloat16 arithmetic; take fp32, or auto" in refused("train", *words)
    assert chosen(Precision.auto, "cpu") == Precision.fp32
    assert "precision: fp32, for cpu has no bfloat16 arithmetic" in capsys.readouterr().err


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
def test_torch_is_told_not_to_have_threads_wait_by_spinning_before_it_is_imported(command):
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    words = [sys.executable, "-c", WATCHED.format(command)]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "1000\n"
