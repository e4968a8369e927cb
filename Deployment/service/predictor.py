"""From an image file's bytes to the answer: decode, letterbox, run the model, convert its outputs to a prediction."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from Datasets.format.images import FORMATS, MAX_PIXELS, Letterbox, UnreadableImage, decode, letterbox
from Datasets.format.predictions import OUTPUTS, Prediction, to_prediction
from Datasets.tools.errors import UserError, one_line
from Deployment.service.artifact import MODEL, Artifact

BATCH_PIXELS = 8 * 256 * 256  # of the model's input; larger images go through the model in smaller batches


class Prepared(NamedTuple):
    """An image as the model sees it, and its width and height when upright."""

    letterbox: Letterbox
    width: int
    height: int


class Predictor:
    """An export's ONNX graph, ready to answer; one may serve many threads at once.

    threads: for the operators of one image; with a small model a second one is slower. Raises UserError for a graph
    that cannot be loaded.
    """

    def __init__(self, artifact: Artifact, threads: int = 1) -> None:
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read on import
        import onnxruntime

        self._artifact = artifact
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # errors are raised as well
        path = artifact.directory / MODEL
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no other base class
            reason = one_line(error)
            raise UserError(f"{path}: onnxruntime {onnxruntime.__version__} cannot load it: {reason}") from error

    def __call__(
        self,
        data: bytes,
        max_pixels: int = MAX_PIXELS,
        threshold: float | None = None,
        formats: tuple[str, ...] = FORMATS,
    ) -> Prediction:
        """What the model finds in an image file, with a score of at least `threshold` (default: the manifest's).

        formats: those accepted, by Pillow's names. Raises Datasets.format.images.UnreadableImage.
        """
        return self._run([self._prepare(data, max_pixels, formats)], threshold)[0]

    def several(
        self, files: Sequence[bytes], max_pixels: int = MAX_PIXELS, threshold: float | None = None
    ) -> list[Prediction | UnreadableImage]:
        """What the model finds in each of these image files, or why it cannot be read.

        Small images go through the model together, which takes a small model less time.
        """
        size = max(1, BATCH_PIXELS // self._artifact.size**2)
        batches = [files[start : start + size] for start in range(0, len(files), size)]
        return [answer for batch in batches for answer in self._batch(batch, max_pixels, threshold)]

    def _batch(
        self, files: Sequence[bytes], max_pixels: int, threshold: float | None
    ) -> list[Prediction | UnreadableImage]:
        prepared: list[Prepared | UnreadableImage] = []
        for data in files:
            try:
                prepared.append(self._prepare(data, max_pixels, FORMATS))
            except UnreadableImage as error:
                prepared.append(error)
        answers = iter(self._run([image for image in prepared if isinstance(image, Prepared)], threshold))
        return [next(answers) if isinstance(image, Prepared) else image for image in prepared]

    def _prepare(self, data: bytes, max_pixels: int, formats: tuple[str, ...]) -> Prepared:
        image = decode(data, max_pixels, formats)
        height, width = image.shape[:2]
        return Prepared(letterbox(image, self._artifact.size), width, height)

    def _run(self, images: Sequence[Prepared], threshold: float | None) -> list[Prediction]:
        if not images:
            return []
        task, classes = self._artifact.task, self._artifact.manifest["classes"]
        least = self._artifact.threshold if threshold is None else threshold
        pixels = np.stack([image.letterbox.pixels.transpose(2, 0, 1) for image in images])
        outputs = self._session.run(OUTPUTS[task], {"images": pixels})
        of_each = [dict(zip(OUTPUTS[task], values, strict=True)) for values in zip(*outputs, strict=True)]
        return [to_prediction(task, one, *image, classes, least) for one, image in zip(of_each, images, strict=True)]
