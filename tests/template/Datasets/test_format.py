"""Records, classes, text files, the import closure, and what is proposed to train with."""

import codecs
from pathlib import Path

import pytest

from Datasets.format.classes import (
    ClassRules,
    class_ids,
    parse_merges,
    parse_renames,
    parse_rules,
    read_classes,
    write_classes,
)
from Datasets.format.files import decode_text
from Datasets.format.import_closure import import_closure
from Datasets.format.proposal import propose
from Datasets.format.records import contradictions, empty_record, implied, is_safe_path
from Datasets.tools.errors import UserError


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


def test_ids_follow_keep_or_the_alphabet():
    assert class_ids(["b", "a", "b"]) == {"a": 0, "b": 1}
    assert class_ids(["b", "a", "c"], keep=["c", "a"]) == {"c": 0, "a": 1}


def test_a_name_of_several_lines_becomes_one_line_which_options_can_name():
    rules = ClassRules(keep=["red car", "bus"], rename={"old bus": "bus"})
    assert [rules.name(name) for name in ("red\ncar", "\tred \r\n car\n", "old\x0bbus\n", "red  car")] == [
        "red car",
        "red car",
        "bus",
        None,
    ]


def test_names_are_renamed_all_at_once_and_then_merged():
    rules = ClassRules(keep=["vehicle"], rename={"auto": "car"}, merge={"car": "vehicle", "truck": "vehicle"})
    assert [rules.name(name) for name in ("auto", "car", "truck", "bus")] == ["vehicle"] * 3 + [None]
    swapped = ClassRules(rename={"left": "right", "right": "left"})
    assert [swapped.name(name) for name in ("left", "right")] == ["right", "left"]


def test_merges_name_each_class_once():
    assert parse_merges(["vehicle=car+truck", "tree=fir"]) == {"car": "vehicle", "truck": "vehicle", "fir": "tree"}
    for wrong in (["car"], ["a=b", "c=b"], ["vehicle=car+truck", "thing=vehicle+tree"]):
        with pytest.raises(UserError, match="merge"):
            parse_merges(wrong)
    with pytest.raises(UserError, match="'auto' is renamed to 'car'; merge 'car'"):
        parse_rules([], ["auto=car"], [], ["vehicle=auto"])


def test_a_misspelling_of_a_kept_class_is_noticed_unless_dropped():
    assert ClassRules(keep=["seven"]).meant("sevn") == "seven"
    assert ClassRules(keep=["seven"]).meant("Seven ") == "seven"
    assert ClassRules(keep=["seven"]).meant("bus") is None
    assert ClassRules(keep=["car"], drop=["cart"]).meant("cart") is None


def test_renames_are_pairs_with_one_target():
    assert parse_renames(["a=b", "c=b"]) == {"a": "b", "c": "b"}
    for wrong in (["ab"], ["=b"], ["a=b", "a=c"]):
        with pytest.raises(UserError, match="rename"):
            parse_renames(wrong)


def test_the_file_gives_back_the_mapping_and_refuses_gaps(tmp_path):
    write_classes({"b": 0, "ä": 1}, tmp_path / "classes.json")
    assert read_classes(tmp_path / "classes.json") == {"b": 0, "ä": 1}
    (tmp_path / "classes.json").write_text('{"a": 0, "b": 2}')
    with pytest.raises(UserError, match="gap"):
        read_classes(tmp_path / "classes.json")


BEAR = "cat\nBär\n".encode("latin-1")


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_text_that_is_not_utf_8_is_refused_with_its_line(mark: bytes) -> None:
    with pytest.raises(UserError, match="^a.txt: line 2: byte 0xe4 is not UTF-8; "):
        decode_text(mark + BEAR, "a.txt")
    assert decode_text(mark + "Bär".encode(), "a.txt") == "Bär"
    assert decode_text(mark + "Bär".encode(), "a.txt", "utf-8").encode() == mark + "Bär".encode()


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_the_closure_has_direct_and_indirect_imports_of_every_form(tmp_path):
    write(
        tmp_path,
        {
            "code/__init__.py": "",
            "code/main.py": "import os\nimport numpy\nfrom code import first\nimport code.second as s\n",
            "code/first.py": "def f():\n    from .third import x\n",
            "code/second.py": "from code.main import y\n",
            "code/third.py": "",
            "code/unused.py": "",
        },
    )
    found = [path.as_posix() for path in import_closure([Path("code/main.py")], tmp_path)]
    assert found == ["code/__init__.py", "code/first.py", "code/main.py", "code/second.py", "code/third.py"]


@pytest.mark.parametrize(
    ("images", "sides", "objects", "size", "epochs", "batch"),
    [
        (124, [640], [0.5, 0.9], 256, 25, 4),  # few photographs, of large objects
        (205, [640], [0.06] * 9, 352, 15, 4),  # small ones need pixels
        (205, [320], [0.06] * 9, 320, 15, 4),  # but no more than there are
        (2000, [640], [], 256, 8, 16),
        (9, [90], [0.5], 96, 60, 4),
    ],
)
def test_size_epochs_and_batch_follow_from_images_and_objects(images, sides, objects, size, epochs, batch):
    found = propose(images, sides, objects, ["cat"])
    assert (found.size, found.epochs, found.batch) == (size, epochs, batch)
    assert found.learning_rate == pytest.approx(0.003 * (batch / 4) ** 0.5)


@pytest.mark.parametrize("name", ["7", "left_hand", "turn-right", "traffic sign"])
def test_what_a_mirror_changes_is_not_flipped(name):
    assert not propose(100, [640], [], ["cat", name]).flip


@pytest.mark.parametrize("name", ["raccoon", "bright"])
def test_other_objects_are_flipped(name):
    assert propose(100, [640], [], ["cat", name]).flip
