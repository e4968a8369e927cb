"""Report: one page about the dataset, from the raw datasets to what is trained on.

    python -m Data_processing.report

Reads what clean and curate wrote, and of the sources only the rejected images that it shows. Writes one HTML file that
needs nothing else, and numbers that neither clean nor curate gives; the same inputs give the same bytes.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import pyarrow.parquet as pq
import typer

from Data_processing.reporting import sections
from Data_processing.reporting.data import changes, charts, numbers, read_dataset
from Datasets.pages.page import write_page
from Datasets.tools.atomic import replacing
from Datasets.tools.command import run
from Datasets.tools.errors import UserError

INTERMEDIATE, SIZES = Path("Data_processing/intermediate"), (256, 320, 640)
PAGE = Path(__file__).parent / "reporting" / "page.html"


def changed_since(revision: str, files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers that differ from those of a revision. files: each metrics file's numbers now.

    Raises UserError if there is no such revision, or one of the files is not in it.
    """
    import dvc.api
    from dvc.exceptions import DvcException
    from dvc.scm import RevError

    repository = os.environ.get("DVC_ROOT")  # a queued experiment runs in a copy that lacks tags and old commits
    found: list[tuple[str, float | None, float | None]] = []
    for path, now in files.items():
        try:
            found += changes(json.loads(dvc.api.read(path, repository, revision)), now)
        except RevError as error:
            raise UserError(f"report.since: {revision!r} is no revision of this repository") from error
        except (DvcException, FileNotFoundError) as error:
            raise UserError(f"report.since: revision {revision!r} has no {path}, or it was not pushed") from error
    return {"revision": revision, "changes": found}


def main(
    cleaned: Annotated[Path, typer.Option(help="the clean stage's directory")] = INTERMEDIATE / "clean",
    curated: Annotated[Path, typer.Option(help="the curated dataset")] = Path("Datasets/curated"),
    numbers_file: Annotated[Path, typer.Option("--numbers", help="curate's summary")] = INTERMEDIATE / "curated.json",
    out: Annotated[Path, typer.Option(help="HTML file to write")] = Path("Data_processing/report.html"),
    metrics: Annotated[Path, typer.Option(help="JSON file to write further numbers to")] = INTERMEDIATE / "report.json",
    near_duplicate_bits: Annotated[int, typer.Option(min=0, max=256, help="as for curate")] = 24,
    size: Annotated[list[int] | None, typer.Option(help="training sizes to measure objects at")] = None,
    since: Annotated[str, typer.Option(help="tag or commit to compare the numbers with")] = "",
) -> None:
    """Write a page about the dataset."""
    summary, curated_numbers = (json.loads(path.read_bytes()) for path in (cleaned.with_suffix(".json"), numbers_file))
    accepted = cleaned / "accepted.parquet"
    paths: dict[str, str] = json.loads(pq.read_schema(accepted).metadata[b"source_paths"])
    dataset = read_dataset(curated, accepted)
    rejected = pq.read_table(cleaned / "rejected.parquet").to_pandas()
    repaired = pd.read_csv(cleaned / "repairs.csv", dtype=str, keep_default_na=False, encoding="utf-8")
    shown = sections.evenly(repaired["rule"], sections.SHOWN_REPAIRS)
    further = numbers(dataset)
    files = {cleaned.with_suffix(".json"): summary, numbers_file: curated_numbers, metrics: further}
    values = {
        "summary": summary,
        "curated": curated_numbers,
        "dataset": dataset,
        "sources": list(paths),
        "cleaned": cleaned.as_posix(),
        "rejected": sections.rejects(rejected, paths),
        "repairs": {"count": len(repaired), "rows": repaired.loc[shown].to_dict("records")},
        "flow": sections.flow(dataset, summary["rejected_by_rule"], summary["accepted"]),
        "by_source": sections.by_source(dataset, rejected, repaired, paths),
        "balance": sections.balance(dataset, size or SIZES),
        "sizes": size or SIZES,
        "charts": charts(dataset),
        **sections.pictures(dataset, near_duplicate_bits),
        "bits": near_duplicate_bits,
        "since": changed_since(since, {path.as_posix(): now for path, now in files.items()}) if since else None,
    }
    with replacing(metrics) as partial:
        partial.write_text(json.dumps(further, indent=1) + "\n", encoding="utf-8")
    write_page(PAGE, values, out)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run(main)
