"""Missing and empty never mix, what is given implies the rest, and contradictions are found."""

import subprocess
import sys

from Datasets.format.records import contradictions, empty_record, implied, is_safe_path


def record(**fields):
    return {**empty_record("a/b.jpg", "s"), **fields}


def box(name="car", x1=1.0, y1=1.0, x2=2.0, y2=2.0, crowd=False):
    return {"name": name, "x1": x1, "y1": y1, "x2": x2, "y2": y2, "crowd": crowd, "segmentation": None}


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


def test_a_label_that_no_box_has_leaves_the_counts_unknown():
    whole = implied(record(boxes=[box("car")], labels=["car", "night"]))
    assert (whole["labels"], whole["counts"], contradictions(whole)) == (["car", "night"], None, [])
    assert implied(record(boxes=[box("car")], labels=["car"]))["counts"] == [{"name": "car", "count": 1}]


def test_contradictions_name_the_class():
    assert contradictions(record(boxes=[box("car")], counts=[{"name": "car", "count": 2}])) == [
        "car: 1 boxes, but a count of 2"
    ]
    assert "bus" in contradictions(record(labels=["bus"], counts=[]))[0]
    assert contradictions(implied(record(boxes=[box("car"), box("bus")]))) == []
    for crowd in (False, True):
        against = contradictions(record(boxes=[box("car", crowd=crowd)], labels=["bus"]))
        assert against == ["car: has a box, but is not in labels"]
    assert contradictions(implied(record(boxes=[box("car")], labels=[]))) == [
        "car: in labels or in counts, not in both"
    ]


def test_paths_that_lead_out_are_not_safe():
    assert is_safe_path("images/a.jpg")
    for path in ("../a.jpg", "a/../../b.jpg", "/etc/passwd", "", "a\\..\\b.jpg", "a\0.jpg"):
        assert not is_safe_path(path)


def test_importing_records_loads_neither_torch_nor_dvc():
    code = "import sys, Datasets.format.records; print([m for m in ('torch', 'dvc') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
