"""Exported files stay apart on every file system."""

import re
import unicodedata
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from Datasets.exporters.files import Names
from Datasets.format.records import is_safe_path

safe_paths = (
    st.text("aAsS\u017fäÄa\u0308/. \u2028", min_size=1, max_size=12).filter(is_safe_path).filter(lambda p: Path(p).name)
)


def folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


@given(st.lists(safe_paths, unique=True))
def test_names_stay_apart_where_case_and_unicode_could_mix_them(paths):
    flat, kept = Names(), Names()
    names = [flat.flat(path) for path in paths]
    assert all(re.fullmatch(r"[\w.-]+", name) and not name.startswith(".") for name in names)
    assert len({folded(Path(name).stem) for name in names}) == len(paths)
    assert len({folded(kept.keep(path)) for path in paths}) == len(paths)


def test_a_path_is_kept_unless_it_differs_from_another_by_case_only():
    names = Names()
    assert [names.keep(path) for path in ("s/a.jpg", "s/b.jpg", "s/A.jpg")] == ["s/a.jpg", "s/b.jpg", "2/s/A.jpg"]


def test_other_suffixes_of_jpeg_which_readers_ignore_become_the_usual_one():
    names = Names()
    paths = ("a.jfif", "a.jpg", "b.JPE", "c.jpeg", "d.gif")
    assert [names.flat(path) for path in paths] == ["a.jpg", "a_2.jpg", "b.jpg", "c.jpeg", "d.gif"]
