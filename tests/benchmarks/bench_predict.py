"""What predicting many images costs beside the model, against a bare loop of decoding and `session.run`.

    python -m tests.benchmarks.bench_predict EXPORT [IMAGES] [--rounds 5]

Both use one thread for each core, in turns; only the ratio means anything. IMAGES: a directory; without it, first the
export's samples over and over, then photographs of 640 x 480.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import onnxruntime

from Datasets.format.images import UnreadableImage, decode, letterbox
from Datasets.format.predictions import OUTPUTS
from Deployment.predict import Read, image_files, keep, predict
from Deployment.service.artifact import Predictor, load
from tests.benchmarks.generated import write_images
from tests.benchmarks.measuring import Figure, exports

CORES = os.cpu_count() or 1
SMALL, PHOTOGRAPHS = 1500, 500
SIDES = (256, 320)  # pixels


@dataclass(frozen=True)
class Pace:
    """Images a second by the clock, and by the time of all cores."""

    clock: float
    processor: float


@contextmanager
def timed(images: int, paces: list[Pace]) -> Iterator[None]:
    """Append the pace of the block, which works on so many images."""
    clock, processor = time.perf_counter(), time.process_time()
    yield
    paces.append(Pace(images / (time.perf_counter() - clock), images / (time.process_time() - processor)))


def bare(session: onnxruntime.InferenceSession, size: int, names: Sequence[str], files: dict[str, Read]) -> None:
    """Decode, scale and run the graph, and make nothing of what comes out."""

    def work(read: Read) -> None:
        try:
            pixels = letterbox(decode(read()), size).pixels
        except UnreadableImage:
            return
        session.run(names, {"images": pixels.transpose(2, 0, 1)[None]})

    with ThreadPoolExecutor(CORES) as threads:
        list(threads.map(work, files.values()))


def ours(predictor: Predictor, files: dict[str, Read], journal: Path) -> None:
    """What the command does, up to writing the file."""
    assert len(list(keep(journal, {}, [], predict(files, predictor, CORES)))) == len(files)


def compare(export: Path, images: Path, what: str, rounds: int) -> Figure:
    """Take turns."""
    artifact, files = load(export), image_files([images])
    session = on_one_thread(artifact.directory / artifact.graph)
    predictor, names = Predictor(artifact), OUTPUTS[artifact.task]
    theirs: list[Pace] = []
    mine: list[Pace] = []
    with tempfile.TemporaryDirectory() as temporary:
        for _ in range(rounds):
            with timed(len(files), theirs):
                bare(session, artifact.manifest["input"]["size"], names, files)
            with timed(len(files), mine):
                ours(predictor, files, Path(temporary, "journal"))
            print(f"bare loop {theirs[-1].clock:.0f}/s   predict {mine[-1].clock:.0f}/s")
    pairs = list(zip(mine, theirs, strict=True))
    clock = statistics.median(one.clock / other.clock for one, other in pairs)
    processor = statistics.median(one.processor / other.processor for one, other in pairs)
    rates = [statistics.median(pace.clock for pace in paces) for paces in (mine, theirs)]
    return Figure(
        f"predicting {len(files):,} {what}",
        "a bare loop of decoding and running the graph",
        f"{clock:.2f} of its rate, {processor:.2f} by processor time",
        "0.9",
        f"{rates[0]:.0f} against {rates[1]:.0f} images a second; {rounds} rounds, {CORES} threads",
    )


def on_one_thread(graph: Path) -> onnxruntime.InferenceSession:
    """The graph, ready to run."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])


def graph_alone(export: Path, runs: int = 30) -> Figure:
    """Milliseconds of the graph for one image."""
    artifact, taken = load(export), []
    graph, names = export / artifact.graph, OUTPUTS[artifact.task]
    session = on_one_thread(graph)
    for side in SIDES:
        image = np.random.default_rng(0).integers(0, 256, (1, 3, side, side), np.uint8)
        times = []
        for _ in range(runs):
            began = time.perf_counter()
            session.run(names, {"images": image})
            times.append(1000 * (time.perf_counter() - began))
        taken.append(f"{statistics.median(times):.1f} ms at {side} pixels")
    size = f"{graph.stat().st_size / 1e6:.1f} MB"
    return Figure("the graph alone, one image on one thread", "", ", ".join(taken), "", f"{size}; medians of {runs}")


def made(export: Path, rounds: int) -> Iterator[Figure]:
    """Of the export's samples, and of photographs."""
    with tempfile.TemporaryDirectory() as temporary:
        small, photographs = Path(temporary, "small"), Path(temporary, "photographs")
        small.mkdir()
        for number, sample in enumerate(islice(cycle(sorted((export / "sample").glob("*.jpg"))), SMALL)):
            (small / f"{number:06d}.jpg").write_bytes(sample.read_bytes())
        write_images(photographs, PHOTOGRAPHS)
        yield graph_alone(export)
        yield compare(export, small, "samples of the export", rounds)
        yield compare(export, photographs / "images", "photographs of 640 x 480", rounds)


def figures(rounds: int = 7) -> Iterator[Figure]:
    """Of the checkout's first export."""
    for export in exports()[:1]:
        yield from made(export, rounds)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Measure predicting many images against a bare loop.")
    parser.add_argument("export", type=Path)
    parser.add_argument("images", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.images:
        print(compare(options.export, options.images, "images", options.rounds))
    else:
        for figure in made(options.export, options.rounds):
            print(figure)


if __name__ == "__main__":
    main()
