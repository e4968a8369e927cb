"""Labelling tasks for Label Studio or CVAT: images with annotations to correct, a model's answers or the dataset's own.

    python -m Datasets.tasks ANSWERS --to label_studio --out DIR

ANSWERS: what `Deployment.predict … --to answers.parquet` wrote of new images, which lie below --images; or the table
review.parquet of `Models.review`, for images and annotations of the curated dataset. Writes tasks.json,
label_config.xml and images/; for CVAT coco.zip, which `COCO 1.0` imports, and labels.json. images.txt lists each image
with the reason why it is there, or was left out. A file's name ends in digits of its sha256, by which annotations that
come back find their image.
"""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from posixpath import splitext
from typing import Annotated, Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import pyarrow.parquet as pq
import typer

from Datasets.exporters.files import Names, write_file
from Datasets.format.coco import Document, object_entry, stuff_entries
from Datasets.format.curated import Curated, open_parquet
from Datasets.format.files import COUNT, TASK_DIGITS
from Datasets.format.images import read_mask
from Datasets.format.records import SCORED_SCHEMA, SPLITS
from Datasets.tools.atomic import replacing
from Datasets.tools.command import run
from Datasets.tools.errors import UserError

KINDS = ("boxes", "mask", "counts", "labels")  # the first that a record has is what its task is about
Row = Any  # a record with its file, `data`, and `reason`; or `image` and `error`
Form = StrEnum("Form", ["label_studio", "cvat"])
ANSWERS = {"image", "sha256", "source", "scores", "error"}  # columns that tell what a file is
REVIEW = {"image", "sha256", "kind", "name", "predicted", "suspicion"}
TAKES = {Form.label_studio: ("boxes", "counts", "labels"), Form.cvat: ("boxes", "mask")}


def answered(answers: Path, images: Path) -> Iterator[Row]:
    """A model's answers with the files that they are about."""
    columns = [name for name in SCORED_SCHEMA.names if name != "features"]
    for row in pq.read_table(answers, schema=SCORED_SCHEMA, columns=columns).to_pylist():
        file, unsure = images / row["image"], row["uncertainty"]
        data = file.read_bytes() if file.is_file() else b""
        if row["error"] is None and hashlib.sha256(data).hexdigest() != row["sha256"]:
            row["error"] = f"{file} is {'not the file that was predicted' if data else 'not there; see --images'}"
        yield {**row, "data": data, "reason": "" if unsure is None else f"uncertainty {unsure:.2f}"}


def suspected(review: Path, dataset: Curated) -> Iterator[Row]:
    """The records of a review, in its order; the reason is each suspicion."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in pq.read_table(review, columns=list(REVIEW)).to_pylist():
        names = ", perhaps ".join(dict.fromkeys(filter(None, (row["name"], row["predicted"]))))
        said = f"{row['kind']}: {names} ({row['suspicion']:.2f})"
        reasons.setdefault((row["image"], row["sha256"]), []).append(said)
    records = {split: dataset.records(split) for split in SPLITS}
    places = {(r["image"], r["sha256"]): (split, n) for split in SPLITS for n, r in enumerate(records[split])}
    for key, why in reasons.items():
        if place := places.get(key):
            split, number = place
            about = {"source": "dataset", "reason": "; ".join(why), "data": dataset.images(split)[number]}
            yield {**records[split][number], **about, "error": None}
        else:
            yield {"image": key[0], "error": f"changed since the review; {dataset.directory} has no such file"}


def unfit(row: Row, form: Form, kind: str) -> str | None:
    """Why an image gets no task: the tool would lose what its record says, and a correction would, too."""
    boxes, other = row["boxes"] or (), next(each for each in Form if each is not form)
    if row["kind"] not in TAKES[form]:
        return f"has {row['kind']}, of which nothing is written for {form}; --to {other} does"
    if row["kind"] != kind:
        return f"has {row['kind']}, where the first has {kind}"
    if any(box["crowd"] for box in boxes):
        return "has a box of a crowd, which would come back as one of an object"
    if form is Form.cvat and kind == "boxes" and {*row["labels"]}.difference(box["name"] for box in boxes):
        return "has a label without a box, which COCO has not"
    return None


def write_images(
    rows: Iterable[Row], form: Form, count: int | None, classes: Mapping[str, int], folder: Path
) -> tuple[list[Row], list[Row]]:
    """Write the files of the first `count` images; returns their rows, with `file` and `kind`, and those left out.

    Raises UserError for a class that is not in `classes`, and if no image is left.
    """
    names, taken, left = Names(), list[Row](), list[Row]()
    for row in rows:
        row["kind"] = next((kind for kind in KINDS if row.get(kind) is not None), "")
        row["error"] = row["error"] or unfit(row, form, (taken or [row])[0]["kind"])
        if row["error"]:
            left.append(row)
            continue
        if unknown := sorted({*row["labels"]}.difference(classes)):
            raise UserError(f"{row['image']}: the dataset has no class {unknown[0]!r}; name the right one by --curated")
        stem, suffix = splitext(names.flat(row["image"]))
        row["file"] = f"{stem}-{row['sha256'][:TASK_DIGITS]}{suffix}"
        write_file(folder / row["file"], row.pop("data"))
        taken.append(row)
        if len(taken) == count:
            break
    if not taken:
        raise UserError("; ".join(["no image to label", *(f"{row['image']}: {row['error']}" for row in left[:3])]))
    return taken, left


def write_label_studio(rows: list[Row], classes: Mapping[str, int], prefix: str, out: Path) -> None:
    """Write tasks.json and label_config.xml. prefix: of the images' addresses."""
    tasks, controls = [], {rows[0]["kind"]}
    for row in rows:
        shown = {"image": prefix + quote(row["file"]), "name": row["image"], "reason": row["reason"]}
        result = [{"id": str(number), "to_name": "image", **each} for number, each in enumerate(regions(row), 1)]
        score = min((each["score"] for each in result if each["score"] is not None), default=None)
        tasks.append({"data": shown, "predictions": [dict(model_version=row["source"], score=score, result=result)]})
        controls.update("labels" for each in result if each["type"] == "choices")
    names = [quoteattr(name) for name in classes]
    lines = ['<View><Header value="$reason"/><Image name="image" value="$image" zoom="true"/>']
    if "boxes" in controls:
        labels = "".join(f"<Label value={name}/>" for name in names)
        lines.append(f'<RectangleLabels name="boxes" toName="image">{labels}</RectangleLabels>')
    if "labels" in controls:
        choices = "".join(f"<Choice value={name}/>" for name in names)
        lines.append(f'<Choices name="labels" toName="image" choice="multiple">{choices}</Choices>')
    if "counts" in controls:
        numbers = [f'<Number name={quoteattr(COUNT + name)} toName="image" min="0"/>' for name in classes]
        lines += [f"<Header value={name}/>{number}" for name, number in zip(names, numbers, strict=True)]
    (out / "tasks.json").write_text(json.dumps(tasks, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (out / "label_config.xml").write_text("\n".join([*lines, "</View>"]) + "\n", encoding="utf-8")


def regions(row: Row) -> Iterator[Row]:
    """Label Studio's results: rectangles in percent of the image, choices for labels without a box, numbers."""
    scores = {each["name"]: each["score"] for each in row.get("scores") or ()}
    size = {"original_width": row["width"], "original_height": row["height"], "image_rotation": 0}
    width, height, boxes = row["width"] / 100, row["height"] / 100, row["boxes"] or ()
    for box in boxes:
        value = {"x": box["x1"] / width, "y": box["y1"] / height, "rotation": 0, "rectanglelabels": [box["name"]]}
        value |= {"width": (box["x2"] - box["x1"]) / width, "height": (box["y2"] - box["y1"]) / height}
        yield {"type": "rectanglelabels", "from_name": "boxes", **size, "value": value, "score": box.get("score")}
    if row["kind"] == "counts":
        for name, number in ((each["name"], each["count"]) for each in row["counts"]):
            about = {"from_name": COUNT + name, "value": {"number": number}}
            yield {"type": "number", **about, "score": scores.get(name)}
    elif unboxed := sorted({*row["labels"]}.difference(box["name"] for box in boxes)):
        score = min(scores[name] for name in unboxed) if scores else None
        yield {"type": "choices", "from_name": "labels", "value": {"choices": unboxed}, "score": score}


def write_cvat(rows: list[Row], classes: Mapping[str, int], _: str, out: Path) -> None:
    """Write coco.zip, with the images, and labels.json."""
    document = Document(classes)
    with zipfile.ZipFile(out / "coco.zip", "w") as archive:
        for number, row in enumerate(rows, 1):
            if row["kind"] == "mask":
                found = [*stuff_entries(read_mask(row["mask"]["bytes"]))]
            else:
                found = [{"segmentation": [], **object_entry(box, classes)} for box in row["boxes"] or ()]
            document.add(number, row["file"], row, found)
            archive.write(out / "images" / row["file"], f"images/default/{row['file']}")
        content = {"info": {}, "licenses": [], **document.content()}
        archive.writestr("annotations/instances_default.json", json.dumps(content))
    shutil.rmtree(out / "images")
    labels = [{"name": name, "attributes": []} for name in classes]
    (out / "labels.json").write_text(json.dumps(labels, ensure_ascii=False) + "\n", encoding="utf-8")


WRITERS = {Form.label_studio: write_label_studio, Form.cvat: write_cvat}


def main(
    answers: Annotated[Path, typer.Argument(help="a model's answers, or a review, as .parquet")],
    to: Annotated[Form, typer.Option(help="the labelling tool")],
    out: Annotated[Path, typer.Option(help="directory to write; must not exist, or be empty")],
    images: Annotated[Path, typer.Option(help="folder that the answers' images lie below")] = Path(),
    curated: Annotated[Path, typer.Option(help="the dataset, of a review also its images")] = Path("Datasets/curated"),
    count: Annotated[int | None, typer.Option(min=1, help="the first so many; default: all")] = None,
    url: Annotated[str, typer.Option(help="what the images' addresses begin with; default: local files")] = "",
) -> None:
    """Write labelling tasks with annotations to correct."""
    columns = {*open_parquet(answers, "`Deployment.predict` and `Models.review` write them").schema_arrow.names}
    if not (columns >= ANSWERS or columns >= REVIEW):
        raise UserError(f"{answers}: neither answers of `Deployment.predict` nor a review of `Models.review`")
    dataset = Curated(curated)
    found = suspected(answers, dataset) if columns >= REVIEW else answered(answers, images)
    prefix = url or f"/data/local-files/?d={quote(out.resolve().name)}/images/"
    with replacing(out.resolve()) as partial:
        rows, left = write_images(found, to, count, dataset.classes, partial / "images")
        WRITERS[to](rows, dataset.classes, prefix, partial)
        lines = ["\t".join((row["file"], row["image"], row["reason"])) for row in rows]
        lines += ["\t".join(("left out", row["image"], row["error"])) for row in left]
        (partial / "images.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{out}: {len(rows)} tasks" + (f"; {len(left)} images left out, see images.txt" if left else ""))


if __name__ == "__main__":
    run(main)
