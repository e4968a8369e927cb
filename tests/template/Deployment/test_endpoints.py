"""Every endpoint, and the OpenAPI document about it."""

import re
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from jsonschema_rs import Draft202012Validator
from prometheus_client.parser import text_string_to_metric_families

from tests.template.Deployment.browser import chromium, needs_browser
from tests.template.Deployment.made_export import CLASSES, SAMPLES, encoded
from tests.template.Deployment.running_service import Service, form, serving

IMAGE = encoded(SAMPLES["000.jpg"])
EMPTY = encoded(SAMPLES["002.jpg"])
KEY = "a key that nobody guesses".replace(" ", "-")
NO_IMAGE = "not an image file in one of the formats JPEG, PNG, WEBP, BMP"
FIELD = b'--limit\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
DOCUMENTED = {
    ("/predict", "post"): {200, 400, 408, 413, 422, 500, 503},
    ("/predict/batch", "post"): {200, 400, 408, 413, 415, 422, 500, 503},
    ("/sample", "get"): {200, 422, 500},
    ("/sample/truth", "get"): {200, 422, 500},
    ("/manifest", "get"): {200, 500},
    ("/metrics", "get"): {200, 500},
    ("/health/live", "get"): {200, 500},
    ("/health/ready", "get"): {200, 500, 503},
}


@pytest.fixture(scope="module")
def service(pristine_export: Path) -> Iterator[Service]:
    with serving(pristine_export, "--max-images", 3) as running:
        yield running


@pytest.fixture(scope="module")
def schema(service: Service) -> Any:
    return service.request("GET", "/openapi.json")[1]


def checked(schema: Any, path: str, method: str, answer: tuple[int, Any]) -> tuple[int, Any]:
    """The answer, if it is as the document says."""
    status, body = answer
    content = schema["paths"][path][method]["responses"][str(status)]["content"]["application/json"]
    Draft202012Validator(content["schema"] | {"components": schema["components"]}).validate(body)
    return answer


def test_an_image_in_a_form_is_answered_like_one_as_the_body(service: Service, schema: Any) -> None:
    plain = checked(schema, "/predict", "post", service.predict(IMAGE))
    for field in ("file", "anything"):
        assert service.request("POST", "/predict", *form(("a.jpg", IMAGE), field=field)) == plain


def test_coco_has_the_same_boxes(service: Service, schema: Any) -> None:
    _, record = service.predict(IMAGE)
    status, coco = checked(schema, "/predict", "post", service.request("POST", "/predict?format=coco", IMAGE))
    assert status == 200
    assert [each["name"] for each in coco["categories"]] == CLASSES
    assert [(image["width"], image["height"]) for image in coco["images"]] == [(64, 64)]
    names = {each["id"]: each["name"] for each in coco["categories"]}
    for box, found in zip(record["boxes"], coco["annotations"], strict=True):
        assert names[found["category_id"]] == box["name"]
        assert found["bbox"] == [box["x1"], box["y1"], box["x2"] - box["x1"], box["y2"] - box["y1"]]
        assert (found["score"], found["image_id"], found["iscrowd"]) == (box["score"], coco["images"][0]["id"], 0)


def test_a_threshold_shows_less_or_more_than_the_manifests(service: Service) -> None:
    def scores(query: str) -> list[float]:
        return [box["score"] for box in service.request("POST", f"/predict{query}", IMAGE)[1]["boxes"]]

    ordinary = scores("")
    assert scores("?threshold=0") == scores("?threshold=0.001") == ordinary
    assert scores(f"?threshold={ordinary[0]}") == ordinary[:1]
    assert scores("?threshold=1") == []


def test_a_batch_has_an_answer_for_each_image_in_order(service: Service, schema: Any) -> None:
    body, headers = form(("a.jpg", IMAGE), ("b.jpg", b"no image"), ("ü/c.jpg", EMPTY))
    status, batch = checked(schema, "/predict/batch", "post", service.request("POST", "/predict/batch", body, headers))
    assert status == 200
    assert batch["answers"] == [
        {"image": "a.jpg", **service.predict(IMAGE)[1]},
        {"image": "b.jpg", "error": NO_IMAGE},
        {"image": "ü/c.jpg", **service.predict(EMPTY)[1]},
    ]
    path = "/predict/batch?format=coco"
    _, coco = checked(schema, "/predict/batch", "post", service.request("POST", path, body, headers))
    assert [image["file_name"] for image in coco["images"]] == ["a.jpg", "ü/c.jpg"]
    assert {found["image_id"] for found in coco["annotations"]} == {1}
    assert coco["errors"] == [{"image": "b.jpg", "error": NO_IMAGE}]


@pytest.mark.parametrize(
    ("path", "request_", "status", "words"),
    [
        ("/predict?format=xml", (IMAGE, {}), 422, "format"),
        ("/predict?threshold=2", (IMAGE, {}), 422, "threshold"),
        ("/predict?threshold=nan", (IMAGE, {}), 422, "threshold"),
        ("/predict/batch", (IMAGE, {"Content-Type": "image/jpeg"}), 415, "multipart/form-data"),
        ("/predict/batch", form(), 400, "no file"),
        ("/predict/batch", form(*[("a", IMAGE)] * 4), 400, "number of files is 3"),
        ("/predict", form(("a", IMAGE), ("b", IMAGE)), 400, "number of files is 1"),
        ("/predict", (FIELD * 1001 + form()[0], form()[1]), 400, "number of fields is 1000"),
        ("/predict", (b"--limit half", form()[1]), 400, "multipart"),
        ("/predict", (form(("a", IMAGE))[0][:-200], form()[1]), 400, "no file"),
        ("/predict", (IMAGE, {"Content-Type": "multipart/form-data"}), 400, "boundary"),
    ],
)
def test_a_wrong_request_gets_one_line(
    service: Service, schema: Any, path: str, request_: tuple[bytes, dict[str, str]], status: int, words: str
) -> None:
    answer = service.request("POST", path, *request_)
    assert answer[0] == status, answer
    checked(schema, path.partition("?")[0], "post", answer)
    assert words in answer[1]["error"]


def test_prometheus_counts_requests_images_and_objects(pristine_export: Path) -> None:
    with serving(pristine_export) as service:
        for image in (IMAGE, IMAGE, b"no image"):
            service.predict(image)
        service.request("GET", "/nowhere/at/all")
        status, headers, text = service.answer("GET", "/metrics")
    assert (status, headers.get_content_type()) == (200, "text/plain")
    samples = [sample for family in text_string_to_metric_families(text.decode()) for sample in family.samples]
    values = {(sample.name, *sample.labels.values()): sample.value for sample in samples}
    assert values["fourfold_requests_total", "/predict", "200"] == 2
    assert values["fourfold_requests_total", "/predict", "422"] == 1
    assert values["fourfold_requests_total", "other", "404"] == 1
    assert values["fourfold_request_seconds_count", "/predict"] == 3
    assert values["fourfold_images_total",] == 2
    assert values["fourfold_objects_total", "red"] == 2
    assert values["fourfold_requests_waiting",] == 0
    assert values["fourfold_model", "None", "e900"] == 1
    assert values["process_resident_memory_bytes",] > 1e6


def test_every_endpoint_is_documented_with_every_status(schema: Any) -> None:
    found = {
        (path, method): {int(status) for status in operation["responses"]}
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    }
    assert found == DOCUMENTED
    for path, method in DOCUMENTED:
        for status, response in schema["paths"][path][method]["responses"].items():
            assert status == "200" or response["content"]["application/json"]["schema"]["$ref"].endswith("/Error")
    assert "HTTPValidationError" not in schema["components"]["schemas"]
    assert "security" not in schema["paths"]["/predict"]["post"]


def test_addresses_in_the_document_are_relative_for_proxies(schema: Any) -> None:
    [server] = schema["servers"]
    assert urljoin("https://example.com/models/e900/openapi.json", server["url"]) == "https://example.com/models/e900/"


def test_the_document_names_the_key(pristine_export: Path) -> None:
    with serving(pristine_export, FOURFOLD_API_KEY=KEY) as service:
        paths = service.request("GET", "/openapi.json")[1]["paths"]
    for path, method in DOCUMENTED:
        open_ = path.startswith("/health")
        assert ("security" in paths[path][method]) is not open_
        assert ("401" in paths[path][method]["responses"]) is not open_


def test_facts(service: Service, schema: Any) -> None:
    for path in ("/manifest", "/health/live", "/health/ready"):
        assert checked(schema, path, "get", service.request("GET", path))[0] == 200
    assert service.request("POST", "/predict/", IMAGE)[0] == 404


def test_head_is_get_without_a_body(service: Service) -> None:
    connection = HTTPConnection(service.host, service.port, timeout=20)
    for path, status in (("/health/ready", 200), ("/", 200), ("/manifest", 200), ("/predict", 405), ("/nowhere", 404)):
        lengths = []
        for method in ("HEAD", "GET"):  # over one connection: a body after HEAD would be taken for the next answer
            connection.request(method, path)
            answer = connection.getresponse()
            lengths.append(answer.headers["content-length"])
            assert (answer.status, bool(answer.read())) == (status, method == "GET")
        assert lengths[0] == lengths[1]


@needs_browser
def test_the_documentation_appears_and_loads_nothing_from_elsewhere(service: Service, tmp_path: Path) -> None:
    with chromium(tmp_path) as page:
        page.open(f"http://127.0.0.1:{service.port}/docs")
        page.wait("document.querySelectorAll('.opblock').length === 8")
        names = page.run("performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert {re.sub(r"(http://[^/]*|data:).*", r"\1", name) for name in names} <= {
            f"http://127.0.0.1:{service.port}",
            "data:",
        }
        page.run("document.querySelector('.opblock-summary-control').click()")
        page.wait("document.body.textContent.includes('Try it out')")
