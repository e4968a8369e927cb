"""`dvc push` and `dvc pull` of a curated dataset, against the same images as files, over an S3 server.

python -m tests.benchmarks.bench_sharing [--images 10000]
"""

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from Datasets.format.curated import write_annotations, write_curated
from Datasets.format.records import Record, empty_record
from tests.benchmarks.measuring import Figure, cost
from tests.template.s3_server import serving

IMAGES, BYTES = 10_000, 10_000
STEPS = ("add data", "push", "pull")


def image(number: int) -> bytes:
    """Bytes that cannot be compressed, as those of an image."""
    return np.random.default_rng(number).bytes(BYTES)


def write_files(directory: Path, images: int) -> None:
    """The images, a file each."""
    directory.mkdir()
    for number in range(images):
        (directory / f"{number}.jpg").write_bytes(image(number))


def write_shards(directory: Path, images: int) -> None:
    """The images in shards."""
    directory.mkdir()
    known = {"width": 100, "height": 100, "split": "train", "labels": [], "counts": [], "boxes": []}
    rows: list[Record] = [
        Record(**{**empty_record(f"{n}.jpg", "s"), **known, "sha256": hashlib.sha256(image(n)).hexdigest()})
        for n in range(images)
    ]
    by_split = {"train": rows, "val": [], "test": []}
    sizes = {split: [BYTES] * len(part) for split, part in by_split.items()}
    read = lambda record: (image(int(record["image"][:-4])), None)  # noqa: E731
    write_annotations(directory, write_curated(directory, by_split, sizes, read), {})


def measure(directory: Path) -> dict[str, float]:
    """Seconds of adding, pushing, and pulling into an empty cache and workspace, of directory/data."""
    dvc = [sys.executable, "-m", "dvc"]
    remote = ["remote", "add", "-d", "store", f"s3://bucket/{directory.name}"]
    for command in (["init", "--no-scm"], ["config", "core.analytics", "false"], remote):
        cost([*dvc, *command], directory)
    found = {step: cost([*dvc, *step.split()], directory).seconds for step in ("add data", "push")}
    shutil.rmtree(directory / "data")
    shutil.rmtree(directory / ".dvc/cache")
    return found | {"pull": cost([*dvc, "pull"], directory).seconds}


def figures(images: int = IMAGES) -> Iterator[Figure]:
    """Measure both."""
    found = {}
    with tempfile.TemporaryDirectory() as temporary, serving(Path(temporary, "s3")) as server:
        os.environ |= server.environment
        for name, write in (("files", write_files), ("shards", write_shards)):
            directory = Path(temporary, name)
            directory.mkdir()
            write(directory / "data", images)
            found[name] = measure(directory)
    for step in STEPS:
        files, shards = found["files"][step], found["shards"][step]
        yield Figure(
            f"dvc {step.split()[0]} of {images:,} images of {BYTES // 1000} kB as a curated dataset",
            "the same images as files",
            f"{files / shards:.1f} times as fast",
            "",
            f"{shards:.1f} s against {files:.1f} s, once each, each with 1 s or so of DVC's start",
        )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Measure sharing a dataset.")
    parser.add_argument("--images", type=int, default=IMAGES)
    for figure in figures(parser.parse_args().images):
        print(figure)


if __name__ == "__main__":
    main()
