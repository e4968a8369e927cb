"""The state of a training in progress, kept so that a killed one goes on where it was.

Checkpoints are no outputs of the pipeline: DVC deletes outputs before a run, or sets them back. They lie in
`$DVC_ROOT/.checkpoints/KEY/`, KEY being a hash of the parameters, the code and the data: a changed run never meets
another's. A file is the sha256 of what follows, then torch's format, read without unpickling objects.
"""

import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from Datasets.format.import_closure import import_closure

DIGEST_BYTES = 32


def checkpoint_path(parameters: Mapping[str, Any], scripts: Iterable[Path], root: Path, data: str) -> Path:
    """Where the checkpoint of a training lies.

    parameters: all that the result depends on. scripts: the files that are run, relative to `root`; what they import
    counts too. data: the dataset's fingerprint. The versions of torch and of this format count as well.
    """
    digest = hashlib.sha256(json.dumps([torch.__version__, data, parameters], sort_keys=True).encode())
    for file in import_closure(scripts, root):
        digest.update(f"\n{file.as_posix()} {hashlib.sha256((root / file).read_bytes()).hexdigest()}".encode())
    home = Path(os.environ.get("DVC_ROOT") or Path.cwd())
    return home / ".checkpoints" / digest.hexdigest()[:32] / "checkpoint.pt"


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write `state` (tensors, numbers, strings, and dicts and lists of them) so that `path` is never half written.

    Raises OSError if it cannot be written; the checkpoint before stays.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")  # an orphan of a killed `dvc repro` may run on
    try:
        partial.write_bytes(hashlib.sha256(data).digest() + data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state saved last, or None if there is none; a damaged file counts as none, and is said to be so."""
    if not path.is_file():
        return None
    digest, data = (content := path.read_bytes())[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != digest:
        print(f"{path}: damaged checkpoint; training starts from the beginning", file=sys.stderr)
        return None
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def remove_checkpoint(path: Path) -> None:
    """Remove the checkpoint of a training that is complete, and what killed ones left beside it."""
    shutil.rmtree(path.parent, ignore_errors=True)
