"""What predicting many images costs beside the model, against a bare loop of decoding and `session.run`.

    python -m tests.benchmarks.bench_predict EXPORT IMAGES [--rounds 5]

Both use one thread for each core, in turns; only the ratio means anything. IMAGES: a directory.
"""

import argparse
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnxruntime

from Datasets.images import MAX_PIXELS, UnreadableImage, decode, letterbox
from Deployment.artifact import MODEL, load
from Deployment.image_files import ImageFile, image_files
from Deployment.predict import Journal, predict
from Deployment.predictor import OUTPUTS, Predictor

CORES = os.cpu_count() or 1


def bare(session: onnxruntime.InferenceSession, size: int, files: list[ImageFile]) -> float:
    """Images a second of decoding, scaling and running the graph, with nothing made of what comes out."""

    def work(file: ImageFile) -> None:
        try:
            pixels = letterbox(decode(file.read()), size).pixels
        except UnreadableImage:
            return
        session.run(OUTPUTS, {"images": pixels.transpose(2, 0, 1)[None]})

    started = time.perf_counter()
    with ThreadPoolExecutor(CORES) as threads:
        list(threads.map(work, files))
    return len(files) / (time.perf_counter() - started)


def ours(predictor: Predictor, files: list[ImageFile], journal: Path) -> float:
    """Images a second of what the command does, up to writing the file."""
    started = time.perf_counter()
    rows = predict(predictor, files, CORES, MAX_PIXELS, None)
    assert len(list(Journal(journal, {}).write([], rows))) == len(files)
    return len(files) / (time.perf_counter() - started)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Measure predicting many images against a bare loop.")
    parser.add_argument("export", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    artifact, files = load(options.export), image_files([options.images])
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(artifact.directory / MODEL, settings, providers=["CPUExecutionProvider"])
    predictor, ratios = Predictor(artifact), []
    with tempfile.TemporaryDirectory() as temporary:
        for _ in range(options.rounds):
            theirs, mine = bare(session, artifact.size, files), ours(predictor, files, Path(temporary, "journal"))
            ratios.append(mine / theirs)
            print(f"bare loop {theirs:.0f}/s   predict {mine:.0f}/s")
    print(f"{statistics.median(ratios):.2f} of the bare loop's images a second; {len(files)} images, {CORES} cores")


if __name__ == "__main__":
    main()
