"""Commands that start in no time: each in a process of its own, forked from one that has imported what they need.

That one, which all processes of pytest-xdist share, imports only libraries, never the project's own code: a command
runs that of the directory it is in. In the folder `programs()` lie `python`, `dvc` and `copier` for shells and for
DVC, which have commands forked, too, and start as usual what cannot be.
"""

import gc
import importlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired

import psutil
from filelock import FileLock

from tests.contract.checkout import environment
from tests.template.forked_client import ask, wait

ROOT = Path(__file__).parents[2]
MODULES = ("Datasets.", "Data_processing.", "Models.", "Deployment.", "tests.template.Models.")
PROGRAMS = ("dvc", "copier")
USUAL = environment()  # whose commands start as they do for a user
AS_USUAL = "Deployment.serve"  # starts soon, and minds signals and processes of its own
IMPORTED = """
pandas pyarrow.parquet pyarrow.dataset typer joblib PIL.ImageOps PIL.ImageDraw PIL.TiffImagePlugin lxml.etree
pycocotools.mask filelock scipy.sparse.csgraph scipy.ndimage msgspec.yaml jinja2 packaging.requirements questionary
dvc.cli.parser dvc.repo.reproduce dvc.repo.experiments.queue.celery dvc.stage.run dvc.scm dvc.cachemgr dvc.data_cloud
dvc.daemon dvc_data.fs dvc_data.index dvc_render dvc_s3 dvc.repo.graph dvc.repo.open_repo dvc.utils.strictyaml networkx
ruamel.yaml pyparsing scmrepo.git pygit2 dulwich.repo dvc_studio_client.post_live_metrics celery.app.base requests
rich.table
"""  # not copier, whose plumbum keeps the environment
# What only models and their service need, in a process of its own: forking it takes three times as long.
LARGE = """
torch._dynamo torch.onnx onnxscript onnxruntime safetensors.torch faster_coco_eval fastapi uvicorn prometheus_client
"""
SOCKETS = {"small": IMPORTED, "large": LARGE + IMPORTED}  # by the name of the socket
PYTHON = """#!/bin/sh
[ "$1" != -u ] || shift  # as torchrun has it
case "$1 $2" in
    "-m {as_usual}") ;;
    "-m dvc"|"-m copier"|"-m Datasets."*|"-m Data_processing."*) shift; exec {client}/small' "$@" ;;
    "-m Models."*|"-m Deployment."*|"-m tests."*) shift; exec {client}/large' "$@" ;;
esac
exec '{python}' "$@"
"""
PROGRAM = """#!/bin/sh
exec {client}/small' {name} "$@"
"""


def module_of(command: Sequence[str]) -> tuple[str, Sequence[str]] | None:
    """The module that a command runs, and the words after it; None if it is not one that can be forked."""
    if command[0] in PROGRAMS:
        return command[0], command[1:]
    if command[0] not in ("python", sys.executable) or list(command[1:2]) != ["-m"]:
        return None
    module = command[2]
    can_be = module in PROGRAMS or (module.startswith(MODULES) and module != AS_USUAL)
    return (module, command[3:]) if can_be else None


def run(
    module: str, words: Sequence[str], directory: Path, environment: Mapping[str, str], timeout: float
) -> "CompletedProcess[str]":
    """Run `python -m MODULE WORDS` in a directory with exactly this environment."""
    with (
        tempfile.TemporaryFile("w+", errors="replace") as out,
        tempfile.TemporaryFile("w+", errors="replace") as err,
        Path(os.devnull).open() as nothing,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        small = module in PROGRAMS or module.startswith(("Datasets.", "Data_processing."))
        connection.connect(str(programs() / ("small" if small else "large")))
        connection.settimeout(timeout)
        files = [each.fileno() for each in (nothing, out, err)]
        ask(connection, [module, *words], str(directory), dict(environment), files)
        try:
            code = wait(connection)
        except TimeoutError as late:
            raise TimeoutExpired([module, *words], timeout) from late
        return CompletedProcess([module, *words], code, *(_content(file) for file in (out, err)))


def _content(file) -> str:
    file.seek(0)
    return file.read()


def quick() -> dict[str, str]:
    """What makes another environment of the usual one: it starts commands in no time, and no processes in stages."""
    folder = programs()
    path = f"{folder}{os.pathsep}{USUAL['PATH']}"
    return {"PATH": path, "FOURFOLD_PYTHON": str(folder / "python"), "LOKY_MAX_CPU_COUNT": "1"}


def programs() -> Path:
    """The folder with `python` and `dvc`, made by the first who asks, with the process that forks behind them."""
    owner = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    folder = Path(tempfile.gettempdir(), f"fourfold-forks-{owner}")  # short, as a socket's path must be
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            client = f"'{sys.executable}' -S -E '{ROOT}/tests/template/forked_client.py' '{folder}"
            for name in ("python", *PROGRAMS):
                text = PYTHON if name == "python" else PROGRAM
                text = text.format(name=name, as_usual=AS_USUAL, client=client, python=sys.executable)
                (folder / name).write_text(text)
                (folder / name).chmod(0o755)
            for name in SOCKETS:
                command = [sys.executable, "-m", "tests.template.forked", str(folder / name), str(owner)]
                process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True)
                assert process.stdout and process.stdout.readline() == b"listening\n"
    return folder


def serve(address: Path, owner: int) -> None:
    """Fork a command for each connection, as long as the owner lives; kill it if its connection is closed before."""
    selector, running = selectors.DefaultSelector(), dict[int, socket.socket]()
    woken, wakes = socket.socketpair()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    listener.listen(64)
    print("listening", flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # read when torch is imported; Models/learning/hardware.py sets it
    for name in SOCKETS[address.name].split():
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, lambda *_: None)
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno())
    for each in (listener, woken):
        selector.register(each, selectors.EVENT_READ)
    while psutil.pid_exists(owner):
        for key, _ in selector.select(timeout=1):
            if key.fileobj is listener:
                connection = listener.accept()[0]
                running[_begin(connection)] = connection
                selector.register(connection, selectors.EVENT_READ)
            elif key.fileobj is woken:
                woken.recv(4096)
            else:  # nobody waits for it any more
                selector.unregister(key.fileobj)
                for process in [process for process, each in running.items() if each is key.fileobj]:
                    os.kill(process, signal.SIGKILL)
        for process, code in _ended():
            connection = running.pop(process)
            with suppress(OSError, KeyError):
                selector.unregister(connection)
            with suppress(OSError):
                connection.sendall(struct.pack("q", code))
            connection.close()


def _begin(connection: socket.socket) -> int:
    """Fork what a connection asks for; the id of its process."""
    head, files, *_ = socket.recv_fds(connection, 8, 3)
    size = struct.unpack("Q", head)[0]
    words, directory, environment = json.loads(connection.recv(size, socket.MSG_WAITALL))
    process = os.fork()
    if not process:
        _run(words, directory, environment, files)
    for file in files:
        os.close(file)
    connection.sendall(struct.pack("q", process))
    return process


def _ended() -> Iterator[tuple[int, int]]:
    """The processes that have ended, and their exit codes."""
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            yield found[0], os.waitstatus_to_exitcode(found[1])


def _run(words: Sequence[str], directory: str, environment: Mapping[str, str], files: Sequence[int]) -> None:
    """Be `python -m WORDS`."""
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for descriptor, file in enumerate(files):
        os.dup2(file, descriptor)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    tests = str(ROOT / "tests")
    libraries = [path for path in sys.path if path not in ("", str(ROOT)) and not path.startswith(tests)]
    ours = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = [directory, *ours, *libraries]
    sys.argv[1:] = words[1:]
    tempfile.tempdir = None  # which libraries asked for before the environment was this one
    sys.executable = environment.get("FOURFOLD_PYTHON", sys.executable)
    code: object = 0
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    try:
        serve(Path(sys.argv[1]), int(sys.argv[2]))
    finally:
        folder = Path(sys.argv[1]).parent
        shutil.rmtree(folder, ignore_errors=True)
        Path(f"{folder}.lock").unlink(missing_ok=True)
