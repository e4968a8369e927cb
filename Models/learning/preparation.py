"""What a training begins with: the images, the network, the settings of torch, and the key of its checkpoints."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from Datasets.format.curated import Curated
from Datasets.tools.errors import UserError
from Models.learning.augmentation import check_augmentation
from Models.learning.checkpoints import checkpoint_path
from Models.learning.data_loading import Samples
from Models.learning.distributed import count
from Models.learning.initial_weights import Initial, read_initial, start_from
from Models.learning.precision import Precision, chosen
from Models.learning.scripts import (
    ROOT,
    Run,
    build_model,
    check_helpers,
    check_outputs,
    library_versions,
    load_script,
    parse_build_arguments,
    script_file,
)
from Models.learning.training import Options, varied

STAGE = Path("Models/train.py")  # which imports all that a training depends on, but for the model script


@dataclass(frozen=True)
class Work:
    """What is trained, on what, and how. checkpoint: the file for it; run: what will be noted of it."""

    network: nn.Module
    samples: Samples
    validation: Samples
    options: Options
    run: Run
    checkpoint: Path


def prepared(script: str, helpers: Path, model: Sequence[str], curated: Path, init: Path, options: Options) -> Work:
    """Read, check and build all that a training needs; the arguments are those of `Models.train`.

    Raises UserError for a mistake in any of them.
    """
    check_helpers(script, helpers)
    module = load_script(script)
    arguments = parse_build_arguments(module.build, model)
    data = Curated(curated)
    check_augmentation(varied(options), module.TASK)
    samples, validation = (Samples(data, split, options.size, module.TASK) for split in ("train", "val"))
    options = set_up_torch(options)
    initial = read_initial(init)
    origin, versions = initial.origin() if initial else None, library_versions()
    run = Run(script, arguments, asdict(options), list(data.classes), data.fingerprint(), origin, versions)
    network = first_network(run, initial)
    checkpoint = checkpoint_path(asdict(run), [STAGE, script_file(script)], ROOT, run.data)
    return Work(network, samples, validation, options, run, checkpoint)


def set_up_torch(options: Options) -> Options:
    """Make torch compute as the options say; the options with the precision that is taken, and all processes."""
    check_device(options.device)
    precision = chosen(Precision(options.precision), options.device)
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(options.deterministic)
    torch.manual_seed(options.seed)
    return replace(options, precision=precision.value, processes=count())


def check_device(name: str) -> None:
    """Raise UserError if this machine has no such device."""
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device: {name!r} cannot be used here: {str(error).splitlines()[0]}") from error


def first_network(run: Run, initial: Initial | None) -> nn.Module:
    """The network with the weights that its training begins with."""
    script = load_script(run.script)
    network = build_model(script, len(run.classes), run.build)
    check_outputs(script, network, run.train["size"], len(run.classes))
    for line in start_from(network, initial, run.classes) if initial else []:
        print(line, file=sys.stderr)
    return network
