"""What a bundle runs in: the packages of requirements.txt, and the files for containers."""

import platform
import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from string import Template

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from Datasets.tools.errors import UserError

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
TEMPLATES = Path(__file__).parents[1] / "container"
CONTAINER_FILES = ("Dockerfile", ".dockerignore", "compose.yaml", "kubernetes.yaml")


def service_packages() -> list[str]:
    """What the service needs by pyproject.toml, its extra `serve`."""
    project = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]
    return project["optional-dependencies"]["serve"]


def requirements(packages: Iterable[str]) -> str:
    """The lines of requirements.txt: NAME==VERSION of the packages and of all that they need, as installed here.

    Raises UserError if a package is not installed.
    """
    versions: dict[str, str] = {}
    waiting = [Requirement(package) for package in packages]
    seen: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        try:
            installed = distribution(requirement.name)
        except PackageNotFoundError as error:
            raise UserError(f"{error.name} is not installed; install this project with its `serve` extra") from error
        public = installed.version.partition("+")[0]  # no index has 2.7.0+cpu
        versions[canonicalize_name(requirement.name)] = public
        waiting += _dependencies(installed.requires or [], requirement.extras)
    return "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))


def _dependencies(lines: list[str], extras: set[str]) -> list[Requirement]:
    """The requirements among these lines that apply on this platform, for a package with these extras."""
    parsed = [Requirement(line) for line in lines]
    return [
        each
        for each in parsed
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ]


def container_files(experiment: str) -> dict[str, str]:
    """By name, the text of each file of Deployment/container with $name and $python filled in.

    $name is the experiment as a DNS label. $python is the version that runs here, as in requirements.txt.
    """
    label = re.sub(r"[^a-z0-9]+", "-", f"fourfold-{experiment}".lower())[:63].strip("-")
    python = ".".join(platform.python_version_tuple()[:2])
    templates = {name: Template((TEMPLATES / name.lstrip(".")).read_text("utf-8")) for name in CONTAINER_FILES}
    return {name: template.substitute(name=label, python=python) for name, template in templates.items()}
