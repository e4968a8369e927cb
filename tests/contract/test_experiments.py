"""Every experiment of params.yaml: its script builds, learns, and exports to an ONNX graph that answers alike."""

import importlib
import json
import re

import pytest
import torch

from Datasets.format.predictions import EXTRAS, OUTPUTS, TOLERANCE
from tests.contract.checkout import EXPERIMENTS, PARAMS, ROOT, run_in, succeeded

pytestmark = pytest.mark.skipif(not EXPERIMENTS, reason="params.yaml has no experiment")
SIDES = 64


def build(experiment: str, classes: int = 3) -> tuple[str, torch.nn.Module]:
    """The task of an experiment's script, and its model with params.yaml's hyperparameters."""
    entry = PARAMS["experiments"][experiment]
    script = importlib.import_module(f"Models.{entry['script']}")
    torch.manual_seed(0)
    return script.TASK, script.build(classes, **(entry.get("model") or {}))


def targets(task: str) -> dict[str, torch.Tensor]:
    """Targets for two images of SIDES x SIDES pixels; the second holds nothing."""
    if task == "boxes":
        boxes = torch.tensor([[[8.0, 8.0, 30.0, 40.0]], [[0.0, 0.0, 0.0, 0.0]]])
        return {"boxes": boxes, "classes": torch.tensor([[2], [-1]]), "crowd": torch.zeros(2, 1, dtype=torch.bool)}
    if task == "mask":
        mask = torch.zeros(2, SIDES, SIDES, dtype=torch.int64)
        mask[0, 8:40, 8:30] = 3
        return {"mask": mask}
    counts = torch.tensor([[0, 0, 2], [0, 0, 0]])
    return {"counts": counts} if task == "counts" else {"labels": counts > 0}


def test_pretrained_weights_have_licences_that_the_project_allows():
    allowed = (PARAMS.get("licenses") or {}).get("allow")
    for card in ROOT.glob("Datasets/pretrained/*/card.json"):
        assert not allowed or json.loads(card.read_text("utf-8"))["license"] in allowed, card


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_loss_is_finite_and_reaches_the_weights(experiment):
    task, model = build(experiment)
    images = torch.randint(0, 256, (2, 3, SIDES, SIDES), dtype=torch.uint8)
    losses = model.loss(images, targets(task))
    assert all(part.ndim == 0 and part.isfinite() for part in losses.values())
    sum(losses.values()).backward()
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_outputs_are_those_of_the_task_whatever_the_size_of_the_batch(experiment):
    task, model = build(experiment)
    images = torch.randint(0, 256, (3, 3, SIDES, SIDES), dtype=torch.uint8)
    with torch.no_grad():
        three, one = model.eval()(images), model(images[1:2])
    assert set(OUTPUTS[task]) <= set(three) <= {*OUTPUTS[task], *EXTRAS}
    for name, values in three.items():
        torch.testing.assert_close(values[1:2].double(), one[name].double(), atol=1e-3, rtol=1e-3)


@pytest.mark.skipif(len(EXPERIMENTS) < 2, reason="test_service.py takes the first experiment to the service")
def test_the_other_experiments_train_evaluate_and_export_and_trying_them_keeps_nothing(curated_project, tmp_path):
    others, environment = EXPERIMENTS[1:], {"TMPDIR": str(tmp_path), "DVC_ROOT": str(tmp_path / "elsewhere")}
    done = run_in(curated_project, "python", "-m", "Models.experiment", "try", *others, timeout=900, **environment)
    assert re.findall(r"^(\S+) trains, evaluates and exports", succeeded(done).stdout, re.MULTILINE) == others
    kept = [
        path for folder in ("Datasets/pretrained", "Models/outputs") for path in (curated_project / folder).glob("*")
    ]
    assert not {path.name for path in kept} & set(others)
    assert [path for path in tmp_path.iterdir() if "inductor" not in path.name] == []


def test_script_and_graph_of_the_export_answer_as_the_trained_model_does(project):
    manifest = json.loads((project / f"Datasets/pretrained/{EXPERIMENTS[0]}/manifest.json").read_text())
    agreement = manifest["agreement"]
    for made in ("script", "onnx"):
        assert agreement[made].keys() == TOLERANCE[manifest["task"]].keys()
        assert all(value <= TOLERANCE[manifest["task"]][name] for name, value in agreement[made].items())
