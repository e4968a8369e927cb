"""What came to a service against the dataset that the model was made from."""

import io
import json
import re

import numpy as np
import onnx
import pandas as pd
import pytest
from PIL import Image

from Datasets.format.curated import Curated
from Deployment.drift import binned, stability
from tests.template.Deployment.made_export import encoded, graph, scene, write_manifest
from tests.template.Deployment.running_service import command, is_one_line


@pytest.fixture
def made(export, scenes):
    """An export that was made from the dataset of scenes, which is itself again, and 30 images as of its test split."""
    write_manifest(
        export,
        **json.loads((export / "manifest.json").read_text()) | {"curated_fingerprint": Curated(scenes).fingerprint()},
    )
    return export


def sent(scenes, folder, change=lambda image: image):
    """30 images like those of test, changed."""
    folder.mkdir()
    files = Curated(scenes).images("test")
    for number in range(30):
        image = Image.open(io.BytesIO(files[number % 3]))
        (folder / f"{number}.png").write_bytes(encoded(change(image), "PNG"))
    return folder


def moved(done):
    assert done.returncode == 0, done.stderr
    return [line.split("  ")[0].strip() for line in done.stdout.splitlines()[1:] if line.rstrip().endswith(" moved")]


def test_what_comes_from_the_same_place_has_not_moved(made, scenes, tmp_path):
    done = command("Deployment.drift", made, sent(scenes, tmp_path / "came"), "--curated", scenes)
    assert moved(done) == [] and "0 of" in done.stdout


def test_larger_images_have_moved(made, scenes, tmp_path):
    came = sent(scenes, tmp_path / "came", lambda image: image.resize((256, 200)))
    assert moved(command("Deployment.drift", made, came, "--curated", scenes))[:2] == [
        "width, pixels",
        "height, pixels",
    ]


def test_other_objects_have_moved_in_class_and_in_what_the_model_sees(made, scenes, tmp_path):
    text = graph("boxes").replace("[N, K] classes)", "[N, K] classes, float[N, C] features)")
    text = text.replace("  order = Unsq", "  features = Identity (share)\n  order = Unsq")
    onnx.save(onnx.parser.parse_model(text), made / "model.onnx")
    write_manifest(made, curated_fingerprint=Curated(scenes).fingerprint())
    came = sent(scenes, tmp_path / "came", lambda image: scene(64, 64, {"blue": (2, 2, 62, 62)}))
    done = command("Deployment.drift", made, came, "--curated", scenes)
    assert "distance of features" in moved(done)
    assert re.search("classes, most changed +blue 33% +blue 100%", done.stdout)
    classes = [pd.Series(["red", *["blue"] * each] * 30) for each in (1, 9)]
    assert stability(*classes)[1]  # which three images are too few for


def test_what_is_said_of_two_samples_is_true_for_most_pairs():
    chance = np.random.default_rng(0)
    found = {0.0: 0, 1.0: 0}
    for shift in found:
        for _ in range(60):
            before, after = pd.Series(chance.normal(size=200)), pd.Series(chance.normal(shift, size=60))
            found[shift] += stability(*binned(before, after))[1]
    assert found[0.0] <= 3 and found[1.0] >= 57


def test_a_constant_that_changes_has_moved():
    same, other = pd.Series([96.0] * 50), pd.Series([64.0] * 50)
    assert stability(*binned(same, same)) == (0, False)
    assert stability(*binned(same, other))[1]


def test_another_dataset_than_the_models_and_nothing_readable_are_refused(made, export, scenes, tmp_path):
    (tmp_path / "came").mkdir()
    (tmp_path / "came/a.png").write_bytes(b"no image")
    refused = command("Deployment.drift", made, tmp_path / "came", "--curated", scenes)
    assert refused.returncode == 1 and "none of 1 images can be read" in refused.stderr
    write_manifest(export, curated_fingerprint="other")
    refused = command("Deployment.drift", export, tmp_path / "came", "--curated", scenes)
    assert is_one_line(refused) and "dvc get . Datasets/curated --rev VERSION -o FOLDER" in refused.stderr
