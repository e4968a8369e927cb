"""The model card of an export in Markdown, made from its manifest: intended use, metrics, provenance.

M. Mitchell et al., Model Cards for Model Reporting, 2019.
"""

from collections.abc import Iterable, Mapping
from typing import Any

ANSWERS = {  # of each task, by score threshold
    "boxes": "Detections with a score below {} are left out unless asked for.",
    "mask": "Every pixel gets the most likely class, or background, without a score.",
    "labels": "A class is named from a score of {} on unless another is asked for.",
    "counts": "A class is named, and counted as 1 or more, from a score of {} on unless another is asked for.",
}


def model_card(manifest: Mapping[str, Any]) -> str:
    """The card's text."""
    metrics = manifest.get("metrics", {})
    single = {name: value for name, value in metrics.items() if not isinstance(value, Mapping)}
    parts = [f"# Experiment {manifest['experiment']}", _intended_use(manifest)]
    parts += ["## Metrics", "On test images that were not trained on:", _table(("metric", "value"), single.items())]
    for name, values in metrics.items():
        if isinstance(values, Mapping):
            parts += [f"### {name} by class", _table(("class", name), values.items())]
    parts += ["## Training", _table(("parameter", "value"), _training(manifest))]
    parts += ["## Provenance", _provenance(manifest)]
    if data := manifest.get("data"):
        parts += ["Data, by the hashes in dvc.lock:", _table(("file", "md5"), data.items())]
    if versions := manifest.get("versions"):
        parts += ["Software:", _table(("package", "version"), versions.items())]
    return "\n\n".join(parts) + "\n"


def _intended_use(manifest: Mapping[str, Any]) -> str:
    classes = ", ".join(manifest["classes"])
    return (
        f"Task: {manifest['task']}. Classes: {classes}.\n\n"
        "## Intended use\n\n"
        f"To find {classes} in images like those of the training data, which is named below. The metrics hold for "
        "such images; the model was not tested on others, for fairness, or against adversarial images. Do not base a "
        "decision that matters to a person on its answers alone.\n\n"
        f"Images are scaled so that their longer side has {manifest['input']['size']} pixels; what is smaller than a "
        f"few pixels then is not found. {ANSWERS[manifest['task']].format(manifest['score_threshold'])}"
    )


def _training(manifest: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    script = manifest.get("script", {})
    yield "script", script.get("module", "not recorded")
    yield from script.get("build", {}).items()
    yield from manifest.get("hyperparameters", {}).items()
    yield "seed", manifest.get("seed", "not recorded")
    init = manifest.get("init")
    yield "init", f"{init['source']}, sha256 {init['sha256']}" if init else "none"


def _provenance(manifest: Mapping[str, Any]) -> str:
    git = manifest.get("git", {})
    if not git.get("commit"):
        return "Not made from a commit of a git repository."
    state = "with uncommitted changes" if git.get("dirty") else "without uncommitted changes"
    diff = "; the manifest has the diff of the exported scripts" if git.get("diff") else ""
    return f"Made from commit `{git['commit']}`, {state}{diff}."


def _table(head: tuple[str, str], rows: Iterable[tuple[str, Any]]) -> str:
    lines = [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows]
    return "\n".join([f"| {head[0]} | {head[1]} |", "|---|---|", *lines])


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").split())
