"""What a service needs installed: the packages it imports, and all that they need, in the versions installed here."""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from Datasets.tools.errors import UserError

IMPORTED = (
    "fastapi",
    "fastapi-offline",
    "httptools",
    "numpy",
    "onnxruntime",
    "pillow",
    "prometheus-client",
    "pydantic",
    "python-multipart",
    "starlette",
    "uvicorn",
)


def requirements(names: Iterable[str] = IMPORTED) -> str:
    """The lines of requirements.txt: NAME==VERSION, sorted. Raises UserError if a package is not installed."""
    found: dict[str, str] = {}
    waiting = [Requirement(name) for name in names]
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
        found[canonicalize_name(requirement.name)] = installed.version
        waiting += _needed(installed.requires or [], requirement.extras)
    return "".join(f"{name}=={version.partition('+')[0]}\n" for name, version in sorted(found.items()))


def _needed(lines: list[str], extras: set[str]) -> list[Requirement]:
    """The requirements among these lines that hold on this platform, for a package with these extras."""
    parsed = [Requirement(line) for line in lines]
    return [
        each
        for each in parsed
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ]
