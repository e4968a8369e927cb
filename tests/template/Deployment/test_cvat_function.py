"""A running service as a function of CVAT, with CVAT's own package where it is installed."""

import io
from importlib.util import module_from_spec, spec_from_file_location
from types import SimpleNamespace

import pytest
from PIL import Image

from Datasets.format.curated import Curated
from tests.template.conftest import ROOT
from tests.template.Deployment.running_service import serving

KEY = "a-key-of-the-test-service"


@pytest.mark.parametrize(("task", "shape"), [("boxes", "rectangle"), ("mask", "mask"), ("labels", "tag")])
def test_cvat_gets_what_the_service_finds(exports, scenes, monkeypatch, task, shape):
    pytest.importorskip("cvat_sdk", reason="CVAT is not installed: pip install cvat-cli 'cvat-sdk[masks]'")
    file = Curated(scenes).images("test")[0]
    monkeypatch.setenv("FOURFOLD_API_KEY", KEY)
    with serving(exports[task], FOURFOLD_API_KEY=KEY) as service:
        monkeypatch.setenv("FOURFOLD_SERVICE", f"http://{service.host}:{service.port}/")
        place = spec_from_file_location("cvat_function", ROOT / "Deployment/cvat_function.py")
        function = module_from_spec(place)
        place.loader.exec_module(function)
        context = SimpleNamespace(frame_name="a.png", conf_threshold=0.5, conv_mask_to_poly=False)
        found = function.detect(context, Image.open(io.BytesIO(file)))
        status, expected = service.request("POST", "/predict", file, {"Authorization": f"Bearer {KEY}"})
    names = {label.id: label.name for label in function.spec.labels}
    assert status == 200 and {names[each.label_id] for each in found} == {*expected["labels"]} != set()
    assert {each.type.value if shape != "tag" else "tag" for each in found} == {shape}
    if task == "boxes":
        drawn = [[box[key] for key in ("x1", "y1", "x2", "y2")] for box in expected["boxes"]]
        assert [list(map(float, each.points)) for each in found] == [pytest.approx(box, abs=1e-6) for box in drawn]
