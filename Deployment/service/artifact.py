"""Loads an export, or the part of one that a bundle carries, and predicts with it.

An export is a directory with `manifest.json`, `model.onnx` and `sample/`; weights and scripts may be missing, as they
are in a bundle. The manifest has the sha256 of every file; a bundle's own files are listed in `bundle.json`.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from Datasets.format.graphs import Device, device_of, open_graph
from Datasets.format.images import FILL, FORMATS, MAX_PIXELS, Range, decode, letterbox
from Datasets.format.predictions import EXTRAS, OUTPUTS, Prediction, to_prediction, uncertainty
from Datasets.tools.errors import UserError
from Deployment.service.tiles import merged, tiles

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
BUNDLE_VERSION = 1
BUNDLE = "bundle.json"
EXPECTED = "sample/expected.json"
TRUTH = "sample/truth.json"
_INPUT = {"resize": "letterbox", "fill": FILL, "color": "RGB", "layout": "NCHW", "dtype": "uint8"}
Name = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f\ud800-\udfff]+$")]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
File = Annotated[str, msgspec.Meta(pattern=r"^(?!/)(?!(.*/)?\.\.(/|$))[^\x00\\:]+$")]  # inside the export


class Input(msgspec.Struct):
    """What the manifest says of the images that the model takes; `load` compares the rest."""

    size: Annotated[int, msgspec.Meta(ge=1, le=16_384)]
    range: list[float] | Literal["image"] | None = None


class Manifest(msgspec.Struct):
    """What a service relies on in a manifest."""

    experiment: Name
    task: Literal["boxes", "mask", "labels", "counts"]
    classes: Annotated[list[Name], msgspec.Meta(min_length=1)]
    input: Input
    score_threshold: Annotated[float, msgspec.Meta(ge=0, le=1)]
    files: dict[File, Digest]
    graph: Literal["model.onnx", "model.int8.onnx", "model.fp16.onnx"] = "model.onnx"


@dataclass(frozen=True)
class Artifact:
    """A verified export. task: the record's field that the model predicts, as in Datasets/format/predictions.py.

    graph: the file of the ONNX graph that is served. threshold: the score below which a prediction is left out of an
    answer. value_range: as of Datasets.format.images.decode. served: the files that a service needs, relative to
    `directory`, the manifest apart.
    """

    directory: Path
    manifest: dict[str, Any]
    task: str
    graph: str
    threshold: float
    value_range: Range
    served: list[str]

    def samples(self) -> dict[str, tuple[bytes, Prediction]]:
        """By file name: a sample's image file and the answer expected for it. Raises UserError if there is none."""
        path = self.directory / EXPECTED
        expected = _read_json(path)
        if not isinstance(expected, dict) or not expected:
            raise UserError(f"{path}: holds no samples; export the experiment again")
        return {name: ((path.parent / name).read_bytes(), answer) for name, answer in sorted(expected.items())}

    def truth(self) -> dict[str, dict[str, Any]]:
        """By file name: what a sample shows, by its annotations; empty of an export that lacks them."""
        return _read_json(self.directory / TRUTH) if TRUTH in self.served else {}


@dataclass(frozen=True)
class Runtime:
    """How a graph is run. threads: for the operators of one image; with a small model a second one is slower.

    tile: side in pixels of the squares that larger images are looked at in, 0 for none. overlap: their common share.
    formats: those of image files that are accepted, by Pillow's names.
    """

    device: Device = Device.cpu
    threads: int = 1
    tile: int = 0
    overlap: float = 0.2
    max_pixels: int = MAX_PIXELS
    formats: tuple[str, ...] = FORMATS


class Predictor:
    """An export's ONNX graph, ready to answer; one may serve many threads at once.

    extras: whether answers also have the model's `uncertainty` and, if the graph gives them, the image's `features`.
    Raises UserError for a graph that cannot be loaded, a device that is not there, and tiles of a task without boxes.
    """

    def __init__(self, artifact: Artifact, runtime: Runtime | None = None, extras: bool = False) -> None:
        self.artifact, self.extras, self._runtime = artifact, extras, runtime or Runtime()
        if self._runtime.tile and artifact.task != "boxes":
            raise UserError(f"--tile: only boxes can be merged; {artifact.directory} predicts {artifact.task}")
        path = artifact.directory / artifact.graph
        self._session = open_graph(path, self._runtime.device, self._runtime.threads)
        self.device = device_of(self._session)
        given = {output.name for output in self._session.get_outputs()} if extras else set()
        self._names = [*OUTPUTS[artifact.task], *(name for name in EXTRAS if name in given)]

    def __call__(self, data: bytes, threshold: float | None = None) -> Prediction:
        """What the model finds in an image file, with a score of at least `threshold` (default: the manifest's).

        Raises Datasets.format.images.UnreadableImage.
        """
        image = decode(data, self._runtime.max_pixels, self._runtime.formats, self.artifact.value_range)
        return self.find(image, self.artifact.threshold if threshold is None else threshold)

    def find(self, image: np.ndarray, threshold: float) -> Prediction:
        """What the model finds in an image, uint8 [H, W, 3], with a score of at least `threshold`."""
        whole = self._look(image, threshold)
        side = self._runtime.tile
        if not side or max(image.shape) <= side:
            return whole
        parts = [
            (tile, self._look(image[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width], threshold))
            for tile in tiles(image.shape[1], image.shape[0], side, self._runtime.overlap)
        ]
        return merged(whole, parts, self.artifact.manifest["classes"])  # type: ignore[arg-type]

    def _look(self, image: np.ndarray, least: float) -> Prediction:
        """What the model finds in one look."""
        task, classes = self.artifact.task, self.artifact.manifest["classes"]
        height, width = image.shape[:2]
        boxed = letterbox(image, self.artifact.manifest["input"]["size"])
        outputs = self._session.run(self._names, {"images": boxed.pixels.transpose(2, 0, 1)[None]})
        of_image = {name: values[0] for name, values in zip(self._names, outputs, strict=True)}
        prediction = to_prediction(task, of_image, boxed, width, height, classes, least)
        if self.extras:
            unsure = uncertainty(task, of_image, self.artifact.threshold)
            features = of_image["features"].tolist() if "features" in of_image else None
            prediction |= {"uncertainty": unsure, "features": features}  # type: ignore[misc]
        return prediction


def load(directory: Path) -> Artifact:
    """Read and verify the export in `directory`, or the bundle in `directory` or around it.

    Raises UserError for a missing or damaged file, and for a manifest that this version cannot serve.
    """
    bundle = directory if (directory / BUNDLE).is_file() else directory.parent
    if (bundle / BUNDLE).is_file():
        _check_files(bundle, _read_json(bundle / BUNDLE, BUNDLE_VERSION)["files"], BUNDLE)
    directory = directory / "export" if bundle == directory else directory
    path = directory / MANIFEST
    manifest = _read_json(path, FORMAT_VERSION)
    try:
        about = msgspec.convert(manifest, Manifest)
    except (msgspec.ValidationError, UnicodeError) as error:
        raise UserError(f"{path}: {error}; export again, or `dvc pull`") from error
    for key, value in _INPUT.items():
        if manifest["input"].get(key) != value:
            raise UserError(f"{path}: input {key} is {manifest['input'].get(key)!r}; this code feeds models {value!r}")
    files = about.files
    every = {file.relative_to(directory).as_posix() for file in directory.rglob("*") if file.is_file()}
    if unknown := sorted(every - {MANIFEST, *files}):
        raise UserError(f"{directory / unknown[0]}: the manifest does not list it; delete it, or export again")
    served = sorted(name for name in files if name.startswith((about.graph, "sample/")))
    there = {name: files[name] for name in files if name in served or (directory / name).is_file()}
    _check_files(directory, there, MANIFEST)
    return Artifact(directory, manifest, about.task, about.graph, about.score_threshold, about.input.range, served)


def _read_json(path: Path, version: int | None = None) -> Any:
    """The content of a JSON file. Raises UserError, also if its `format_version` is not `version`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: not found; is this an export, or a bundle? export again, or `dvc pull`") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}; was the file cut off? export again, or `dvc pull`") from error
    found = content.get("format_version") if isinstance(content, dict) else None
    if version is not None and found != version:
        raise UserError(f"{path}: format_version is {found!r}, this code reads {version}; export or package again")
    return content


def _check_files(directory: Path, files: dict[str, str], listed_in: str) -> None:
    remedy = f"{'package' if listed_in == BUNDLE else 'export'} again, or `dvc pull`"
    for path, digest in sorted((directory / name, digest) for name, digest in files.items()):
        if not path.is_file():
            raise UserError(f"{path}: not found, though {listed_in} lists it; {remedy}")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise UserError(f"{path}: damaged: its sha256 is {found}, not {digest}; {remedy}")
