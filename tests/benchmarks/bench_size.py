"""How large a bundle and what it needs installed are, against one that carries PyTorch.

    python -m tests.benchmarks.bench_size BUNDLE EXPORT

The sizes of packages are those of their files as installed here, CPU builds of PyTorch too; EXPORT gives the weights
and the script that PyTorch would need instead of the graph.
"""

import argparse
from importlib.metadata import distribution
from pathlib import Path

from Deployment import requirements

TORCH = ("torch", "safetensors")


def installed(names: tuple[str, ...]) -> float:
    """MB of these packages and all that they need."""
    found = requirements.requirements(names).splitlines()
    files = (file.locate() for line in found for file in distribution(line.partition("==")[0]).files or [])
    return sum(Path(str(file)).stat().st_size for file in set(files) if Path(str(file)).is_file()) / 1e6


def size(directory: Path) -> float:
    """MB of a directory's files."""
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file()) / 1e6


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Measure a bundle and its environment.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("export", type=Path)
    options = parser.parse_args()
    bundle, graph = size(options.bundle), (options.bundle / "export/model.onnx").stat().st_size / 1e6
    weights = (options.export / "weights.safetensors").stat().st_size / 1e6 + size(options.export / "script")
    ours = requirements.IMPORTED
    theirs = tuple(name for name in ours if name != "onnxruntime") + TORCH
    small, large = installed(ours), installed(theirs)
    print(f"bundle: {bundle:.1f} MB; with weights and script instead of the graph {bundle - graph + weights:.1f} MB")
    print(f"environment: {small:.0f} MB; with PyTorch instead of onnxruntime {large:.0f} MB: {small / large:.2f} of it")


if __name__ == "__main__":
    main()
