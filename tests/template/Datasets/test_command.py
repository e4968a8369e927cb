"""What every command does before its own work, and how it ends."""

import sys

import pytest

from tests.template.conftest import ROOT, refused, run_in, succeeded

PANDAS = """
import sys
import pyarrow as pa
from Datasets.tools.command import run

def main():
    table = pa.table({"number": [7]})
    assert "pandas" not in sys.modules
    assert table.to_pandas()["number"][0] == 7

run(main)
"""
FAILING = """
from pathlib import Path
from Datasets.tools.command import run
from Datasets.tools.errors import UserError

def main():
    {}

run(main)
"""


def test_pandas_which_takes_long_to_import_is_imported_only_where_it_is_used():
    succeeded(run_in(ROOT, sys.executable, "-c", PANDAS))


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ("raise UserError('a.csv: has no rows')", "a.csv: has no rows"),
        ("Path('gone').read_text()", "gone: No such file"),
    ],
)
def test_a_users_mistake_is_one_line(mistake, told):
    refused(run_in(ROOT, sys.executable, "-c", FAILING.format(mistake)), told)
