"""What a bundle holds, and that what is not whole is refused."""

import hashlib
import json
import re
import shutil
import tarfile
import time
from importlib import metadata
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from Deployment.package import model_card, requirements
from tests.template.conftest import Result, succeeded
from tests.template.Deployment.image_built import contents
from tests.template.Deployment.made_export import write_manifest
from tests.template.Deployment.running_service import ROOT, command, is_one_line

EXPORT = {f"export/{name}" for name in ("manifest.json", "model.onnx", "sample/expected.json", "sample/truth.json")}
PAPERS = {
    ".dockerignore",
    "Dockerfile",
    "MODEL_CARD.md",
    "README.md",
    "bom.cdx.json",
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


@pytest.fixture
def made_of(export: Path) -> Path:
    """An export with licences: of sources, of weights by way of another experiment."""
    card = {"name": "lite0", "license": "MIT", "version": "1.0", "source": "https://huggingface.co/a/b/w.safetensors"}
    init = {"source": "Datasets/pretrained/e899", "sha256": "a" * 64}
    init["init"] = {"source": "Datasets/pretrained/lite0", "sha256": "b" * 64, "card": card}
    sources, metrics = {"photos": "CC-BY-4.0", "a|b": ""}, {"mAP": 0.5, "MAE": 1e-6}
    write_manifest(export, sources=sources, init=init, pretrained=card, metrics=metrics)
    return export


def test_the_bill_of_materials_and_the_card_name_what_it_is_made_of_with_licences(
    made_of: Path, tmp_path: Path
) -> None:
    done = succeeded(command("Deployment.package", "--export", made_of, "--out", tmp_path / "bundle"))
    assert not done.stderr
    card, text = ((tmp_path / "bundle" / name).read_text() for name in ("MODEL_CARD.md", "bom.cdx.json"))
    version = metadata.version("numpy")
    for line in ("| source photos |  | CC-BY-4.0 |", "| source a\\|b |  | unknown |", "| model lite0 | 1.0 | MIT |"):
        assert line in card.splitlines()
    assert f"| package numpy | {version} | BSD-3-Clause" in card
    head = ModelCard(card).data
    assert (head.base_model, head.datasets, head.pipeline_tag) == ("a/b", ["photos", "a|b"], "object-detection")
    assert [(each.metric_type, each.metric_value) for each in head.eval_results] == [("mAP", 0.5), ("MAE", 1e-6)]
    bill = json.loads(text)
    found = {each["bom-ref"]: each for each in [bill["metadata"]["component"], *bill["components"]]}
    assert found["data/photos"]["licenses"] == [{"expression": "CC-BY-4.0"}]
    assert found["data/a|b"]["licenses"] == [{"license": {"name": "unknown"}}]
    assert found["machine-learning-model/lite0"]["hashes"] == [{"alg": "SHA-256", "content": "b" * 64}]
    model = hashlib.sha256((made_of / "model.onnx").read_bytes()).hexdigest()
    assert found["machine-learning-model/e900"]["hashes"][0]["content"] == model
    assert found["library/numpy"]["purl"] == f"pkg:pypi/numpy@{version}"
    assert f"library/{requirements(['numpy']).partition('==')[0]}" in found


def test_the_bill_of_materials_is_valid(made_of: Path, tmp_path: Path) -> None:
    reason = "cyclonedx-python-lib[json-validation], of the extra template, is not installed"
    validation = pytest.importorskip("cyclonedx.validation.json", reason=reason)
    schema = pytest.importorskip("cyclonedx.schema").SchemaVersion.V1_6
    succeeded(command("Deployment.package", "--export", made_of, "--out", tmp_path / "bundle"))
    text = (tmp_path / "bundle/bom.cdx.json").read_text()
    assert validation.JsonStrictValidator(schema).validate_str(text) is None


def test_a_bundle_of_licences_that_are_not_allowed_is_not_made(made_of: Path, tmp_path: Path) -> None:
    words = ["Deployment.package", "--export", made_of, "--out", tmp_path / "bundle"]
    process = command(*words, "--allow", "MIT", "--allow", "Apache-2.0")
    assert is_one_line(process), process.stderr
    for part in ("CC-BY-4.0 (of source photos)", "unknown (of source a|b)", "BSD-3-Clause (of package ", "add what"):
        assert part in process.stderr
    assert not (tmp_path / "bundle").exists()
    named = re.findall(r"(?:lacks |, )([^\s,]+) \(of", process.stderr)
    succeeded(command(*words, *(word for each in ("MIT", "Apache-2.0", *named) for word in ("--allow", each))))


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
