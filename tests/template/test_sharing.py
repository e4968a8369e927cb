"""Data and weights travel: over a directory, and over a real S3 server that checks signatures."""

import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from s3fs import S3FileSystem

from tests.contract import checkout
from tests.template.conftest import (
    AUTHOR,
    ROOT,
    USUAL,
    Result,
    copy_with_results,
    edit_params,
    run_in,
    succeeded,
    until,
)
from tests.template.s3_server import KEY, SECRET, Server, free_port, serving

README = (ROOT / "Datasets/README.md").read_text(encoding="utf-8")
PREFIX = "Bilder für alle"  # blanks and letters outside ASCII must do
LARGE = "Datasets/raw/large.bin"
MANY = 60 * 2**20  # bytes: more than 50 MiB, from which on objects are read in parts


def documented(kind: str) -> list[list[str]]:
    """The two lines with which Datasets/README.md replaces the default remote by one of another kind."""
    (group,) = [part for part in README.split("\n\n") if f"store url {kind}://" in part]
    return [line[2:].partition("  #")[0].split() for line in group.splitlines() if line.startswith("$ ")]


def outputs(directory: Path) -> dict[str, str]:
    """The sha256 of every file that DVC is to keep, by its path."""
    lock = YAML(typ="safe").load(directory / "dvc.lock")
    paths = [directory / out["path"] for stage in lock["stages"].values() for out in stage.get("outs", [])]
    paths += [directory / LARGE]
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    return {str(file.relative_to(directory)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def damaged(objects: Path) -> list[Path]:
    """The objects of a store or cache that are not what their name says: each is named by its MD5.

    What a killed DVC was writing stays behind under a hidden name, and is never read.
    """
    found = [file for file in objects.rglob("*") if file.is_file() and not file.name.startswith(".")]
    assert found
    names = {file: f"{file.parent.name}{file.name}".removesuffix(".dir") for file in found}
    return [file for file, name in names.items() if hashlib.md5(file.read_bytes()).hexdigest() != name]


def kill_when(begun: Callable[[], bool], directory: Path, *command: str, **environment: str) -> None:
    """Start a command, and kill it as soon as something holds."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(command, cwd=directory, env={**os.environ, "PATH": path, **environment})
    try:
        until(lambda: process.poll() is not None or begun())
        assert process.poll() is None, "it ended before it could be killed"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def s3(tmp_path) -> Iterator[Server]:
    """A server so slow that the large object takes two seconds."""
    with serving(tmp_path / "s3", 0, "--bwlimit", "30M") as server:
        yield server


def set_url(directory: Path, url: str) -> None:
    """Change the remote's URL by hand, for DVC cannot write letters outside ASCII."""
    config = directory / ".dvc/config"
    config.write_text(re.sub("url = .*", f"url = {url}", config.read_text(encoding="utf-8")), encoding="utf-8")


def failed(result: Result, *parts: str) -> None:
    """DVC failed with a line that has all of `parts`, and without a traceback."""
    assert result.returncode != 0, result.stdout
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
    assert any(all(part in line for part in parts) for line in errors), result.stderr


def test_a_project_travels_over_s3(project, s3, tmp_path):
    ann, bob = copy_with_results(project, tmp_path / "ein Prüfling"), tmp_path / "Kopie"
    put_on_s3(ann)
    objects = push_killed_and_repeated(ann, s3)
    succeeded(run_in(tmp_path, "git", "clone", "-q", ann, bob))
    pull_killed_and_repeated(bob, s3)
    assert damaged(objects) == damaged(bob / ".dvc/cache/files/md5") == []
    theirs = outputs(ann)
    assert outputs(bob) == theirs
    assert theirs.keys() > {LARGE, "Datasets/curated/metadata.json", "Deployment/bundles/e001.tar.gz"}
    assert "Data and pipelines are up to date." in succeeded(run_in(bob, "dvc", "repro")).stdout
    assert run_in(bob, "git", "status", "--porcelain").stdout == ""
    pull_a_damaged_object(ann, bob, s3)
    pull_without_room(bob, s3)
    pull_read_only(bob, s3)
    wrong_secret(bob, s3)
    wrong_buckets(bob, s3)


def put_on_s3(ann: Path) -> None:
    """One large source more, and the remote on S3; nothing is pushed."""
    (ann / LARGE).write_bytes(os.urandom(MANY))
    succeeded(run_in(ann, "dvc", "add", LARGE))
    for words in documented("s3"):
        succeeded(run_in(ann, *words))
    set_url(ann, f"s3://bucket/{PREFIX}")
    succeeded(run_in(ann, "git", "add", "-A"))
    succeeded(run_in(ann, "git", "commit", "-qm", "Share on S3", **AUTHOR))


def push_killed_and_repeated(ann: Path, s3: Server) -> Path:
    """Where the objects are then."""
    objects = s3.bucket / PREFIX / "files/md5"
    kill_when(lambda: any(objects.glob("*/[0-9a-f]*")), ann, "dvc", "push", **s3.environment)
    some = set(objects.glob("*/[0-9a-f]*"))  # and no .rclone_temp_put of the server
    succeeded(run_in(ann, "dvc", "push", **s3.environment))
    assert some < set(objects.glob("*/[0-9a-f]*"))
    return objects


def pull_killed_and_repeated(bob: Path, s3: Server) -> None:
    cached = bob / ".dvc/cache/files/md5"
    kill_when(lambda: len(list(cached.glob("*/*"))) > 1, bob, "dvc", "pull", **s3.environment)
    assert not (bob / LARGE).exists()
    succeeded(run_in(bob, "dvc", "pull", **s3.environment))


def pull_a_damaged_object(ann: Path, bob: Path, s3: Server) -> None:
    """It is found, its file is named, and nothing put in its place; repaired as docs/TROUBLE.md says, it is pulled."""
    shard = bob / "Datasets/curated/train-00000-of-00001.parquet"
    md5 = hashlib.md5(shard.read_bytes()).hexdigest()
    stored = s3.bucket / PREFIX / "files/md5" / md5[:2] / md5[2:]
    whole = stored.read_bytes()
    stored.write_bytes(whole[:5000] + b"damage" + whole[5006:])
    shutil.rmtree(bob / ".dvc/cache")
    shutil.rmtree(shard.parent)
    result = run_in(bob, "dvc", "pull", "curate", **s3.environment)
    assert result.returncode == 1
    assert "Datasets/curated" in result.stderr
    assert not shard.exists()
    missing = succeeded(run_in(bob, "dvc", "status", "-c", "Datasets/curated", **s3.environment)).stdout
    assert re.search(r"deleted: .*train-00000-of-00001\.parquet", missing)
    delete_with_listing(s3, stored, ann)
    succeeded(run_in(ann, "dvc", "push", **s3.environment))
    succeeded(run_in(bob, "dvc", "pull", "curate", **s3.environment))
    assert hashlib.md5(shard.read_bytes()).hexdigest() == md5


def delete_with_listing(s3: Server, stored: Path, ann: Path) -> None:
    """Delete an object of the curated dataset, and the dataset's listing, by S3, whose server trusts its own memory."""
    lock = YAML(typ="safe").load(ann / "dvc.lock")
    (listing,) = [out["md5"] for out in lock["stages"]["curate"]["outs"] if out["path"] == "Datasets/curated"]
    client = S3FileSystem(endpoint_url=s3.url, key=KEY, secret=SECRET)
    for path in (stored, stored.parents[1] / listing[:2] / listing[2:]):
        client.rm(f"bucket/{path.relative_to(s3.bucket)}")


def mounted(mount: str, bob: Path, s3: Server) -> Result | None:
    """What `dvc pull curate` says where something is mounted for it alone, or None where users may not mount."""
    if not shutil.which("unshare") or run_in(bob, "unshare", "-Urm", "true").returncode:
        return None
    command = ("unshare", "-Urm", "bash", "-c", f"{mount} && exec dvc pull curate")
    return checkout.run_in(bob, *command, **(USUAL | s3.environment))  # forked, it would not see the mount


def pull_without_room(bob: Path, s3: Server) -> None:
    """The cache is a disk of 200 kB."""
    shutil.rmtree(bob / "Datasets/curated")
    if told := mounted("mount -t tmpfs -o size=200k tmpfs .dvc/cache", bob, s3):
        failed(told, "No space left on device")
        assert not (bob / "Datasets/curated").exists()


def pull_read_only(bob: Path, s3: Server) -> None:
    """Nobody may write into Datasets; afterwards it is pulled as if nothing had been."""
    if told := mounted("mount --bind Datasets Datasets && mount -o remount,bind,ro Datasets", bob, s3):
        failed(told, "Read-only file system", "Datasets/curated")
    succeeded(run_in(bob, "dvc", "pull", "curate", **s3.environment))
    assert (bob / "Datasets/curated/metadata.json").exists()
    assert damaged(bob / ".dvc/cache/files/md5") == []


def wrong_secret(bob: Path, s3: Server) -> None:
    """Both ways; what is not in the cache must be fetched."""
    wrong = s3.environment | {"AWS_SECRET_ACCESS_KEY": "wrong"}
    failed(run_in(bob, "dvc", "fetch", "digits", **wrong), "Forbidden", "403")
    failed(run_in(bob, "dvc", "push", "curate", **wrong), "Forbidden", "403")


def wrong_buckets(bob: Path, s3: Server) -> None:
    for url, parts in (("s3://nowhere/a", ["bucket does not exist"]), ("s3://", ["config", "'store'"])):
        set_url(bob, url)
        failed(run_in(bob, "dvc", "push", "curate", **s3.environment), *parts)


def test_the_server_ends_when_it_is_told_to(tmp_path):
    port = free_port()
    words = [sys.executable, "-m", "tests.template.s3_server", "--directory", tmp_path, "--port", str(port)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        assert server.stdout
        while b"Ctrl-C" not in (line := server.stdout.readline()):
            assert line
        server.terminate()
        assert server.stdout.read() == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize("kind", ["s3", "gs", "azure", "ssh"])
def test_the_default_remote_is_replaced_by_two_lines(kind, tmp_path):
    (tmp_path / ".dvc").mkdir()
    for name in ("config", "aws.conf"):
        shutil.copy(ROOT / ".dvc" / name, tmp_path / ".dvc")
    succeeded(run_in(tmp_path, "git", "init", "-q"))
    lines = documented(kind)
    assert len(lines) == 2
    for words in [words for words in lines if words[0] == "dvc"]:
        succeeded(run_in(tmp_path, *words))
    config = (tmp_path / ".dvc/config").read_text()
    assert f"url = {kind}://" in config
    assert "verify = true" in config
    succeeded(run_in(tmp_path, "dvc", "remote", "list"))


def test_a_clone_without_data_trains_with_a_changed_parameter_and_runs_no_data_stage(project, tmp_path):
    ann, bob = copy_with_results(project, tmp_path / "ann"), tmp_path / "bob"
    set_url(ann, str(tmp_path / "store"))
    succeeded(run_in(ann, "dvc", "push", "-q"))
    succeeded(run_in(ann, "git", "commit", "-qam", "Another remote", **AUTHOR))
    succeeded(run_in(tmp_path, "git", "clone", "-q", ann, bob))
    run_in(bob, "dvc", "checkout")  # as the README says after switching branches; it leaves empty folders behind
    edit_params(bob, lambda params: params["experiments"]["e001"]["train"].update(epochs=1))
    told = succeeded(run_in(bob, "dvc", "repro", "--pull", "--allow-missing", "train@e001")).stdout
    assert re.findall("Running stage '(.*)'", told) == ["train@e001"]
    assert not (bob / "Datasets/raw/digits").exists()
