"""Makes a bundle of an export: all that is deployed, ready to start.

    python -m Deployment.package --export Datasets/pretrained/ID --out Deployment/bundles/ID

In: an export. Out: `export/` (the ONNX graph, the manifest, the samples; no weights and no training code), the
service's code with everything of this project that it imports, `requirements.txt` with the versions installed here, and
a README that says how to start it. The same export gives the same bytes.
"""

import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import typer

from Datasets.atomic import replacing
from Datasets.command import run
from Datasets.errors import UserError
from Datasets.imports import import_closure
from Deployment.artifact import MANIFEST, Artifact, load

ROOT = Path(__file__).resolve().parents[1]
SERVICE = Path("Deployment/serve.py")
PAGE = Path("Deployment/page.html")
REQUIREMENTS = (
    "fastapi",
    "fastapi-offline",
    "numpy",
    "onnxruntime",
    "pillow",
    "prometheus-client",
    "python-multipart",
    "uvicorn",
)
README = """\
The service of experiment {experiment}. In this directory:

    python -m pip install -r requirements.txt
    python -m Deployment.serve export --port 8000
"""


def bundled_code() -> list[Path]:
    """The project's files that a bundle carries, relative to the project's directory."""
    return [*import_closure([SERVICE], ROOT), PAGE]


def requirements() -> str:
    """The lines of requirements.txt: the installed versions. Raises UserError if one is not installed."""
    try:
        return "".join(f"{name}=={version(name)}\n" for name in REQUIREMENTS)
    except PackageNotFoundError as error:
        raise UserError(f"{error.name} is not installed; install this project with its `serve` extra") from error


def write_bundle(artifact: Artifact, bundle: Path) -> None:
    """Write a bundle of `artifact` into the new directory `bundle`."""
    for name in [MANIFEST, *artifact.served]:
        _copy(artifact.directory / name, bundle / "export" / name)
    for file in bundled_code():
        _copy(ROOT / file, bundle / file)
    (bundle / "requirements.txt").write_text(requirements(), encoding="utf-8")
    readme = README.format(experiment=artifact.manifest["experiment"])
    (bundle / "README.md").write_text(readme, encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def main(
    export: Path = typer.Option(..., help="The export, Datasets/pretrained/ID."),
    out: Path = typer.Option(..., help="The bundle to write, Deployment/bundles/ID; an old one is replaced."),
) -> None:
    """Make a bundle of an export: the ONNX graph and the service around it, ready to start anywhere."""
    artifact = load(export)
    artifact.samples()
    with replacing(out) as partial:
        write_bundle(artifact, partial)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"{out}: {size / 1e6:.1f} MB; python -m Deployment.serve export, in there, starts it")


if __name__ == "__main__":
    run(main)
