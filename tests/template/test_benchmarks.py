"""The benchmarks, which take hours, can be started with the code as it is."""

import importlib
import runpy

from tests.template.conftest import ROOT


def test_each_benchmark_finds_what_it_imports():
    names = [file.stem for file in (ROOT / "tests/benchmarks").glob("*.py") if file.stem != "__main__"]
    assert len(names) > 20
    for name in names:
        importlib.import_module(f"tests.benchmarks.{name}")
    runpy.run_path(str(ROOT / "tests/benchmarks/__main__.py"), run_name="imported")
