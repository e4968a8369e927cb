"""Names map to contiguous ids; unwanted classes are left out, misspelt ones noticed."""

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
from Datasets.tools.errors import UserError


def test_ids_follow_keep_or_the_alphabet():
    assert class_ids(["b", "a", "b"]) == {"a": 0, "b": 1}
    assert class_ids(["b", "a", "c"], keep=["c", "a"]) == {"c": 0, "a": 1}


def test_a_kept_class_that_no_image_has_is_refused_with_those_that_occur():
    with pytest.raises(UserError, match="'zebra'.*ant, bee"):
        class_ids(["bee"], keep=["bee", "zebra"], others=["ant"])


def test_a_name_of_several_lines_becomes_one_line_which_options_can_name():
    rules = ClassRules(keep=["red car", "bus"], rename={"old bus": "bus"})
    assert [rules.name(name) for name in ("red\ncar", "\tred \r\n car\n", "old\x0bbus\n", "red  car")] == [
        "red car",
        "red car",
        "bus",
        None,
    ]


def test_rename_comes_before_keep():
    rules = ClassRules(keep=["car"], rename={"auto": "car"})
    assert rules.name("auto") == "car"
    assert rules.name("bus") is None


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
