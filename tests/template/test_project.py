"""A project made from this repository: what it has, what an update brings, and what it leaves alone."""

import re
import shutil
import sys
import tarfile
import tomllib
import zipfile
from io import BytesIO
from pathlib import Path
from subprocess import run

import pytest
from ruamel.yaml import YAML

from tests.template.conftest import AUTHOR, ROOT, Result, edit_params, run_in, succeeded

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
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


def last_release() -> str:
    """The last tag before this commit, or else the last commit that set the version; none in a shallow clone."""
    tag = run_in(ROOT, "git", "describe", "--tags", "--abbrev=0", "--match", "v*", "HEAD~1").stdout
    set_version = ["git", "log", "-1", "--format=%H", "-G^version = ", "HEAD~1", "--", "pyproject.toml"]
    return (tag or run_in(ROOT, *set_version).stdout).strip()


def write_checkout(directory: Path) -> None:
    """This checkout as git would have it, uncommitted files too; of the template's own tests, which copier leaves out
    one by one, only the READMEs and what has to do with all.
    """
    for name in filter(None, run_in(ROOT, "git", "ls-files", "-co", "--exclude-standard", "-z").stdout.split("\0")):
        left_out = re.match(r"tests/(template|benchmarks)/(?!conftest|README)", name)
        if (ROOT / name).is_file() and not left_out:
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, directory / name)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """The template at its last release, or else as it is here, under the tag v0.0.1; and as it is here, as v99.0.0."""
    directory = tmp_path_factory.mktemp("template") / "die Vorlage"
    directory.mkdir()
    git(directory, "init", "-q")
    if release := last_release():
        archive = run(["git", "archive", release], cwd=ROOT, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=BytesIO(archive)) as files:
            files.extractall(directory, filter="data")
    else:
        write_checkout(directory)
    commit(directory, "v0.0.1")
    git(directory, "rm", "-rqf", ".")
    write_checkout(directory)
    renew(directory)
    commit(directory, "v99.0.0")
    git(directory, "gc", "-q")  # copier looks at each file in .git, too
    return directory


def renew(template: Path) -> None:
    """What a later version may bring: in a stage, in files that teams edit, in those that they own, and a new file."""
    change(template / "dvc.yaml", "desc: decode each image once", "desc: look at each image once")
    change(template / "params.yaml", "max_rejected: 0.05", "max_rejected: 0.06")
    change(template / "pyproject.toml", '"pandas>=2.2"', '"pandas>=2.3"')
    scripts = ["Models/e001_center_detector.py", "Models/backbones/tiny.py"]
    for name in ("Datasets/tools/errors.py", ".dvc/config", *scripts):
        with (template / name).open("a", encoding="utf-8") as file:
            file.write("# renewed\n")
    (template / "Datasets/novelty.py").write_text('"""New in the template."""\n', encoding="utf-8")


def commit(directory: Path, tag: str) -> None:
    git(directory, "add", "-A")
    git(directory, "commit", "-qm", tag)
    git(directory, "tag", tag)


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def work_in(project: Path) -> dict[str, bytes]:
    """What a team does: data, scripts, rules, parameters, a remote, a log; returns the files that are its own."""
    with zipfile.ZipFile(project / "Datasets/raw/cats.zip", "w") as archive:
        archive.writestr("cat.txt", "a cat")
    succeeded(run_in(project, "dvc", "add", "-q", "Datasets/raw/cats.zip"))
    succeeded(run_in(project, "dvc", "remote", "modify", "store", "url", "s3://bucket/cats"))
    shutil.copy(project / "Models/e001_center_detector.py", project / "Models/e101_ours.py")
    (project / "Models/e001_center_detector.py").unlink()

    def own(params: dict) -> None:
        params["sources"] = {"cats": {"format": "voc", "path": "Datasets/raw/cats.zip"}}
        params["clean"]["keep"] = ["cat"]
        params["experiments"] = {"e101": {**params["experiments"]["e001"], "script": "e101_ours"}}

    edit_params(project, own)
    change(project / "pyproject.toml", '    "numpy>=2.0",', '    "einops>=0.8",\n    "numpy>=2.0",')
    succeeded(run_in(project, "python", "-m", "Models.experiment", "new", "e101", "Ours", "--step", "as it is"))
    for name in ("README.md", "NOTES.md", "Data_processing/own_rules/ours.py", "Data_processing/own_readers/ours.py"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text("# Ours.\n")
    with (project / "Models/backbones/tiny.py").open("a") as file:
        file.write("# ours\n")
    git(project, "add", "-A")
    git(project, "commit", "-qm", "Ours")
    ours = git(project, "diff", "--name-only", "--no-renames", "--diff-filter=AM", "HEAD~").splitlines()
    return {name: (project / name).read_bytes() for name in ours if name != "pyproject.toml"}


def test_an_update_brings_the_newer_template_and_leaves_alone_what_is_the_teams(template, tmp_path):
    project = tmp_path / "mein Projekt, größer"
    succeeded(copier("copy", "--vcs-ref", "v0.0.1", template, project, "--data", f"name={NAME}"))
    assert git(project, "status", "--porcelain") == ""
    assert git(project, "log", "--format=%s") == "Start from the template Fourfold\n"
    ours = work_in(project)
    assert {"params.yaml", "Models/e101_ours.py", ".dvc/config"} < set(ours)
    assert b"## e101 Ours" in ours["EXPERIMENTS.md"] and b"## e001" not in ours["EXPERIMENTS.md"]
    succeeded(copier("update", project))
    assert {name: (project / name).read_bytes() for name in ours} == ours
    assert not (project / "Models/e001_center_detector.py").exists()
    assert (project / "Datasets/novelty.py").exists()
    assert "# renewed" in (project / "Datasets/tools/errors.py").read_text()
    assert "look at each image once" in (project / "dvc.yaml").read_text()
    dependencies = tomllib.loads((project / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {"einops>=0.8", "pandas>=2.3"} < set(dependencies)
    assert "_commit: v99.0.0" in (project / ".copier-answers.yml").read_text()
    assert not git(project, "ls-files", "--unmerged") and not list(project.rglob("*.rej"))


def test_that_update_begins_at_the_last_release(template):
    if not (release := last_release()):
        pytest.skip("no release before this commit in this clone: the update began at this checkout as it is")
    assert git(template, "rev-parse", "v0.0.1^{tree}") == git(ROOT, "rev-parse", f"{release}^{{tree}}")


@pytest.fixture(scope="module")
def bare(template, tmp_path_factory) -> Path:
    """A project without the demonstration, for the task boxes."""
    project, clone = tmp_path_factory.mktemp("bare") / "a project", tmp_path_factory.mktemp("clone") / "without tags"
    git(template.parent, "clone", "-q", "--no-tags", str(template), str(clone))
    done = succeeded(make(clone, project, f"name={NAME}", "demonstration=false", "experiments=[e001]"))
    assert "No git tags" in done.stderr and f"Made from Fourfold {VERSION}, commit " in done.stderr
    return project


def test_an_update_goes_by_versions_and_commits_where_the_template_has_no_tags(bare, tmp_path):
    project = shutil.copytree(bare, tmp_path / "ours", symlinks=True)
    clone = Path(YAML(typ="safe").load(project / ".copier-answers.yml")["_src_path"])
    change(clone / "pyproject.toml", f'version = "{VERSION}"', 'version = "98.7"')
    (clone / "Datasets/later.py").write_text('"""New in the template."""\n')
    git(clone, "add", "-A")
    git(clone, "commit", "-qm", "Later")
    assert f"From Fourfold {VERSION} to 98.7, commit " in succeeded(copier("update", project)).stderr
    assert (project / "Datasets/later.py").exists()
    assert "template: 98.7\n" in (project / ".copier-answers.yml").read_text()
    assert 'version = "0.0.0"' in (project / "pyproject.toml").read_text(), "its own"


def test_a_project_without_the_demonstration_has_only_what_is_wanted(bare, template):
    files = git(bare, "ls-files").splitlines()
    kept_back = r"CHANGELOG|CONTRIBUTING|digits|tests/(template|benchmarks)|e00[23]|\.jinja$|^copier.yml|/template.yml"
    assert [name for name in files if re.search(kept_back, name)] == []
    assert {".github/workflows/ci.yml", "Models/e001_center_detector.py", "tests/contract/conftest.py"} < set(files)
    python = [name for name in files if name.endswith(".py")]
    assert sum((bare / name).read_text(encoding="utf-8").count("\n") for name in python) <= 18_500
    params = YAML(typ="safe").load(bare / "params.yaml")
    assert (params["sources"], list(params["experiments"]), params["clean"]["keep"]) == ({}, ["e001"], [])
    assert "digit" not in (bare / "params.yaml").read_text() + (bare / "dvc.yaml").read_text()
    assert (bare / "README.md").read_text().startswith(f"# {NAME}\n")
    pyproject = (bare / "pyproject.toml").read_text()
    assert 'name = "ann-s-big-cats-dogs"' in pyproject and "importlinter" in pyproject


def test_every_link_of_its_documents_leads_somewhere(bare):
    for page in bare.rglob("*.md"):
        links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
        assert [link for link in links if not (page.parent / link).exists()] == [], page


def test_it_says_how_to_add_a_source(bare):
    told = succeeded(run_in(bare, "make", "--no-print-directory", "-o", ".venv/installed", "repro")).stdout
    assert told == "params.yaml: has no source yet; python -m Data_processing.add_source NAME PATH adds one\n"


def test_its_tests_pass_and_leave_nothing_behind(bare, tmp_path):
    some = [f"tests/contract/test_{name}.py" for name in ("packages", "stages")]  # others train a model
    done = succeeded(
        run_in(bare, "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", tmp_path / "its", *some)
    )
    assert re.search(r"\d+ passed", done.stdout)
    assert git(bare, "status", "--porcelain") == ""


def test_only_tasks_that_were_chosen_have_experiments(template, tmp_path):
    succeeded(make(template, tmp_path / "made", "experiments=[e003]"))
    params = YAML(typ="safe").load(tmp_path / "made/params.yaml")
    assert {name: entry["init"] for name, entry in params["experiments"].items()} == {"e003": "random"}, "without e001"
    scripts = {path.name[:4] for path in (tmp_path / "made/Models").glob("e*_*.py")}
    assert scripts == {"e003"} and list(params["sources"]) == ["digits"]


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
