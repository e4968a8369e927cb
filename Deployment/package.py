"""Stage package: makes a bundle of an export, with all that a deployment needs.

    python -m Deployment.package --export Datasets/pretrained/ID --out Deployment/bundles/ID

In: an export. Out: a directory, and the same as ID.tar.gz beside it: `export/` (ONNX graph, manifest, samples; no
weights or training code), the service's code, `requirements.txt` with exact versions, a model card, a bill of materials
(`bom.cdx.json`), files for containers, a README, and `bundle.json` with the sha256 of every other file, which the
service checks when it starts.
The same export gives the same bytes.
"""

import gzip
import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution, metadata
from pathlib import Path, PurePosixPath
from string import Template
from typing import Annotated, Any, NamedTuple

import typer
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from Datasets.format.cards import render_card
from Datasets.format.import_closure import import_closure
from Datasets.tools.atomic import replacing
from Datasets.tools.command import run
from Datasets.tools.errors import UserError, one_line
from Datasets.tools.params import UNKNOWN, check_licenses
from Deployment.service.artifact import BUNDLE, BUNDLE_VERSION, MANIFEST, Artifact, load

ROOT = Path(__file__).resolve().parents[1]
SERVICE = Path("Deployment/serve.py")
CONTAINER = ROOT / "Deployment/container"
CONTAINER_FILES = {"Dockerfile": "Dockerfile", ".dockerignore": "dockerignore", "README.md": "bundle.md"}
CONTAINER_FILES |= {name: name for name in ("compose.yaml", "kubernetes.yaml")}
MODEL, DATA, PACKAGE = "machine-learning-model", "data", "library"  # CycloneDX's types of components
NOUNS = {MODEL: "model", DATA: "source", PACKAGE: "package"}
WORDS = {"mit license": "MIT", "apache 2.0": "Apache-2.0", "3-clause bsd license": "BSD-3-Clause"}


def write_bundle(artifact: Artifact, bundle: Path, hashes: bool, image: str, allow: Sequence[str]) -> None:
    """Write a bundle of `artifact` into the new directory `bundle`; hashes, image, allow: options of the command."""
    for name in [MANIFEST, *artifact.served]:
        _copy(artifact.directory / name, bundle / "export" / name)
    pages = [path for path in (ROOT / "Deployment/service").iterdir() if path.suffix in (".html", ".css", ".js")]
    for file in [*import_closure([SERVICE], ROOT), *(page.relative_to(ROOT) for page in pages)]:
        _copy(ROOT / file, bundle / file)
    experiment = artifact.manifest["experiment"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = requirements(project["optional-dependencies"]["serve"])
    parts = parts_of(artifact, project.get("license"), needed)
    licenses = [
        (f"{NOUNS[part.kind]} {part.name}", part.version or "", _expression(part.license) or part.license or UNKNOWN)
        for part in parts
        if part.license is not None
    ]
    check_licenses({title: license for title, _, license in licenses[1:]}, allow)
    texts = {
        "requirements.txt": with_hashes(needed) if hashes else needed,
        "MODEL_CARD.md": model_card(artifact.manifest, licenses),
        "bom.cdx.json": json.dumps(bill_of_materials(artifact.task, parts), indent=1) + "\n",
        **container_files(experiment, image),
    }
    for name, text in texts.items():
        (bundle / name).write_text(text, encoding="utf-8")
    seal(bundle, experiment)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def seal(bundle: Path, experiment: str) -> None:
    """Write bundle.json: the sha256 of every other file in the directory."""
    files = {
        path.relative_to(bundle).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(bundle.rglob("*"))
        if path.is_file() and path != bundle / BUNDLE
    }
    content = {"format_version": BUNDLE_VERSION, "experiment": experiment, "files": files}
    (bundle / BUNDLE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def archive(bundle: Path, name: str, out: Path) -> None:
    """Write a .tar.gz of a directory, as `name`, without times, owners and modes: reproducible to the byte."""
    with out.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:  # noqa: SIM117
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
                info = tarfile.TarInfo(f"{name}/{path.relative_to(bundle).as_posix()}")
                info.size = path.stat().st_size
                with path.open("rb") as file:
                    tar.addfile(info, file)


def requirements(packages: Iterable[str]) -> str:
    """The lines of requirements.txt: NAME==VERSION of the packages and of all that they need, as installed here.

    Raises UserError if a package is not installed.
    """
    versions: dict[str, str] = {}
    done = set[Requirement]()
    waiting = set(map(Requirement, packages))
    while waiting:
        requirement = waiting.pop()
        done.add(requirement)
        try:
            installed = distribution(requirement.name)
        except PackageNotFoundError as error:
            raise UserError(f"{error.name} is not installed; install this project with its `serve` extra") from error
        public = installed.version.partition("+")[0]  # no index has 2.7.0+cpu
        versions[canonicalize_name(requirement.name)] = public
        needed = map(Requirement, installed.requires or [])
        waiting |= {each for each in needed if _applies(each, requirement.extras)} - done
    return "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))


def _applies(requirement: Requirement, extras: set[str]) -> bool:
    """Whether a package with these extras needs the requirement on this platform."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def with_hashes(lines: str) -> str:
    """The lines of requirements.txt with the sha256 of what pip would install here, as the package index says."""
    options = ["--dry-run", "--ignore-installed", "--no-deps", "--quiet", "--report", "-", *lines.splitlines()]
    done = subprocess.run([sys.executable, "-m", "pip", "install", *options], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"--hashes: pip: {one_line(done.stderr)[-300:]}")
    found = {
        canonicalize_name(each["metadata"]["name"]): each["download_info"]["archive_info"]["hashes"]["sha256"]
        for each in json.loads(done.stdout)["install"]
    }
    names = {line: canonicalize_name(line.partition("==")[0]) for line in lines.splitlines()}
    return "".join(f"{line} --hash=sha256:{found[name]}\n" for line, name in names.items())


class Part(NamedTuple):
    """Something that a bundle is made of. license: "" if none is stated, None of what this project made itself."""

    kind: str
    name: str
    version: str | None
    license: str | None
    sha256: str = ""


def parts_of(artifact: Artifact, license: Any, requirements: str) -> list[Part]:
    """The model, first, and what it is made of. license: pyproject.toml's. requirements: lines of NAME==VERSION."""
    manifest = artifact.manifest
    commit, stated = (manifest.get("git") or {}).get("commit"), license if isinstance(license, str) else ""
    found = [
        Part(MODEL, manifest["experiment"], commit, stated, manifest["files"][artifact.graph]),
        Part(DATA, "Datasets/curated", manifest.get("curated_fingerprint"), None),
        *(Part(DATA, name, None, each) for name, each in manifest.get("sources", {}).items()),
    ]
    init = manifest.get("init")
    while init:
        card = init.get("card") or {"name": PurePosixPath(init["source"]).name, "license": None}
        found.append(Part(MODEL, card["name"], card.get("version"), card["license"], init["sha256"]))
        init = init.get("init")
    pinned = (line.split("==") for line in requirements.splitlines())
    return found + [Part(PACKAGE, name, version, license_of(name)) for name, version in pinned]


def license_of(package: str) -> str:
    """An installed package's licence: an SPDX expression where its metadata has one, else its words, "" for none."""
    about = metadata(package)
    classifiers = [each.split(" :: ") for each in about.get_all("Classifier") or []]
    named = [*(about.get_all("License") or []), *(each[-1] for each in classifiers if each[0] == "License")]
    short = [WORDS.get(each.casefold(), each) for each in named if each and len(each) < 60]  # longer is its text
    return (about.get_all("License-Expression") or [*filter(_expression, short), *short, ""])[0]


def _expression(license: str) -> str:
    """A licence as an SPDX expression, "" for what is none."""
    try:
        return canonicalize_license_expression(license)
    except InvalidLicenseExpression:
        return ""


def bill_of_materials(task: str, parts: Sequence[Part]) -> dict[str, Any]:
    """The model, first of the parts, and what it needs, in CycloneDX 1.6 (ECMA-424).

    Written without a library: the one for Python, by which the tests validate it, has no place for a model card.
    """
    model, *others = map(_component, parts)
    data = [{"ref": each["bom-ref"]} for each in others if each["type"] == DATA]
    about = {**model, "modelCard": {"modelParameters": {"task": task, "datasets": data}}}
    needs = {"ref": model["bom-ref"], "dependsOn": [each["bom-ref"] for each in others]}
    head = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1}
    return {**head, "metadata": {"component": about}, "components": others, "dependencies": [needs]}


def _component(part: Part) -> dict[str, Any]:
    kind, name, version, license, sha256 = part
    spdx = _expression(license or "")
    stated = {"expression": spdx} if spdx else {"license": {"name": license or UNKNOWN}}
    found: dict[str, Any] = {"type": kind, "bom-ref": f"{kind}/{name}", "name": name, "version": version}
    found["hashes"] = [{"alg": "SHA-256", "content": sha256}] if sha256 else None
    found["licenses"] = None if license is None else [stated]
    found["purl"] = f"pkg:pypi/{name}@{version}" if kind == PACKAGE else None
    return {key: value for key, value in found.items() if value}


def container_files(experiment: str, image: str = "") -> dict[str, str]:
    """By its name in a bundle, the text of each file of Deployment/container with $experiment, $name and $image.

    $name is the experiment as a DNS label; image: "" for Python's own, of the version that runs here.
    """
    label = re.sub(r"[^a-z0-9]+", "-", f"fourfold-{experiment}".lower())[:63].strip("-")
    image = image or f"python:{'.'.join(platform.python_version_tuple()[:2])}-slim"
    values = {"experiment": experiment, "name": label, "image": image}
    texts = {name: (CONTAINER / file).read_text("utf-8") for name, file in CONTAINER_FILES.items()}
    return {name: Template(text).substitute(values) for name, text in texts.items()}


def model_card(manifest: Mapping[str, Any], licenses: Sequence[tuple[str, str, str]] = ()) -> str:
    """The model card in Markdown (M. Mitchell et al., Model Cards for Model Reporting, 2019), from the manifest."""
    return render_card(CONTAINER / "model_card.md", {**manifest, "licenses": licenses})


def main(
    export: Annotated[Path, typer.Option(help="export, Datasets/pretrained/ID")],
    out: Annotated[Path, typer.Option(help="bundle to write or replace, Deployment/bundles/ID, and ID.tar.gz")],
    hashes: Annotated[
        bool, typer.Option("--hashes", help="requirements with sha256, which the index is asked for")
    ] = False,
    allow: Annotated[list[str] | None, typer.Option(help="licences that are allowed; all if none is named")] = None,
    base_image: Annotated[str, typer.Option(help="of the container; NAME@sha256:DIGEST is always the same")] = "",
) -> None:
    """Make a bundle of an export: the ONNX graph and the service around it, ready to start anywhere."""
    if not out.name:
        raise UserError(f"--out {out}: name the bundle's own directory, Deployment/bundles/ID")
    artifact = load(export)
    artifact.samples()
    packed = out.with_name(f"{out.name}.tar.gz")
    with replacing(packed) as partial_archive, replacing(out, BUNDLE, "export/*") as partial:
        write_bundle(artifact, partial, hashes, base_image, allow or [])
        archive(partial, out.name, partial_archive)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    sizes = f"{size / 1e6:.1f} MB, {packed.name} {packed.stat().st_size / 1e6:.1f} MB"
    print(f"{out}: {sizes}; start it there: python -m Deployment.serve .")


if __name__ == "__main__":
    run(main)
