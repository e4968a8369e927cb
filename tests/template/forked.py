"""Commands that start in no time: each in a process of its own, forked from one that has imported what they need.

Only libraries are imported beforehand, never the project's own code: a command runs that of the directory it is in.
"""

import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired

ROOT = Path(__file__).parents[2]
ROOMS = ("Datasets.", "Data_processing.", "Models.", "Deployment.")
IMPORTED = ["pandas", "pyarrow.parquet", "typer", "joblib", "PIL.Image", "lxml.etree", "pycocotools.mask", "filelock"]
IMPORTED += ["torch._dynamo", "torch.onnx", "onnxscript", "onnxruntime", "safetensors.torch", "faster_coco_eval"]
IMPORTED += ["dvc.cli.parser", "dvc.repo.reproduce", "dvc.repo.experiments.queue.celery", "dvc.stage.run", "dvc.scm"]
IMPORTED += ["dvc.cachemgr", "dvc.data_cloud", "dvc.daemon", "dvc_data.fs", "dvc_data.index", "dvc_render", "dvc_s3"]
IMPORTED += ["dvc.repo.graph", "dvc.repo.open_repo", "dvc.utils.strictyaml", "networkx", "ruamel.yaml", "pyparsing"]
IMPORTED += ["scmrepo.git", "pygit2", "dulwich.repo", "dvc_studio_client.post_live_metrics"]
IMPORTED += ["celery.app.base", "requests", "rich.table", "fastapi", "uvicorn", "prometheus_client"]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([*IMPORTED, "tests.template.forked"])


def module_of(command: Sequence[str], environment: Mapping[str, str]) -> tuple[str, Sequence[str]] | None:
    """The module that a command runs, and the words after it; None if it is not one that can be forked.

    A command that may start joblib's worker processes cannot: forked, it and they would wait for each other forever.
    """
    if command[0] == "dvc":
        return "dvc", command[1:]
    if command[0] not in ("python", sys.executable) or not "".join(command[2:3]).startswith(ROOMS):
        return None
    if command[2].startswith("Data_processing.") and environment.get("LOKY_MAX_CPU_COUNT") != "1":
        return None
    return command[2], command[3:]


def run(
    module: str, words: Sequence[str], directory: Path, environment: Mapping[str, str], timeout: float
) -> "CompletedProcess[str]":
    """Run `python -m MODULE WORDS` in a directory with exactly this environment."""
    with tempfile.TemporaryDirectory() as temporary:
        out, err = Path(temporary, "out"), Path(temporary, "err")
        process = FORKS.Process(target=_run, args=(module, words, directory, environment, out, err))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise TimeoutExpired([module, *words], timeout, out.read_text(), err.read_text())
        return CompletedProcess([module, *words], process.exitcode, out.read_text(), err.read_text())


def _run(
    module: str, words: Sequence[str], directory: Path, environment: Mapping[str, str], out: Path, err: Path
) -> None:
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    tests = str(ROOT / "tests")
    libraries = [path for path in sys.path if path not in ("", str(ROOT)) and not path.startswith(tests)]
    ours = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = [str(directory), *ours, *libraries]
    sys.argv[1:] = words
    runpy.run_module(module, run_name="__main__", alter_sys=True)
