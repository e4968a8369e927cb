"""No source, however broken, ends in anything but records, their problems, or a refusal in one line.

`python -m tests.benchmarks.bench_broken` tries thousands more.
"""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.template.Data_processing.broken import FORMATS, WRONG, broken, judge, wholes


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """A source of each format with some of everything."""
    found = wholes(tmp_path_factory.mktemp("whole"))
    for form, files in found.items():
        judge(form, files)
    return found


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=40)
@given(data=st.data())
def test_a_source_that_is_broken_somewhere(whole, form, data):
    judge(form, data.draw(broken(whole[form])))


@pytest.mark.parametrize("form", sorted(set(FORMATS) - {"folders", "parquet"}))
def test_files_in_other_encodings_cut_off_or_too_deep(whole, form):
    files = whole[form]
    for name, wrong in product(files, WRONG):
        if not name.endswith(".png"):
            judge(form, {**files, name: wrong(files[name])})
