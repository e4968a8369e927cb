"""Missing and empty never mix, what is given implies the rest, and contradictions are found."""

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from Datasets.json_format import from_json, to_json
from Datasets.records import box_problem, contradictions, empty_record, implied, is_safe_path

names = st.sampled_from(["car", "Käfer", "traffic light", '"'])
pixels = st.floats(0, 1000, allow_nan=False)
boxes = st.builds(
    lambda name, x, y, w, h: {
        "name": name,
        "x1": x,
        "y1": y,
        "x2": x + w,
        "y2": y + h,
        "crowd": False,
        "segmentation": None,
    },
    *(names, pixels, pixels, pixels, pixels),
)
counts = st.dictionaries(names, st.integers(0, 9)).map(lambda d: [{"name": k, "count": v} for k, v in d.items()])


def record(**fields):
    return {**empty_record("a/b.jpg", "s"), **fields}


def box(name="car", x1=1.0, y1=1.0, x2=2.0, y2=2.0, crowd=False):
    return {"name": name, "x1": x1, "y1": y1, "x2": x2, "y2": y2, "crowd": crowd, "segmentation": None}


@given(
    labels=st.none() | st.lists(names),
    counts=st.none() | counts,
    boxes=st.none() | st.lists(boxes),
    mask=st.none() | st.just({"bytes": None, "path": "m.png"}),
)
def test_the_json_form_gives_back_what_it_can_say(labels, counts, boxes, mask):
    original = record(labels=labels, counts=counts, boxes=boxes, mask=mask)
    assert from_json(to_json(original), "s", "here") == original


def test_the_json_form_reads_all_spellings():
    full = from_json(["a.jpg", "car", [{"car": 2}, {"bus": 1}]], "s", "here")
    assert full["labels"] == ["car"]
    assert full["counts"] == [{"name": "car", "count": 2}, {"name": "bus", "count": 1}]
    assert full["boxes"] is None
    assert from_json(["a.jpg", None, None, []], "s", "here")["boxes"] == []


def test_boxes_imply_counts_and_labels():
    whole = implied(record(boxes=[box("car"), box("bus"), box("car")]))
    assert whole["counts"] == [{"name": "bus", "count": 1}, {"name": "car", "count": 2}]
    assert whole["labels"] == ["bus", "car"]


def test_nothing_known_implies_nothing_and_nothing_there_implies_empty():
    assert implied(record())["labels"] is None
    assert implied(record(boxes=[]))["counts"] == implied(record(boxes=[]))["labels"] == []


def test_a_crowd_implies_labels_but_no_count():
    whole = implied(record(boxes=[box("car", crowd=True)]))
    assert whole["counts"] is None
    assert whole["labels"] == ["car"]


def test_contradictions_name_the_class():
    assert contradictions(record(boxes=[box("car")], counts=[{"name": "car", "count": 2}])) == [
        "car: 1 boxes, but a count of 2"
    ]
    assert "bus" in contradictions(record(labels=["bus"], counts=[]))[0]
    assert contradictions(implied(record(boxes=[box("car"), box("bus")]))) == []


def test_impossible_boxes_are_named():
    assert box_problem(box(x1=0, y1=0, x2=10, y2=5), 10, 5) is None
    assert "no area" in box_problem(box(x2=1.0), 10, 10)
    assert "outside" in box_problem(box(x2=11.0), 10, 10)
    assert "no number" in box_problem(box(x2=float("nan")), 10, 10)


def test_paths_that_lead_out_are_not_safe():
    assert is_safe_path("images/a.jpg")
    for path in ("../a.jpg", "a/../../b.jpg", "/etc/passwd", "", "a\\..\\b.jpg", "a\0.jpg"):
        assert not is_safe_path(path)


def test_importing_records_loads_neither_torch_nor_dvc():
    code = "import sys, Datasets.records; print([m for m in ('torch', 'dvc') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
