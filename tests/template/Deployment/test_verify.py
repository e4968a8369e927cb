"""verify says whether a bundle can be trusted, and leaves no process behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from Datasets.format.curated import Curated, write_annotations, write_curated
from Datasets.format.records import Record, empty_record, read_predictions, write_predictions
from Deployment.package import seal
from Deployment.service.artifact import Predictor, load
from Deployment.verify import compare
from tests.template.conftest import Result, until
from tests.template.Deployment.made_export import CLASSES, SAMPLES, encoded, write_manifest
from tests.template.Deployment.running_service import ROOT, command, is_one_line


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


def verify(bundle: Path, out: Path, *options: str) -> Result:
    """Run verify to its end."""
    temporary = out.with_name("temporary")
    temporary.mkdir(exist_ok=True)
    environment = {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT), "FOURFOLD_API_KEY": "k" * 32}
    done = command("Deployment.verify", "--bundle", bundle, "--out", out, *options, **environment)
    assert list(temporary.iterdir()) == []
    return done


def assert_nothing_is_left(process: "subprocess.Popen[str]", out: Path) -> None:
    """No process of the session, no temporary file."""
    until(lambda: not [each for each in psutil.process_iter() if session(each.pid) == process.pid], seconds=5)
    assert list(out.with_name("temporary").iterdir()) == []


def session(pid: int) -> int | None:
    """The session that a process belongs to, and all that it started; None if it has ended."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def test_a_good_bundle_is_measured(bundle: Path, tmp_path: Path) -> None:
    process = start(bundle, tmp_path / "metrics.json", "--requests", "50")
    assert process.wait(60) == 0
    assert_nothing_is_left(process, tmp_path / "metrics.json")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["samples"] == 3
    assert metrics["difference"] == {"boxes": 0, "scores": 0}
    assert 0 < metrics["latency_ms"]["p50"] <= metrics["latency_ms"]["p99"]
    assert metrics["requests_per_second"] > 0
    assert metrics["start_to_ready_seconds"] > 0


@pytest.fixture
def evaluated(export: Path, bundle: Path, scenes: Path) -> Path:
    """The bundle's export, with what evaluation kept for the test images of the scenes."""

    def add_below_threshold(rows: Any) -> None:
        rows[0]["boxes"].append({**rows[0]["boxes"][0], "x1": 1.0, "score": 0.1})

    keep_predictions(export, bundle, scenes, add_below_threshold)
    return export


def keep_predictions(export: Path, bundle: Path, scenes: Path, edit: Callable[[Any], None]) -> None:
    """Write an export's predictions.parquet, changed by `edit`, and make its bundle whole again."""
    predictor, data = Predictor(load(export)), Curated(scenes)
    names = [record["image"] for record in data.records("test")]
    rows = [
        {"image": name, **predictor(file, threshold=0.001)}
        for name, file in zip(names, data.images("test"), strict=True)
    ]
    edit(rows)
    write_predictions(rows, "e900", export / "predictions.parquet")
    write_manifest(export)
    shutil.copyfile(export / "manifest.json", bundle / "export/manifest.json")
    seal(bundle, "e900")


def test_answers_are_compared_with_those_that_evaluation_kept(
    bundle: Path, evaluated: Path, scenes: Path, tmp_path: Path
) -> None:
    out, options = tmp_path / "metrics.json", ["--export", str(evaluated), "--curated", str(scenes), "--requests", "10"]
    process = verify(bundle, out, *options)
    assert process.returncode == 0, process.stderr
    test = json.loads(out.read_text())["test"]
    assert (test["images"], test["difference"]) == (3, {"boxes": 0, "scores": 0})
    assert process.stdout.startswith(f"{bundle}: 3 samples and 3 test images answered as expected; p50 ")


def test_the_worst_answer_is_named(export: Path, bundle: Path, scenes: Path, tmp_path: Path) -> None:
    def edit(rows: Any) -> None:
        rows[0]["boxes"][0]["x1"] += 0.1
        rows[1]["boxes"][0]["x1"] += 0.5

    keep_predictions(export, bundle, scenes, edit)
    process = verify(bundle, tmp_path / "metrics.json", "--export", str(export), "--curated", str(scenes))
    assert is_one_line(process), process.stderr
    assert (
        "error: made/1_test.png: the answer differs from the expected one in boxes by 0.5, in scores by 0"
        in process.stderr
    )
    assert "2 of 3 images differ" in process.stderr
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize("task", ["boxes", "mask", "labels", "counts"])
def test_what_is_kept_compares_equal_for_each_task(exports: dict[str, Path], task: str, tmp_path: Path) -> None:
    artifact = load(exports[task])
    predictor = Predictor(artifact)
    served = {name: predictor(file) for name, (file, _) in artifact.samples().items()}
    write_predictions([{"image": name, **answer} for name, answer in served.items()], "e900", tmp_path / "kept.parquet")
    kept = read_predictions(tmp_path / "kept.parquet")
    assert [compare(artifact, name, served[name], kept[name]).excess for name in served] == [0, 0, 0]
    other = {**kept["000.jpg"], "width": 65}
    assert compare(artifact, "000.jpg", served["000.jpg"], other).excess == float("inf")


def test_another_export_or_dataset_is_refused(bundle: Path, evaluated: Path, scenes: Path, tmp_path: Path) -> None:
    for missing in ("--export", "--curated"):
        process = verify(bundle, tmp_path / "metrics.json", missing, str(scenes))
        assert is_one_line(process), process.stderr
    write_curated_images(tmp_path / "other", {"a.png": encoded(SAMPLES["000.jpg"], "PNG")})
    options = ["--export", str(evaluated), "--curated", str(tmp_path / "other")]
    process = verify(bundle, tmp_path / "metrics.json", *options)
    assert is_one_line(process), process.stderr
    assert f"{tmp_path}/other: no test image made/0_test.png, which was evaluated" in process.stderr
    write_manifest(evaluated, seed=1)
    process = verify(bundle, tmp_path / "metrics.json", "--export", str(evaluated), "--curated", str(scenes))
    assert is_one_line(process), process.stderr
    assert f"{evaluated}: is not the export that the bundle was made from" in process.stderr


def write_curated_images(directory: Path, files: dict[str, bytes]) -> None:
    """A curated dataset with these test images and no objects."""
    test = [Record(**{**empty_record(name, "s"), "boxes": []}) for name in files]  # type: ignore[typeddict-item]
    sizes = {"train": [], "val": [], "test": [1] * len(files)}
    directory.mkdir()
    read = {"train": [], "val": [], "test": test}
    written = write_curated(directory, read, sizes, lambda record: (files[record["image"]], None))
    write_annotations(directory, written, {name: number for number, name in enumerate(CLASSES)})


def test_an_image_is_named_that_is_not_answered_for_and_none_is_too_large(
    export: Path, bundle: Path, tmp_path: Path
) -> None:
    large = encoded(Image.new("RGB", (2700, 2700)), "BMP")
    assert len(large) > 20_000_000  # the service's own limit
    files = {"large.bmp": large, "rare.ppm": encoded(SAMPLES["002.jpg"], "PPM"), "broken.png": b"no image"}
    write_curated_images(tmp_path / "curated", files)
    nothing = {"width": 2700, "height": 2700, "labels": [], "counts": [], "boxes": []}
    rows = [{"image": f"s/{name}", **nothing} for name in files]
    write_predictions(rows, "e900", export / "predictions.parquet")
    write_manifest(export)
    shutil.copyfile(export / "manifest.json", bundle / "export/manifest.json")
    seal(bundle, "e900")
    options = ["--export", str(export), "--curated", str(tmp_path / "curated")]
    process = verify(bundle, tmp_path / "metrics.json", *options)
    assert is_one_line(process), process.stderr
    assert "error: s/broken.png: POST /predict: 422" in process.stderr


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x1": 8.5}, "a.jpg: the answer differs from the expected one in boxes by 0.5, in scores by 0"),
        ({"score": 0.901}, "in boxes by 0, in scores by 0.001"),
        ({"name": "blue"}, "a.jpg: the service answers 1 red in 64 x 64 pixels; expected: 1 blue in 64 x 64 pixels"),
        (None, "a.jpg: the service answers 1 red in 64 x 64 pixels; expected: nothing in 64 x 64 pixels"),
    ],
)
def test_another_answer_is_wrong(pristine_export: Path, changes: dict[str, Any] | None, words: str) -> None:
    box = {"name": "red", "x1": 8.0, "y1": 8.0, "x2": 40.0, "y2": 24.0, "score": 0.9}
    served, expected = (
        {"width": 64, "height": 64, "labels": [], "boxes": boxes}
        for boxes in ([box], [] if changes is None else [box | changes])
    )
    compared = compare(load(pristine_export), "a.jpg", served, expected)
    assert compared.excess > 1
    assert words in compared.reason


def test_a_tampered_file_is_an_error(bundle: Path, tmp_path: Path) -> None:
    (bundle / "export/sample/expected.json").write_text("{}")
    process = verify(bundle, tmp_path / "metrics.json")
    assert is_one_line(process)
    assert "expected.json: damaged" in process.stderr


def test_the_last_words_of_a_service_that_dies_are_shown(bundle: Path, tmp_path: Path) -> None:
    shutil.rmtree(bundle / "Datasets")
    seal(bundle, "e900")
    process = verify(bundle, tmp_path / "metrics.json")
    assert "No module named 'Datasets'" in process.stderr
    assert process.stderr.endswith(f"error: {bundle}: the service did not start, exit code 1; see above\n")


def wait_for_service(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The service that verify started, once verify has connected to it."""
    service = psutil.Process(process.pid).children
    until(lambda: any(one.status == "ESTABLISHED" for each in service() for one in each.net_connections("inet")))
    return service()


def test_how_a_service_ended_that_was_killed_is_said(bundle: Path, tmp_path: Path) -> None:
    process = start(bundle, tmp_path / "metrics.json", "--requests", "100000")
    [service] = wait_for_service(process)
    service.kill()
    _, stderr = process.communicate(timeout=30)
    assert f"error: {bundle}: the service failed: " in stderr


def test_a_missing_bundle_is_said(tmp_path: Path) -> None:
    process = verify(tmp_path / "none", tmp_path / "metrics.json")
    assert is_one_line(process)
    assert str(tmp_path / "none") in process.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_verify_leaves_no_process(bundle: Path, tmp_path: Path, number: signal.Signals) -> None:
    process = start(bundle, tmp_path / "metrics.json", "--requests", "100000")
    wait_for_service(process)
    process.send_signal(number)
    try:
        assert process.wait(15) == 130
    finally:
        process.kill()
    assert_nothing_is_left(process, tmp_path / "metrics.json")
    assert not (tmp_path / "metrics.json").exists()
