"""Images much larger than those that the model was trained on, looked at tile by tile."""

import io
import json

import onnxruntime
import pytest
from PIL import Image

from Datasets.format.graphs import Device
from Datasets.tools.errors import UserError
from Deployment.service.artifact import Predictor, Runtime, load
from tests.template.Deployment.made_export import encoded, scene
from tests.template.Deployment.running_service import command, is_one_line, serving

SIDE = 12  # of an object: 1.5 pixels of the 64 that the model sees of an image of 512, too few for its threshold


@pytest.mark.parametrize("corner", [(0, 0), (45, 60), (52, 51), (255, 256), (301, 102), (500, 500), (3, 409)])
def test_a_small_object_is_found_once_and_in_its_place_wherever_tiles_meet(pristine_export, corner):
    x, y = corner
    image = encoded(scene(512, 512, {"red": (x, y, x + SIDE, y + SIDE)}), "PNG")
    artifact = load(pristine_export)
    assert Predictor(artifact)(image)["boxes"] == []
    found = Predictor(artifact, Runtime(tile=64, overlap=0.25))(image)
    assert (found["width"], found["height"], found["counts"]) == (512, 512, [{"name": "red", "count": 1}])
    [box] = found["boxes"]
    assert [box[side] for side in ("x1", "y1", "x2", "y2")] == [x, y, x + SIDE, y + SIDE]


def test_an_object_larger_than_a_tile_is_found_whole_and_its_parts_are_not(pristine_export):
    image = encoded(scene(200, 200, {"blue": (20, 30, 170, 180), "red": (2, 2, 14, 14)}), "PNG")
    found = Predictor(load(pristine_export), Runtime(tile=64))(image)
    boxes = {box["name"]: [box[side] for side in ("x1", "y1", "x2", "y2")] for box in found["boxes"]}
    assert len(found["boxes"]) == 2
    assert boxes["red"] == [2, 2, 14, 14]
    assert boxes["blue"] == pytest.approx([20, 30, 170, 180], abs=200 / 64)


def test_two_objects_of_one_class_in_two_tiles_stay_two(pristine_export):
    image = scene(128, 64, {"green": (40, 20, 60, 40)})
    image.paste(scene(20, 20, {"green": (0, 0, 20, 20)}), (66, 20))
    found = Predictor(load(pristine_export), Runtime(tile=64, overlap=0))(encoded(image, "PNG"))
    assert sorted(box["x1"] for box in found["boxes"] if box["x2"] - box["x1"] < 30) == [40, 66]


def test_an_image_no_larger_than_a_tile_is_answered_as_without(pristine_export):
    image = encoded(scene(64, 60, {"red": (8, 8, 40, 24)}))
    artifact = load(pristine_export)
    assert Predictor(artifact, Runtime(tile=64))(image) == Predictor(artifact)(image)


def test_service_and_command_answer_alike(pristine_export, tmp_path):
    image = encoded(scene(512, 300, {"red": (250, 100, 262, 112), "green": (5, 5, 200, 200)}), "PNG")
    (tmp_path / "a.png").write_bytes(image)
    out = tmp_path / "out.json"
    done = command("Deployment.predict", pristine_export, tmp_path / "a.png", "--to", out, "--tile", 64)
    assert done.returncode == 0, done.stderr
    [row] = json.loads(out.read_text())
    with serving(pristine_export, "--tile", 64) as service:
        status, answer = service.predict(image)
    assert status == 200 and len(answer["boxes"]) == 2
    assert answer == {name: value for name, value in row.items() if name not in ("image", "sha256")}


def test_what_cannot_be_merged_is_refused(exports, tmp_path):
    Image.open(io.BytesIO(encoded(scene(64, 64, {})))).save(tmp_path / "a.png")
    words = [exports["mask"], tmp_path / "a.png", "--to", tmp_path / "out.json", "--tile", 64]
    for refused in (command("Deployment.predict", *words), command("Deployment.serve", exports["mask"], "--tile", 64)):
        assert is_one_line(refused) and "only boxes" in refused.stderr
    assert not (tmp_path / "out.json").exists()


def test_a_device_that_is_not_there_is_refused_rather_than_replaced_in_silence(pristine_export):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(UserError, match="would compute on cpu"):
        Predictor(load(pristine_export), Runtime(Device.cuda))
    assert is_one_line(command("Deployment.serve", pristine_export, "--device", "cuda"))
    assert Predictor(load(pristine_export), Runtime(Device.auto)).device is Device.cpu
