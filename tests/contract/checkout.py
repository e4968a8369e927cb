"""This checkout, commands run as a user runs them, and small copies in which a whole pipeline runs within a minute."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
PACKAGES = ("Datasets", "Data_processing", "Models", "Deployment")
PARAMS = YAML(typ="safe").load(ROOT / "params.yaml")
EXPERIMENTS = list(PARAMS["experiments"] or {})
AUTHOR = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "A Tester"), ("EMAIL", "tester@example.org"), ("DATE", "1767225600 +0000"))
}
QUICK: dict[str, str] = {}  # of the environment: where the template's own tests have programs that start sooner
Result = subprocess.CompletedProcess[str]


def environment(**changes: str) -> dict[str, str]:
    """The environment of a command: this interpreter's programs first on the PATH, no enclosing DVC, offline."""
    inherited = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "DVC_ROOT")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return inherited | {"PATH": path, "HF_HUB_OFFLINE": "1"} | QUICK | changes


def run_in(directory: Path, *command: str | Path, timeout: float = 300, **changes: str) -> Result:
    """Run a command in a directory; `changes` are of its environment."""
    words = [str(word) for word in command]
    env = environment(**changes)
    return subprocess.run(words, cwd=directory, env=env, capture_output=True, text=True, timeout=timeout)


def succeeded(result: Result) -> Result:
    """The result, if the command exited with 0."""
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result


def versioned_files() -> list[str]:
    """The files of this checkout that git has or would add, without data that DVC keeps."""
    listed = succeeded(run_in(ROOT, "git", "ls-files", "-co", "--exclude-standard", "-z")).stdout.split("\0")
    return [name for name in listed if name and name != "dvc.lock" and not name.endswith(".dvc")]


def copy_checkout(target: Path, edit: Callable[[dict], None], leave_out: Callable[[str], bool] | None = None) -> None:
    """Copy this checkout, uncommitted files too, with changed parameters into a new repository with one commit.

    Copies with the same parameters have the same commit, wherever and whenever they are made.
    """
    for name in versioned_files():
        if (ROOT / name).is_file() and not (leave_out and leave_out(name)):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    edit_params(target, edit)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "Start"]):
        succeeded(run_in(target, "git", *command, **AUTHOR))


def edit_sources(directory: Path, sources: dict[str, dict]) -> None:
    """Make these the only sources: in params.yaml, and in what stage clean of dvc.yaml depends on."""
    edit_params(directory, lambda params: params.update(sources=sources))
    folders = [f"Data_processing/intermediate/{folder}" for folder in ("imported", "inspected")]
    lines = "".join(f"      - {folder}/{name}.parquet\n" for name in sources for folder in folders)
    pipeline = directory / "dvc.yaml"
    text = re.sub(r" +- Data_processing/intermediate/(imported|inspected)/\w[^$\n]*\n", "", pipeline.read_text("utf-8"))
    pipeline.write_text(
        text.replace("      - Data_processing/clean.py\n", f"{lines}      - Data_processing/clean.py\n"), "utf-8"
    )


def edit_params(directory: Path, edit: Callable[[dict], None]) -> None:
    """Change params.yaml."""
    yaml = YAML()
    params = yaml.load(directory / "params.yaml")
    edit(params)
    yaml.dump(params, directory / "params.yaml")
