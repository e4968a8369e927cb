"""Clean all sources: each record is accepted, perhaps repaired, or rejected with a reason; none disappears.

    python -m Data_processing.clean --keep cat --keep dog -- digits raccoon

Joins what the sources state (import stage) with what their images show (inspect stage). Writes accepted.parquet,
rejected.csv, rejected.parquet (the same, for the report), repairs.csv and classes.json into --out, and a summary as
OUT.json. Instead of names, it also takes params.yaml's `sources` as DVC unpacks it: `--digits.format coco …`.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer
from ruamel.yaml import YAML

from Data_processing.cleaning.batches import ACCEPTED_SCHEMA, Outcome, batches, clean_batch, common_range, read_source
from Data_processing.cleaning.corrections import Source, find_corrections
from Data_processing.cleaning.rules import Rejection, Rules, find_own_rules, read_exclusions
from Data_processing.shared.imported import BATCH
from Data_processing.shared.parallel import Workers
from Datasets.format.classes import ClassRules, class_ids, composed, nearly_alike, parse_rules, write_classes
from Datasets.tools.atomic import replacing, write_text
from Datasets.tools.command import filled, options_of, run, with_options
from Datasets.tools.errors import UserError
from Datasets.tools.params import as_yaml

INTERMEDIATE, EXCLUDED = Path("Data_processing/intermediate"), Path("Data_processing/excluded.csv")


class WithoutKept(StrEnum):
    """What becomes of an image of which, after all other classes are left out, nothing is left."""

    negative = "negative"
    reject = "reject"


def source_names(arguments: Iterable[str]) -> list[str]:
    """The sources' names in the order given, plainly or as a mapping that DVC unpacked (`--NAME.key value`)."""
    words = list(arguments)
    unpacked = [word.removeprefix("--").removeprefix("no-").partition(".")[0] for word in words if word[:2] == "--"]
    return list(dict.fromkeys(unpacked or words))


def check_dependencies(pipeline: Path, names: Iterable[str], folders: Sequence[Path], exclude: Path = Path()) -> None:
    """Raise UserError unless stage clean of dvc.yaml depends on `exclude`, and on each source's file in each folder."""
    stages = YAML(typ="safe").load(pipeline.read_text(encoding="utf-8"))["stages"]
    deps = stages["clean"]["deps"]
    listed = {dep for dep in deps if Path(dep).parent in folders and Path(dep).suffix == ".parquet"}
    wanted = {(folder / f"{name}.parquet").as_posix() for name in names for folder in folders}
    if missing := sorted(wanted.union(() if exclude == Path() else [exclude.as_posix()]).difference(deps)):
        raise UserError(f"{pipeline}: stage clean does not depend on a file; add to its deps the line `- {missing[0]}`")
    if unknown := sorted(listed - wanted):
        raise UserError(f"{pipeline}: {unknown[0]} is of no source in params.yaml; delete the line from clean's deps")


def write_accepted(
    results: Iterable[tuple[pa.RecordBatch, Outcome]], sources: Sequence[Source], partial: Path
) -> Outcome:
    """Write the accepted records as they come; returns what became of all."""
    total = Outcome()
    paths = {source.name: source.about.path for source in sources}
    placed = {source.name: source.about.options.split for source in sources if source.about.options.split}
    licenses = {source.name: source.about.options.license or "" for source in sources}
    about = {"source_paths": paths, "range": common_range(sources), "placed": placed, "licenses": licenses}
    schema = ACCEPTED_SCHEMA.with_metadata({key: json.dumps(value) for key, value in about.items()})
    with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for accepted, outcome in results:
            total.add(outcome)
            if len(accepted):
                writer.write_batch(accepted.replace_schema_metadata(schema.metadata))
    return total


def reject_conflicts(partial: Path, total: Outcome) -> None:
    """Take records out again whose images are the same to the byte while their labels or counts differ."""
    every = pq.read_table(partial, columns=["sha256", "labels", "counts", "source", "image", "origin"])
    places = np.flatnonzero(every["sha256"].to_pandas().duplicated(keep=False))
    rows = every.take(pa.array(places)).to_pandas().set_index(places).dropna(subset=["labels"])
    rows["labels"] = rows["labels"].map(", ".join)
    rows["counts"] = rows["counts"].map(lambda each: ", ".join(map("{count} {name}".format_map, each)), "ignore")
    conflicting = rows[(rows.groupby("sha256")[["labels", "counts"]].transform("nunique") > 1).any(axis=1)]
    if conflicting.empty:
        return
    table = pq.read_table(partial)
    for sha256, copies in conflicting.groupby("sha256", sort=False):
        shown = copies["counts"].fillna(copies["labels"]).replace("", "nothing")
        value = "; ".join(map("{}: {}: {}".format, copies["source"], copies["image"], shown))
        for row in copies.itertuples():
            why, boxes = Rejection("conflicting duplicates", row.origin, value), table["boxes"][row.Index].as_py()
            total.reject(row.source, row.image, why, sha256=sha256, reason=None, boxes=boxes)
    total.accepted -= len(conflicting)
    out = set(zip(conflicting["source"], conflicting["image"], strict=True))
    total.repairs = [repair for repair in total.repairs if (repair["source"], repair["image"]) not in out]
    kept = np.setdiff1d(np.arange(len(table)), conflicting.index)
    pq.write_table(table.take(kept), partial, compression="zstd")


def occurring(accepted: Path) -> set[str]:
    """The classes of the accepted records: their labels, and what the values in their masks stand for."""
    table = pq.read_table(accepted, columns=["labels", "mask_names"]).combine_chunks()
    names = [pc.list_flatten(table["labels"]), *(pairs.items for pairs in table["mask_names"].chunks)]
    return {name for part in names for name in pc.unique(part).to_pylist() if name}


def warn_of_undrawn(accepted: Path) -> None:
    """Warn of images with a label of which they have no box, though others have: to a detector, nothing is there."""
    table = pq.ParquetFile(accepted).read(["source", "image", "labels", "counts", "boxes.list.element.name"])
    boxes = pc.list_flatten(table["boxes"]).combine_chunks()
    drawn = set(pc.unique(boxes.field("name")).to_pylist())
    some = table.filter(pc.and_(pc.is_valid(table["boxes"]), pc.is_null(table["counts"]))).to_pylist()
    lacks = [drawn.intersection(row["labels"]).difference(box["name"] for box in row["boxes"]) for row in some]
    found = [(row, min(names)) for row, names in zip(some, lacks, strict=True) if names]
    for row, name in found[:1]:
        what = f"{len(found)} images, such as {row['source']}/{row['image']}, have a label without a box ({name})"
        print(f"warning: {what}, where others have boxes: to a detector nothing is there; draw them", file=sys.stderr)


def check_share(total: Outcome, max_rejected: float, rejected_csv: Path) -> None:
    """Raise UserError if more than `max_rejected` of the images that are not excluded was rejected, or none is left."""
    rejected = sum(row["rule"] != "excluded" for row in total.rejected)
    imported = rejected + total.accepted
    if total.accepted and rejected <= max_rejected * imported:
        return
    if not imported:
        raise UserError("no source states or holds an image that is not excluded; look at `sources` in params.yaml")
    too_many = rejected > max_rejected * imported
    why = f"more than clean.max_rejected = {max_rejected:g} allows" if too_many else "so nothing is left"
    raise UserError(
        f"{rejected} of {imported} images rejected, {why}: {_listed(_by_rule(total.rejected))}; see {rejected_csv}; "
        "the first: {origin}: {rule}: {value}; {remedy}".format(**total.rejected[0])
    )


def summary(total: Outcome, boxes: int, classes: ClassRules) -> dict[str, Any]:
    """What became of the images, in numbers: imported = accepted + rejected."""
    renamed: dict[str, dict[str, int]] = {}
    for (source, name), images in sorted(total.names.items()):
        if (ours := classes.name(name)) not in (name, None):
            renamed.setdefault(source, {})[f"{name} → {ours}"] = images
    return {
        "imported": total.accepted + len(total.rejected),
        "accepted": total.accepted,
        "rejected": len(total.rejected),
        "rejected_by_rule": _by_rule(total.rejected),
        "repairs_by_rule": _by_rule(total.repairs),
        "boxes": boxes,
        "left_out_by_class": dict(sorted(total.unwanted.items())),
        "renamed_by_source": renamed,
    }


def warn_of_names(total: Outcome, classes: ClassRules, excluded: Iterable[str]) -> None:
    """Warn of names, and of images to exclude, that the user gave and no source has; of classes called nearly alike."""
    there = {composed(name) for _, name in total.names}
    for alike in nearly_alike(filter(None, map(classes.name, there))) if not classes.keep else ():
        pairs = as_yaml([f"{name}={alike[-1]}" for name in alike[:-1]])
        print(f"warning: {alike} are {len(alike)} classes; with `rename: {pairs}` in clean, one", file=sys.stderr)
    renamed = {classes.rename.get(name, name) for name in there}
    named = {"rename": classes.rename, "merge": classes.merge, "drop": classes.drop}
    for option, names in named.items():
        for name in sorted(set(names) - (renamed if option == "merge" else there)):
            print(f"warning: clean.{option}: no source has the class {name!r}", file=sys.stderr)
    out = {key for row in total.rejected for key in (f"{row['source']}/{row['image']}", row["sha256"])}
    for image in excluded:
        if image not in out:
            print(f"warning: clean.exclude: no source has the image {image}", file=sys.stderr)


@with_options([*options_of(Rules), *options_of(Workers)])
def main(
    sources: Annotated[list[str] | None, typer.Argument(help="names, or params.yaml's `sources` unpacked")] = None,
    imported: Annotated[Path, typer.Option(help="the import stage's directory")] = INTERMEDIATE / "imported",
    inspected: Annotated[Path, typer.Option(help="the inspect stage's directory")] = INTERMEDIATE / "inspected",
    out: Annotated[Path, typer.Option(help="directory to write to; the summary is OUT.json")] = INTERMEDIATE / "clean",
    keep: Annotated[list[str] | None, typer.Option(help="class wanted, in id order; none given keeps all")] = None,
    rename: Annotated[list[str] | None, typer.Option(help="OLD=NEW, done before keep")] = None,
    merge: Annotated[list[str] | None, typer.Option(help="NEW=OLD+OLD, done between rename and keep")] = None,
    drop: Annotated[list[str] | None, typer.Option(help="class left out though it resembles a kept one")] = None,
    without_kept: Annotated[WithoutKept, typer.Option(help="images of no kept class")] = WithoutKept.negative,
    keep_conflicts: Annotated[bool, typer.Option(help="keep copies of an image whose labels or counts differ")] = False,
    exclude: Annotated[Path, typer.Option(help="CSV file of images to leave out; '' for none")] = EXCLUDED,
    max_rejected: Annotated[float, typer.Option(min=0, max=1, help="a larger share of rejects fails")] = 0.05,
    **options: Any,
) -> None:
    """Accept or reject every image with a reason, and repair what can be repaired safely."""
    names = source_names(sources or ())
    if not names:
        raise UserError("params.yaml: has no source yet; `python -m Data_processing.add_source NAME PATH` adds one")
    if "DVC_STAGE" in os.environ:
        check_dependencies(Path("dvc.yaml"), names, (imported, inspected), exclude)
    classes = parse_rules(keep or (), rename or (), drop or (), merge or ())
    excluded = {} if exclude == Path() else read_exclusions(exclude)
    own = {"classes": classes, "own": find_own_rules(), "excluded": excluded}
    rules = filled(Rules, options, keep_negatives=without_kept is WithoutKept.negative, **own)
    found = [read_source(name, imported, inspected) for name in names]
    few = sum(len(source.images) for source in found) <= 2 * BATCH
    chunks = ((*part, rules) for part in batches(found, find_corrections(found)))
    results = filled(Workers, options).run(clean_batch, chunks, few)
    with replacing(out / "accepted.parquet") as partial:
        total = write_accepted(results, found, partial)
        if not keep_conflicts:
            reject_conflicts(partial, total)
        total.write(out)
        check_share(total, max_rejected, out / "rejected.csv")
        ids = class_ids(occurring(partial), classes.keep, total.unwanted)
        boxes = pq.ParquetFile(partial).read(columns=["boxes.list.element.crowd"])["boxes"]
        numbers = summary(total, pc.sum(pc.list_value_length(boxes)).as_py() or 0, classes)
    with replacing(out / "classes.json") as partial:
        write_classes(ids, partial)
    write_text(out.with_suffix(".json"), json.dumps(numbers, indent=1) + "\n")
    warn_of_names(total, classes, excluded)
    warn_of_undrawn(out / "accepted.parquet")
    print("{imported} images imported = {accepted} accepted + {rejected} rejected".format(**numbers))
    left_out = "objects and labels of classes not kept"
    parts = {"rejected": "rejected_by_rule", "repaired": "repairs_by_rule", left_out: "left_out_by_class"}
    for words, key in parts.items():
        if numbers[key]:
            print(f"{words}: {_listed(numbers[key])}")


def _by_rule(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    return dict(sorted(Counter(row["rule"] for row in rows).items()))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in Counter(counts).most_common())


if __name__ == "__main__":
    run(main)
