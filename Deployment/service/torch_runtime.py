"""The model built anew by the script that travels with its export, run by PyTorch on the CPU.

For comparison with the ONNX graph, and for models that have none that onnxruntime can run. It runs code of the export:
serve only exports that you trust.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from Datasets.tools.errors import UserError, one_line
from Deployment.service.artifact import MANIFEST, Artifact

WEIGHTS = "weights.safetensors"
SCRIPT = "script"
Run = Callable[[np.ndarray], Mapping[str, np.ndarray]]  # uint8 [N, 3, H, W] to the outputs of forward


def torch_run(artifact: Artifact, threads: int) -> Run:
    """The model of an export, ready to run. Raises UserError if the export lacks a part, or the script fails."""
    torch, load_file = _import_torch()
    described = artifact.manifest.get("script", {})
    module = _import_script(artifact, described.get("module", ""))
    try:
        model = module.build(**described["build"]).eval()
        model.load_state_dict(load_file(artifact.directory / WEIGHTS))
    except Exception as error:  # whatever a script may raise
        reason = one_line(error)
        raise UserError(f"{artifact.directory / SCRIPT}: does not build the model: {reason}; export again") from error
    torch.set_num_threads(threads)

    def run(images: np.ndarray) -> Mapping[str, np.ndarray]:
        with torch.inference_mode():
            found = model(torch.from_numpy(np.ascontiguousarray(images)))
        return {name: values.numpy() for name, values in found.items()}

    return run


def _import_torch() -> tuple[Any, Any]:
    try:
        import torch
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed, which --runtime torch needs; install torch safetensors"
        ) from None
    return torch, load_file


def _import_script(artifact: Artifact, name: str) -> ModuleType:
    """Import the model's script, with what it imports of its own project, from the export and nowhere else."""
    folder = artifact.directory / SCRIPT
    file = f"{SCRIPT}/{name.replace('.', '/')}.py"
    for needed in (file, WEIGHTS):
        if needed not in artifact.manifest["files"] or not (artifact.directory / needed).is_file():
            raise UserError(
                f"{artifact.directory / needed}: not found; --runtime torch needs a whole export, "
                f"with script and weights, as {MANIFEST} lists them: a bundle has neither"
            )
    sys.path.insert(0, str(folder.resolve()))
    try:
        module = importlib.import_module(name)
    except Exception as error:  # whatever a script may raise
        raise UserError(f"{artifact.directory / file}: cannot be imported: {one_line(error)}") from error
    finally:
        sys.path.remove(str(folder.resolve()))
    if Path(module.__file__ or "").resolve() != (artifact.directory / file).resolve():
        raise UserError(f"{name}: is imported from {module.__file__}, not from {folder}; run it in another directory")
    return module
