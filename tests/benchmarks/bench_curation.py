"""Clean, duplicates and split over generated records with five boxes each: time and memory as they grow.

    python -m tests.benchmarks.bench_curation [--largest 1000000]

Runs `clean`, then `split`, which looks for duplicates and deals the groups out; of every tenth image there is a near
duplicate. Packing the shards, which reads every image, is not in it. Memory is that of all processes at once.
"""

import argparse
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from Data_processing.shared.imported import About, Imported, ImportedBox, ImportOptions, write_imported
from Data_processing.shared.inspected import INSPECTED_SCHEMA
from Data_processing.shared.parallel import batched
from tests.benchmarks.bench_duplicates import generate
from tests.benchmarks.generated import CLASSES, SIDES, class_name
from tests.benchmarks.measuring import Cost, Figure, cost, python

SIZES = (10_000, 100_000, 1_000_000)
BOXES = 5
BLOCK = 5000


def records(images: int) -> Iterator[Imported]:
    """Imported records of images/0.jpg and so on."""
    rng = np.random.default_rng(0)
    for first in range(0, images, BLOCK):
        kinds = rng.integers(0, CLASSES, (BLOCK, BOXES)).tolist()
        corner, size = rng.uniform(0, 400, (BLOCK, BOXES, 2)), rng.uniform(1, 80, (BLOCK, BOXES, 2))
        places = np.concatenate([corner, corner + size], axis=2).tolist()
        for image in range(first, min(images, first + BLOCK)):
            of_image = zip(kinds[image - first], places[image - first], strict=True)
            boxes = [ImportedBox(class_name(kind), *place, f"a.json: annotation {image}") for kind, place in of_image]
            yield Imported(f"images/{image}.jpg", f"a.json: image {image}", *SIDES, boxes=boxes)


def facts(images: int) -> Iterator[dict[str, object]]:
    """Inspected rows of the same images."""
    hashes = generate(images)
    hashes = np.resize(np.random.default_rng(1).permutation(hashes), (images, hashes.shape[1]))
    seen = {"bytes": 9000, "format": "JPEG", "mode": "RGB", "brightness": 99.0, "contrast": 40.0, "sharpness": 200.0}
    seen |= {"width": SIDES[0], "height": SIDES[1], "reason": None, "values": None}
    for image in range(images):
        known = {"image": f"images/{image}.jpg", "sha256": f"{image:064x}", "phash": hashes[image].tobytes()}
        yield {**dict.fromkeys(INSPECTED_SCHEMA.names), **seen, **known}


def measure(directory: Path, images: int) -> tuple[Cost, Cost]:
    """What clean and what split cost."""
    for name in ("imported", "inspected"):
        (directory / name).mkdir(parents=True)
    write_imported(records(images), "s", directory / "imported/s.parquet", About("", "", ImportOptions()))
    with pq.ParquetWriter(directory / "inspected/s.parquet", INSPECTED_SCHEMA) as writer:
        for rows in batched(facts(images), 10_000):
            writer.write_table(pa.Table.from_pylist(rows, schema=INSPECTED_SCHEMA))
    stated = ("--imported", directory / "imported", "--inspected", directory / "inspected")
    cleaned = cost(python("Data_processing.clean", *stated, "--min_box", 0, "--out", directory / "clean", "--", "s"))
    accepted = directory / "clean/accepted.parquet"
    return cleaned, cost(python("Data_processing.split", "--accepted", accepted, "--tries", 1))


def figures(largest: int = SIZES[-1]) -> Iterator[Figure]:
    """Measure every size up to the largest; each ratio is against the one before."""
    before: tuple[int, float, float] | None = None
    with tempfile.TemporaryDirectory() as temporary:
        for images in sorted({*(size for size in SIZES if size < largest), largest}):
            cleaned, dealt = measure(Path(temporary, str(images)), images)
            seconds, processor = cleaned.seconds + dealt.seconds, cleaned.processor + dealt.processor
            ratio = aim = ""
            if before:
                growth = images * math.log(images) / (before[0] * math.log(before[0]))
                ratio = f"{seconds / before[1]:.1f} times the time, {processor / before[2]:.1f} by processor time"
                aim = f"{growth:.1f} (n log n), below 4,000 MB"
            yield Figure(
                f"clean, duplicates and split of {images:,} records with {BOXES * images:,} boxes",
                f"{before[0]:,} records" if before else "",
                ratio,
                aim,
                f"clean {cleaned.seconds:.1f} s and {cleaned.memory:.0f} MB; "
                f"duplicates and split {dealt.seconds:.1f} s and {dealt.memory:.0f} MB",
            )
            before = images, seconds, processor


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Measure cleaning and dealing out many records.")
    parser.add_argument("--largest", type=int, default=SIZES[-1])
    for figure in figures(parser.parse_args().largest):
        print(figure)


if __name__ == "__main__":
    main()
