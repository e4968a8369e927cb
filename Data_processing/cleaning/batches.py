"""The clean stage's work on batches of records: joins them with the facts of their images, and judges each."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from Data_processing.cleaning.corrections import Correction, Place, Source, corrected
from Data_processing.cleaning.records import clean_record, in_pixels
from Data_processing.cleaning.rules import Rejection, Repair, Rules
from Data_processing.shared.imported import BATCH, CORNERS, IMPORTED_SCHEMA, Imported, from_arrow, read_about, to_arrow
from Data_processing.shared.inspected import HASH_BYTES, INSPECTED_SCHEMA, Facts, check_parquet, read_inspected
from Data_processing.shared.parallel import batched
from Datasets.format.images import FULL, VOID, Range
from Datasets.format.records import SCHEMA
from Datasets.tools.atomic import replacing
from Datasets.tools.errors import UserError

ACCEPTED_SCHEMA = pa.schema(
    [
        *SCHEMA,
        pa.field("origin", pa.string()),
        pa.field("box_origins", pa.list_(pa.string())),  # in the order of `boxes`
        pa.field("mask_source", pa.string()),  # where the mask file is, if not in `source`
        pa.field("mask_names", pa.map_(pa.int32(), pa.string())),  # what values of the mask file stand for, as wanted
        pa.field("bytes", pa.int64()),
        pa.field("phash", pa.binary(HASH_BYTES)),
        pa.field("brightness", pa.float32()),
        pa.field("sharpness", pa.float32()),
    ]
)
DARK = 1 / 4  # of the full range: where no value of a source is beyond it, it has another
FORMULA = r"^(?=[=+\-@\t\r])"  # what a spreadsheet would compute; behind a ' it is a text
REJECTED_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("source", "image", "rule", "origin", "value", "remedy")),
        pa.field("sha256", pa.string()),  # of the image's file, if there is one
        pa.field("reason", pa.string()),  # why the image cannot be decoded, if so
        pa.field("boxes", pa.list_(pa.struct({"name": pa.string(), **dict.fromkeys(CORNERS, pa.float64())}))),
    ]
)


@dataclass
class Outcome:
    """What became of some records."""

    accepted: int = 0
    rejected: list[dict[str, Any]] = field(default_factory=list)  # rows of REJECTED_SCHEMA
    repairs: list[dict[str, str]] = field(default_factory=list)
    unwanted: Counter[str] = field(default_factory=Counter)  # how many of each class are left out
    names: Counter[tuple[str, str]] = field(default_factory=Counter)  # images of each source that state a class

    def add(self, other: "Outcome") -> None:
        self.accepted += other.accepted
        self.rejected += other.rejected
        self.repairs += other.repairs
        self.unwanted.update(other.unwanted)
        self.names.update(other.names)

    def write(self, out: Path) -> None:
        """Write rejected.csv, rejected.parquet and repairs.csv into a directory."""
        with replacing(out / "rejected.parquet") as partial:
            pq.write_table(pa.Table.from_pylist(self.rejected, REJECTED_SCHEMA), partial, compression="zstd")
        rejected = pd.DataFrame(self.rejected, columns=REJECTED_SCHEMA.names[:6])
        repairs = pd.DataFrame(self.repairs, columns=["source", "image", "rule", "origin", "before", "after"])
        for name, table in (("rejected.csv", rejected), ("repairs.csv", repairs)):
            table = table.replace(FORMULA, "'", regex=True)
            with replacing(out / name) as partial:
                table.to_csv(partial, index=False, lineterminator="\n")

    def reject(self, source: str, image: str, why: Rejection, **shown: Any) -> None:
        """Take note of a rejection. shown: sha256, reason and boxes."""
        self.rejected.append({"source": source, "image": image, **vars(why), **shown})


def read_source(name: str, imported: Path, inspected: Path) -> Source:
    """A source's files in the folders of two stages. Raises UserError unless these wrote them, of the same images."""
    imported, inspected = imported / f"{name}.parquet", inspected / f"{name}.parquet"
    check_parquet(imported, IMPORTED_SCHEMA.names, "import")
    check_parquet(inspected, INSPECTED_SCHEMA.names, "inspect")
    table = pq.ParquetFile(imported).read(columns=["image", "mask", "mask_names"])
    images, masks = table["image"].to_pylist(), set(filter(None, table["mask"].to_pylist()))
    facts = read_inspected(inspected)
    if unknown := {*images, *masks}.difference(facts):
        raise UserError(f"{inspected}: knows nothing of {min(unknown)}; inspect {name} again")
    values = {value for mask in masks for value in facts[mask].values or ()}
    highest = pc.max(table["mask_names"].combine_chunks().keys).as_py() or 0
    if VOID in values and values <= {0, VOID} and highest < VOID:
        raise UserError(
            f"{name}: its masks have no values but 0 and 255, and 255 means not annotated; write what the class has in "
            "classes.json or labelmap.txt (of the first one, 1) instead of 255"
        )
    source = Source(name, imported, images, masks, facts, read_about(imported))
    check_values(source)
    return source


def check_values(source: Source) -> None:
    """Raise UserError where images of more than 8 bits need a range that the source's entry does not state."""
    deep: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for each in () if source.about.options.range else source.facts.values():
        if each.lowest is not None and each.highest is not None and math.isfinite(each.highest - each.lowest):
            deep[(each.mode or "")[:1]].append((each.lowest, each.highest, each.image))
    for kind, those in deep.items():
        low, high, full = min(those)[0], max(high for _, high, _ in those), FULL.get(kind, FULL["I"])
        if low >= 0 and (high == 0 or full * DARK <= high <= full):
            continue
        what = f"sources.{source.name}: images of more than 8 bits, such as {those[0][2]}, have values of {low:.10g} to"
        if kind not in FULL:
            raise UserError(f"{what} about {high:.10g} of {full} in each colour; convert them to 8 bits")
        near = [min(low, 0), 2 ** math.ceil(math.log2(high + 1)) - 1 if kind == "I" and high > 0 else high]
        lines = "`range: [{:.10g}, {:.10g}]`, or `range: image` for those of each image".format(*near)
        lines += "" if low < 0 or high > full else f", or `range: [0, {full}]` if they are meant to be so dark"
        raise UserError(f"{what} {high:.10g}, not 0 to {full}; say in its entry which are black and white: {lines}")


def common_range(sources: Sequence[Source]) -> Range:
    """The range of all images of more than 8 bits. Raises UserError where sources state several."""
    deep = [source for source in sources if any(each.highest is not None for each in source.facts.values())]
    ranges = {source.name: source.about.options.value_range() for source in deep}
    if len(set(ranges.values())) > 1:
        told = " and ".join(f"sources.{name} has {stated or 'none'}" for name, stated in ranges.items())
        raise UserError(f"range: {told}; a dataset has one, so that a model sees all alike: give all the same")
    return next(iter(ranges.values()), None)


def clean_batch(
    batch: pa.RecordBatch,
    source: str,
    facts: Sequence[tuple[Facts, Facts | None]],
    repeated: Mapping[str, list[str]],
    corrections: Mapping[str, Correction],
    rules: Rules,
) -> tuple[pa.RecordBatch, Outcome]:
    """Judge one source's records in `batch`; returns rows of ACCEPTED_SCHEMA and what became of the records.

    facts: of each record's image and mask. repeated: images of several records, with the origins of all.
    """
    outcome = Outcome()
    accepted = []
    for row, (fact, mask) in zip(from_arrow(batch), facts, strict=True):
        others = [origin for origin in repeated.get(row.image, ()) if origin != row.origin]
        repairs: list[Repair] = []
        mask_source = None
        if by := corrections.get(row.image):
            row, mask, repairs = corrected(row, fact, mask, by, rules.classes)
            mask_source = by.source if mask is by.mask else None
        if row.image in repeated:
            row.problems.append(("second record", f"also {', '.join(others[:3]) or 'in the same place'}"))
        names = {box.name for box in row.boxes or ()}.union(row.labels or (), (row.mask_names or {}).values())
        outcome.names.update((source, name) for name in names.union(c["name"] for c in row.counts or ()) if name)
        try:
            if reason := rules.excluded.get(f"{source}/{row.image}") or rules.excluded.get(fact.sha256 or ""):
                raise Rejection("excluded", row.origin, reason)
            result = clean_record(row, source, fact, mask, rules)
        except Rejection as rejection:
            stated = row.boxes or () if fact.width is not None else ()  # right or wrong
            boxes = [{"name": b.name, **dict(zip(CORNERS, in_pixels(b, row, fact), strict=True))} for b in stated]
            outcome.reject(source, row.image, rejection, sha256=fact.sha256, reason=fact.reason, boxes=boxes)
            continue
        looks = {name: getattr(fact, name) for name in ("phash", "brightness", "sharpness")}
        about = {"origin": row.origin, "box_origins": result.box_origins, "mask_source": mask_source, **looks}
        about |= {"bytes": fact.size, "mask_names": list(result.mask_names.items()) or None}
        accepted.append({**result.record, **about})
        repairs += result.repairs
        outcome.repairs += [{"source": source, "image": row.image, **vars(repair)} for repair in repairs]
        outcome.unwanted.update(result.unwanted)
    outcome.accepted = len(accepted)
    return pa.RecordBatch.from_pylist(accepted, ACCEPTED_SCHEMA), outcome


def batches(sources: Sequence[Source], corrections: Mapping[Place, Correction]) -> Iterator[tuple[Any, ...]]:
    """For clean_batch: all records of all sources, after those of each the images that no record is about."""
    recorded: dict[str, set[str]] = defaultdict(set)
    for source in sources:
        recorded[source.about.path].update(source.images, source.masks)
    for source in sources:
        rows = pq.ParquetFile(source.imported).read(columns=["image", "origin"]).to_pandas()
        rows = rows[rows["image"].duplicated(keep=False)]
        repeated = rows.groupby("image")["origin"].agg(list).to_dict()
        facts, name = source.facts, source.name
        mine = {image: correction for (of, image), correction in corrections.items() if of == name}
        for batch in pq.ParquetFile(source.imported).iter_batches(BATCH):
            batch = batch.filter(pa.array([image in facts for image in batch["image"].to_pylist()], pa.bool_()))
            images, masks = batch["image"].to_pylist(), batch["mask"].to_pylist()
            here = {image: repeated[image] for image in images if image in repeated}
            pairs = [(facts[image], facts[mask] if mask else None) for image, mask in zip(images, masks, strict=True)]
            yield batch, name, pairs, here, {image: mine[image] for image in images if image in mine}
        known = recorded[source.about.path]
        without = [image for image in facts if image not in known]
        known.update(without)  # another source of the same place is not to reject them once more
        for part in batched(without, BATCH):
            unlisted = to_arrow([Imported(image, image) for image in part])
            here = {image: mine[image] for image in part if image in mine}
            yield unlisted, name, [(facts[image], None) for image in part], {}, here
