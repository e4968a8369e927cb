"""VIA, CreateML, Supervisely, Hugging Face, and what else Roboflow writes, exact to the pixel."""

import base64
import io
import json
import math
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from datasets import Image as ImageFeature
from PIL import Image

from Data_processing.adding.recognise import recognise
from Data_processing.shared.files import MissingFile, open_source
from Data_processing.shared.imported import Imported, ImportOptions
from Datasets.tools.errors import UserError
from tests.template.conftest import succeeded
from tests.template.Data_processing.annotated import (
    corners,
    mask_of,
    supervisely_file,
    supervisely_object,
    via_image,
    write_createml,
    write_huggingface,
    write_pictures,
    write_via,
)
from tests.template.Data_processing.sources import SIZE, pack, picture
from tests.template.Data_processing.stages import accepted
from tests.template.Data_processing.stages import take_in_and_clean as clean
from tests.template.Data_processing.test_import_formats import imported, problems, write


def only(path: Path, form: str, image: str = "a.png", **options) -> Imported:
    (row,) = [row for row in imported(path, form, **options) if row.image.endswith(image)]
    return row


def recognised(path: Path, **options) -> tuple[str, ImportOptions]:
    found, needed = recognise(open_source(path), ImportOptions(**options), None, pytest.fail)
    return found.format, needed


# VIA

SHAPES = [
    ({"name": "circle", "cx": 30, "cy": 20, "r": 5.5}, (24.5, 14.5, 35.5, 25.5), math.pi * 5.5**2),
    ({"name": "ellipse", "cx": 30, "cy": 20, "rx": 10, "ry": 5, "theta": 0}, (20, 15, 40, 25), math.pi * 50),
    ({"name": "ellipse", "cx": 30, "cy": 20, "rx": 10, "ry": 5, "theta": math.pi / 2}, (25, 10, 35, 30), math.pi * 50),
    ({"name": "polygon", "all_points_x": [10, 30, 30, 10], "all_points_y": [5, 5, 25, 25]}, (10, 5, 30, 25), 400),
]


@pytest.mark.parametrize(("shape", "box", "area"), SHAPES)
def test_each_shape_of_via(tmp_path, shape, box, area):
    row = only(write_via(tmp_path, via_image("a.png", shape)), "via")
    assert corners(row) == [("cat", *box)]
    assert abs(mask_of(row.boxes[0]).sum() - area) < 0.08 * area


def region(box: tuple, **attributes) -> dict:
    x, y, width, height = box
    shape = {"name": "rect", "x": x, "y": y, "width": width, "height": height}
    return {"shape_attributes": shape, "region_attributes": attributes}


def test_a_project_of_via_with_dropdown_and_check_boxes(tmp_path):
    regions = [
        region((1, 2, 3, 4), type="car", seen={"front": True}),
        region((5, 6, 7, 8), type="bus", seen={"front": True, "left": True}),
    ]
    entry = {
        "filename": "a.png",
        "size": 9,
        "regions": regions,
        "file_attributes": {"caption": "", "public_domain": "no"},
    }
    project = {"_via_settings": {"ui": {}}, "_via_img_metadata": {"a.png9": entry}, "_via_attributes": {"region": {}}}
    write(tmp_path, {"via_project.json": json.dumps(project)})
    write_pictures(tmp_path)
    assert recognised(tmp_path)[0] == "via"
    assert corners(only(tmp_path, "via")) == [("car", 1, 2, 4, 6), ("bus", 5, 6, 12, 14)]
    by_box = only(tmp_path, "via", columns={"label": "seen"})
    assert [name for name, *_ in corners(by_box)] == ["front", "front", "left"]


def test_version_1_of_via_has_objects_of_regions_and_may_have_no_class_at_all(tmp_path):
    regions = {"0": region((1, 2, 3, 4)), "1": region((5, 6, 7, 8))}
    entry = {
        "fileref": "",
        "size": 9,
        "filename": "a.png",
        "base64_img_data": "",
        "file_attributes": {},
        "regions": regions,
    }
    write(tmp_path, {"train/via_region_data.json": json.dumps({"a.png9": entry})})
    write_pictures(tmp_path / "train")
    with pytest.raises(UserError, match=r"no region has an attribute .*--format via --classes NAME"):
        recognised(tmp_path)
    row = only(tmp_path, "via", classes=["balloon"])
    assert corners(row) == [("balloon", 1, 2, 4, 6), ("balloon", 5, 6, 12, 14)]
    assert (row.image, row.split) == ("train/a.png", "train")
    assert recognised(tmp_path, classes=["balloon"])[0] == "via"


def test_which_of_two_attributes_is_the_class_of_via_is_asked(tmp_path):
    write_via(tmp_path, via_image("a.png", regions=[region((1, 2, 3, 4), name="Swan", type="bird")]))
    with pytest.raises(UserError, match=r"the class, name, type\? set `columns: \[label=NAME\]` \(--format via"):
        imported(tmp_path, "via")
    assert corners(only(tmp_path, "via", columns={"label": "type"})) == [("bird", 1, 2, 4, 6)]
    with pytest.raises(UserError, match="the class, name, type"):
        imported(tmp_path, "via", columns={"label": "nothing"})


def test_a_region_of_via_without_its_class_is_a_problem_of_its_image(tmp_path):
    entry = via_image("a.png", regions=[region((1, 2, 3, 4), kind="car"), region((5, 6, 7, 8), kind="")])
    row = only(write_via(tmp_path, entry), "via")
    assert [(rule, "shape 2" in value) for rule, value in row.problems] == [("malformed box", True)]


def test_via_without_regions_is_refused_as_its_images_may_have_labels(tmp_path):
    write_via(tmp_path, via_image("a.png", file_attributes={"weather": "rain"}), via_image("b.png"))
    with pytest.raises(UserError, match="no region is drawn in it; write labels of images as a table"):
        imported(tmp_path, "via")


# CreateML


def test_labels_of_createml(tmp_path):
    entries = {"image": "a.png", "annotations": [{"label": "cat"}]}, {"imagefilename": "b.png", "annotation": "dog"}
    assert recognised(write_createml(tmp_path, *entries))[0] == "createml"
    assert [(row.labels, row.boxes) for row in imported(tmp_path, "createml")] == [(["cat"], None), (["dog"], None)]


def test_createml_in_fractions_is_an_option(tmp_path):
    box = {"label": "cat", "coordinates": {"x": 0.5, "y": 0.5, "width": 0.5, "height": 0.25}}
    write_createml(tmp_path, {"image": "a.png", "annotations": [box]})
    assert corners(only(tmp_path, "createml", normalized=True)) == [("cat", 15, 15, 45, 25)]


def test_roboflows_createml_of_several_splits_is_one_source(tmp_path):
    for folder in ("train", "valid"):
        write_createml(tmp_path / folder)
    form, options = recognised(tmp_path)
    assert (form, options.annotations) == ("createml", "*/_annotations.createml.json")


def test_labelimgs_createml_of_a_file_an_image_is_one_source(tmp_path):
    write_pictures(tmp_path)
    for name in ("a", "b"):
        write(tmp_path, {f"{name}.json": json.dumps([{"image": f"{name}.png", "verified": False, "annotations": []}])})
    form, options = recognised(tmp_path)
    assert (form, options.annotations) == ("createml", "*.json")


# Supervisely


def bitmap(mask: np.ndarray, **options) -> str:
    """As Supervisely's SDK packs a mask."""
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette([0, 0, 0, 255, 255, 255])
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return base64.b64encode(zlib.compress(file.getvalue())).decode()


@pytest.mark.parametrize("options", [{"transparency": 0}, {}])
def test_a_bitmap_and_a_polygon_with_a_hole_of_supervisely(tmp_path, options):
    mask = np.zeros((5, 4), bool)
    mask[1:4, 1:3] = True
    packed = {"bitmap": {"data": bitmap(mask, **options), "origin": [10, 20]}}
    hole = [[[5, 5], [15, 5], [15, 15], [5, 15]]]
    objects = [
        supervisely_object("bitmap", [], **packed),
        supervisely_object("polygon", [[0, 0], [20, 0], [20, 20], [0, 20]], hole),
    ]
    supervisely_file(tmp_path / "train/ann/a.png.json", objects)
    write_pictures(tmp_path / "train/img")
    row = only(tmp_path, "supervisely")
    assert corners(row) == [("cat", 11, 21, 13, 24), ("cat", 0, 0, 20, 20)]
    assert row.split == "train"
    whole = np.zeros(SIZE[::-1], bool)
    whole[20:25, 10:14] = mask
    assert (mask_of(row.boxes[0]) == whole).all()
    ring = np.zeros(SIZE[::-1], bool)
    ring[:20, :20], ring[5:15, 5:15] = True, False
    assert (mask_of(row.boxes[1]) == ring).all()


def test_tags_of_supervisely_are_labels_and_splits(tmp_path):
    tags = {"name": "val", "value": None}, {"name": "indoor", "value": None}, {"name": "light", "value": "dim"}
    supervisely_file(tmp_path / "ds0/ann/a.json", [], *tags)  # as older versions name it
    write_pictures(tmp_path / "ds0/img")
    row = only(tmp_path, "supervisely")
    assert (row.image, row.split, row.labels, row.boxes) == ("ds0/img/a.png", "val", ["indoor", "light: dim"], None)


def test_what_is_wrong_in_supervisely_is_a_problem_of_its_image(tmp_path):
    bad = supervisely_object("bitmap", [], bitmap={"data": "AAAA", "origin": [0, 0]})
    supervisely_file(tmp_path / "ds0/ann/a.png.json", [bad, supervisely_object("polygon", [[0, 0]])])
    write(tmp_path, {"ds0/ann/b.png.json": '{"objects": 5}'})
    write_pictures(tmp_path / "ds0/img")
    assert sorted(problems(imported(tmp_path, "supervisely"))) == ["malformed annotation", *["malformed box"] * 2]


# Hugging Face


def test_labels_and_lists_of_objects_of_hugging_face(tmp_path):
    objects = [{"bbox": [1, 2, 3, 4], "category": "cat"}, {"bbox": [5, 6, 7, 8], "category": "dog"}]
    write_huggingface(tmp_path, {"file_name": "a.png", "objects": objects, "label": "day"})
    row = only(tmp_path, "huggingface")
    assert corners(row) == [("cat", 1, 2, 4, 6), ("dog", 5, 6, 12, 14)]
    assert row.labels == ["cat", "day", "dog"]


def test_numbers_without_names_are_asked_for(tmp_path):
    write_huggingface(tmp_path, {"file_name": "a.png", "label": 1}, {"file_name": "b.png", "label": -1})
    with pytest.raises(UserError, match=r"label 1 has no name in the file; set `classes`"):
        recognised(tmp_path)
    rows = imported(tmp_path, "huggingface", classes=["cat", "dog"])
    assert [row.labels for row in rows] == [["dog"], None]


def test_corners_in_the_place_of_width_and_height_are_noticed(tmp_path):
    size = {"width": SIZE[0], "height": SIZE[1]}
    write_huggingface(
        tmp_path, {"file_name": "a.png", **size, "objects": {"bbox": [[30, 20, 50, 30]], "categories": ["cat"]}}
    )
    assert "are these corners" in only(tmp_path, "huggingface").problems[0][1]


FEATURES = Features(
    {
        "image": ImageFeature(),
        "label": ClassLabel(names=["day", "night"]),
        "objects": [{"bbox": Sequence(Value("float32"), length=4), "category": ClassLabel(names=["cat", "dog"])}],
    }
)


def write_parquet(directory: Path, paths: list, name: str = "data/train-00000-of-00001.parquet") -> Path:
    """What the library datasets writes: images in the file, under paths that may be none or repeat."""
    rows = {
        "image": [{"bytes": picture(number), "path": path} for number, path in enumerate(paths)],
        "label": [number % 2 for number in range(len(paths))],
        "objects": [[{"bbox": [3, 4, 17, 26], "category": 1}] if number == 0 else [] for number in range(len(paths))],
    }
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(Dataset.from_dict(rows, features=FEATURES).data.table, directory / name, row_group_size=2)
    return directory


@pytest.mark.parametrize(
    ("name", "paths", "packed"),
    [("data/train-00000-of-00001.parquet", [None] * 3, True), ("train-00000-of-00001.parquet", ["x.png"] * 3, False)],
)
def test_images_inside_parquet_of_hugging_face(tmp_path, name, paths, packed):
    source = write_parquet(tmp_path / "s", paths, name)
    source = pack(source, tmp_path / "s.zip") if packed else source
    assert recognised(source)[0] == "parquet"
    rows = imported(source, "parquet")
    assert [row.image for row in rows] == [f"{name}#{place}.png" for place in ("0-0", "0-1", "1-0")]
    assert [corners(row) for row in rows] == [[("dog", 3, 4, 20, 30)], [], []]
    assert [(row.labels, row.split) for row in rows] == [
        (["day", "dog"], "train"),
        (["night"], "train"),
        (["day"], "train"),
    ]
    files = open_source(source)
    assert [files.read(row.image) for row in rows] == [picture(number) for number in range(3)]
    for wrong in (f"{name}#9-9.png", f"{name}#0-7.png", f"{name}#x.png", "nowhere.parquet#0-0.png"):
        with pytest.raises(MissingFile):
            files.read(wrong)
    succeeded(clean(source, tmp_path, form="parquet"))
    assert len(accepted(tmp_path)) == 3


def test_another_column_of_labels_is_asked_for_and_named(tmp_path):
    features = Features({"img": ImageFeature(), "fine_label": ClassLabel(names=["cat", "dog"])})
    rows = {"img": [{"bytes": picture(1), "path": None}], "fine_label": [1]}
    pq.write_table(Dataset.from_dict(rows, features=features).data.table, tmp_path / "test-00000-of-00001.parquet")
    with pytest.raises(UserError, match=r"which of img, fine_label is the label\? .*--columns label=COLUMN"):
        recognised(tmp_path)
    (row,) = imported(tmp_path, "parquet", columns={"label": "fine_label"})
    assert (row.labels, row.split) == (["dog"], "test")


# Roboflow's


def test_roboflows_darknet_export(tmp_path):
    for folder in ("train", "valid"):
        write(
            tmp_path, {f"{folder}/_darknet.labels": "cat\ndog\n", f"{folder}/a_jpg.rf.1f.txt": "1 0.5 0.5 0.5 0.25\n"}
        )
        write(tmp_path, {f"{folder}/a_jpg.rf.1f.jpg": picture(1), f"{folder}/b.jpg": picture(2), f"{folder}/b.txt": ""})
    assert recognised(tmp_path)[0] == "yolo"
    rows = imported(tmp_path, "yolo")
    assert [(row.image, row.split, corners(row)) for row in rows] == [
        (f"{folder}/{name}", split, boxes)
        for folder, split in (("train", "train"), ("valid", "val"))
        for name, boxes in (("a_jpg.rf.1f.jpg", [("dog", 15, 15, 45, 25)]), ("b.jpg", []))
    ]


def test_keras_annotations_with_spaces_in_names(tmp_path):
    for folder in ("train", "valid"):
        lines = "a b.png 3,4,20,30,1 1,1,9,9.5,0\nc.png\n"
        write(tmp_path, {f"{folder}/_annotations.txt": lines, f"{folder}/_classes.txt": "cat\ndog\n"})
        write(tmp_path, {f"{folder}/a b.png": picture(1), f"{folder}/c.png": picture(2)})
    form, options = recognised(tmp_path)
    assert (form, options.annotations) == ("yolo", None)
    rows = imported(tmp_path, "yolo")
    boxes = [("dog", 3, 4, 20, 30), ("cat", 1, 1, 9, 9.5)]
    assert [(row.image, row.split, corners(row)) for row in rows] == [
        ("train/a b.png", "train", boxes),
        ("train/c.png", "train", []),
        ("valid/a b.png", "val", boxes),
        ("valid/c.png", "val", []),
    ]


def test_keras_annotations_without_names_of_classes(tmp_path):
    write(tmp_path, {"train.txt": "a.png 3,4,20,30,1\nb.png 1,2,3,4,7\n"})
    write_pictures(tmp_path)
    with pytest.raises(UserError, match=r"set `classes`.*--format yolo --classes NAME"):
        recognised(tmp_path)
    rows = imported(tmp_path, "yolo", classes=["cat", "dog"], annotations="train.txt")
    assert [corners(row) for row in rows] == [[("dog", 3, 4, 20, 30)], []]
    assert problems(rows) == ["malformed box"]


# Known, and not read


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("output.manifest", '{"source-ref": "s3://b/a.png", "job": {"annotations": []}}', "SageMaker.*as a table"),
        ("export.ndjson", '{"data_row": {"id": "x"}, "projects": {}}', "Labelbox.*COCO"),
        ("old.json", '[{"ID": "x", "DataRow ID": "y", "Label": {"objects": []}}]', "Labelbox.*COCO"),
        ("annotations/d.json", '{"info": {}, "categories": {}, "items": [{"annotations": []}]}', "datumaro:datumaro"),
        ("a.tfrecord", "\\0", "TFRecord.*datumaro:tf_detection_api"),
        ("label_2/0.txt", "Car 0.0 0 1.5 5.0 17 64 123 1.6 1.5 3.6 -2.9 1.8 13.4 1.6\n", "KITTI.*kitti_detection"),
        (
            "x_gtFine_polygons.json",
            '{"imgHeight": 4, "objects": [{"label": "r", "polygon": []}]}',
            "datumaro:cityscapes",
        ),
        ("via.csv", "filename,file_size,region_shape_attributes\na.png,9,{}\n", "export the annotations as JSON"),
        ("labels.json", '[{"name": "a.png", "labels": [{"box2d": {}}]}]', "scalabel.label.to_coco"),
    ],
)
def test_a_known_format_is_named_with_the_way_to_read_it(tmp_path, name, content, says):
    write(tmp_path, {name: content, "cat/a.png": picture(1), "dog/b.png": picture(2)})
    with pytest.raises(UserError, match=f"{name.rpartition('/')[2]} looks like .*{says}"):
        recognised(tmp_path)
