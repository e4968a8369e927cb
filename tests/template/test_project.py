"""A project made from this repository: what it has, what an update brings, and what it leaves alone."""

import re
import shutil
import sys
import tarfile
import zipfile
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from subprocess import run

import pytest
from ruamel.yaml import YAML

from tests.template.conftest import AUTHOR, ROOT, Result, edit_params, run_in, succeeded

NAME = """Ann's "big" cats/dogs ß"""


def copier(*words: object, **environment: str) -> Result:
    """Run copier without a terminal."""
    command = [sys.executable, "-m", "copier", *map(str, words), "--trust", "--defaults"]
    return run_in(ROOT.parent, *command, **(environment or AUTHOR))


def make(template: Path, target: Path, *answers: str, **environment: str) -> Result:
    """Make a project."""
    return copier("copy", template, target, *(word for each in answers for word in ("--data", each)), **environment)


def git(directory: Path, *words: str) -> str:
    return succeeded(run_in(directory, "git", *words, **AUTHOR)).stdout


def last_tag() -> str:
    """The last tag before this commit; none before the first release, in a shallow clone, and in one without tags."""
    return run_in(ROOT, "git", "describe", "--tags", "--abbrev=0", "--match", "v*", "HEAD~1").stdout.strip()


def write_checkout(directory: Path) -> None:
    """This checkout as git would have it, uncommitted files too."""
    for name in filter(None, run_in(ROOT, "git", "ls-files", "-co", "--exclude-standard", "-z").stdout.split("\0")):
        if (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, directory / name)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """The template at its last tag, or else as it is here, under the tag v0.0.1; and as it is here, as v99.0.0."""
    directory = tmp_path_factory.mktemp("template") / "die Vorlage"
    directory.mkdir()
    git(directory, "init", "-q")
    if tag := last_tag():
        archive = run(["git", "archive", tag], cwd=ROOT, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=BytesIO(archive)) as files:
            files.extractall(directory, filter="data")
    else:
        write_checkout(directory)
    commit(directory, "v0.0.1")
    git(directory, "rm", "-rqf", ".")
    write_checkout(directory)
    change(directory / "params.yaml", "    train:\n", "    train:\n      novelty: 7 # brought by the template\n")
    change(directory / "params.yaml", "max_rejected: 0.05", "max_rejected: 0.06")
    change(directory / "dvc.yaml", "desc: decode each image once", "desc: look at each image once")
    (directory / "Datasets/novelty.py").write_text('"""New in the template."""\n')
    commit(directory, "v99.0.0")
    return directory


def commit(directory: Path, tag: str) -> None:
    git(directory, "add", "-A")
    git(directory, "commit", "-qm", tag)
    git(directory, "tag", tag)


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def work_in(project: Path) -> dict[str, bytes]:
    """What a team does: data, a model script, parameters, the log, a journal; returns the files of its own."""
    with zipfile.ZipFile(project / "Datasets/raw/cats.zip", "w") as archive:
        archive.writestr("cat.txt", "a cat")
    succeeded(run_in(project, "dvc", "add", "-q", "Datasets/raw/cats.zip"))
    shutil.copy(project / "Models/e001_center_detector.py", project / "Models/e101_ours.py")

    def own(params: dict) -> None:
        params["sources"] = {"cats": {"format": "voc", "path": "Datasets/raw/cats.zip"}}
        params["clean"]["keep"] = ["cat"]
        params["experiments"]["e101"] = {**deepcopy(params["experiments"]["e001"]), "script": "e101_ours"}
        params["experiments"]["e001"]["train"]["epochs"] = 77

    edit_params(project, own)
    succeeded(run_in(project, "python", "-m", "Models.experiment", "new", "e101", "Ours", "--step", "as it is"))
    for name in ("README.md", "NOTES.md"):
        (project / name).write_text("Ours.\n")
    names = ["Datasets/raw/cats.zip", "Datasets/raw/cats.zip.dvc", "Models/e101_ours.py", "EXPERIMENTS.md"]
    git(project, "add", "-A")
    git(project, "commit", "-qm", "Ours")
    return {name: (project / name).read_bytes() for name in [*names, "README.md", "NOTES.md"]}


def copy_as_the_projects_tests_do(project: Path, target: Path) -> None:
    """The project's tests run on the demonstration, and need none of the project's own data."""
    code = f"import pathlib, tests.template.conftest as c; c.copy_checkout(pathlib.Path({str(target)!r}))"
    succeeded(run_in(project, "python", "-c", code))
    assert list(YAML(typ="safe").load(target / "params.yaml")["sources"]) == ["digits"]
    assert (target / "Models/e101_ours.py").exists() and not list(target.glob("Datasets/raw/*.dvc"))


def test_an_update_brings_the_newer_template_and_keeps_what_is_the_projects_own(template, tmp_path):
    project = tmp_path / "mein Projekt, größer"
    succeeded(copier("copy", "--vcs-ref", "v0.0.1", template, project, "--data", f"name={NAME}"))
    assert git(project, "status", "--porcelain") == ""
    assert git(project, "log", "--format=%s") == "Start from the template Fourfold\n"
    ours = work_in(project)
    assert b"## e101 Ours" in ours["EXPERIMENTS.md"] and b"## e001" not in ours["EXPERIMENTS.md"]
    succeeded(copier("update", project))
    assert {name: (project / name).read_bytes() for name in ours} == ours
    copy_as_the_projects_tests_do(project, tmp_path / "copy")
    assert (project / "Datasets/novelty.py").exists()
    assert "look at each image once" in (project / "dvc.yaml").read_text()
    params = YAML(typ="safe").load(project / "params.yaml")  # no marks of a conflict
    train = params["experiments"]["e001"]["train"]
    assert (list(params["sources"]), params["clean"]["keep"], train["epochs"]) == (["cats"], ["cat"], 77)
    assert (params["clean"]["max_rejected"], train["novelty"]) == (0.06, 7)
    assert "e101" in params["experiments"]
    assert "_commit: v99.0.0" in (project / ".copier-answers.yml").read_text()
    assert not git(project, "ls-files", "--unmerged") and not list(project.rglob("*.rej"))


def test_that_update_begins_at_the_last_tag(template):
    if not (tag := last_tag()):
        pytest.skip("no tag v* before this commit, or not in this clone: the update began at this checkout as it is")
    assert git(template, "rev-parse", "v0.0.1^{tree}") == git(ROOT, "rev-parse", f"{tag}^{{tree}}")


def test_a_project_without_the_demonstration_has_only_what_is_wanted(template, tmp_path):
    project = tmp_path / "a project"
    clone = tmp_path / "clone without tags"
    git(tmp_path, "clone", "-q", "--no-tags", str(template), str(clone))
    done = succeeded(make(clone, project, f"name={NAME}", "demonstration=false", "experiments=[]"))
    assert "No git tags" in done.stderr
    params = YAML(typ="safe").load(project / "params.yaml")
    assert (params["sources"], params["experiments"], params["clean"]["keep"]) == ({}, {}, [])
    assert "digits" not in (project / "params.yaml").read_text() + (project / "dvc.yaml").read_text()
    assert (project / "README.md").read_text().startswith(f"# {NAME}\n")
    pyproject = (project / "pyproject.toml").read_text()
    assert 'name = "ann-s-big-cats-dogs"' in pyproject and 'name = "Datasets imports no other room"' in pyproject
    theirs = set(git(project, "ls-files").split())
    left_out = re.compile(r"CHANGELOG|figures.json|\.jinja$|^copier.yml|test_project|template.yml")
    assert ".github/workflows/ci.yml" in theirs and not [each for each in theirs if left_out.search(each)]
    for page in project.rglob("*.md"):
        links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
        assert [link for link in links if not (page.parent / link).exists()] == [], page
    for name in ("params.yaml", "dvc.yaml"):  # which the project's tests run on, whatever becomes of its own
        kept = {"params.yaml": "parameters", "dvc.yaml": "pipeline"}[name]
        assert (project / f"tests/demonstration/{kept}.yaml").read_bytes() == (template / name).read_bytes()
    told = succeeded(run_in(project, "make", "--no-print-directory", "-o", ".venv/installed", "repro")).stdout
    assert told == "params.yaml: has no source yet; python -m Data_processing.add_source NAME PATH adds one\n"
    walls = ["tests/template/test_walls.py", "-k", "dependencies or packages or may"]
    succeeded(run_in(project, "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *walls))
    assert git(project, "status", "--porcelain") == ""


def test_a_target_with_files_is_left_as_it_is(template, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/notes.txt").write_text("mine")
    refused = make(template, tmp_path / "there")
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "there: there are files in it; choose a target that is new or empty" in refused.stderr
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["notes.txt"]


def test_without_a_git_identity_nothing_is_left(template, tmp_path):
    nobody = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "GIT_CONFIG_COUNT": "1"}
    nobody |= {"GIT_CONFIG_KEY_0": "user.useConfigOnly", "GIT_CONFIG_VALUE_0": "true"}
    refused = make(template, tmp_path / "x", **nobody)
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "git config --global user.email" in refused.stderr
    assert not (tmp_path / "x").exists()
