"""What a bundle is made of, with licences, in CycloneDX 1.6 (ECMA-424): the model, its data, weights and packages.

Written without a library: the one for Python, by which the tests validate it, has no place for a model card.
"""

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import PurePosixPath
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from Datasets.tools.licenses import UNKNOWN

MODEL, DATA, PACKAGE = "machine-learning-model", "data", "library"  # CycloneDX's types of components
NOUNS = {MODEL: "model", DATA: "source", PACKAGE: "package"}
WORDS = {"mit license": "MIT", "apache 2.0": "Apache-2.0", "3-clause bsd license": "BSD-3-Clause"}


def components_of(manifest: Mapping[str, Any], license: Any, requirements: str) -> list[dict[str, Any]]:
    """The model, first, and what it is made of. license: pyproject.toml's. requirements: lines of NAME==VERSION."""
    commit, stated = (manifest.get("git") or {}).get("commit"), license if isinstance(license, str) else ""
    found = [
        _component(
            MODEL, manifest["experiment"], commit, stated, manifest["files"][manifest.get("graph", "model.onnx")]
        )
    ]
    found.append(_component(DATA, "Datasets/curated", manifest.get("curated_fingerprint"), None))
    found += [_component(DATA, name, None, each) for name, each in manifest.get("sources", {}).items()]
    init = manifest.get("init")
    while init:
        card = init.get("card") or {"name": PurePosixPath(init["source"]).name, "license": None}
        found.append(_component(MODEL, card["name"], card.get("version"), card["license"], init["sha256"]))
        init = init.get("init")
    pinned = [line.split("==") for line in requirements.splitlines()]
    return found + [_component(PACKAGE, name, version, license_of(name)) for name, version in pinned]


def _component(kind: str, name: str, version: str | None, license: str | None, sha256: str = "") -> dict[str, Any]:
    """license: "" if none is stated, None of what this project made itself."""
    spdx = _expression(license or "")
    stated = {"expression": spdx} if spdx else {"license": {"name": license or UNKNOWN}}
    found: dict[str, Any] = {"type": kind, "bom-ref": f"{kind}/{name}", "name": name, "version": version}
    found["hashes"] = [{"alg": "SHA-256", "content": sha256}] if sha256 else None
    found["licenses"] = None if license is None else [stated]
    found["purl"] = f"pkg:pypi/{name}@{version}" if kind == PACKAGE else None
    return {key: value for key, value in found.items() if value}


def _expression(license: str) -> str:
    try:
        return canonicalize_license_expression(license)
    except InvalidLicenseExpression:
        return ""


def license_of(package: str) -> str:
    """An installed package's licence: an SPDX expression where its metadata has one, else its words, "" for none."""
    about = metadata.metadata(package)
    classifiers = [each.split(" :: ") for each in about.get_all("Classifier") or []]
    named = [*(about.get_all("License") or []), *(each[-1] for each in classifiers if each[0] == "License")]
    short = [WORDS.get(each.casefold(), each) for each in named if each and len(each) < 60]  # longer is its text
    return (about.get_all("License-Expression") or [*filter(_expression, short), *short, ""])[0]


def stated_licenses(components: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Title, version and licence of each component that has one."""
    found = [(each, each["licenses"][0]) for each in components if "licenses" in each]
    titles = [f"{NOUNS[each['type']]} {each['name']}" for each, _ in found]
    names = [stated.get("expression") or stated["license"]["name"] for _, stated in found]
    return list(zip(titles, (each.get("version", "") for each, _ in found), names, strict=True))


def bill_of_materials(task: str, components: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The model, first of the components, and what it needs."""
    model, *others = components
    data = [{"ref": each["bom-ref"]} for each in others if each["type"] == DATA]
    about = {**model, "modelCard": {"modelParameters": {"task": task, "datasets": data}}}
    needs = {"ref": model["bom-ref"], "dependsOn": [each["bom-ref"] for each in others]}
    head = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1}
    return {**head, "metadata": {"component": about}, "components": others, "dependencies": [needs]}
