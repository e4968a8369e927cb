"""Two people work on one project, with a git repository and a store between them."""

import json
import os
import re
import shlex
import shutil
from pathlib import Path

from tests.template.conftest import AUTHOR, ROOT, Result, edit_params, run_in, succeeded

README = (ROOT / "Datasets/README.md").read_text(encoding="utf-8")
MORE = "Datasets/raw/more"
SUMMARY = "Data_processing/intermediate/clean.json"


def do(directory: Path, line: str) -> Result:
    """Run a line of shell that must succeed: plain commands joined by && one by one, others by a shell."""
    if re.search(r"[|<>$~*]", line):
        return succeeded(run_in(directory, "bash", "-c", line, **AUTHOR))
    return [succeeded(run_in(directory, *shlex.split(command), **AUTHOR)) for command in line.split(" && ")][-1]


def refused(directory: Path, command: str, *parts: str) -> None:
    """Run a line of shell that must fail and say `parts`."""
    result = run_in(directory, "bash", "-c", command, **AUTHOR)
    assert result.returncode != 0
    for part in parts:
        assert part in result.stdout + result.stderr


def set_up(directory: Path) -> None:
    """Do as `make setup` does."""
    recipe = re.search(r"^setup:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)[1]
    for line in recipe.splitlines():
        do(directory, line)


def test_make_finds_the_environment_and_leaves_what_is_not_its_own(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for name in (".venv/bin/python", ".venv/bin/pre-commit", "build/lib/setuptools.py", "build/ours.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} $*\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".venv/installed").touch()
    os.utime(tmp_path / ".venv/installed", (0, 0))  # so that it is renewed
    do(tmp_path, "git init -q")
    told = do(tmp_path, "make setup PYTHON=true").stdout
    assert ".venv/bin/pre-commit install" in told.splitlines()
    assert sorted(path.name for path in tmp_path.glob("build/*")) == ["ours.txt"]
    assert "setup\tinstall the git hooks" in do(tmp_path, "make help").stdout


def add_file(directory: Path, name: str) -> None:
    """One file more in the directory that DVC tracks."""
    (directory / MORE).mkdir(exist_ok=True)
    (directory / MORE / name).write_text(name)
    do(directory, f"dvc add {MORE}")


def test_two_people_share_experiments_and_merge_them(project, tmp_path):
    ann, bob = tmp_path / "Ann Ä", tmp_path / "Bob"
    shutil.copytree(project, ann, symlinks=True)
    add_file(ann, "first")
    do(ann, f"git init -q --bare ../hub && git remote add origin {tmp_path}/hub")
    set_up(ann)
    do(ann, "git add -A && git commit -qm Results && git push -qu origin HEAD")  # which pushes the data
    do(tmp_path, "git clone -q hub Bob")
    do(bob, "dvc pull")
    set_up(bob)
    exchange_experiments(ann, bob)
    both_commit(ann, bob)
    merge_locks(bob)
    bad_commits(bob)
    metrics_of_a_branch(bob)


def exchange_experiments(ann: Path, bob: Path) -> None:
    """Both see both, with metrics."""
    do(ann, "dvc exp run -n lenient -S clean.max_rejected=0.3 clean && dvc exp push origin lenient")
    do(bob, """dvc exp run -n merged -S "clean.merge=['one=eleven+unit']" clean && dvc exp push origin merged""")
    do(bob, "dvc exp pull origin lenient")
    table = do(bob, "dvc exp show --csv --no-pager").stdout
    assert re.search(r"lenient.*,0.3,", table)
    assert "merged" in table


def both_commit(ann: Path, bob: Path) -> None:
    """What both found, and a file each in one directory; the commit's hook shows the status."""
    do(ann, "dvc exp apply lenient")
    do(bob, "dvc exp apply merged")
    for directory in (ann, bob):
        add_file(directory, directory.name)
        do(directory, f"git add -A && git commit -qm {directory.name.split()[0]}")
    do(ann, "git push -q")


def documented_for_directories(path: str) -> list[str]:
    """The lines that Datasets/README.md has for two directories whose listings git could not merge."""
    block = re.search(r"```console\n(\$ git show MERGE_HEAD.*\n(?:\$ .*\n)*)", README)[1]
    return [line[2:].replace("FILE.dvc", path) for line in block.splitlines()]


def merge_locks(bob: Path) -> None:
    """The lock file is merged by stages, its one stage out of date is named, done again, and all agrees."""
    do(bob, "git fetch -q")
    refused(
        bob,
        "git merge -q --no-edit @{u}",
        "clean changed on both sides",
        f"CONFLICT (content): Merge conflict in {MORE}",
    )
    for line in documented_for_directories(f"{MORE}.dvc"):
        do(bob, line)
    do(bob, "dvc checkout")
    assert {file.name for file in (bob / MORE).iterdir()} == {"first", "Ann Ä", "Bob"}
    refused(bob, ".ci/lock", "dvc.lock is not up to date")
    ran = do(bob, "dvc repro").stdout
    assert re.findall(r"Running stage '(.*)'", ran) == ["clean"]
    do(bob, "git commit -qam 'Settle dvc.lock' && git push -q && .ci/lock")


def bad_commits(bob: Path) -> None:
    """Hooks refuse what git should not have."""
    (bob / "Models/peek.py").write_text("import Data_processing.clean as clean\nimport os\n")
    (bob / "Models/large.bin").write_bytes(b"#" * 600_000)
    told = ["F401", "Data_processing.clean", "Models/large.bin (586 KB) exceeds 500 KB"]
    refused(bob, "git add -A && git commit -qm Bad", *told)
    do(bob, "git reset -q --hard")


def metrics_of_a_branch(bob: Path) -> None:
    """What a pull request shows; changing to and fro takes the data along."""
    base = do(bob, "git rev-parse HEAD").stdout.strip()
    assert "No metric has changed" in do(bob, f".ci/metrics {base}").stdout
    do(bob, "git switch -q -c branch")
    edit_params(bob, lambda params: params["clean"].update(min_side=90))
    do(bob, "dvc repro clean && git commit -qam 'Leave out small images'")
    fewer = json.loads((bob / SUMMARY).read_text())["accepted"]
    refused(bob, ".ci/lock", "dvc.lock is not up to date")
    assert re.search(rf"accepted *\| 250 *\| {fewer} ", do(bob, f".ci/metrics {base}").stdout)
    do(bob, f"git switch -q --detach {base}")
    assert json.loads((bob / SUMMARY).read_text())["accepted"] == 250
