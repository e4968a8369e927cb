"""From an image file's bytes to the answer: decode, letterbox, run the model, convert its outputs to a prediction."""

import os

from Datasets.format.images import FORMATS, MAX_PIXELS, decode, letterbox
from Datasets.format.predictions import OUTPUTS, Prediction, to_prediction
from Datasets.tools.errors import UserError, one_line
from Deployment.service.artifact import MODEL, Artifact


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
        image = decode(data, max_pixels, formats)
        height, width = image.shape[:2]
        task, classes, boxed = (
            self._artifact.task,
            self._artifact.manifest["classes"],
            letterbox(image, self._artifact.size),
        )
        outputs = self._session.run(OUTPUTS[task], {"images": boxed.pixels.transpose(2, 0, 1)[None]})
        of_image = {name: values[0] for name, values in zip(OUTPUTS[task], outputs, strict=True)}
        least = self._artifact.threshold if threshold is None else threshold
        return to_prediction(task, of_image, boxed, width, height, classes, least)
