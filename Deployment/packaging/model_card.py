"""The model card of an export in Markdown: what it is for, how good it is, what it was made of.

After M. Mitchell et al., Model Cards for Model Reporting, 2019. All of it comes from the manifest.
"""

from collections.abc import Iterable, Mapping
from typing import Any


def model_card(manifest: Mapping[str, Any]) -> str:
    """The card's text."""
    metrics = manifest.get("metrics", {})
    single = {name: value for name, value in metrics.items() if not isinstance(value, Mapping)}
    parts = [f"# Experiment {manifest['experiment']}", _purpose(manifest)]
    parts += ["## Metrics", "On test images that were not trained on:", _table(("metric", "value"), single.items())]
    for name, values in metrics.items():
        if isinstance(values, Mapping):
            parts += [f"### {name} of each class", _table(("class", name), values.items())]
    parts += ["## Training", _table(("parameter", "value"), _training(manifest))]
    parts += ["## Provenance", _provenance(manifest)]
    if data := manifest.get("data"):
        parts += ["The data, by the hashes in dvc.lock:", _table(("file", "md5"), data.items())]
    if versions := manifest.get("versions"):
        parts += ["Made with:", _table(("software", "version"), versions.items())]
    return "\n\n".join(parts) + "\n"


def _purpose(manifest: Mapping[str, Any]) -> str:
    classes = ", ".join(manifest["classes"])
    side = manifest["input"]["size"]
    return (
        f"Task: {manifest['task']}. Classes: {classes}.\n\n"
        "## Intended use\n\n"
        f"To find {classes} in images like those of the dataset that it was trained on, which is named below. The "
        "metrics hold for such images; nobody has examined it on others, nor for fairness, nor against people who mean "
        "to deceive it. A decision that matters to a person should not rest on its answers alone.\n\n"
        f"Images are scaled so that their longer side has {side} pixels: what is smaller than a few pixels then is not "
        f"found. {_ANSWERS[manifest['task']].format(manifest['score_threshold'])}"
    )


_ANSWERS = {
    "boxes": "Detections with a score below {} are left out unless asked for.",
    "mask": "Every pixel gets the most likely class, or background, without a score.",
    "labels": "A class is named from a score of {} on unless another is asked for.",
    "counts": "A class is named, and counted as 1 or more, from a score of {} on unless another is asked for.",
}


def _training(manifest: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    script = manifest.get("script", {})
    yield "script", script.get("module", "not recorded")
    yield from script.get("build", {}).items()
    yield from manifest.get("hyperparameters", {}).items()
    yield "seed", manifest.get("seed", "not recorded")
    init = manifest.get("init")  # the export whose weights it began with
    yield "init", f"{init['source']}, sha256 {init['sha256']}" if init else "none"


def _provenance(manifest: Mapping[str, Any]) -> str:
    git = manifest.get("git", {})
    commit = git.get("commit")
    if commit is None:
        return "Not made from a git repository with a commit."
    state = "with changes that were not committed" if git.get("dirty") else "without changes"
    changed = "; the manifest has the difference of the exported scripts" if git.get("diff") else ""
    return f"Made from commit `{commit}`, {state}{changed}."


def _table(head: tuple[str, str], rows: Iterable[tuple[str, Any]]) -> str:
    lines = [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows]
    return "\n".join([f"| {head[0]} | {head[1]} |", "|---|---|", *lines])


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").split())
