"""What every command does before its own work, and how it ends."""

import sys

import pytest

from tests.template.conftest import ROOT, refused, run_in

FAILING = """
from pathlib import Path
from Datasets.tools.command import run
from Datasets.tools.errors import UserError

def main():
    {}

run(main)
"""


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("raise UserError('a.csv: has no rows')", "a.csv: has no rows"),
        ("Path('gone').read_text()", "gone: No such file"),
    ],
)
def test_a_users_mistake_is_one_line(mistake, message):
    refused(run_in(ROOT, sys.executable, "-c", FAILING.format(mistake)), message)
