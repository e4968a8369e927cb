"""What a bundle holds, and that what is not whole is refused."""

import json
import re
import shutil
import tarfile
import time
from pathlib import Path

import pytest

from Deployment.package import model_card, requirements
from tests.template.conftest import Result, succeeded
from tests.template.Deployment.image_built import contents
from tests.template.Deployment.made_export import write_manifest
from tests.template.Deployment.running_service import ROOT, command, is_one_line

EXPORT = {f"export/{name}" for name in ("manifest.json", "model.onnx", "sample/expected.json")}
PAPERS = {
    ".dockerignore",
    "Dockerfile",
    "MODEL_CARD.md",
    "README.md",
    "bundle.json",
    "compose.yaml",
    "kubernetes.yaml",
    "requirements.txt",
}
SAMPLES = {f"export/sample/00{number}.jpg" for number in range(3)}


def test_a_bundle_holds_the_service_and_what_it_needs_and_no_more(pristine_bundle: Path) -> None:
    held = set(contents(pristine_bundle))
    code = {name for name in held if name.startswith(("Datasets/", "Deployment/"))}
    assert held - code == EXPORT | SAMPLES | PAPERS
    assert {"Deployment/serve.py", "Deployment/service/page.html", "Datasets/format/predictions.py"} <= code
    inside = ("Datasets/__init__.py", "Datasets/format/", "Datasets/tools/")
    inside += ("Deployment/__init__.py", "Deployment/serve.py", "Deployment/service/")
    assert {name for name in code if not name.startswith(inside)} == set()
    assert "Datasets/format/records.py" not in code  # which needs pyarrow
    listed = list(json.loads((pristine_bundle / "bundle.json").read_text())["files"])
    assert listed == sorted(held - {"bundle.json"}, key=Path)


def test_the_archive_holds_the_same_and_nothing_of_its_maker(pristine_bundle: Path) -> None:
    with tarfile.open(pristine_bundle.with_name("e900.tar.gz")) as tar:
        members = tar.getmembers()
        found = {member.name.removeprefix("e900/"): tar.extractfile(member).read() for member in members}
    assert found == contents(pristine_bundle)
    assert list(found) == sorted(found, key=Path)  # whatever the file system's own order
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}


def test_the_same_export_gives_the_same_bytes_and_replaces_the_old(
    pristine_export: Path, pristine_bundle: Path, tmp_path: Path
) -> None:
    again = shutil.copytree(pristine_bundle, tmp_path / "e900")
    (again / "left over.txt").touch()
    time.sleep(1.1)  # a time of day in seconds would differ
    assert command("Deployment.package", "--export", pristine_export, "--out", again).returncode == 0
    assert contents(again) == contents(pristine_bundle)
    packed = [bundle.with_name("e900.tar.gz").read_bytes() for bundle in (again, pristine_bundle)]
    assert packed[0] == packed[1]


@pytest.mark.parametrize(
    "name",
    [
        "Datasets/tools/errors.py",
        "Deployment/service/page.html",
        "requirements.txt",
        "export/manifest.json",
        "export/model.onnx",
    ],
)
def test_a_bundle_with_a_changed_byte_does_not_start(bundle: Path, name: str) -> None:
    changed = bytearray((bundle / name).read_bytes())
    changed[5] ^= 1
    (bundle / name).write_bytes(changed)
    for what in (".", "export"):
        process = start(bundle, what)
        assert is_one_line(process), process.stderr
        assert f"{name}: damaged" in process.stderr


def start(bundle: Path, what: str) -> Result:
    """Start a bundle that will not."""
    return command("Deployment.serve", what, "--port", 0, cwd=bundle)


def test_a_bundle_that_lacks_a_file_or_is_of_a_later_format_does_not_start(bundle: Path) -> None:
    (bundle / "README.md").unlink()
    assert "README.md: not found, though bundle.json lists it; package again" in start(bundle, ".").stderr
    listed = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(listed | {"format_version": 2}))
    process = start(bundle, ".")
    assert is_one_line(process)
    assert "bundle.json: format_version is 2, this code reads 1" in process.stderr


def test_the_model_card_says_what_the_manifest_does(export: Path, tmp_path: Path) -> None:
    metrics = {"mAP": 0.51234, "AP": {"red": 0.75, "a | b": 0.25}}
    git, init = {"commit": "c0ffee", "dirty": True, "diff": "-"}, {"source": "Datasets/pretrained/e899", "sha256": "a1"}
    training = {"hyperparameters": {"epochs": 12}, "seed": 7, "data": {"raw": "d41d"}, "versions": {"numpy": "2.4.6"}}
    script = {"module": "Models.e900", "build": {"width": 32}}
    write_manifest(export, metrics=metrics, git=git, init=init, script=script, **training)
    assert command("Deployment.package", "--export", export, "--out", tmp_path / "bundle").returncode == 0
    card = (tmp_path / "bundle/MODEL_CARD.md").read_text()
    for line in (
        "# Experiment e900",
        "| mAP | 0.5123 |",
        "### AP by class",
        "| red | 0.75 |",
        "| a \\| b | 0.25 |",
        "| script | Models.e900 |",
        "| width | 32 |",
        "| epochs | 12 |",
        "| seed | 7 |",
        "| init | Datasets/pretrained/e899, sha256 a1 |",
        "| raw | d41d |",
        "| numpy | 2.4.6 |",
    ):
        assert line in card.splitlines()
    assert "commit `c0ffee`, with uncommitted changes; the manifest has the diff" in card
    assert "Classes: red, green, blue." in card
    assert "a score below 0.25" in card
    manifest = json.loads((export / "manifest.json").read_text())
    assert "commit `c0ffee`, without uncommitted changes.\n" in model_card(
        manifest | {"git": {"commit": "c0ffee", "dirty": False}}
    )
    assert "Not made from a commit" in model_card(manifest | {"git": {"commit": None}})


def test_requirements_are_exact_and_complete(pristine_bundle: Path) -> None:
    lines = (pristine_bundle / "requirements.txt").read_text().splitlines()
    torch = requirements(["torch"]).splitlines()  # whose version may end in +cpu, which public indexes do not have
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in [*lines, *torch])
    assert "aiohttp" in requirements(["fsspec[http]"])
    names = [line.partition("==")[0] for line in lines]
    assert names == sorted(names)
    assert {"fastapi", "starlette", "anyio", "httptools", "numpy"} <= set(names)


def test_a_damaged_export_leaves_the_old_bundle_alone(export: Path, bundle: Path) -> None:
    before = contents(bundle)
    (export / "model.onnx").write_bytes(b"")
    process = command("Deployment.package", "--export", export, "--out", bundle)
    assert is_one_line(process)
    assert "model.onnx: damaged" in process.stderr
    assert contents(bundle) == before
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["bundle", "e900"]


def test_a_wrong_export_or_bundle_is_said(export: Path, tmp_path: Path) -> None:
    for source, out in ((tmp_path / "none", tmp_path / "bundle"), (export, "."), (export, export)):
        assert is_one_line(command("Deployment.package", "--export", source, "--out", out))
    (export / "sample/expected.json").write_text("{}")
    write_manifest(export)
    process = command("Deployment.package", "--export", export, "--out", tmp_path / "bundle")
    assert is_one_line(process)
    assert "holds no samples" in process.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["e900"]


def test_the_stages_work_without_the_other_rooms(pristine_export: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for room in ("Datasets", "Deployment"):
        shutil.copytree(
            ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("raw", "curated", "pretrained", "bundles")
        )
    package = ["Deployment.package", "--export", pristine_export, "--out", "bundle"]
    verify = ["Deployment.verify", "--bundle", "bundle", "--out", "metrics.json", "--requests", "10"]
    for stage in (package, verify):
        succeeded(command(*stage, cwd=tmp_path))
    assert json.loads((tmp_path / "metrics.json").read_text())["samples"] == len(SAMPLES)


def test_requirements_have_hashes_and_the_image_a_digest_if_that_is_wanted(export: Path, tmp_path: Path) -> None:
    image = f"python:3.13-slim@sha256:{'0' * 64}"
    words = ["--export", export, "--out", tmp_path / "bundle", "--hashes", "--base-image", image]
    done = command("Deployment.package", *words)
    if "pip:" in done.stderr:
        pytest.skip(f"no package index: {done.stderr}")
    lines = (tmp_path / "bundle/requirements.txt").read_text().splitlines()
    assert len(lines) > 20 and all(re.fullmatch(r"\S+==\S+ --hash=sha256:[0-9a-f]{64}", line) for line in lines)
    assert (tmp_path / "bundle/Dockerfile").read_text().startswith(f"FROM {image}\n")
