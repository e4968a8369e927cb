"""Inspecting images, against Pillow's bare decoding in as many processes; and a source of which 1 % is new.

    python -m tests.benchmarks.bench_inspect [--images 3000] [--rounds 3]

What starting takes, with one image, is measured apart and taken off where the table says so.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from multiprocessing import Pool
from pathlib import Path

from tests.benchmarks.generated import write_images
from tests.benchmarks.measuring import Cost, Figure, alternated, cost, python

IMAGES = 3000


def decode(file: Path) -> None:
    """The reference: the whole image as RGB."""
    from PIL import Image

    with Image.open(file) as image:
        image.load()
        image.convert("RGB")


def decode_all(directory: Path) -> None:
    """Decode a directory's images by a process a core."""
    with Pool(os.cpu_count()) as pool:
        pool.map(decode, sorted(directory.rglob("*.jpg")), chunksize=32)


def figures(images: int = IMAGES, rounds: int = 3) -> Iterator[Figure]:
    """Measure decoding, and an increment."""
    with tempfile.TemporaryDirectory() as temporary:
        source, few = Path(temporary, "source"), Path(temporary, "few")
        write_images(source, images)
        write_images(few, 1)
        bare = partial(cost, python("tests.benchmarks.bench_inspect", "--bare", source))
        bare_start = partial(cost, python("tests.benchmarks.bench_inspect", "--bare", few))
        start, ours = partial(cost, _command(few)), partial(cost, _command(source))
        found = alternated(rounds, bare=bare, ours=ours, start=start, bare_start=bare_start)
        mine, theirs = found["ours"], found["bare"]
        yield Figure(
            f"inspect of {images:,} JPEGs of 640 x 480",
            "Image.open().load() and convert('RGB') in a process a core",
            f"{_taken_off(theirs, found['bare_start']) / _taken_off(mine, found['start']):.2f} of its rate by "
            f"processor time, {theirs.seconds / mine.seconds:.2f} by the clock with starting",
            "0.8",
            f"{images / mine.seconds:.0f} images a second, bare {images / theirs.seconds:.0f}; starting alone takes "
            f"{found['start'].seconds:.1f} and {found['bare_start'].seconds:.1f} s",
        )
        yield _increment(source, images, rounds, found["start"])


def _taken_off(whole: Cost, start: Cost) -> float:
    """Seconds of all cores, without those of starting."""
    return whole.processor - start.processor


def _increment(source: Path, images: int, rounds: int, start: Cost) -> Figure:
    """The runs after a first one, each with other new images."""
    places = iter(range(images))

    def whole() -> Cost:
        for file in source.parent.glob("facts.sqlite*"):
            file.unlink()
        return cost(_command(source, "--facts", source.parent / "facts.sqlite"))

    def again() -> Cost:
        for file in sorted(source.glob("images/*.jpg"))[next(places) :: 100]:
            write_image_over(file)
        return cost(_command(source, "--facts", source.parent / "facts.sqlite"))

    found = alternated(rounds, whole=whole, again=again)
    first, later = found["whole"], found["again"]
    processor = _taken_off(later, start) / _taken_off(first, start)
    return Figure(
        f"inspect of the same with {images // 100} new images and --facts",
        "the first run with --facts",
        f"{(later.seconds - start.seconds) / (first.seconds - start.seconds):.3f} of its time, "
        f"{processor:.3f} by processor time",
        "0.05",
        f"{later.seconds:.1f} s against {first.seconds:.1f} s; starting, {start.seconds:.1f} s, taken off both",
    )


def write_image_over(file: Path) -> None:
    """Put a new image in the place of an old one."""
    from PIL import Image

    with Image.open(file) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(file, quality=85)


def _command(source: Path, *options: object) -> list[str]:
    imported = source.with_suffix(".imported.parquet")
    common = ("--source", "s", "--path", source)
    if not imported.exists():
        cost(python("Data_processing.import_source", *common, "--format", "coco", "--out", imported))
    out = source.with_suffix(".inspected.parquet")
    return python("Data_processing.inspect_images", *common, "--imported", imported, "--out", out, *options)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Measure inspecting.")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bare", type=Path, help="only decode this directory's images")
    options = parser.parse_args()
    if options.bare:
        return decode_all(options.bare)
    for figure in figures(options.images, options.rounds):
        print(figure)


if __name__ == "__main__":
    main()
