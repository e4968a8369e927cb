"""verify says whether a bundle can be trusted, and leaves no process behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from Datasets.format.curated import write_annotations, write_curated
from Datasets.format.records import Record, empty_record
from Deployment.package import seal
from Deployment.verify import answers_for
from Deployment.verifying.average_precision import average_precision
from tests.template.conftest import until
from tests.template.Deployment.made_export import CLASSES, encoded, write_manifest
from tests.template.Deployment.running_service import ROOT, is_one_line


def start(bundle: Path, out: Path, *options: str) -> "subprocess.Popen[str]":
    """Start verify at the head of a process group of its own, in which its service stays.

    Its temporary files go to `temporary` beside `out`. What is set for this project and its services is not for it.
    """
    temporary = out.with_name("temporary")
    temporary.mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "Deployment.verify", "--bundle", str(bundle), "--out", str(out), *options],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT), "FOURFOLD_API_KEY": "k" * 32},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def verify(bundle: Path, out: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    process = start(bundle, out, *options)
    stdout, stderr = process.communicate(timeout=60)
    assert_nothing_is_left(process, out)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def assert_nothing_is_left(process: "subprocess.Popen[str]", out: Path) -> None:
    """No process of the session, no temporary file."""
    assert not [each for each in psutil.process_iter() if session(each.pid) == process.pid]
    assert list(out.with_name("temporary").iterdir()) == []


def session(pid: int) -> int | None:
    """The session that a process belongs to, and all that it started; None if it has ended."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def rewrite_manifest(bundle: Path, **changes: object) -> None:
    """Make a bundle whole again after changes to its export."""
    write_manifest(bundle / "export", **changes)
    seal(bundle, "e900")


def test_a_good_bundle_is_measured(bundle: Path, tmp_path: Path) -> None:
    assert verify(bundle, tmp_path / "metrics.json", "--requests", "50").returncode == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["samples"] == 3
    assert metrics["difference"] == {"boxes": 0, "scores": 0}
    assert 0 < metrics["latency_ms"]["p50"] <= metrics["latency_ms"]["p99"]
    assert metrics["requests_per_second"] > 0
    assert metrics["start_to_ready_seconds"] > 0


def test_the_answers_for_the_test_images_are_as_good_as_evaluated(bundle: Path, scenes: Path, tmp_path: Path) -> None:
    rewrite_manifest(bundle, metrics={"mAP": 1.0, "mAP50": 1.0, "mAP75": 1.0})
    process = verify(bundle, tmp_path / "metrics.json", "--curated", str(scenes), "--requests", "10")
    assert process.returncode == 0, process.stderr
    assert json.loads((tmp_path / "metrics.json").read_text())["test"] == {
        "images": 3,
        "mAP": 1.0,
        "mAP50": 1.0,
        "mAP75": 1.0,
    }
    assert "mAP of 3 test images 1.000, as evaluated" in process.stdout


def test_a_dataset_of_other_classes_is_refused(bundle: Path, scenes: Path, tmp_path: Path) -> None:
    other = shutil.copytree(scenes, tmp_path / "other")
    (other / "classes.json").write_text('{"raccoon": 0}')
    process = verify(bundle, tmp_path / "metrics.json", "--curated", str(other))
    assert is_one_line(process), process.stderr
    assert f"{other}: has other classes" in process.stderr


class Shy(BaseHTTPRequestHandler):
    """Answers anything with [], and closes connections that are idle for longer than `timeout` seconds."""

    protocol_version, timeout = "HTTP/1.1", 0.1

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *_: object) -> None:
        pass


def test_connections_that_the_server_closed_between_chunks_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(list[bytes]):
        def __getitem__(self, row: Any) -> Any:
            time.sleep(0.15)
            return super().__getitem__(row)

    monkeypatch.setattr("Deployment.verify.CHUNK", 1)
    with ThreadingHTTPServer(("127.0.0.1", 0), Shy) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            assert answers_for(server.server_port, Slow([b"a", b"b"]), {0: "a", 1: "b"}, "", 1) == [[], []]
        finally:
            server.shutdown()


@pytest.mark.parametrize("evaluated", [0.998, float("nan")])
def test_answers_worse_than_evaluated_are_an_error(
    bundle: Path, scenes: Path, tmp_path: Path, evaluated: float
) -> None:
    rewrite_manifest(bundle, metrics={"mAP": evaluated, "mAP50": 1.0, "mAP75": 1.0})
    process = verify(bundle, tmp_path / "metrics.json", "--curated", str(scenes))
    assert is_one_line(process), process.stderr
    assert f"{scenes}: mAP of the service's answers for 3 test images is 1.000000" in process.stderr
    assert f"evaluation found {evaluated}" in process.stderr
    assert not (tmp_path / "metrics.json").exists()


def test_an_image_is_named_that_is_not_answered_for_and_none_is_too_large(bundle: Path, tmp_path: Path) -> None:
    large = encoded(Image.new("RGB", (2700, 2700)), "BMP")
    assert len(large) > 20_000_000  # what the service takes of anybody
    files = {"large.bmp": large, "broken.png": b"no image"}
    test = [Record(**{**empty_record(name, "s"), "boxes": []}) for name in files]  # type: ignore[typeddict-item]
    splits, sizes = {"train": [], "val": [], "test": test}, {"train": [], "val": [], "test": [1, 1]}
    (tmp_path / "curated").mkdir()
    written = write_curated(tmp_path / "curated", splits, sizes, lambda record: (files[record["image"]], None))
    write_annotations(tmp_path / "curated", written, {name: number for number, name in enumerate(CLASSES)})
    process = verify(bundle, tmp_path / "metrics.json", "--curated", str(tmp_path / "curated"))
    assert is_one_line(process), process.stderr
    assert "error: test image s/broken.png: POST /predict?threshold=0.001: 422" in process.stderr


def test_average_precision_is_cocos() -> None:
    """Two objects of a class found, one of them with an IoU of 0.6; one of another class missed; a crowd left alone."""

    def box(name: str, x1: float, x2: float, **more: Any) -> Any:
        return {"name": name, "x1": x1, "y1": 0, "x2": x2, "y2": 10, **more}

    truth = [box("red", 0, 10), box("red", 20, 30), box("green", 40, 50), box("red", 60, 90)]
    boxes = [each | {"crowd": each["x1"] == 60, "segmentation": None} for each in truth]
    found = [box("red", 0, 10, score=0.9), box("red", 20, 26, score=0.8), box("red", 70, 80, score=0.7)]
    answer: Any = {"width": 99, "height": 10, "labels": [], "counts": [], "boxes": found}
    figures = average_precision(
        [empty_record("a", "a") | {"width": 99, "height": 10, "boxes": boxes}], [answer], CLASSES
    )
    one_of_two = 51 / 101  # precision 1 up to a recall of 0.5, at COCO's 101 recalls
    assert figures["mAP50"] == pytest.approx((1 + 0) / 2, abs=1e-6)
    assert figures["mAP75"] == pytest.approx((one_of_two + 0) / 2, abs=1e-6)
    assert figures["mAP"] == pytest.approx((3 * 1 + 7 * one_of_two) / 10 / 2, abs=1e-6)
    nothing = {"mAP": 0, "mAP50": 0, "mAP75": 0}
    assert average_precision([empty_record("a", "a")], [answer | {"boxes": []}], CLASSES) == nothing
    assert average_precision([empty_record("a", "a")], [answer], CLASSES) == nothing


def move(answers: Any) -> None:
    answers["000.jpg"]["boxes"][0]["x1"] += 0.5


def doubt(answers: Any) -> None:
    answers["001.jpg"]["boxes"][0]["score"] -= 0.001


def add(answers: Any) -> None:
    box = {"name": "red", "x1": 1, "y1": 1, "x2": 9, "y2": 9, "score": 0.9}
    answers["002.jpg"]["boxes"] = [box]
    answers["002.jpg"]["counts"] = [{"name": "red", "count": 1}]


def grow(answers: Any) -> None:
    answers["001.jpg"]["width"] = 99


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (move, "sample 000.jpg: the answer's boxes differ from the expected ones by 0.5"),
        (doubt, "sample 001.jpg: the answer's scores differ from the expected ones by 0.001"),
        (add, "sample 002.jpg: the answer has nothing, expected 1 red"),
        (grow, "sample 001.jpg: the answer's width is 128, expected 99"),
    ],
)
def test_another_answer_than_expected_is_an_error(
    bundle: Path, tmp_path: Path, tamper: Callable[[Any], None], words: str
) -> None:
    path = bundle / "export/sample/expected.json"
    answers = json.loads(path.read_text())
    tamper(answers)
    path.write_text(json.dumps(answers))
    rewrite_manifest(bundle)
    process = verify(bundle, tmp_path / "metrics.json")
    assert is_one_line(process), process.stderr
    assert words in process.stderr
    assert not (tmp_path / "metrics.json").exists()


def test_a_tampered_file_is_an_error(bundle: Path, tmp_path: Path) -> None:
    (bundle / "export/sample/expected.json").write_text("{}")
    process = verify(bundle, tmp_path / "metrics.json")
    assert is_one_line(process)
    assert "expected.json: damaged" in process.stderr


def test_the_last_words_of_a_service_that_dies_are_passed_on(bundle: Path, tmp_path: Path) -> None:
    shutil.rmtree(bundle / "Datasets")
    seal(bundle, "e900")
    process = verify(bundle, tmp_path / "metrics.json")
    assert is_one_line(process)
    assert "No module named 'Datasets'" in process.stderr


def test_how_a_service_ended_that_was_killed_is_said(bundle: Path, tmp_path: Path) -> None:
    process = start(bundle, tmp_path / "metrics.json", "--requests", "100000")
    until(lambda: any(log.stat().st_size for log in (tmp_path / "temporary").glob("*/stderr")))
    [service] = psutil.Process(process.pid).children()
    service.kill()
    _, stderr = process.communicate(timeout=30)
    assert stderr == f"error: {bundle}: the service failed: it ended with exit code -9\n"


def test_a_missing_bundle_is_said(tmp_path: Path) -> None:
    process = verify(tmp_path / "none", tmp_path / "metrics.json")
    assert is_one_line(process)
    assert str(tmp_path / "none") in process.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["*/stdout", "*/stdout with a port"])
def test_an_interrupted_verify_leaves_no_process(
    bundle: Path, tmp_path: Path, number: signal.Signals, moment: str
) -> None:
    process = start(bundle, tmp_path / "metrics.json", "--requests", "100000")
    pattern, _, needed = moment.partition(" with a ")
    until(lambda: any(not needed or path.stat().st_size for path in (tmp_path / "temporary").glob(pattern)))
    process.send_signal(number)
    try:
        assert process.wait(15) == 130
    finally:
        process.kill()
    assert_nothing_is_left(process, tmp_path / "metrics.json")
    assert not (tmp_path / "metrics.json").exists()
