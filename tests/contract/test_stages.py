"""Each stage of dvc.yaml depends on all code that can change its result, and reads and writes only where it may."""

import re
from pathlib import Path

from Datasets.format.import_closure import import_closure
from tests.contract.checkout import ROOT

TOOLS = ("Datasets/tools",)  # messages, progress, errors: cannot change a result
READS = {
    "Data_processing": ("Data_processing", "Datasets/format", "Datasets/pages", "Datasets/raw", "Datasets/curated"),
    "Models": ("Models", "Datasets/format", "Datasets/pages", "Datasets/curated", "Datasets/pretrained"),
    "Deployment": ("Deployment", "Datasets/format", "Datasets/curated", "Datasets/pretrained", "constraints.txt"),
}
WRITES = {
    "Data_processing": ("Data_processing", "Datasets/raw", "Datasets/curated"),
    "Models": ("Models/outputs", "Datasets/pretrained"),
    "Deployment": ("Deployment/bundles",),
}
FOUND_BY_NAME = {  # what a stage's module loads by a name that it is given
    "Data_processing.import_source": ("Data_processing/readers", "Data_processing/own_readers"),
    "Data_processing.clean": ("Data_processing/own_rules",),
}


def module_of(stage) -> str:
    return re.match(r"python -m (\S+)", stage.cmd)[1]


def code_of(stage) -> set[str]:
    """The files that a stage's command runs: its module, and what it loads by name, with all that these import."""
    module = module_of(stage)
    path = Path(*module.split("."))
    files = [path / "__main__.py" if (ROOT / path).is_dir() else path.with_suffix(".py")]
    for folder in FOUND_BY_NAME.get(module, ()):
        files += [path.relative_to(ROOT) for path in (ROOT / folder).glob("*.py")]
    if script := re.search(r"--script '?([^\s']+)", stage.cmd):
        files.append(Path("Models", f"{script[1]}.py"))
    if module == "Deployment.package":
        files.append(Path("Deployment/serve.py"))  # which it copies
    return {path.as_posix() for path in import_closure(files, ROOT) if path.name != "__init__.py"}


def within(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)


def test_the_code_of_each_stage_lies_in_its_dependencies(stages):
    missing = []
    for name, stage in stages.items():
        places = tuple(dep.def_path for dep in stage.deps)
        missing += [f"{name}: add {path}" for path in sorted(code_of(stage)) if not within(path, (*places, *TOOLS))]
    assert not missing, "\n".join(missing)


def test_no_stage_depends_on_code_that_cannot_change_its_result(stages):
    wrong = [f"{name}: {dep}" for name, stage in stages.items() for dep in stage.deps if within(dep.def_path, TOOLS)]
    assert not wrong, "\n".join(wrong)


def test_stages_read_and_write_only_where_their_package_may(stages):
    wrong = []
    for name, stage in stages.items():
        package = module_of(stage).partition(".")[0]
        wrong += [f"{name} reads {dep}" for dep in stage.deps if not within(dep.def_path, READS[package])]
        wrong += [f"{name} writes {out}" for out in stage.outs if not within(out.def_path, WRITES[package])]
    assert not wrong, "\n".join(wrong)


def test_all_outputs_are_cached_and_can_be_shared(stages):
    outs = [out for stage in stages.values() for out in stage.outs]
    assert [str(out) for out in outs if not (out.use_cache and out.can_push)] == []
