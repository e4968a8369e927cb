"""What a bundle holds, and that it runs where nothing else is installed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running_service import ROOT, command, is_one_line, serving

from Deployment.verify import check

CODE = {
    "Datasets/__init__.py",
    "Datasets/errors.py",
    "Datasets/images.py",
    "Datasets/predictions.py",
    "Deployment/__init__.py",
    "Deployment/answers.py",
    "Deployment/artifact.py",
    "Deployment/bodies.py",
    "Deployment/coco.py",
    "Deployment/front.py",
    "Deployment/metrics.py",
    "Deployment/page.html",
    "Deployment/pages.py",
    "Deployment/predictor.py",
    "Deployment/serve.py",
    "Deployment/service.py",
    "Deployment/workers.py",
}
EXPORT = {f"export/{name}" for name in ("manifest.json", "model.onnx", "sample/expected.json")}
SAMPLES = {f"export/sample/00{number}.jpg" for number in range(3)}
FOREIGN = """
import sys, Deployment.serve
from pathlib import Path
roots = [Path.cwd(), Path(sys.prefix), Path(sys.base_prefix)]
files = [Path(module.__file__).resolve() for module in list(sys.modules.values()) if getattr(module, "__file__", None)]
print(*[file for file in files if not any(file.is_relative_to(root.resolve()) for root in roots)])
"""


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def test_a_bundle_holds_the_service_and_what_it_needs_and_no_more(pristine_bundle: Path) -> None:
    assert set(contents(pristine_bundle)) == CODE | EXPORT | SAMPLES | {"README.md", "requirements.txt"}


def test_the_same_export_gives_the_same_bytes_and_replaces_the_old(pristine_export: Path, bundle: Path) -> None:
    before = contents(bundle)
    (bundle / "left over.txt").touch()
    assert command("Deployment.package", "--export", pristine_export, "--out", bundle).returncode == 0
    assert contents(bundle) == before


def test_a_damaged_export_leaves_the_old_bundle_alone(export: Path, bundle: Path) -> None:
    before = contents(bundle)
    (export / "model.onnx").write_bytes(b"")
    process = command("Deployment.package", "--export", export, "--out", bundle)
    assert is_one_line(process)
    assert "model.onnx: damaged" in process.stderr
    assert contents(bundle) == before
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["bundle", "e900"]


def test_a_missing_export_is_said(tmp_path: Path) -> None:
    process = command("Deployment.package", "--export", tmp_path / "none", "--out", tmp_path / "bundle")
    assert is_one_line(process)
    assert not (tmp_path / "bundle").exists()


@pytest.fixture(scope="module")
def clean_python(pristine_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with nothing but the bundle's requirements."""
    directory = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    install = [directory / "bin/pip", "install", "--quiet", "--disable-pip-version-check"]
    process = subprocess.run(
        [*install, "-r", pristine_bundle / "requirements.txt"], capture_output=True, text=True, timeout=300
    )
    if process.returncode:
        pytest.skip(f"pip reaches no package index: {process.stderr.strip().splitlines()[-1]}")
    return directory / "bin/python"


def test_a_bundle_runs_with_its_requirements_alone(bundle: Path, clean_python: Path) -> None:
    expected = json.loads((bundle / "export/sample/expected.json").read_text())
    with serving("export", python=clean_python, cwd=bundle) as service:
        for name, answer in expected.items():
            status, found = service.predict((bundle / "export/sample" / name).read_bytes())
            assert status == 200
            assert check(name, answer, found, threshold=0.25) == {"boxes": 0, "scores": 0}
    foreign = subprocess.run([clean_python, "-c", FOREIGN], cwd=bundle, capture_output=True, text=True, check=True)
    assert foreign.stdout == "\n"


def test_its_environment_is_small(clean_python: Path) -> None:
    site = next((clean_python.parents[1] / "lib").glob("python*/site-packages"))
    size = sum(file.stat().st_size for file in site.rglob("*") if file.is_file())
    print(f"{size / 1e6:.0f} MB")
    assert size < 250e6
    assert not {"torch", "pandas", "pyarrow", "dvc", "typer"} & {path.name for path in site.iterdir()}


def test_the_stages_work_without_the_other_rooms(pristine_export: Path, tmp_path: Path) -> None:
    for room in ("Datasets", "Deployment"):
        shutil.copytree(
            ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("raw", "curated", "pretrained", "bundles")
        )
    package = ["Deployment.package", "--export", pristine_export, "--out", "bundle"]
    verify = ["Deployment.verify", "--bundle", "bundle", "--out", "metrics.json", "--requests", "10"]
    for stage in (package, verify):
        subprocess.run([sys.executable, "-m", *stage], cwd=tmp_path, check=True, timeout=60)
    assert json.loads((tmp_path / "metrics.json").read_text())["samples"] == len(SAMPLES)
