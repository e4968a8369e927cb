"""Report what is wrong with a checkout, each with the command that repairs it.

    python -m Datasets.tools.doctor [--objects]

Checks git, installed versions, orphaned stages, data, the remote, the cache and the experiment queue, and changes
nothing. --objects also reads every object in the cache. Exit code 1 if there is a problem.
"""

import hashlib
import logging
import os
import platform
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from threading import Thread
from typing import Annotated, Any, NamedTuple

import typer
from dvc.exceptions import DvcException
from dvc.repo import Repo
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from psutil import process_iter
from ruamel.yaml import YAML

from Datasets.format.import_closure import uncovered
from Datasets.tools.command import run
from Datasets.tools.errors import UserError, one_line, some
from Datasets.tools.params import parsed, text_of, wrong_names

ROOT = Path(__file__).resolve().parents[2]
DESCRIPTION = ("params.yaml", "dvc.yaml", "dvc.lock", ".dvc/config")
COMMIT = "git add --all && git commit --message Start"
INSTALL = "python -m pip install --constraint constraints.txt"
REMOTE_SECONDS = 20.0  # to wait for a remote's answer


class Finding(NamedTuple):
    """A problem in one line, which names the thing, and the command that repairs it."""

    problem: str
    remedy: str


def findings(root: Path, objects: bool = False) -> Iterator[Finding]:
    """All problems of a checkout, the most basic first. objects: whether to look for damaged objects in the cache."""
    for check in (check_git, check_versions, check_processes, check_params):
        yield from check(root)
    if _git(root, "rev-parse", "--show-cdup") is None:
        return
    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    try:
        with Repo(str(root)) as repo:
            for look in (check_data, check_leftovers, check_sources, check_remote, check_cache, check_queue):
                yield from look(repo)
            if objects:
                yield from check_objects(repo)
    except DvcException as error:
        mark = getattr(error.__cause__, "problem_mark", None)  # a YAML parser's
        line = f": line {mark.line + 1}: {getattr(error.__cause__, 'problem', '')}" if mark else ""
        yield Finding(f"dvc: {one_line(error)}{line}", "edit the file that is named")


def check_git(root: Path) -> Iterator[Finding]:
    """There is a repository, an identity, a first commit, and git has the code and what describes the pipeline."""
    if _git(root, "rev-parse", "--show-cdup") is None:
        yield Finding("git: this folder is in no repository, which DVC needs", f"git init && {COMMIT}")
        return
    if not (_git(root, "var", "GIT_AUTHOR_IDENT") and _git(root, "var", "GIT_COMMITTER_IDENT")):
        identity = "git config --global user.name NAME && git config --global user.email ADDRESS"
        yield Finding("git: has no author name and address, so it cannot commit", identity)
    if _git(root, "rev-parse", "--verify", "HEAD") is None:
        yield Finding("git: has no commit yet, which experiments and exports need", COMMIT)
        return
    if deleted := _files(root, "--deleted", "--", *DESCRIPTION):
        yield Finding(f"{some(deleted)}: deleted, but git still has it", f"git checkout {_words(deleted)}")
    described = _files(root, "--others", "--", *DESCRIPTION, ":(glob)Datasets/[!.]*/*.dvc")  # those ignored too
    if missing := sorted({*described, *_files(root, "--others", "--exclude-standard", "--", "*.py")}):
        yield Finding(f"{some(missing)}: not in git, nor in any commit", f"git add --force {_words(missing)}")


def _files(root: Path, *words: str) -> list[str]:
    """The files that `git ls-files` names with these options."""
    return (_git(root, "ls-files", "-z", *words) or "").split("\0")[:-1]


def _git(root: Path, *words: str) -> str | None:
    """What a git command prints; None if it fails."""
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode("utf-8", errors="replace").strip("\n")


def check_versions(root: Path) -> Iterator[Finding]:
    """What pyproject.toml requires is installed, in the versions of constraints.txt."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    installed = {canonicalize_name(each.name): each.version for each in distributions()}
    needed = [Requirement(text).name for text in project["dependencies"]]
    if missing := [name for name in needed if canonicalize_name(name) not in installed]:
        yield Finding(f"{some(missing)}: not installed", f"{INSTALL} .")
    pins = [Requirement(line) for line in (root / "constraints.txt").read_text().splitlines() if "==" in line]
    other = [
        f"{pin.name} {found} instead of {str(pin.specifier).removeprefix('==')}"
        for pin in pins
        if (found := installed.get(canonicalize_name(pin.name))) and not pin.specifier.contains(found, prereleases=True)
    ]
    if other:
        yield Finding(f"{some(other)}: not the tested versions", f"{INSTALL} '.[train,serve,dev]'")
    wanted, python = project.get("requires-python", ""), platform.python_version()
    if not SpecifierSet(wanted).contains(python, prereleases=True):
        yield Finding(f"Python {python}: pyproject.toml requires {wanted}", "make test PYTHON=PATH")


def check_params(root: Path) -> Iterator[Finding]:
    """The names in params.yaml can stand in commands, and each experiment's files are those that its stages know."""
    try:
        params = parsed(text_of(root / "params.yaml"), root / "params.yaml") or {}
    except UserError:  # DVC names the line
        return
    for problem in wrong_names(params):
        yield Finding(f"params.yaml: {problem}", "edit params.yaml")
    for name, entry in (params.get("experiments") or {}).items():
        script = Path("Models", f"{entry.get('script')}.py")
        if not (root / script).is_file():
            yield Finding(f"params.yaml: {name}: there is no {script}", f"git checkout {script}, or edit params.yaml")
            continue
        for file in uncovered(script, Path(entry.get("helpers", "Models/backbones")), root):
            problem = f"{script}: imports {file}, an edit of which would not train {name} again"
            yield Finding(problem, f"set `helpers` of {name} in params.yaml to it, or to a folder that has all")


def running_stages(root: Path) -> Iterator[tuple[int, str, bool]]:
    """The stages of this checkout that run: process id, name, and whether their `dvc` has ended."""
    processes = {each.pid: each.info for each in process_iter(["environ", "cmdline", "ppid", "status"])}
    for pid, process in processes.items():
        environment, parent = process["environ"] or {}, processes.get(process["ppid"])
        stage = environment.get("DVC_STAGE")
        if environment.get("DVC_ROOT") != str(root) or not stage or process["status"] == "zombie":
            continue
        started = parent and ("DVC_STAGE" in (parent["environ"] or {}) or "dvc" in " ".join(parent["cmdline"] or ()))
        yield pid, stage, not started or process["ppid"] == 1


def check_processes(root: Path) -> Iterator[Finding]:
    """No stage outlives its `dvc`: it would write where the next run does."""
    for pid, stage, orphaned in running_stages(root):
        if orphaned:
            problem = f"process {pid}: stage {stage} still runs, although the dvc that started it has ended"
            yield Finding(problem, f"kill {pid}")


def check_data(repo: Any) -> Iterator[Finding]:
    """Everything that dvc.lock and the .dvc files name is in the workspace, unless a stage makes it at this moment."""
    if running := {stage for _, stage, _ in running_stages(Path(repo.root_dir))}:
        print(f"running: {', '.join(sorted(running))}; whether all data is there is not looked at meanwhile")
        return
    missing = [out for out in repo.index.outs if out.hash_info and not out.exists]
    cached = [out for out in missing if _objects(out) and all(map(out.cache.exists, _objects(out).values()))]
    lost = [out for out in missing if out not in cached]
    if cached:
        paths = [_path(out) for out in cached]
        yield Finding(f"{some(paths)}: deleted, but still in DVC's cache", f"dvc checkout {_words(paths)}")
    if not lost:
        return
    problem = f"{some([_path(out) for out in lost])}: neither here nor in DVC's cache"
    if repo.config["core"].get("remote"):
        yield Finding(problem, "dvc pull")
    elif all(out.stage.cmd for out in lost):
        yield Finding(problem, "dvc repro")
    else:
        yield Finding(f"{problem}, and there is no remote", "dvc remote add --default store URL && dvc pull")


def check_leftovers(repo: Any) -> Iterator[Finding]:
    """dvc.lock has no stage that is gone from dvc.yaml or params.yaml."""
    lock = YAML(typ="safe").load(Path(repo.root_dir, "dvc.lock")) if Path(repo.root_dir, "dvc.lock").exists() else {}
    known = {getattr(stage, "name", "") for stage in repo.index.stages}
    gone = sorted({name.rpartition("@")[2] for name in lock.get("stages") or {} if name not in known})
    if gone:
        command = " && ".join(f"python -m Models.experiment remove {name}" for name in gone)
        yield Finding(f"dvc.lock: has stages of {some(gone)}, which params.yaml has no more", command)


def check_sources(repo: Any) -> Iterator[Finding]:
    """The sources of params.yaml are there, or something makes them."""
    params = YAML(typ="safe").load(Path(repo.root_dir, "params.yaml")) or {}
    known = {_path(out) for out in repo.index.outs}
    for name, entry in (params.get("sources") or {}).items():
        path = entry["path"]
        if path not in known and not Path(repo.root_dir, path).exists():
            problem = f"params.yaml: source {name}: {path} does not exist, and neither DVC nor a stage makes it"
            yield Finding(problem, f"cp -r RAW_DATASET {shlex.quote(path)} && dvc add {shlex.quote(path)}")


def check_remote(repo: Any) -> Iterator[Finding]:
    """The default remote answers."""
    name = repo.config["core"].get("remote")
    if not name:
        return
    url = repo.config["remote"].get(name, {}).get("url", "")
    reasons = list[str | None]()
    asking = Thread(target=lambda: reasons.append(_unreachable(repo, name)), daemon=True)
    asking.start()
    asking.join(REMOTE_SECONDS)
    reason = reasons[0] if reasons else f"no answer in {REMOTE_SECONDS:.0f} s"
    if reason is not None:
        remedy = f"dvc remote modify {shlex.quote(name)} url URL, or its credentials with --local"
        yield Finding(f"remote {name}, {url}: cannot be reached: {reason}", remedy)


def _unreachable(repo: Any, name: str) -> str | None:
    """Why a remote cannot be reached; None if it can. It need not exist before the first push, but its parent must."""
    try:
        store = repo.cloud.get_remote(name)
        if store.fs.exists(store.path) or store.fs.protocol not in ("local", "s3"):
            return None
        parent = store.fs.parent(store.path) if store.fs.protocol == "local" else store.path.partition("/")[0]
        return None if store.fs.exists(parent) else f"{parent}: not found"
    except Exception as error:  # each kind of remote raises its own
        return one_line(f"{type(error).__name__}: {error}")[:200]


def check_cache(repo: Any) -> Iterator[Finding]:
    """The cache is on the workspace's file system, where a file and its copy in the cache can be one."""
    kinds = repo.config["cache"].get("type") or []
    cache = Path(repo.cache.local.path)
    nearest = next(path for path in (cache, *cache.parents) if path.exists())
    if nearest.stat().st_dev != Path(repo.root_dir).stat().st_dev and "symlink" not in kinds:
        remedy = "dvc config --local cache.type symlink && dvc checkout --relink"
        yield Finding(f"{cache}: DVC's cache is on another file system, so all data is stored twice", remedy)


def check_queue(repo: Any) -> Iterator[Finding]:
    """Queued experiments have a worker."""
    if not Path(repo.tmp_dir, "exps").is_dir():
        return
    queue = repo.experiments.celery_queue
    waiting, active = len(list(queue.iter_queued())), len(list(queue.iter_active()))
    if (waiting or active) and not queue.worker_status():
        problem = f"queue: {waiting} experiments wait and {active} are active, but there is no worker"
        yield Finding(problem, "dvc queue start, or dvc queue remove --all")


def check_objects(repo: Any) -> Iterator[Finding]:
    """No object of the cache is damaged: its name is the MD5 of its bytes."""
    names = {path: path.parent.name + path.name for path in Path(repo.cache.local.path).glob("[0-9a-f]?/[0-9a-f]*")}
    damaged = {path: md5 for path, name in names.items() if (md5 := _md5(path)) != name.removesuffix(".dir")}
    if not damaged:
        return
    contents = {names[path]: md5 for path, md5 in damaged.items()}
    files = {Path(file): name for out in repo.index.outs for file, name in _objects(out).items() if name in contents}
    copies = [file for file, name in files.items() if file.is_file() and _md5(file) == contents[name]]  # hard links
    bad = [os.path.relpath(path, repo.root_dir) for path in (*damaged, *copies)]
    yield Finding(f"{some(bad)}: damaged: not what DVC once wrote", f"rm -f {_words(bad)} && dvc pull")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _objects(out: Any) -> dict[str, str]:
    """The cache's objects of an output by their file; none if the cache lacks the listing of a directory."""
    tree = out.get_obj() if out.use_cache and out.hash_info else None
    if tree is None or not out.hash_info.isdir:
        return {out.fs_path: out.hash_info.value} if tree else {}
    return {os.path.join(out.fs_path, *key): info.value for key, _, info in tree}  # noqa: PTH118


def _path(out: Any) -> str:
    return Path(os.path.relpath(out.fs_path, out.repo.root_dir)).as_posix()


def _words(paths: list[str]) -> str:
    return " ".join(map(shlex.quote, paths))


def main(objects: Annotated[bool, typer.Option("--objects", help="also find damage in the cache")] = False) -> None:
    """Report what is wrong with this checkout, and how to repair it."""
    found = list(findings(ROOT, objects))
    for finding in found:
        print(f"{finding.problem}\n    {finding.remedy}")
    if found:
        raise UserError(f"problems found: {len(found)}")
    print("no problems found in git, versions, processes, params.yaml, data, remote, cache and queue")


if __name__ == "__main__":
    run(main)
