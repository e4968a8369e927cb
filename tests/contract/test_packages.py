"""Which package may import which, and what must start without costly libraries."""

import subprocess
import sys

import pytest

from tests.contract.checkout import PACKAGES, ROOT, run_in, succeeded


def test_packages_import_only_what_they_may():
    succeeded(run_in(ROOT, "lint-imports", "--no-cache"))


def test_init_files_are_empty():
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("__init__.py")]
    assert [str(path) for path in files if path.read_text().strip()] == []


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("Datasets.format.records", ["torch", "dvc"]),
        ("Data_processing.clean", ["torch", "dvc"]),
        ("Models.train", ["dvc", "pandas"]),
        ("Deployment.serve", ["torch", "dvc", "pandas", "pyarrow"]),
    ],
)
def test_costly_libraries_are_imported_only_where_they_are_used(module, forbidden):
    code = f"import sys, {module}; print([m for m in {forbidden} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "[]\n"
