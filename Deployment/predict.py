"""Predicts many images: a model labels the next dataset, for a person to correct.

    python -m Deployment.predict EXPORT IMAGES... --to records.parquet

IMAGES: directories, .zip and .tar archives, .txt lists of files, single files. --to: a name that ends in coco.json is
written in COCO's form, which Data_processing.import_source reads; another .json as an array of the service's answers;
.parquet as records with scores. An image that cannot be read is a row with its reason (`error`; in COCO's form, an
entry of `errors`).

Killed and started again, it goes on: what is done is kept in a file beside --to until all is.
"""

import contextlib
import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from Datasets.format.coco import batch_coco
from Datasets.format.images import MAX_PIXELS, UnreadableImage
from Datasets.format.predictions import Prediction
from Datasets.tools.atomic import replacing
from Datasets.tools.command import progress, run
from Datasets.tools.errors import UserError, one_line
from Deployment.predicting.image_files import ImageFile, image_files
from Deployment.service.artifact import MANIFEST, Artifact, load
from Deployment.service.cores import MOST_PROCESSES, usable_cores
from Deployment.service.predictor import Predictor

PART = 8  # images that a thread takes at once, if they are small
PART_BYTES = 1_000_000
AHEAD = 2  # parts that are read before a thread is free for them, for each thread
Row = dict[str, Any]  # `image` and a prediction, or `image` and `error`
_LINE = msgspec.json.Decoder(tuple[str, Row])


class Runtime(StrEnum):
    """What runs the model."""

    onnx = "onnx"
    torch = "torch"


class Journal:
    """What is done so far: a line of JSON for each image, after one that says what work they belong to.

    A line has the image's state, too, so that one that was replaced meanwhile is worked on again.
    """

    def __init__(self, path: Path, work: Mapping[str, Any], files: Iterable[ImageFile]) -> None:
        self._path, self._head = path, msgspec.json.encode(work, order="sorted")
        self._states = {file.name: file.state for file in files}

    def rows(self) -> list[Row]:
        """The rows of an earlier run of the same work, up to a line that was cut off or is damaged.

        Those of images that are no longer what they were are left out.
        """
        try:
            lines = self._path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        found: list[tuple[str, Row]] = []
        with contextlib.suppress(msgspec.DecodeError):
            found.extend(_LINE.decode(line) for line in (lines[1:] if lines[:1] == [self._head] else []))
        return [row for state, row in found if state == self._states.get(row["image"])]

    def write(self, before: Sequence[Row], parts: Iterable[list[Row]]) -> Iterator[Row]:
        """Pass the rows of all `parts` through, each once its part is in the file."""
        with replacing(self._path) as partial:
            partial.write_bytes(b"".join([self._head, b"\n", *map(self._line, before)]))
        with self._path.open("ab", buffering=0) as file:
            for part in parts:
                file.write(b"".join(map(self._line, part)))
                yield from part

    def _line(self, row: Row) -> bytes:
        return msgspec.json.encode([self._states[row["image"]], row]) + b"\n"

    def remove(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)


def predict(
    predictor: Predictor, files: Iterable[ImageFile], jobs: int, max_pixels: int, threshold: float | None
) -> Iterator[list[Row]]:
    """A row for each image, in their order and a few at a time, made by so many threads at once."""

    def rows(part: list[tuple[str, bytes | OSError]]) -> list[Row]:
        answers = iter(predictor.several([data for _, data in part if isinstance(data, bytes)], max_pixels, threshold))
        return [_row(name, data, data if isinstance(data, OSError) else next(answers)) for name, data in part]

    waiting: deque[Future[list[Row]]] = deque()
    with ThreadPoolExecutor(jobs) as threads:
        for part in _parts(files):
            waiting.append(threads.submit(rows, part))
            if len(waiting) > AHEAD * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _row(name: str, data: bytes | OSError, answer: Prediction | UnreadableImage | OSError) -> Row:
    if isinstance(data, OSError):
        return {"image": name, "error": f"cannot be read: {data.strerror or data}"}
    if isinstance(answer, Exception):
        return {"image": name, "error": one_line(answer)}
    return {"image": name, "sha256": hashlib.sha256(data).hexdigest(), **answer}


def _parts(files: Iterable[ImageFile]) -> Iterator[list[tuple[str, bytes | OSError]]]:
    """The files' bytes, read here as an archive can be read by one alone; several small ones together.

    To wake a thread for each would take up to a tenth of the time that a small model does.
    """
    part: list[tuple[str, bytes | OSError]] = []
    size = 0
    for file in files:
        try:
            data: bytes | OSError = file.read()
        except OSError as error:
            data = error
        part.append((file.name, data))
        size += 0 if isinstance(data, OSError) else len(data)
        if len(part) == PART or size > PART_BYTES:
            yield part
            part, size = [], 0
    yield part


def write(rows: Sequence[Row], artifact: Artifact, out: Path) -> None:
    """Write all rows in the form that the name of `out` says."""
    manifest = artifact.manifest
    if out.suffix == ".parquet":
        from Datasets.format.scored_records import write_predictions

        return write_predictions(rows, manifest["experiment"], out)
    with replacing(out) as partial:
        content = batch_coco(rows, artifact.task, manifest["classes"]) if out.name.endswith("coco.json") else list(rows)
        partial.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def main(
    export: Annotated[Path, typer.Argument(help="the export, Datasets/pretrained/ID, or a bundle")],
    images: Annotated[list[Path], typer.Argument(help="directories, archives, .txt lists and files")],
    to: Annotated[Path, typer.Option(help="the file to write, which must not exist: .parquet, .json or ...coco.json")],
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="the least score; by default the manifest's")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, max=MOST_PROCESSES, help="images worked on at once")] = usable_cores(),
    runtime: Annotated[
        Runtime, typer.Option(help="torch builds the model from the export's own script")
    ] = Runtime.onnx,
    max_pixels: Annotated[int, typer.Option(min=1, max=MAX_PIXELS, help="the most pixels of an image")] = MAX_PIXELS,
) -> None:
    """Predict many images, into a file of records."""
    if to.suffix not in (".parquet", ".json"):
        raise UserError(f"--to {to}: ends neither in .parquet nor in .json")
    if to.exists():  # what a person corrected, perhaps
        raise UserError(f"--to {to}: exists already; delete it first, or name another file")
    artifact = load(export)
    files = image_files(images)
    model = hashlib.sha256((artifact.directory / MANIFEST).read_bytes()).hexdigest()
    work = {
        "model": model,
        "runtime": runtime.value,
        "threshold": threshold,
        "max_pixels": max_pixels,
        "images": [str(p.resolve()) for p in images],
    }
    journal = Journal(to.with_name(f".{to.name}.progress"), work, files)
    done = {row["image"]: row for row in journal.rows()}
    left = [file for file in files if file.name not in done]
    if done:
        print(f"{to}: goes on after {len(done)} images")
    found = predict(Predictor(artifact, runtime=runtime.value), left, jobs, max_pixels, threshold)
    new = progress(journal.write(list(done.values()), found), len(left), "predict", "images")
    by_name = {row["image"]: row for row in chain(done.values(), new)}
    rows = [by_name[file.name] for file in files]
    write(rows, artifact, to)
    journal.remove()
    unreadable = sum("error" in row for row in rows)
    print(f"{to}: {len(rows)} images, {_said(rows, artifact.task)}, {unreadable} unreadable")


def _said(rows: Sequence[Row], task: str) -> str:
    if task in ("boxes", "counts"):
        return f"{sum(each['count'] for row in rows for each in row.get('counts', ()))} objects"
    return f"{sum(len(row.get('labels', ())) for row in rows)} labels"


if __name__ == "__main__":
    run(main)
