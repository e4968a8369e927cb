"""What an importer states comes back from the file as it was."""

from hypothesis import given
from hypothesis import strategies as st

from Data_processing.shared.imported import Imported, ImportedBox, from_arrow, to_arrow

number = st.floats(allow_nan=False)
box = st.builds(
    ImportedBox, st.text(), number, number, number, number, st.text(), st.booleans(), st.binary() | st.none()
)
row = st.builds(
    Imported,
    st.text(),
    st.text(),
    width=st.none() | st.integers(1, 10**6),
    height=st.none() | st.integers(1, 10**6),
    group=st.none() | st.text(),
    split=st.none() | st.sampled_from(["train", "val", "test"]),
    labels=st.none() | st.lists(st.text(), max_size=3),
    counts=st.none()
    | st.lists(st.builds(lambda n, c: {"name": n, "count": c}, st.text(), st.integers(0, 99)), max_size=3),
    boxes=st.none() | st.lists(box, max_size=3),
    normalized=st.booleans(),
    mask=st.none() | st.text(),
    mask_names=st.none() | st.dictionaries(st.integers(0, 255), st.text(), max_size=3),
    problems=st.lists(st.tuples(st.text(), st.text()), max_size=3),
)


@given(rows=st.lists(row, max_size=5))
def test_rows_come_back_as_they_were(rows):
    assert from_arrow(to_arrow(rows)) == rows
