"""All figures and the table of them: `make bench`.

    python -m tests.benchmarks [import inspect duplicates curation sharing repro broken train photos review resume
                                start serve servers precisions predict tiles hostile size
                                compare]

Keeps what each benchmark found, with its machine, in figures.json, and writes README.md from it; what is not run now
stays. A name may be followed by a number, as in `curation=100000`, for want of time: of images, cases, steps, rounds,
kills or requests. What needs an export takes the checkout's, Datasets/pretrained/ID; without one, it is left out with a
line.
"""

import importlib
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks.measuring import machine

BENCHMARKS = (
    *(
        "import",
        "inspect",
        "duplicates",
        "curation",
        "sharing",
        "repro",
        "broken",
        "train",
        "photos",
        "review",
        "resume",
        "start",
    ),
    *("serve", "servers", "precisions", "predict", "tiles", "hostile", "size", "compare"),  # of an export
)
HERE = Path(__file__).parent
HEAD = """# Benchmarks

Written by `make bench`; do not edit. Ratios are medians of runs taken in turns with their reference; seconds are this
machine's, which may have had other work to do.
"""


def render(found: dict[str, Any]) -> str:
    """The page."""
    lines = [HEAD]
    for name in BENCHMARKS:
        if name in found:
            part = found[name]
            lines += [f"## bench_{name}\n", f"{part['when']}, {part['machine']}\n"]
            lines += ["| what | against | ratio | aim | details |", "|---|---|---|---|---|"]
            lines += [f"| {' | '.join(figure.values())} |" for figure in part["figures"]]
            lines.append("")
    return "\n".join(lines)


def keep(name: str, where: str, figures: list[dict[str, str]]) -> None:
    """Put a benchmark's figures beside those kept before, and write the page."""
    kept = HERE / "figures.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    found[name] = {"when": datetime.now(UTC).date().isoformat(), "machine": where, "figures": figures}
    kept.write_text(json.dumps(found, indent=1) + "\n")
    (HERE / "README.md").write_text(render(found))


def main() -> None:
    """The command."""
    for argument in sys.argv[1:] or BENCHMARKS:
        name, _, images = argument.partition("=")
        where, figures = machine(), []
        measured = importlib.import_module(f"tests.benchmarks.bench_{name}")
        for figure in measured.figures(int(images)) if images else measured.figures():
            print(" | ".join(asdict(figure).values()), flush=True)
            figures.append(asdict(figure))
            keep(name, where, figures)


if __name__ == "__main__":
    main()
