"""How large a bundle and what it needs installed are, against one that carries PyTorch.

    python -m tests.benchmarks.bench_size BUNDLE EXPORT

The sizes of packages are those of their files as installed here, CPU builds of PyTorch too; EXPORT gives the weights
and the script that PyTorch would need instead of the graph.
"""

import argparse
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from Deployment.package import requirements
from tests.benchmarks.measuring import ROOT, Figure, exports

TORCH = ["torch", "safetensors"]


def installed(names: list[str]) -> float:
    """MB of these packages and all that they need."""
    found = requirements(names).splitlines()
    files = (file.locate() for line in found for file in distribution(line.partition("==")[0]).files or [])
    return sum(Path(str(file)).stat().st_size for file in set(files) if Path(str(file)).is_file()) / 1e6


def size(directory: Path) -> float:
    """MB of a directory's files."""
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file()) / 1e6


def measure(bundle: Path, export: Path) -> Iterator[Figure]:
    """The bundle, and then the environment that it needs."""
    whole, graph = size(bundle), (bundle / "export/model.onnx").stat().st_size / 1e6
    weights = (export / "weights.safetensors").stat().st_size / 1e6 + size(export / "script")
    other = whole - graph + weights
    details = f"{whole:.1f} MB, {other:.1f} MB"
    yield Figure("the bundle's size", "with weights and script for the graph", f"{whole / other:.2f}", "", details)
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]["serve"]
    theirs = [each for each in ours if not each.startswith("onnxruntime")] + TORCH
    small, large = installed(ours), installed(theirs)
    details = f"{small:.0f} MB, {large:.0f} MB"
    yield Figure("its environment's size", "with PyTorch for onnxruntime", f"{small / large:.2f}", "", details)


def figures() -> Iterator[Figure]:
    """Of the checkout's first export, and its bundle."""
    for export in exports()[:1]:
        bundle = ROOT / "Deployment/bundles" / export.name
        if bundle.is_dir():
            yield from measure(bundle, export)
        else:
            print(f"{bundle}: no bundle to measure; `dvc repro`, or `dvc pull`, gives it", file=sys.stderr)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Measure a bundle and its environment.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("export", type=Path)
    options = parser.parse_args()
    for figure in measure(options.bundle, options.export):
        print(figure)


if __name__ == "__main__":
    main()
