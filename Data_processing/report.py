"""Report: one page about the dataset, from the raw datasets to what is trained on.

    python -m Data_processing.report

Reads what clean and curate wrote, and of the sources only the rejected images that it shows. Writes one HTML file that
needs nothing else, and numbers that neither clean nor curate gives; the same inputs give the same bytes.
"""

import json
from pathlib import Path
from typing import Annotated

import pandas as pd
import pyarrow.parquet as pq
import typer

from Data_processing.reporting import sections
from Data_processing.reporting.data import charts, numbers, read_dataset
from Data_processing.reporting.since import changed_since
from Datasets.pages.page import write_page
from Datasets.tools.atomic import write_text
from Datasets.tools.command import run

INTERMEDIATE, SIZES = Path("Data_processing/intermediate"), (256, 320, 640)
PAGE = Path(__file__).parent / "reporting" / "page.html"


def main(
    cleaned: Annotated[Path, typer.Option(help="the clean stage's directory")] = INTERMEDIATE / "clean",
    curated: Annotated[Path, typer.Option(help="the curated dataset")] = Path("Datasets/curated"),
    numbers_file: Annotated[Path, typer.Option("--numbers", help="curate's summary")] = INTERMEDIATE / "curated.json",
    out: Annotated[Path, typer.Option(help="HTML file to write")] = Path("Data_processing/report.html"),
    metrics: Annotated[Path, typer.Option(help="JSON file to write further numbers to")] = INTERMEDIATE / "report.json",
    near_duplicate_bits: Annotated[int, typer.Option(min=0, max=256, help="as for curate")] = 24,
    size: Annotated[list[int] | None, typer.Option(min=1, help="training sizes to measure objects at")] = None,
    since: Annotated[str, typer.Option(help="tag or commit to compare with")] = "",
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
    files = {f"{cleaned}.json": summary, f"{numbers_file}": curated_numbers, f"{metrics}": further}
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
        "since": changed_since(since, files, curated, dataset) if since else None,
    }
    write_text(metrics, json.dumps(further, indent=1) + "\n")
    write_page(PAGE, values, out)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run(main)
