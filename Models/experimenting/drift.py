"""Whether today's code still builds what was exported."""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from Datasets.format.predictions import TOLERANCE, Prediction, largest_difference
from Datasets.tools.errors import UserError

MANIFEST = "manifest.json"


def report_drift(root: Path, experiment: str) -> None:
    """Compare an export's scripts with the working tree's and their commit's, and its answers with today's code's.

    Prints what differs. Raises UserError if there is no export, or today's code no longer answers as it did.
    """
    export = root / "Datasets/pretrained" / experiment
    manifest = read_manifest(export)
    commit = manifest["git"]["commit"]
    scripts = sorted(path for path in (export / "script").rglob("*.py"))
    for path in scripts:
        name = path.relative_to(export / "script").as_posix()
        print(f"{name}: {tree_state(path, root / name)}, {commit_state(path, root, name, commit)}")
    try:
        found = apart(export, manifest)
    except Exception as error:  # whatever today's code does with yesterday's weights
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{export}: today's code does not build it: {reason[0]} {' '.join(reason[1:3])}") from error
    tolerance = manifest["agreement"]["tolerance"]
    said = ", ".join(f"{name} {value:.3g}" for name, value in found.items())
    if any(value > tolerance[name] for name, value in found.items()):
        raise UserError(f"{export}: today's code answers otherwise; it differs by up to: {said}")
    print(f"{export.relative_to(root)}: today's code answers as exported; it differs by at most: {said}")


def read_manifest(export: Path) -> dict[str, Any]:
    """The manifest of an export. Raises UserError if it is missing or damaged."""
    path = export / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        return {**manifest, "git": {"commit": manifest["git"]["commit"]}, "agreement": manifest["agreement"]}
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run the export stage, or `dvc pull` it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error!r}); export again, or `dvc pull`") from error


def tree_state(exported: Path, today: Path) -> str:
    """How the exported file compares with the working tree's."""
    if not today.exists():
        return "gone from the working tree"
    return "as in the working tree" if today.read_bytes() == exported.read_bytes() else "differs from the working tree"


def commit_state(exported: Path, root: Path, name: str, commit: str | None) -> str:
    """How the exported file compares with that of the commit that it was exported at."""
    from Models.experimenting.repository import git

    if commit is None:
        return "exported without a commit"
    try:
        then = git(root, "show", f"{commit}:./{name}")
    except UserError:
        return f"not in its commit {commit[:7]}"
    same = then == exported.read_text(encoding="utf-8")
    return f"{'as in' if same else 'differs from'} its commit {commit[:7]}"


def apart(export: Path, manifest: Mapping[str, Any]) -> dict[str, float]:
    """The largest difference of today's code from the samples' expected answers, by output name."""
    from safetensors.torch import load_file

    from Models.exporting.rebuild import predict_files, torch_detector

    expected: dict[str, Prediction] = json.loads((export / "sample/expected.json").read_text(encoding="utf-8"))
    model = importlib.import_module(manifest["script"]["module"]).build(**manifest["script"]["build"]).eval()
    model.load_state_dict(load_file(export / "weights.safetensors"))
    task, threshold, size = manifest["task"], manifest["score_threshold"], manifest["input"]["size"]
    files = [export / "sample" / name for name in expected]
    answers = predict_files(torch_detector(model), task, files, size, manifest["classes"], threshold)
    each = [largest_difference(task, expected[name], answers[name], threshold) for name in expected]
    return {what: max(difference[what] for difference in each) for what in TOLERANCE[task]}
