"""The service as its callers see it: real processes, real HTTP."""

import io
import json
import math
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from Deployment.serve import SHUTDOWN_SECONDS
from tests.template.Deployment.made_export import SAMPLES, encoded, scene, write_manifest
from tests.template.Deployment.running_service import ROOT, Service, command, is_one_line, serving

BODY_LIMIT = 300_000
PIXEL_LIMIT = 1_000_000
FORMATS = "jpeg, png, gif, tiff"


@pytest.fixture(scope="module")
def service(pristine_export: Path) -> Iterator[Service]:
    limits = ("--max-bytes", BODY_LIMIT, "--max-pixels", PIXEL_LIMIT, "--formats", FORMATS)
    with serving(pristine_export, *limits) as running:
        yield running


def boxes(answer: Any) -> dict[str, list[float]]:
    return {box["name"]: [box[side] for side in ("x1", "y1", "x2", "y2")] for box in answer["boxes"]}


def test_samples_are_answered_as_expected(service: Service, pristine_export: Path) -> None:
    expected = json.loads((pristine_export / "sample/expected.json").read_text())
    assert len(expected) == len(SAMPLES)
    for name, answer in expected.items():
        assert service.predict((pristine_export / "sample" / name).read_bytes()) == (200, answer)


def test_boxes_are_in_pixels_of_the_image_sent(service: Service) -> None:
    truth = {"red": (300, 40, 560, 160), "green": (20, 180, 200, 300)}
    status, answer = service.predict(encoded(scene(600, 320, truth), "PNG"))
    assert status == 200
    assert (answer["width"], answer["height"]) == (600, 320)
    assert answer["labels"] == ["green", "red"]
    assert answer["counts"] == [{"name": "green", "count": 1}, {"name": "red", "count": 1}]
    for name, box in truth.items():
        assert np.allclose(boxes(answer)[name], box, atol=600 / 64)
    scores = [box["score"] for box in answer["boxes"]]
    assert scores == sorted(scores, reverse=True)


def test_an_image_is_turned_upright_first(service: Service) -> None:
    upright = scene(60, 120, {"blue": (10, 70, 50, 110)})
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    turned = encoded(upright.transpose(Image.Transpose.ROTATE_90), exif=exif)
    assert Image.open(io.BytesIO(turned)).size == (120, 60)
    _, answer = service.predict(turned)
    assert (answer["width"], answer["height"]) == (60, 120)
    assert np.allclose(boxes(answer)["blue"], (10, 70, 50, 110), atol=2)


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "I;16", "1"])
def test_every_kind_of_pixel_is_accepted(service: Service, mode: str) -> None:
    image = Image.new(mode, (40, 30))
    assert service.predict(encoded(image, "TIFF"))[0] == 200


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1)])
def test_extreme_shapes_are_answered(service: Service, size: tuple[int, int]) -> None:
    status, answer = service.predict(encoded(Image.new("RGB", size), "PNG"))
    assert (status, answer["boxes"]) == (200, [])


def bomb() -> bytes:
    """A PNG header that announces 100,000 x 100,000 pixels."""
    small = bytearray(encoded(Image.new("RGB", (1, 1)), "PNG"))
    small[16:24] = (100_000).to_bytes(4, "big") * 2
    return bytes(small)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 422, "empty file"),
        (b"GIF89a and then nothing", 422, ""),
        (b"<html>" * 1000, 422, "not an image"),
        (encoded(SAMPLES["000.jpg"])[:-300], 422, "damaged"),
        (encoded(Image.new("L", (1001, 1000)), "PNG"), 422, f"limit of {PIXEL_LIMIT}"),
        (bomb(), 422, ""),
        (b"x" * (BODY_LIMIT + 1), 413, f"limit of {BODY_LIMIT} bytes"),
        (b"x" * (20 * BODY_LIMIT), 413, f"limit of {BODY_LIMIT} bytes"),
    ],
    ids=["empty", "cut header", "html", "cut", "too many pixels", "bomb", "too large", "far too large"],
)
def test_a_bad_body_gets_one_line(service: Service, body: bytes, status: int, words: str) -> None:
    try:
        found, answer = service.predict(body)
    except ConnectionError:  # what is far too large may be refused while it is still being sent
        assert len(body) > 10 * BODY_LIMIT
    else:
        assert found == status
        assert list(answer) == ["error"]
        assert words in answer["error"]
        assert "\n" not in answer["error"] and "/" not in answer["error"] and "0x" not in answer["error"]
    assert service.predict(encoded(SAMPLES["000.jpg"]))[0] == 200


def test_a_body_without_a_length_is_limited_too(service: Service) -> None:
    chunks = (b"x" * 50_000 for _ in range(10))
    assert service.request("POST", "/predict", chunks)[0] == 413
    whole = encoded(SAMPLES["000.jpg"])
    halves = iter([whole[:100], whole[100:]])
    assert service.request("POST", "/predict", halves)[0] == 200


def test_other_addresses(service: Service, pristine_export: Path) -> None:
    assert service.request("GET", "/health/live") == (200, {"status": "ok"})
    assert service.request("GET", "/health/ready") == (200, {"status": "ok"})
    assert service.request("GET", "/manifest") == (200, json.loads((pristine_export / "manifest.json").read_text()))
    assert "<html" in service.request("GET", "/")[1]
    assert service.request("GET", "/nowhere") == (404, {"error": "Not Found"})
    assert service.request("GET", "/predict") == (405, {"error": "Method Not Allowed"})


def test_answers_do_not_mix_when_many_ask_at_once(service: Service, pristine_export: Path) -> None:
    expected = json.loads((pristine_export / "sample/expected.json").read_text())
    names = [*expected] * 40
    with ThreadPoolExecutor(16) as clients:
        answers = clients.map(lambda name: service.predict((pristine_export / "sample" / name).read_bytes()), names)
    assert [answer for _, answer in answers] == [expected[name] for name in names]


def test_a_client_that_leaves_harms_nobody(service: Service) -> None:
    with socket.create_connection((service.host, service.port)) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\nhalf")
    assert service.predict(encoded(SAMPLES["000.jpg"]))[0] == 200


def test_sigterm_ends_it_soon_though_a_client_sends_slowly(pristine_export: Path) -> None:
    with serving(pristine_export) as service:
        assert service.host == "127.0.0.1"
        with socket.create_connection((service.host, service.port)) as client:
            client.sendall(b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\nhalf")
            time.sleep(0.2)
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(SHUTDOWN_SECONDS + 15) in (0, -signal.SIGTERM)


def test_a_taken_port_is_reported(pristine_export: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = command("Deployment.serve", pristine_export, "--port", taken.getsockname()[1])
    assert is_one_line(process)
    assert "in use" in process.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--port", "eighty"),
        ("--port", 70000),
        ("--host", ".."),
        ("--colour", "red"),
        ("--max-pixels", 0),
        ("--max-pixels", 178_956_971),
        ("--log-level", "loud"),
    ],
)
def test_a_wrong_option_is_reported(pristine_export: Path, options: tuple[object, ...]) -> None:
    process = command("Deployment.serve", pristine_export, *options)
    assert is_one_line(process)
    assert str(options[0]) in process.stderr


def cut_manifest(export: Path) -> None:
    text = (export / "manifest.json").read_text()
    (export / "manifest.json").write_text(text[: len(text) // 2])


def directory_for_manifest(export: Path) -> None:
    (export / "manifest.json").unlink()
    (export / "manifest.json").mkdir()


def changed_graph(export: Path) -> None:
    graph = bytearray((export / "model.onnx").read_bytes())
    graph[len(graph) // 2] ^= 1
    (export / "model.onnx").write_bytes(graph)


def not_a_graph(export: Path) -> None:
    (export / "model.onnx").write_bytes(b"this is no graph")
    write_manifest(export)


def no_answer_expected(export: Path) -> None:
    (export / "sample/expected.json").write_text("{}")
    write_manifest(export)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda export: (export / "manifest.json").unlink(), "manifest.json: not found"),
        (cut_manifest, "manifest.json: not JSON"),
        (directory_for_manifest, "manifest.json: Is a directory"),
        (changed_graph, "model.onnx: damaged"),
        (not_a_graph, "cannot load it"),
        (lambda export: (export / "weights.safetensors").write_bytes(b"other"), "weights.safetensors: damaged"),
        (lambda export: (export / "sample/001.jpg").unlink(), "001.jpg: not found"),
        (lambda export: (export / "sample/expected.json").unlink(), "expected.json: not found"),
        (no_answer_expected, "holds no samples"),
        (lambda export: write_manifest(export, format_version=2), "format_version is 2"),
        (lambda export: write_manifest(export, input={"size": 64, "resize": "stretch"}), "'stretch'"),
        (lambda export: write_manifest(export, classes=["red"]), "fails on sample 000.jpg"),
        (lambda export: write_manifest(export, classes=[1, 2]), "Expected `str`, got `int` - at `$.classes[0]`"),
        (lambda export: write_manifest(export, classes=["\ud800"]), "at `$.classes[0]`"),
        (lambda export: write_manifest(export, score_threshold=math.nan), "at `$.score_threshold`"),
        (lambda export: write_manifest(export, input={"size": 1_000_000}), "at `$.input.size`"),
        (lambda export: (export / "model.onnx.data").touch(), "model.onnx.data: the manifest does not list it"),
    ],
)
def test_a_damaged_export_is_refused(export: Path, spoil: Callable[[Path], None], words: str) -> None:
    spoil(export)
    process = command("Deployment.serve", export, "--port", 0)
    assert is_one_line(process), process.stderr
    assert words in process.stderr
    assert str(export) in process.stderr


def test_an_option_out_of_bounds_is_reported(pristine_export: Path) -> None:
    process = command("Deployment.serve", pristine_export, "--parallel", 257)
    assert is_one_line(process)
    assert "'--parallel': 257 is not in the range 1<=x<=256" in process.stderr


def test_importing_the_service_imports_no_training_or_data_libraries() -> None:
    banned = {"torch", "pandas", "pyarrow", "dvc", "typer", "onnx"}
    line = f"import sys, Deployment.serve; print({banned} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", line], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
