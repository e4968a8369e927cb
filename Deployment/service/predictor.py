"""From an image file's bytes to the answer that people get: letterbox, the model, prediction."""

import io
import os
import re
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from Datasets.format.images import FORMATS, MAX_PIXELS, Letterbox, UnreadableImage, decode, letterbox
from Datasets.format.predictions import OUTPUTS, Prediction, to_prediction
from Datasets.tools.errors import UserError, one_line
from Deployment.service.artifact import MODEL, Artifact
from Deployment.service.torch_runtime import Run, torch_run

MAX_SCANS = (
    100  # of a JPEG; progressive ones have about 10, and a few bytes more make a decoder go over all pixels again
)
TOGETHER = 8 * 256 * 256  # pixels of the model's input that it gets at once
_JPEG, _SCAN, _END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")  # those without a length left out, but for _END

RUNTIMES = ("onnx", "torch")


class Predictor:
    """A model ready to answer; one may serve many threads at once.

    threads: how many the graph's operators use for one image. On the demonstration's small model a second is slower.
    runtime: "onnx" runs the graph by onnxruntime, "torch" the model that the export's script builds. Raises UserError
    if that cannot be loaded.
    """

    def __init__(self, artifact: Artifact, threads: int = 1, runtime: str = "onnx") -> None:
        self._artifact = artifact
        self._run = _onnx_run(artifact, threads) if runtime == "onnx" else torch_run(artifact, threads)

    def __call__(
        self,
        data: bytes,
        max_pixels: int = MAX_PIXELS,
        threshold: float | None = None,
        formats: tuple[str, ...] = FORMATS,
    ) -> Prediction:
        """What the model finds in an image file, with a score of at least `threshold` (default: the manifest's).

        Raises Datasets.format.images.UnreadableImage, also for a file of another format than `formats`, Pillow's names.
        """
        return self._answered([self._prepared(data, max_pixels, formats)], threshold)[0]

    def several(
        self, files: Sequence[bytes], max_pixels: int = MAX_PIXELS, threshold: float | None = None
    ) -> list[Prediction | UnreadableImage]:
        """What the model finds in each of these image files, or why it cannot be read.

        Small images are worked on together, which takes a small model less time; large ones one by one,
        as together they would take much memory.
        """
        found: list[Prediction | UnreadableImage] = []
        for part in batched(files, max(1, TOGETHER // self._artifact.size**2)):
            prepared = [self._tried(data, max_pixels) for data in part]
            answers = iter(self._answered([one for one in prepared if isinstance(one, Prepared)], threshold))
            found += [next(answers) if isinstance(one, Prepared) else one for one in prepared]
        return found

    def _tried(self, data: bytes, max_pixels: int) -> "Prepared | UnreadableImage":
        try:
            return self._prepared(data, max_pixels, FORMATS)
        except UnreadableImage as error:
            return error

    def _prepared(self, data: bytes, max_pixels: int, formats: tuple[str, ...]) -> "Prepared":
        check_file(data, formats)
        image = decode(data, max_pixels)
        height, width = image.shape[:2]
        return Prepared(letterbox(image, self._artifact.size), width, height)

    def _answered(self, images: Sequence["Prepared"], threshold: float | None) -> list[Prediction]:
        if not images:
            return []
        task, classes = self._artifact.task, self._artifact.manifest["classes"]
        least = self._artifact.threshold if threshold is None else threshold
        outputs = self._run(np.stack([each.box.pixels.transpose(2, 0, 1) for each in images]))
        of_each = [{name: values[place] for name, values in outputs.items()} for place in range(len(images))]
        return [to_prediction(task, one, *each, classes, least) for one, each in zip(of_each, images, strict=True)]


class Prepared(NamedTuple):
    """An image as the model sees it, and its width and height when upright."""

    box: Letterbox
    width: int
    height: int


def batched(files: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    """The files, so many at once."""
    return (files[first : first + size] for first in range(0, len(files), size))


def _onnx_run(artifact: Artifact, threads: int) -> Run:
    onnxruntime = _import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # its errors are raised too, and its warnings nothing to act on
    path = artifact.directory / MODEL
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base but this one
        reason = one_line(error)
        raise UserError(f"{path}: onnxruntime {onnxruntime.__version__} cannot load it: {reason}") from error
    names = OUTPUTS[artifact.task]
    return lambda images: dict(zip(names, session.run(names, {"images": images}), strict=True))


def check_file(data: bytes, formats: tuple[str, ...]) -> None:
    """Raise UnreadableImage for an image of a format that is not in `formats`, and for a JPEG of too many scans.

    Other faults are found by decoding.
    """
    if data.startswith(_JPEG) and data.count(_SCAN) > MAX_SCANS and _has_many_scans(data):
        raise UnreadableImage(f"a JPEG of more than {MAX_SCANS} scans, which would take too long to decode")
    if set(formats) >= set(FORMATS):
        return
    try:
        Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError:
        raise UnreadableImage(f"not an image file in one of the formats {', '.join(formats)}") from None
    except Exception:  # hostile bytes make Pillow raise nearly anything
        return


def _has_many_scans(jpeg: bytes) -> bool:
    """Whether a JPEG has more than MAX_SCANS before its picture ends, counted as libjpeg meets them.

    What lies in segments, as a thumbnail does, or behind the picture, as a phone's video, is none.
    """
    scans = place = 0
    while found := _MARKER.search(jpeg, place):
        marker, place = found[0], found.end()
        if marker == _END:
            if scans:  # one before is the end of tables, which a picture may follow
                return False
            continue
        scans += marker == _SCAN
        if scans > MAX_SCANS:
            return True
        place += max(2, int.from_bytes(jpeg[place : place + 2]))
    return False


def _import_onnxruntime() -> ModuleType:
    """Its import alone reports to its maker, from version 1.29 on, unless this variable is set before."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    return onnxruntime
