"""Compares the images that a model is sent with those of the dataset that it was made from.

    python -m Deployment.drift BUNDLE IMAGES... [--curated Datasets/curated]

IMAGES as for Deployment.predict: a random share of what came, such as the folder `random` of the service's --keep. The
other side is the split test, which the model has not learned from either. Both are predicted with the same graph, and
for each trait the population stability index says how far its distribution moved (Siddiqi, Credit Risk Scorecards,
2006): the sum of (q - p) ln(q / p) over bins of which each has a tenth of the test images, or over the classes. Above
0.25 it counts as moved, if chance alone would seldom give so much with so few images (Yurdakul and Naranjo, 2020).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from joblib import cpu_count
from scipy.special import chdtri

from Datasets.format.curated import Curated
from Datasets.format.graphs import Device
from Datasets.format.images import decode
from Datasets.tools.command import progress, run
from Datasets.tools.errors import UserError
from Deployment.predict import image_files, predict
from Deployment.service.artifact import Artifact, Predictor, Runtime, load

BINS = 10
MOVED = 0.25
SELDOM = 0.01  # of pairs of samples that do not differ, those that chance takes for moved


def traits(prediction: Mapping[str, Any], pixels: np.ndarray) -> dict[str, Any]:
    """What is compared of an image, by name, and its `labels` and `features`; pixels: uint8 [H, W, 3]."""
    grey = pixels.mean(2) / 255
    scores = [box["score"] for box in prediction.get("boxes", ())] or list(prediction.get("scores", {}).values())
    return {
        "width, pixels": prediction["width"],
        "height, pixels": prediction["height"],
        "brightness": grey.mean(),
        "contrast": grey.std(),
        "best score": max(scores, default=0.0),
        "uncertainty": prediction["uncertainty"],
        "classes in an image": len(prediction["labels"]),
        "objects in an image": sum(each["count"] for each in prediction.get("counts", ())),
        "labels": prediction["labels"],
        "features": prediction["features"],
    }


def seen(images: Mapping[str, Callable[[], bytes]], artifact: Artifact, device: Device, what: str) -> pd.DataFrame:
    """A row for each image that can be read: its traits. Raises UserError if none can."""
    predictor = Predictor(artifact, Runtime(device), extras=True)

    def of_image(data: bytes) -> Any:
        pixels = decode(data, value_range=artifact.value_range)
        return traits(predictor.find(pixels, artifact.threshold), pixels)

    rows = list(progress(predict(images, of_image, cpu_count()), len(images), what, "images"))
    read = [row for row in rows if "error" not in row]
    if not read:
        raise UserError(f"{rows[0]['image']}: {rows[0]['error']}; none of {len(rows)} images can be read")
    if len(read) < len(rows):
        print(f"{what}: {len(rows) - len(read)} cannot be read and are left out")
    return pd.DataFrame(read)


def with_distances(before: pd.DataFrame, side: pd.DataFrame) -> None:
    """Add to a side how far its images' features lie from the mean of `before`, in standard deviations."""
    if before["features"].notna().all():
        known, values = (np.stack(each["features"].to_list()) for each in (before, side))
        spread = known.std(0)
        used = spread > 0
        distances = (values - known.mean(0))[:, used] / spread[used]
        side["distance of features"] = np.sqrt((distances**2).mean(1))


def binned(before: pd.Series, after: pd.Series) -> tuple[pd.Series, pd.Series]:
    """The bin of each value: between the deciles of `before`, or on one of them, as many are where values repeat."""
    edges = np.unique(np.quantile(before, np.arange(1, BINS) / BINS))
    return tuple(  # type: ignore[return-value]
        pd.Series(edges.searchsorted(values, "left") + edges.searchsorted(values, "right"))
        for values in (before, after)
    )


def stability(before: pd.Series, after: pd.Series) -> tuple[float, bool]:
    """The population stability index of two samples of bins or classes, and whether they differ.

    An empty bin counts as half an image.
    """
    counts = pd.DataFrame({"p": before.value_counts(), "q": after.value_counts()}).fillna(0).clip(lower=0.5)
    p, q = counts["p"] / len(before), counts["q"] / len(after)
    index = float(((q - p) * np.log(q / p)).sum())
    by_chance = (1 / len(before) + 1 / len(after)) * chdtri(max(1, len(counts) - 1), SELDOM)
    return index, index > max(MOVED, by_chance)


def compared(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """A row for each trait: its median on both sides, the index, and whether it moved."""
    rows = []
    for trait in before.columns.drop(["image", "sha256", "labels", "features"], errors="ignore"):
        if before[trait].any() or after[trait].any():  # not what this task has none of
            medians = (f"{side[trait].median():.4g}" for side in (before, after))
            rows.append((trait, *medians, *stability(*binned(before[trait], after[trait]))))
    labels = [side["labels"].explode().dropna() for side in (before, after)]
    if all(map(len, labels)):
        shares = pd.DataFrame([each.value_counts(normalize=True) for each in labels], index=["p", "q"]).fillna(0)
        most = (shares.loc["q"] - shares.loc["p"]).abs().idxmax()
        values = (f"{most} {share:.0%}" for share in shares[most])
        rows.append(("classes, most changed", *values, *stability(*labels)))
    return pd.DataFrame(rows, columns=["trait", "dataset", "came", "index", "moved"])


def main(
    bundle: Annotated[Path, typer.Argument(help="bundle, or export")],
    images: Annotated[list[Path], typer.Argument(help="what came: directories, archives, .txt lists and files")],
    curated: Annotated[Path, typer.Option(help="the dataset that the model was made from")] = Path("Datasets/curated"),
    device: Annotated[Device, typer.Option(help="auto is a GPU where onnxruntime has one")] = Device.auto,
) -> None:
    """Say in a table in which traits the images that came differ from those of the dataset."""
    artifact, data = load(bundle), Curated(curated)
    if artifact.manifest.get("curated_fingerprint") != data.fingerprint():
        raise UserError(
            f"{curated}: is not the dataset that {bundle} was made from; "
            "`dvc get . Datasets/curated --rev VERSION -o FOLDER` fetches that of a version, --curated FOLDER takes it"
        )
    came = image_files(images)
    before = seen(data.files("test"), artifact, device, "the dataset's")
    after = seen(came, artifact, device, "what came")
    for side in (before, after):
        with_distances(before, side)
    table = compared(before, after)
    table["moved"] = table["moved"].map({True: "moved", False: ""})
    print(table.set_index("trait").rename_axis(None).to_string(float_format="{:.2f}".format))
    print(f"{(table['moved'] != '').sum()} of {len(table)} traits moved; {len(before)} test images, {len(after)} came")


if __name__ == "__main__":
    run(main)
