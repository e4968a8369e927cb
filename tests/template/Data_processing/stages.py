"""Stages run by hand in the tests' own process, which spares a second each, and what they write."""

import contextlib
import gc
import importlib
import io
import os
import sys
from pathlib import Path
from unittest import mock

import pandas as pd
import pyarrow.parquet as pq

from Datasets.format.curated import Curated
from Datasets.format.records import SPLITS
from Datasets.tools.command import run
from tests.template.conftest import ROOT, Result, succeeded

ALL_TRAIN = ("--train", "1", "--val", "0", "--test", "0")


def stage(module: str, *options: str | Path, cwd: Path = ROOT) -> Result:
    """Run `python -m MODULE OPTIONS` with this checkout's code, in a directory."""
    words, out, err, code = [module, *map(str, options)], io.StringIO(), io.StringIO(), None
    main = importlib.import_module(module).main
    forget()
    with contextlib.ExitStack() as changed:
        changed.enter_context(contextlib.chdir(cwd))
        changed.enter_context(mock.patch("sys.argv", words))
        changed.enter_context(mock.patch("signal.signal"))  # which would end the tests, too
        changed.enter_context(mock.patch.dict(os.environ, LOKY_MAX_CPU_COUNT="1"))  # as forked commands have it
        changed.enter_context(contextlib.redirect_stdout(out))
        changed.enter_context(contextlib.redirect_stderr(err))
        try:
            run(main)
        except SystemExit as ended:
            code = ended.code
        finally:
            gc.enable()  # which stage import disables
    return Result(words, int(code or 0), out.getvalue(), err.getvalue())


def forget() -> None:
    """Empty what modules keep of opened sources, as it is in a process of its own."""
    for name in [name for name in sys.modules if name.startswith("Data_processing.")]:
        for kept in vars(sys.modules[name]).values():
            if hasattr(kept, "cache_clear"):
                kept.cache_clear()


def take_in(directory: Path, name: str, path: Path, form: str = "coco", *options: str | Path) -> Result:
    """Import and inspect a source; what the import said."""
    imported, inspected = directory / f"imported/{name}.parquet", directory / f"inspected/{name}.parquet"
    words = ("--source", name, "--path", path)
    said = stage("Data_processing.import_source", *words, "--format", form, "--out", imported, *options)
    succeeded(said)
    succeeded(stage("Data_processing.inspect_images", *words, "--imported", imported, "--out", inspected))
    return said


def clean(directory: Path, *words: str | Path, run=stage, **more) -> Result:
    """Clean the sources that words name, with the options among them."""
    folders = ("--imported", directory / "imported", "--inspected", directory / "inspected")
    return run("Data_processing.clean", *folders, "--out", directory / "clean", *words, **more)


def take_in_and_clean(path: Path, directory: Path, *options: str | Path, form: str = "coco") -> Result:
    """Import and inspect the source s, and clean it."""
    take_in(directory, "s", path, form)
    return clean(directory, *options, "s")


def curate(directory: Path, *options: str | Path) -> Result:
    out = ("--out", directory / "curated", "--summary", directory / "curated.json")
    return stage("Data_processing.curate", "--cleaned", directory / "clean", *out, *options)


def accepted(directory: Path) -> dict[str, dict]:
    """The accepted records by their images."""
    return {row["image"]: row for row in pq.read_table(directory / "clean/accepted.parquet").to_pylist()}


def table(directory: Path, name: str) -> pd.DataFrame:
    """The table `rejected` or `repairs`."""
    return pd.read_csv(directory / f"clean/{name}.csv")


def rejected(directory: Path) -> dict[str, str]:
    """The rules by which images were rejected."""
    found = table(directory, "rejected")
    return dict(zip(found["image"], found["rule"], strict=True))


def splits_of(directory: Path) -> dict[str, str]:
    """The split of each image of the curated dataset."""
    dataset = Curated(directory / "curated")
    return {record["image"]: split for split in SPLITS for record in dataset.records(split)}
