"""VOC's lists become splits, and its class masks masks, of images with an XML file or without."""

import pytest
from PIL import Image

from Datasets.tools.errors import UserError
from tests.template.conftest import succeeded
from tests.template.Data_processing.annotated import read_imported, rows_of
from tests.template.Data_processing.sources import SIZE, pack, picture, write_voc
from tests.template.Data_processing.stages import stage

CONTENT = {f"{name}.png": [("cat", 3, 4, 20, 30)] for name in "abcd"}


def write_lists(source, **lists) -> None:
    """Lists by FOLDER_NAME."""
    for key, lines in lists.items():
        folder, _, name = key.partition("_")
        (source / "ImageSets" / folder).mkdir(parents=True, exist_ok=True)
        (source / "ImageSets" / folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))


def write_mask(source, name: str) -> None:
    (source / "SegmentationClass").mkdir(exist_ok=True)
    Image.new("P", SIZE, 8).save(source / f"SegmentationClass/{name}.png")


def splits(source, **options) -> dict:
    return {row.image.rpartition("/")[2][0]: row.split for row in rows_of(source, "voc", **options).values()}


def test_lists_become_splits(tmp_path):
    source = write_voc(tmp_path / "s", CONTENT)
    write_lists(source, Main_train=["a"], Main_val=["b"], Main_trainval=["a", "b", "c"], Main_test=["d "])
    assert splits(source) == {"a": "train", "b": "val", "c": "train", "d": "test"}
    assert splits(pack(source, tmp_path / "s.tar")) == {"a": "train", "b": "val", "c": "train", "d": "test"}


def test_lists_may_state_suffixes_and_have_names_in_any_case(tmp_path):
    source = write_voc(tmp_path / "s", CONTENT)
    write_lists(source, Main_Train=["a.png", "b.JPG"], Segmentation_VAL=["c.png", "e.png"])
    assert splits(source) == {"a": "train", "b": "train", "c": "val", "d": None, "e": "val"}


def test_a_source_without_xml_files_is_told_which_lists_would_do(tmp_path):
    write_lists(tmp_path, Segmentation_default=["a"])
    with pytest.raises(
        UserError, match=r"no XML files .* nor train, val, test or trainval.txt in ImageSets/Segmentation"
    ):
        splits(tmp_path)


def test_lists_of_one_class_are_no_splits(tmp_path):
    source = write_voc(tmp_path / "s", CONTENT)
    write_lists(source, Main_cat_train=["a 1", "b -1"], Main_train=["a  1", "b -1"], Layout_train=["c"])
    assert set(splits(source).values()) == {None}


def test_an_image_in_two_lists_is_a_problem_and_main_goes_first(tmp_path):
    source = write_voc(tmp_path / "s", CONTENT)
    write_lists(source, Main_train=["a", "b"], Main_test=["b"], Segmentation_val=["a", "c"])
    rows = {row.image: row for row in rows_of(source, "voc").values()}
    assert rows["JPEGImages/b.png"].problems == [("malformed annotation", "b is in the lists test, train")]
    assert (rows["JPEGImages/a.png"].split, rows["JPEGImages/c.png"].split) == ("train", "val")


def test_class_masks_are_found_and_named_by_vocs_classes(tmp_path):
    source = write_voc(tmp_path / "s", CONTENT)
    write_mask(source, "a")
    rows = {row.image: row for row in rows_of(source, "voc").values()}
    row = rows["JPEGImages/a.png"]
    assert row.mask == "SegmentationClass/a.png"
    names = row.mask_names
    assert (len(names), names[1], names[8], names[11], names[20]) == (
        20,
        "aeroplane",
        "cat",
        "diningtable",
        "tvmonitor",
    )
    assert rows["JPEGImages/b.png"].mask is rows["JPEGImages/b.png"].mask_names is None


def test_an_image_that_has_only_a_mask_is_a_record(tmp_path):
    source = write_voc(tmp_path / "x/s", CONTENT)
    (source / "JPEGImages/e.png").write_bytes(picture(9))
    write_mask(source, "e")
    write_lists(source, Segmentation_val=["a", "e"])
    for path, prefix in ((source, ""), (source.parent, "s/")):
        chosen = {"annotations": f"{prefix}Annotations", "images": f"{prefix}JPEGImages"}
        row = rows_of(path, "voc", **chosen)["ImageSets/Segmentation/val.txt: e"]
        assert (row.image, row.mask) == (f"{prefix}JPEGImages/e.png", f"{prefix}SegmentationClass/e.png")
        assert (row.boxes, row.split, row.problems) == (None, "val", [])
    for file in (source / "Annotations").iterdir():
        file.unlink()
    out = tmp_path / "out.parquet"
    options = ("--source", "s", "--format", "voc", "--path", source, "--out", out)
    assert "s: 2 records" in succeeded(stage("Data_processing.import_source", *options)).stdout
    assert {row.image: row.mask for row in read_imported(out)} == {
        "JPEGImages/a.png": None,
        "JPEGImages/e.png": "SegmentationClass/e.png",
    }


def test_a_label_map_names_the_masks_values(tmp_path):
    source = write_voc(tmp_path / "s", CONTENT)
    write_mask(source, "a")
    (source / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,0,0::\nsky\n")
    row = rows_of(source, "voc")["Annotations/a.xml"]
    assert row.mask_names == {1: "road", 2: "sky"}
    (source / "labelmap.txt").write_text("background\nroad\nsky\n")
    assert rows_of(source, "voc")["Annotations/a.xml"].mask_names == {1: "road", 2: "sky"}
    (source / "labelmap.txt").write_text("road\nbackground\n")
    with pytest.raises(UserError, match=r"labelmap.txt: begins with \['road'\]"):
        rows_of(source, "voc")


def test_lists_in_another_encoding_are_refused_in_one_line(tmp_path):
    source = write_voc(tmp_path / "s", CONTENT)
    write_lists(source, Main_train=["a"])
    (source / "ImageSets/Main/train.txt").write_bytes("ä\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"train.txt: line 1: byte 0xe4 is not UTF-8"):
        rows_of(source, "voc")


@pytest.mark.parametrize("line", ["../../x", "\\\\host\\x"])
def test_a_listed_name_outside_the_source_is_a_problem(tmp_path, line):
    source = write_voc(tmp_path / "s", CONTENT)
    write_lists(source, Segmentation_train=[line])
    row = rows_of(source, "voc")[f"ImageSets/Segmentation/train.txt: {line}"]
    assert row.problems[0][0] == "outside the source"
