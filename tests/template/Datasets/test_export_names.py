"""Exported files stay apart on every file system."""

import re
import tempfile
import unicodedata
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from Datasets.exporters.names import Names
from Datasets.format.records import is_safe_path

safe_paths = (
    st.text("aAsS\u017fäÄa\u0308/. \u2028", min_size=1, max_size=12).filter(is_safe_path).filter(lambda p: Path(p).name)
)


@given(st.lists(safe_paths, unique=True))
def test_names_stay_apart_where_case_unicode_and_folders_could_mix_them(paths):
    flat, kept = Names(), Names()
    stems = [flat.flat(path) for path in paths]
    assert all(re.fullmatch(r"[\w.-]+", name) and not name.startswith(".") for name in stems)
    assert len({unicodedata.normalize("NFC", Path(name).stem).casefold() for name in stems}) == len(paths)
    with tempfile.TemporaryDirectory() as base:
        for path in paths:
            place = Path(base, unicodedata.normalize("NFC", kept.keep(path)).casefold())
            assert not place.exists()
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()


def test_a_name_that_nothing_else_could_be_mistaken_for_is_kept():
    names = Names()
    assert [names.keep(path) for path in ("s/a.jpg", "s/b.jpg", "s/A.jpg")] == ["s/a.jpg", "s/b.jpg", "2/s/A.jpg"]
    assert [names.keep(path) for path in ("s/b.jpg/c.jpg", "s")] == ["2/s/b.jpg/c.jpg", "3/s"]


def test_other_suffixes_of_jpeg_which_readers_pass_over_become_the_usual_one():
    names = Names()
    paths = ("a.jfif", "a.jpg", "b.JPE", "c.jpeg", "d.gif")
    assert [names.flat(path) for path in paths] == ["a.jpg", "a_2.jpg", "b.jpg", "c.jpeg", "d.gif"]
