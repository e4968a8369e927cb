"""Is the data here, and can it be shared?"""

import hashlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from Datasets.tools.checks.finding import Finding, some
from Datasets.tools.errors import one_line

PATIENCE = 20.0  # seconds for a remote to answer
Repo = Any  # dvc.repo.Repo, whose module has no types


def check_data(repo: Repo) -> Iterator[Finding]:
    """Everything that dvc.lock and the .dvc files name is in the workspace, or at least in the cache."""
    missing = [out for out in repo.index.outs if out.hash_info and not out.exists]
    cached = {out: bool(files := _files(out)) and all(map(out.cache.exists, files.values())) for out in missing}
    remote = repo.config["core"].get("remote")
    if back := [_path(out) for out in missing if cached[out]]:
        yield Finding(f"{some(back)}: deleted, but still in DVC's cache", f"dvc checkout {_words(back)}")
    lost = [out for out in missing if not cached[out]]
    given = [_path(out) for out in lost if not out.stage.cmd]
    if remote and lost:
        yield Finding(f"{some([*map(_path, lost)])}: neither here nor in DVC's cache", "dvc pull")
    elif given:
        what = f"{some(given)}: neither here nor in DVC's cache, and there is no remote that may have it"
        yield Finding(what, "dvc remote add --default store URL && dvc pull")
    elif lost:
        yield Finding(f"{some([*map(_path, lost)])}: neither here nor in DVC's cache", "dvc repro")
    yield from _sources(repo, {_path(out) for out in repo.index.outs})


def _sources(repo: Repo, known: set[str]) -> Iterator[Finding]:
    sources = _params(repo).get("sources")
    for name, entry in (sources if isinstance(sources, dict) else {}).items():
        path = str(entry.get("path", "")) if isinstance(entry, dict) else ""
        if path and path not in known and not (Path(repo.root_dir) / path).exists():
            put = f"cp -r DELIVERY {shlex.quote(path)} && dvc add {shlex.quote(path)}"
            yield Finding(f"params.yaml: source {name}: {path} is not there, and neither DVC nor a stage makes it", put)


def _params(repo: Repo) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        params = YAML(typ="safe").load(Path(repo.root_dir, "params.yaml"))
    except (OSError, YAMLError):
        return {}
    return params if isinstance(params, dict) else {}


def _files(out: Any) -> dict[str, str]:
    """The files of an output, and the names of their objects; none if the cache does not have its listing."""
    tree = out.get_obj() if out.use_cache and out.hash_info else None
    if tree is None or not out.hash_info.isdir:
        return {out.fs_path: out.hash_info.value} if tree else {}
    return {os.path.join(out.fs_path, *key): info.value for key, _, info in tree}  # noqa: PTH118


def _path(out: Any) -> str:
    return Path(os.path.relpath(out.fs_path, out.repo.root_dir)).as_posix()


def _words(paths: list[str]) -> str:
    return " ".join(map(shlex.quote, paths))


def check_remote(repo: Repo) -> Iterator[Finding]:
    """The default remote answers."""
    name = repo.config["core"].get("remote")
    if name is None:
        return
    url = repo.config["remote"].get(name, {}).get("url", "")
    answer: Queue[str | None] = Queue()
    Thread(target=lambda: answer.put(_ask(repo, name)), daemon=True).start()
    try:
        reason = answer.get(timeout=PATIENCE)
    except Empty:
        reason = f"no answer in {PATIENCE:.0f} s"
    if reason is not None:
        mend = f"dvc remote modify {shlex.quote(name)} url URL"
        yield Finding(f"remote {name}, {url}: cannot be reached: {reason}", f"{mend}, or its credentials with --local")


def _ask(repo: Repo, name: str) -> str | None:
    """Why a remote cannot be reached; None if it can. It need not exist before the first push, but its parent must."""
    try:
        store = repo.cloud.get_remote(name)
        if store.fs.exists(store.path) or store.fs.protocol not in ("local", "s3"):
            return None
        parent = store.fs.parent(store.path) if store.fs.protocol == "local" else store.path.partition("/")[0]
        return None if store.fs.exists(parent) else f"{parent}: not found"
    except Exception as error:  # each kind of remote has its own, and this asks why, whatever it is
        return one_line(f"{type(error).__name__}: {error}")[:200]


def check_cache(repo: Repo) -> Iterator[Finding]:
    """The cache is on the workspace's file system, where a file and its copy in the cache can be one."""
    kinds = repo.config["cache"].get("type") or []
    cache = Path(repo.cache.local.path)
    there = next(path for path in (cache, *cache.parents) if path.exists())
    if there.stat().st_dev != Path(repo.root_dir).stat().st_dev and "symlink" not in kinds:
        mend = "dvc config --local cache.type symlink && dvc checkout --relink"
        yield Finding(
            f"{cache}: DVC's cache is on another file system, so all data is copied and lies there twice", mend
        )


def check_objects(repo: Repo) -> Iterator[Finding]:
    """No object of the cache is damaged: its name is the MD5 of its bytes. DVC believes what it once wrote, unread."""
    objects = [path for path in Path(repo.cache.local.path).glob("[0-9a-f][0-9a-f]/[0-9a-f]*") if path.is_file()]
    names = {path: path.parent.name + path.name for path in objects}
    damaged = {path: md5 for path in objects if (md5 := _md5(path)) != names[path].removesuffix(".dir")}
    if not damaged:
        return
    contents = {names[path]: md5 for path, md5 in damaged.items()}
    files = {Path(file): name for out in repo.index.outs for file, name in _files(out).items() if name in contents}
    copies = [file for file, name in files.items() if file.is_file() and _md5(file) == contents[name]]
    bad = [os.path.relpath(path, repo.root_dir) for path in (*damaged, *copies)]
    yield Finding(f"{some(bad)}: damaged: not what DVC once wrote", f"rm -f {_words(bad)} && dvc pull")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
