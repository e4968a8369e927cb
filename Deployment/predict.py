"""Predicts many images: a model labels the next dataset, for a person to correct.

    python -m Deployment.predict EXPORT IMAGES... --to records.parquet

IMAGES: directories, .zip and .tar archives, .txt lists of files, single files. --to: a name that ends in coco.json is
written in COCO's form, which Data_processing.import_source reads; another .json as an array of the service's answers;
.parquet as records with scores, and with how unsure the model is of an image and the features that it sees in it, by
which `python -m Models.review next` chooses. An image that cannot be read is a row with its reason (`error`; in COCO's
form, an entry of `errors`).

Killed and started again, it continues: the answers so far are kept in a file beside --to until all are there.
"""

import hashlib
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from joblib import Parallel, cpu_count, delayed

from Datasets.format.coco import predictions_to_coco
from Datasets.format.files import IMAGE_SUFFIXES, decode_text, visible
from Datasets.format.graphs import Device
from Datasets.format.images import MAX_PIXELS, UnreadableImage
from Datasets.format.predictions import Prediction
from Datasets.format.records import write_predictions
from Datasets.tools.atomic import write_text
from Datasets.tools.command import progress, run
from Datasets.tools.errors import UserError, one_line
from Deployment.service.artifact import MANIFEST, Artifact, Predictor, Runtime, load

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
LISTS = (".txt", ".lst")
Read = Callable[[], bytes]
Row = dict[str, Any]  # `image` with `sha256` and a prediction, or with `error`


def image_files(sources: Sequence[Path]) -> dict[str, Read]:
    """What reads each image of these sources, by its name; with several, a name begins with that of its source.

    A source is an image file, a directory (searched to any depth), a .zip or .tar archive, or a .txt file with the path
    of an image in each line, relative to that file. Raises UserError for a source that does not exist, is damaged or
    holds no image, and for a name that two sources have or that is not in UTF-8.
    """
    found: dict[str, Read] = {}
    for source in sources:
        images = _images(source)
        if not images:
            raise UserError(f"{source}: holds no image; suffixes looked for: {', '.join(sorted(IMAGE_SUFFIXES))}")
        if len(sources) > 1 and (source.is_dir() or _is_archive(source)):
            images = {f"{source.resolve().name.partition('.')[0]}/{name}": read for name, read in images.items()}
        for name in images:
            if name in found:
                raise UserError(f"{source}: {name} is also in another source; rename one, or predict one by one")
            if name != name.encode(errors="replace").decode():
                raise UserError(f"{source}: the file name {name!r} is not in UTF-8; rename the file")
        found |= images
    return found


def _images(source: Path) -> dict[str, Read]:
    if source.is_dir():
        paths = (path.relative_to(source).as_posix() for path in sorted(source.rglob("*")) if not path.is_dir())
        return {name: (source / name).read_bytes for name in visible(paths, IMAGE_SUFFIXES)}
    if not source.is_file():
        raise UserError(f"{source}: no such file or directory")
    if _is_archive(source):
        try:
            files = _members(source)
        except Exception as error:  # damaged bytes make the decompressors raise nearly anything
            raise UserError(f"{source}: no whole archive: {one_line(error)}; was it cut off?") from error
        return {name: files[name] for name in visible(files, IMAGE_SUFFIXES)}
    if source.suffix.lower() in LISTS:
        lines = decode_text(source.read_bytes(), source).splitlines()
        return {line.strip(): (source.parent / line.strip()).read_bytes for line in lines if line.strip()}
    return {source.name: source.read_bytes}


def _is_archive(source: Path) -> bool:
    return source.name.lower().endswith(ARCHIVES)


def _members(source: Path) -> dict[str, Read]:
    """An archive's files in its own order: a compressed .tar is read from its beginning to its end only once."""
    if source.suffix.lower() == ".zip":
        packed = zipfile.ZipFile(source)
        names = ((member.filename.replace("\\", "/"), member) for member in packed.infolist())
        return {name.removeprefix("./"): partial(packed.read, member) for name, member in names}

    def read(member: tarfile.TarInfo) -> bytes:
        opened = tar.extractfile(member)
        return opened.read() if opened else b""

    tar = tarfile.open(source)  # noqa: SIM115 - read from as long as its images are
    return {member.name.removeprefix("./"): partial(read, member) for member in tar if not member.isdir()}


def kept(journal: Path, work: Mapping[str, Any]) -> Iterator[Row]:
    """The rows that an earlier run of the same work kept, up to a line that was cut off or is damaged."""
    with suppress(FileNotFoundError, ValueError), journal.open(encoding="utf-8") as file:
        for line in file if json.loads(file.readline()) == work else ():
            yield json.loads(line)


def keep(journal: Path, work: Mapping[str, Any], done: Iterable[Row], rows: Iterable[Row]) -> Iterator[Row]:
    """Pass `rows` through, each once it is in the journal: lines of JSON, first the work, then those that are done."""
    write_text(journal, "".join(f"{json.dumps(line)}\n" for line in (work, *done)))
    with journal.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(f"{json.dumps(row)}\n")
            file.flush()
            yield row


def unchanged(row: Row, images: Mapping[str, Read]) -> bool:
    """Whether a row's image is still there with the same content."""
    with suppress(Exception):  # as for `content` below
        return hashlib.sha256(images[row["image"]]()).hexdigest() == row["sha256"]
    return False


def predict(images: Mapping[str, Read], predictor: Callable[[bytes], Prediction], jobs: int) -> Iterator[Row]:
    """A row for each image, in their order. Threads predict; one reads, as archives must be."""

    def row(name: str, data: bytes | Exception) -> Row:
        if isinstance(data, Exception):
            reason = data.strerror if isinstance(data, OSError) else one_line(data)
            return {"image": name, "error": f"cannot be read: {reason or type(data).__name__}"}
        try:
            return {"image": name, "sha256": hashlib.sha256(data).hexdigest(), **predictor(data)}
        except UnreadableImage as error:
            return {"image": name, "error": one_line(error)}

    def content(read: Read) -> bytes | Exception:
        try:
            return read()
        except Exception as error:  # of a file, or nearly anything of a damaged archive
            return error

    threads = Parallel(jobs, backend="threading", return_as="generator")
    yield from threads(delayed(row)(name, content(read)) for name, read in images.items())


def write(rows: Sequence[Row], artifact: Artifact, out: Path) -> None:
    """Write all rows in the form that the name of `out` says."""
    manifest = artifact.manifest
    if out.suffix == ".parquet":
        return write_predictions(rows, manifest["experiment"], out, manifest["files"].get("weights.safetensors"))
    coco = out.name.endswith("coco.json")
    content = predictions_to_coco(rows, artifact.task, manifest["classes"]) if coco else list(rows)
    write_text(out, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def main(
    export: Annotated[Path, typer.Argument(help="export, Datasets/pretrained/ID, or bundle")],
    images: Annotated[list[Path], typer.Argument(help="directories, archives, .txt lists and files")],
    to: Annotated[Path, typer.Option(help="file to write, which must not exist: .parquet, .json or ...coco.json")],
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="lowest score; default: the manifest's")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="threads")] = cpu_count(),
    max_pixels: Annotated[int, typer.Option(min=1, max=MAX_PIXELS, help="the most pixels of an image")] = MAX_PIXELS,
    tile: Annotated[int, typer.Option(min=0, help="side of the squares that larger images are also seen in")] = 0,
    overlap: Annotated[float, typer.Option(min=0, max=0.9, help="what neighbouring tiles share, of a side")] = 0.2,
    device: Annotated[Device, typer.Option(help="auto is a GPU where onnxruntime has one")] = Device.auto,
) -> None:
    """Predict many images, into a file of records."""
    if to.suffix not in (".parquet", ".json"):
        raise UserError(f"--to {to}: ends neither in .parquet nor in .json")
    if to.exists():  # somebody may have corrected it
        raise UserError(f"--to {to}: exists already; delete it first, or name another file")
    artifact = load(export)
    files = image_files(images)
    model = hashlib.sha256((artifact.directory / MANIFEST).read_bytes()).hexdigest()
    work = {"model": model, "threshold": threshold, "max_pixels": max_pixels, "tile": tile, "overlap": overlap}
    journal = to.with_name(f".{to.name}.progress")
    done = {row["image"]: row for row in kept(journal, work) if unchanged(row, files)}
    if done:
        print(f"{to}: continues after {len(done)} images")
    left = {name: read for name, read in files.items() if name not in done}
    model_of = Predictor(artifact, Runtime(device, 1, tile, overlap, max_pixels), extras=to.suffix == ".parquet")
    predictor = partial(model_of, threshold=threshold)
    new = keep(journal, work, done.values(), predict(left, predictor, jobs))
    by_name = done | {row["image"]: row for row in progress(new, len(left), f"predict on {model_of.device}", "images")}
    rows = [by_name[name] for name in files]
    write(rows, artifact, to)
    journal.unlink()
    unreadable = sum("error" in row for row in rows)
    found = f"{sum(len(row.get('labels', ())) for row in rows)} labels"
    if artifact.task in ("boxes", "counts"):
        found = f"{sum(each['count'] for row in rows for each in row.get('counts', ()))} objects"
    print(f"{to}: {len(rows)} images, {found}, {unreadable} unreadable")


if __name__ == "__main__":
    run(main)
