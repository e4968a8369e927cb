"""Clean all sources: each record is accepted, perhaps mended, or rejected with a reason; none disappears.

    python -m Data_processing.clean --imported DIR --inspected DIR --out DIR --keep cat --keep dog -- digits raccoon

Joins what the sources state (import stage) with what their images show (inspect stage). Writes into --out:
accepted.parquet (records, with the size of each image's file), rejected.csv, repairs.csv and summary.json, whose
imported is the sum of its accepted and rejected. Instead of the sources' names after `--`, it also takes params.yaml's
`sources` as DVC unpacks it: `--digits.format coco --digits.path …`.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from Data_processing.cleaning_rules import Rejection, Repair, clean_record
from Data_processing.imported import Imported, read_imported, source_path
from Datasets.atomic import replacing
from Datasets.classes import ClassRules, class_ids, parse_renames, write_classes
from Datasets.command import run
from Datasets.errors import UserError
from Datasets.records import SCHEMA, Record, empty_record

ACCEPTED_SCHEMA = pa.schema([*SCHEMA, pa.field("bytes", pa.int64()), pa.field("phash", pa.binary(32))])


@dataclass
class Outcome:
    """What became of all records."""

    accepted: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[tuple[Record, Rejection]] = field(default_factory=list)
    repairs: list[tuple[Record, Repair]] = field(default_factory=list)
    unwanted: Counter[str] = field(default_factory=Counter)


def source_names(arguments: Iterable[str]) -> list[str]:
    """The sources' names, given plainly or as a mapping that DVC unpacked (`--NAME.key value`), sorted."""
    words = list(arguments)
    unpacked = {word.removeprefix("--").removeprefix("no-").partition(".")[0] for word in words if word[:2] == "--"}
    return sorted(unpacked or set(words))


def join(
    imported: Sequence[Imported], inspected: Iterable[dict[str, Any]], source: str
) -> Iterator[tuple[Imported, dict[str, Any]]]:
    """Each record with the facts of its image; then, as records of which nothing is known, the images without one."""
    facts = {row["image"]: row for row in inspected}
    recorded = {row.record["image"] for row in imported}
    unannotated = (Imported(empty_record(image, source), image) for image in facts if image not in recorded)
    for row in (*imported, *unannotated):
        yield row, facts[row.record["image"]]


def clean_all(pairs: Iterable[tuple[Imported, dict[str, Any]]], classes: ClassRules, trust_image_size: bool) -> Outcome:
    """Judge every record."""
    outcome = Outcome()
    for row, facts in pairs:
        result, repairs, unwanted = clean_record(row, facts, classes, trust_image_size)
        if isinstance(result, Rejection):
            outcome.rejected.append((row.record, result))
            continue
        outcome.accepted.append({**result, "bytes": facts["bytes"], "phash": facts["phash"]})
        outcome.repairs += [(row.record, repair) for repair in repairs]
        outcome.unwanted.update(unwanted)
    return outcome


def check_share(outcome: Outcome, max_rejected: float, rejected_csv: Path) -> None:
    """Raise UserError if more than the share `max_rejected` of the images was rejected, or all were."""
    rejected, total = len(outcome.rejected), len(outcome.rejected) + len(outcome.accepted)
    if outcome.accepted and rejected <= max_rejected * total:
        return
    rules = Counter(rejection.rule for _, rejection in outcome.rejected)
    first = f"; the first: {_told(outcome.rejected[0][1])}" if outcome.rejected else ""
    raise UserError(
        f"{rejected} of {total} images rejected, more than clean.max_rejected = {max_rejected:g} allows: "
        f"{_listed(rules)}; see {rejected_csv}{first}"
    )


def summary(outcome: Outcome) -> dict[str, Any]:
    """What became of the images, in numbers: imported = accepted + rejected."""
    accepted, rejected = len(outcome.accepted), len(outcome.rejected)
    return {
        "imported": accepted + rejected,
        "accepted": accepted,
        "rejected": rejected,
        "rejected_by_rule": dict(sorted(Counter(r.rule for _, r in outcome.rejected).items())),
        "repairs_by_rule": dict(sorted(Counter(r.rule for _, r in outcome.repairs).items())),
        "boxes": sum(len(record["boxes"] or []) for record in outcome.accepted),
        "boxes_left_out_by_class": dict(sorted(outcome.unwanted.items())),
    }


def write_csv(header: Sequence[str], rows: Iterable[Sequence[Any]], path: Path) -> None:
    """Write a table for people."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_accepted(outcome: Outcome, paths: dict[str, str], classes: dict[str, int], out: Path) -> None:
    """Write what later stages read; the summary last. paths: where each source lies."""
    with replacing(out / "accepted.parquet") as partial:
        schema = ACCEPTED_SCHEMA.with_metadata({"source_paths": json.dumps(paths)})
        table = pa.Table.from_pylist(outcome.accepted, schema=schema)
        pq.write_table(table, partial, compression="zstd")
    with replacing(out / "classes.json") as partial:
        write_classes(classes, partial)
    with replacing(out / "summary.json") as partial:
        partial.write_text(json.dumps(summary(outcome), indent=1) + "\n", encoding="utf-8")


def read_sources(names: Sequence[str], imported: Path, inspected: Path) -> Iterator[tuple[Imported, dict[str, Any]]]:
    """The joined records of all sources. Raises UserError for a source that was not imported and inspected."""
    for name in names:
        paths = imported / f"{name}.parquet", inspected / f"{name}.parquet"
        for path in paths:
            if not path.is_file():
                raise UserError(f"{path}: not found; is {name} a source of params.yaml, and did `dvc repro` import it?")
        yield from join(read_imported(paths[0]), pq.read_table(paths[1]).to_pylist(), name)


def main(
    sources: Annotated[list[str], typer.Argument(help="the sources' names, or params.yaml's `sources` unpacked")],
    imported: Annotated[Path, typer.Option(help="directory of the import stage's files")],
    inspected: Annotated[Path, typer.Option(help="directory of the inspect stage's files")],
    out: Annotated[Path, typer.Option(help="directory to write to")],
    keep: Annotated[list[str] | None, typer.Option(help="class wanted, in id order; none given keeps all")] = None,
    rename: Annotated[list[str] | None, typer.Option(help="OLD=NEW, done before keep")] = None,
    drop: Annotated[list[str] | None, typer.Option(help="class left out though it resembles a kept one")] = None,
    trust_image_size: Annotated[bool, typer.Option(help="where the annotated size is wrong, mend it")] = False,
    max_rejected: Annotated[float, typer.Option(min=0, max=1, help="a larger share of rejects fails")] = 0.05,
) -> None:
    """Accept or reject every image with a reason, and mend what can be mended safely."""
    rules = ClassRules(keep or (), parse_renames(rename or ()), drop or ())
    names = source_names(sources)
    outcome = clean_all(read_sources(names, imported, inspected), rules, trust_image_size)
    header = ("source", "image", "rule", "origin")
    rejected = ((r["source"], r["image"], x.rule, x.origin, x.value, x.remedy) for r, x in outcome.rejected)
    write_csv((*header, "value", "remedy"), rejected, out / "rejected.csv")
    repairs = ((r["source"], r["image"], x.rule, x.origin, x.before, x.after) for r, x in outcome.repairs)
    write_csv((*header, "before", "after"), repairs, out / "repairs.csv")
    check_share(outcome, max_rejected, out / "rejected.csv")
    labels = (name for record in outcome.accepted for name in record["labels"] or ())
    classes = class_ids(labels, rules.keep, outcome.unwanted)
    paths = {name: source_path(imported / f"{name}.parquet") for name in names}
    write_accepted(outcome, paths, classes, out)
    tell(outcome)


def tell(outcome: Outcome) -> None:
    """Print the sum and its parts."""
    accepted, rejected = len(outcome.accepted), len(outcome.rejected)
    print(f"{accepted + rejected} images imported = {accepted} accepted + {rejected} rejected")
    for title, counts in (("rejected", outcome.rejected), ("mended", outcome.repairs)):
        if counts:
            print(f"{title}: {_listed(Counter(what.rule for _, what in counts))}")
    if outcome.unwanted:
        print(f"boxes of classes not kept: {_listed(outcome.unwanted)}")


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def _told(rejection: Rejection) -> str:
    return f"{rejection.origin}: {rejection.rule}: {rejection.value}; {rejection.remedy}"


if __name__ == "__main__":
    run(main)
