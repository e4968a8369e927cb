"""Requests as other programs send them: the Open Inference Protocol, base64 in JSON, pages of other sites."""

import base64
import http.server
import json
import random
import threading
from functools import partial

import numpy as np
import pytest

from tests.template.Deployment.browser import chromium, needs_browser
from tests.template.Deployment.made_export import SAMPLES, encoded
from tests.template.Deployment.running_service import serving

IMAGES = [encoded(SAMPLES[name]) for name in ("000.jpg", "001.jpg")]
TEXTS = [base64.b64encode(image).decode() for image in IMAGES]
KEY = "a-key-of-the-test-service"
INFER = "/v2/models/e900/infer"


@pytest.fixture(scope="module")
def service(pristine_export):
    with serving(pristine_export, "--max-images", 3, "--log-level", "warning") as running:
        yield running


def post(service, path, body, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return service.request("POST", path, content, {"Content-Type": "application/json", **headers})


def inputs(*data, **changes):
    return {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [len(data)], "data": list(data), **changes}]}


def test_tritons_client_gets_the_services_answers(service):
    client = pytest.importorskip(
        "tritonclient.http", reason="Triton's client is not installed: pip install tritonclient[http]"
    )
    triton = client.InferenceServerClient(f"{service.host}:{service.port}")
    assert triton.is_server_live() and triton.is_server_ready() and triton.is_model_ready("e900")
    assert triton.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    about = triton.get_model_metadata("e900")
    assert [tensor["datatype"] for tensor in (*about["inputs"], *about["outputs"])] == ["BYTES", "BYTES"]
    sent = client.InferInput(about["inputs"][0]["name"], [2], "BYTES")
    sent.set_data_from_numpy(np.array(IMAGES, dtype=object))
    found = triton.infer("e900", [sent], request_id="42")
    assert found.get_response()["id"] == "42"
    answers = [json.loads(text) for text in found.as_numpy("predictions")]
    assert answers == [service.predict(image)[1] for image in IMAGES]


def test_images_in_json_are_answered_like_files(service):
    expected = [service.predict(image)[1] for image in IMAGES]
    assert post(service, "/predict", {"file": TEXTS[0]}) == (200, expected[0])
    assert post(service, "/predict", {"file": f"data:image/jpeg;base64,{TEXTS[0]}"}) == (200, expected[0])
    assert post(service, "/predict/batch", {"files": TEXTS}) == (
        200,
        {"answers": [{"image": str(number), **answer} for number, answer in enumerate(expected)]},
    )
    status, found = post(service, INFER, inputs(*TEXTS))
    assert (status, found["model_name"]) == (200, "e900")
    [output] = found["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2])
    assert [json.loads(text) for text in output["data"]] == expected
    _, nothing = post(service, INFER, {**inputs(TEXTS[0]), "parameters": {"threshold": 1}})
    assert json.loads(nothing["outputs"][0]["data"][0])["boxes"] == []


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "words"),
    [
        ("/predict", {"file": "no base64!"}, {}, 400, "base64"),
        ("/predict", {"file": 1}, {}, 400, "$.file"),
        ("/predict", {"image": TEXTS[0]}, {}, 400, "image"),
        ("/predict", {}, {}, 400, "0 files"),
        ("/predict", {"files": TEXTS}, {}, 400, "2 files"),
        ("/predict/batch", {"files": TEXTS * 2}, {}, 400, "4 files"),
        ("/predict", b"{", {}, 400, "truncated"),
        ("/predict", {"file": "aGVsbG8="}, {}, 422, "not an image file"),
        ("/v2/models/other/infer", inputs(TEXTS[0]), {}, 404, "'e900'"),
        (INFER, {"inputs": []}, {}, 400, "$.inputs"),
        (INFER, inputs(TEXTS[0], datatype="FP32"), {}, 400, "FP32"),
        (INFER, inputs(TEXTS[0], shape=[2]), {}, 400, "shape"),
        (INFER, inputs(*TEXTS * 2), {}, 400, "1 to 3"),
        (INFER, inputs(TEXTS[0], shape=[10**18] * 200_000), {}, 400, "shape"),
        (INFER, inputs("no base64!"), {}, 400, "base64"),
        (INFER, inputs("aGVsbG8="), {}, 422, "image 0: not an image file"),
        (INFER, {**inputs(TEXTS[0]), "parameters": {"threshold": 7}}, {}, 400, "threshold"),
        (INFER, b"{}", {"Inference-Header-Content-Length": "many"}, 400, "many"),
    ],
)  # fmt: skip
def test_a_wrong_request_gets_one_line(service, path, body, headers, status, words):
    answer = post(service, path, body, **headers)
    assert answer[0] == status and words in answer[1]["error"] and "\n" not in answer[1]["error"]


def test_no_bytes_behind_the_json_bring_it_down(service):
    chance = random.Random(1)
    raw = len(IMAGES[0]).to_bytes(4, "little") + IMAGES[0]
    for _ in range(60):
        broken = bytearray(raw[: chance.randrange(len(raw))])
        if len(broken) > 4:
            broken[chance.randrange(4)] ^= chance.randrange(256)
        head = json.dumps(inputs(data=None, shape=[1], parameters={"binary_data_size": len(broken)})).encode()
        length = str(chance.choice([len(head), len(head), 0, -5, 10**9]))
        status, _ = post(service, INFER, head + broken, **{"Inference-Header-Content-Length": length})
        assert status in (400, 422)


def test_only_health_is_open_without_the_key(pristine_export):
    with serving(pristine_export, FOURFOLD_API_KEY=KEY) as service:
        assert service.request("GET", "/v2/health/ready") == (200, {"ready": True})
        assert service.request("GET", "/v2/health/live") == (200, {"live": True})
        assert post(service, INFER, inputs(TEXTS[0]))[0] == 401
        assert service.request("GET", "/v2/models/e900")[0] == 401
        assert post(service, INFER, inputs(TEXTS[0]), Authorization=f"Bearer {KEY}")[0] == 200


class Silent(http.server.SimpleHTTPRequestHandler):
    """Serves files, without a log."""

    def log_message(self, *_):
        pass


@needs_browser
def test_a_page_of_an_allowed_site_may_use_it_and_others_may_not(pristine_export, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site/index.html").write_text("<!doctype html><title>another site</title>")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=tmp_path / "site")) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        own = f"http://127.0.0.1:{site.server_port}"
        for allowed, expected in ((own, "64"), ("https://example.com", "refused")):
            with (
                serving(pristine_export, "--cors", allowed, FOURFOLD_API_KEY=KEY) as service,
                chromium(tmp_path) as page,
            ):
                page.open(f"{own}/index.html")
                headers = json.dumps({"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"})
                options = f"{{method: 'POST', headers: {headers}, body: JSON.stringify({{file: '{TEXTS[0]}'}})}}"
                page.run(
                    f"void fetch('http://127.0.0.1:{service.port}/predict', {options}).then((it) => it.json())"
                    ".then((it) => { window.told = String(it.width); }, () => { window.told = 'refused'; })"
                )
                page.wait(f"window.told === '{expected}'")
        site.shutdown()
