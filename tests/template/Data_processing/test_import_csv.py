"""CSV tables: presets and own columns, boxes and labels, and what is wrong in one line or row."""

import re

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from Data_processing.adding.recognise import recognise
from Data_processing.cleaning.records import clean_record
from Data_processing.cleaning.rules import Rules
from Data_processing.import_source import parse_columns
from Data_processing.shared.files import open_source
from Data_processing.shared.imported import ImportOptions, read_about
from Data_processing.shared.outlines import to_rle
from Datasets.tools.errors import UserError
from tests.template.conftest import refused, succeeded
from tests.template.Data_processing.annotated import read_imported
from tests.template.Data_processing.broken import FACTS
from tests.template.Data_processing.sources import SIZE, picture
from tests.template.Data_processing.stages import stage
from tests.template.Data_processing.test_import_formats import imported, problems, write

TENSORFLOW = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
OWN = "image,label,x1,y1,x2,y2\n"


def table(root, text, name="t.csv", **options):
    return imported(write(root, {name: text}), "csv", **options)


def corners(row) -> list[tuple]:
    return [(box.name, box.x1, box.y1, box.x2, box.y2) for box in row.boxes]


def test_rows_of_one_image_become_one_record_and_boxes_say_their_line(tmp_path):
    text = f"{TENSORFLOW}a.jpg,60,40,cat,1,2,30,20\nb.jpg,60,40,dog,5,5,9,9\n\na.jpg,60,40,dog,0,0,60,40\n"
    first, second = table(tmp_path, text)
    assert (first.image, first.width, first.height, first.normalized) == ("a.jpg", 60, 40, False)
    assert corners(first) == [("cat", 1, 2, 30, 20), ("dog", 0, 0, 60, 40)]
    assert [first.origin, *(box.origin for box in first.boxes)] == ["t.csv:2", "t.csv:2", "t.csv:5"]
    assert second.origin == "t.csv:3"
    assert first.labels is None


def test_a_line_break_within_quotes_does_not_shift_the_lines_named(tmp_path):
    row = table(tmp_path, f'{OWN}"a\nb.jpg",cat,1,1,2,2\na.jpg,"x ""y""",1,1,2,2\n')[1]
    assert (row.origin, row.boxes[0].name) == ("t.csv:4", 'x "y"')


@pytest.mark.parametrize("preset", [None, "openimages"])
def test_open_images_are_fractions_found_by_their_stem(tmp_path, preset):
    header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsGroupOf\n"
    rows = "0a1,x,/m/01,1,0.1,0.5,0.2,0.6,0,1\n0b2,x,/m/01,1,0,1,0,1,0,0\n"
    write(tmp_path, {"train/0a1.png": b"", "train/other.png": b""})
    first, second = table(tmp_path, header + rows, preset=preset)
    assert (first.image, second.image) == ("train/0a1.png", "train/0b2")
    assert first.normalized
    assert corners(first) == [("/m/01", 0.1, 0.2, 0.5, 0.6)]
    assert [first.boxes[0].crowd, second.boxes[0].crowd] == [True, False]


@pytest.mark.parametrize(
    ("file", "head"),
    [("class-descriptions-boxable.csv", ""), ("oidv7-class-descriptions.csv", "LabelName,DisplayName\n")],
)
def test_classes_of_open_images_have_the_names_of_the_descriptions_beside_them(tmp_path, file, head):
    descriptions = f'{head}/m/01,Traffic light\n/m/02,"Bell pepper, red"\n'.encode()
    write(tmp_path, {"train/0a1.png": b"", f"metadata/{file}": descriptions})
    header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsGroupOf\n"
    rows = "".join(f"0a1,x,/m/0{number},1,0.1,0.5,0.2,0.6,0,0\n" for number in (1, 2, 3))
    [row] = table(tmp_path, header + rows)
    assert [box.name for box in row.boxes] == ["Traffic light", "Bell pepper, red", "/m/03"]
    assert recognise(open_source(tmp_path), ImportOptions(), None, lambda *_: 0)[0].format == "csv"


def test_corners_beside_our_own_names_are_vott_s(tmp_path):
    header = "image,split,xmin,ymin,xmax,ymax,label,image_width\n"
    [row] = table(tmp_path, f"{header}a.jpg,val,1.5,2,30,20,cat,60\n")
    assert (corners(row), row.labels, row.split, row.width) == ([("cat", 1.5, 2, 30, 20)], None, "val", 60)
    points = {"image": "image", "label": "label", "unused": "x+y"}
    [row] = table(tmp_path, "image,label,x,y\na.jpg,cat,1,2\n", columns=points)
    assert (row.labels, row.boxes) == (["cat"], None)


def test_columns_are_named_by_options(tmp_path):
    text = "pfad;klasse;links;oben;b;h;teil;serie;viele\nx.png;Katze;0.5;0;0.25;1;valid;s1;yes\n"
    pairs = "image=pfad label=klasse x1=links y1=oben box_width=b box_height=h split=teil group=serie crowd=viele"
    [row] = table(tmp_path, text, columns=parse_columns(pairs.split()), normalized=True)
    assert corners(row) == [("Katze", 0.5, 0, 0.75, 1)]
    assert (row.split, row.group, row.normalized, row.boxes[0].crowd) == ("val", "s1", True, True)


@pytest.mark.parametrize(
    ("header", "values"),
    [
        ("image_name,class_name,xmin,ymin,xmax,ymax", "a.jpg,cat,10,20,40,60"),
        ("ImageId,category,x1,y1,w,h", "a.jpg,cat,10,20,30,40"),
        ("Image ID,Class,X Min,Y Min,X Max,Y Max", "a.jpg,cat,10,20,40,60"),
        ("image_id,label,bbox_x,bbox_y,bbox_width,bbox_height,width,height", "a.jpg,cat,10,20,30,40,60,80"),
        ("path,class,x,y,width,height", "images/a.jpg,cat,10,20,30,40"),
        ("filename,label,x_center,y_center,w,h", "a.jpg,cat,25,40,30,40"),
        ("filename,label,left,top,right,bottom,w,h", "a.jpg,cat,10,20,40,60,30,40"),
        ("image_id,width,height,bbox,class", 'a,60,80,"[10.0, 20.0, 30.0, 40.0]",cat'),
        ("id,bbox,label", "a,10 20 30 40,cat"),
    ],
)
def test_boxes_are_read_under_the_names_that_programs_give_their_columns(tmp_path, header, values):
    [row] = table(write(tmp_path, {"images/a.jpg": b""}), f"{header}\n{values}\n")
    assert (row.image, corners(row), row.labels, row.problems) == ("images/a.jpg", [("cat", 10, 20, 40, 60)], None, [])


def test_columns_that_are_named_are_joined_by_those_that_are_known(tmp_path):
    text = "photo,kind,xmin,ymin,xmax,ymax\na.jpg,cat,1,2,3,4\n"
    [row] = table(tmp_path, text, columns={"image": "photo", "label": "kind"})
    assert corners(row) == [("cat", 1, 2, 3, 4)]
    [row] = table(tmp_path, "image,box,kind\na.jpg,1 2 3 4,cat\n", columns={"corners": "box", "label": "kind"})
    assert corners(row) == [("cat", 1, 2, 3, 4)]


def test_several_boxes_in_a_cell_of_one_class_that_is_named(tmp_path):
    text = 'image_id,bbox\na.jpg,"[[1, 2, 3, 4], [5, 6, 1, 1]]"\nb.jpg,\nc.jpg,"[1, 2, 3]"\n'
    first, second, third = table(tmp_path, text, classes=["wheat"])
    text = "image_id,found\na.jpg,\"[{'x': 1, 'y': 2, 'width': 3, 'height': 4}]\"\n"
    assert corners(table(tmp_path, text, columns={"bbox": "found"}, classes=["fish"])[0]) == [("fish", 1, 2, 4, 6)]
    assert corners(first) == [("wheat", 1, 2, 4, 6), ("wheat", 5, 6, 6, 7)]
    assert (second.boxes, second.labels, second.problems) == ([], None, [])
    assert third.problems[0][0] == "malformed box"


def test_boxes_in_a_cell_that_may_be_corners_are_asked_about(tmp_path):
    rows = "".join(f'a.jpg,cat,"{n}, {n}, {n + 5}, {n + 9}"\n' for n in range(10))
    with pytest.raises(UserError, match=r"\[corners=NAME\]"):
        table(tmp_path, f"image,label,bbox\n{rows}")
    [row] = table(tmp_path, f"image,label,bbox\n{rows}", columns={"corners": "bbox"})
    assert corners(row)[1] == ("cat", 1, 1, 6, 10)
    [row] = table(tmp_path, f"image,label,bbox\n{rows}", columns={"bbox": "bbox"})
    assert corners(row)[1] == ("cat", 1, 1, 7, 11)


def runs(mask: np.ndarray) -> str:
    """Kaggle's run lengths: columns one after the other, pixels counted from 1."""
    flat = np.concatenate([[0], mask.T.flatten(), [0]])
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    return " ".join(f"{start} {end - start}" for start, end in changes.reshape(-1, 2))


@pytest.mark.parametrize("stated", [True, False])
def test_run_lengths_in_a_cell_become_boxes_with_segmentations(tmp_path, stated):
    width, height = SIZE
    mask = np.zeros((height, width), bool)
    mask[3:10, 5:25] = mask[8:20, 20:30] = True
    text = f"ImageId,EncodedPixels,ClassId,width,height\na,{runs(mask)},1,60,40\na,,2,60,40\nb,-1,1,60,40\n"
    if not stated:
        text = re.sub(",width,height|,60,40", "", text)
    write(tmp_path, {"train/a.png": picture(1), "train/b.png": picture(2)})
    first, second = table(tmp_path, text)
    assert (first.image, corners(first), first.problems) == ("train/a.png", [("1", 5, 3, 30, 20)], [])
    assert np.array_equal(coco_mask.decode(to_rle(first.boxes[0].outline, *SIZE)), mask)
    assert (second.boxes, second.problems) == ([], [])


def test_run_lengths_that_make_no_sense_are_problems_of_their_record(tmp_path):
    for cell in ("1 3 2 5", "0 3", "2399 9", "1 x"):
        [row] = table(tmp_path, f"image,rle,label,width,height\na.png,{cell},cat,60,40\n")
        assert problems([row]) == ["malformed box"]
    [row] = table(tmp_path, "image,rle,label\na.png,1 3,cat\n")
    assert "image_width" in row.problems[0][1]


@pytest.mark.parametrize("joined", ["ImageId_ClassId", "Image_Label"])
def test_image_and_class_in_one_cell(tmp_path, joined):
    text = f"{joined},EncodedPixels\na_1.jpg_Fish,1 2\na_1.jpg_Sugar,\nb.jpg_Fish,\n"
    first, second = table(write(tmp_path, {"a_1.jpg": picture(1), "b.jpg": picture(2)}), text)
    assert (first.image, corners(first), second.boxes) == ("a_1.jpg", [("Fish", 0, 0, 1, 2)], [])


def test_several_labels_in_a_field_are_split(tmp_path):
    text = "image,label,x1,y1,x2,y2\na.jpg,scab|rust,,,,\nb.jpg,scab | rust,1,1,2,2\nc.jpg,scab,,,,\n"
    first, second, third = table(tmp_path, text, label_separator="|")
    assert (first.labels, third.labels) == (["rust", "scab"], ["scab"])
    assert [box.name for box in second.boxes] == ["scab", "rust"]
    assert table(tmp_path, text, label_separator="none")[0].labels == ["scab|rust"]
    [row] = table(tmp_path, "Id,Target\na.jpg,7 1 2 0\n", columns={"label": "Target"}, label_separator="space")
    assert row.labels == ["0", "1", "2", "7"]
    [row] = table(tmp_path, "image,labels\na.jpg,\"['rust', 'scab']\"\n")
    assert row.labels == ["rust", "scab"]
    pairs = ["wild cat", "wild dog", "tame cat", "tame dog"]
    assert len(table(tmp_path, "image,label\n" + "".join(f"{pair}.jpg,{pair}\n" for pair in pairs))) == 4
    assert [row.labels for row in table(tmp_path, "image,label\na.jpg,wild cat\nb.jpg,cat\n")] == [
        ["wild cat"],
        ["cat"],
    ]


def test_tables_are_read_as_spreadsheets_write_them(tmp_path):
    text = f"sep=;\r\n{OWN}a.jpg,cat,1|5,2,3,4|25\n,,,,,\n ,,,,,\n".replace(",", ";").replace("|", ",")
    [row] = table(tmp_path, text)
    assert (corners(row), row.origin, row.problems) == ([("cat", 1.5, 2, 3, 4.25)], "t.csv:3", [])
    [row] = table(tmp_path, f'{OWN}a.jpg,cat,"1,5",2,3,4\n')
    assert row.problems[0][0] == "malformed box"


def test_a_delimiter_can_be_named(tmp_path):
    [row] = table(tmp_path, "image|label\na,b;c.jpg|cat\n", delimiter="|")
    assert (row.image, row.labels) == ("a,b;c.jpg", ["cat"])
    with pytest.raises(UserError, match="delimiter"):
        table(tmp_path, OWN, delimiter="::")


def test_labels_without_boxes_are_of_the_whole_image_and_none_is_a_negative(tmp_path):
    rows = table(tmp_path, "image,label\na.jpg,cat\na.jpg,dog\nb.jpg,\n")
    assert [(row.labels, row.boxes) for row in rows] == [(["cat", "dog"], None), ([], None)]
    for nothing in ("", " ", "\t"):
        rows = table(tmp_path, f"{OWN}a.jpg,cat,,,,\nb.jpg,,,,,\nc.jpg,cat,1,1,2,2\n".replace(",,", f",{nothing},"))
        assert [(row.labels, row.boxes and len(row.boxes)) for row in rows] == [(["cat"], None), (None, []), (None, 1)]
    [row] = table(tmp_path, f"{OWN}a.jpg,cat,1,1,3,3\na.jpg,night,,,,\n")
    record = clean_record(row, "s", FACTS, None, Rules()).record
    assert (record["labels"], record["counts"], len(record["boxes"])) == (["cat", "night"], None, 1)
    [row] = table(tmp_path, "image\na.jpg\n")
    assert row.labels is row.boxes is None


def test_a_column_for_each_class_says_which_labels_an_image_has(tmp_path):
    text = "filename, cat, wild dog\na.jpg, 1, 1\nb.jpg, 0, 0\nc.jpg, 0, 1\n"
    found = [(["cat", "wild dog"], "t.csv:2"), ([], "t.csv:3"), (["wild dog"], "t.csv:4")]
    other = text.replace("filename", "photo").replace(" 1", " 1.0")
    for rows in (table(tmp_path, text), table(tmp_path, other, columns={"image": "photo"})):
        assert [(row.labels, row.origin) for row in rows] == found
    for wrong in ("d.jpg, 1, ", "d.jpg, 1, 2", "d.jpg, 1"):
        with pytest.raises(UserError, match=r"t\.csv:5: is not filename and 2 times 0 or 1"):
            table(tmp_path, f"{text}{wrong}\n")
    assert table(tmp_path, "image,label,group\na.jpg,0,1\n")[0].labels == ["0"]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("a.jpg,cat,1,1,2", "malformed annotation"),
        ("a.jpg,cat,1,1,2,,60,train", "malformed box"),
        ("a.jpg,cat,1,1,2,two,60,train", "malformed box"),
        ("a.jpg,cat,1,1,2,2,1e99,train", "malformed annotation"),
        ("a.jpg,cat,1,1,2,2,60,fold 3", "malformed annotation"),
        ("a.jpg,cat,1,1,2,2,61,train\na.jpg,cat,1,1,2,2,60,train", "contradiction"),
        ("a.jpg,cat,1,1,2,2,60,train\na.jpg,,,,,,60,train", "contradiction"),
        (",cat,1,1,2,2,60,train", "malformed annotation"),
        ("../a.jpg,cat,1,1,2,2,60,train", "outside the source"),
    ],
)
def test_a_wrong_row_is_a_problem_of_its_record_alone(tmp_path, line, rule):
    text = f"image,label,x1,y1,x2,y2,image_width,split\n{line}\nb.jpg,cat,1,1,2,2,60,train\n"
    first, *_, last = table(tmp_path, text)
    assert first.problems[0][0] == rule
    assert (last.image, last.problems) == ("b.jpg", [])


@pytest.mark.parametrize(
    ("text", "options", "part"),
    [
        ("", {}, "is empty"),
        ("a,b,c\n1,2,3\n", {}, "no column is known to name the image; set `columns`"),
        (OWN, {"preset": "yolo"}, "tensorflow, vott, openimages"),
        (OWN, {"columns": {"picture": "image"}}, "'picture' is none of image"),
        ("image,image\n", {}, "2 columns are called 'image'"),
        ("image,label,x1,y1,x2\n", {}, "make no box"),
        ("image,x1,y1,x2,y2\n", {}, "label=..."),
        ("image,label,x1,y1,x2,y2,x3,y3\n", {}, "columns x3, y3 look like boxes"),
        ('image,label,where\na.jpg,cat,"1, 2, 3, 4"\n', {}, "columns where look like boxes"),
        ("image,label,shape\na.jpg,cat,1 3 10 5\n", {"columns": {"image": "image"}}, "`unused=shape` to leave"),
        ("image,pixels\na.jpg,1 3 10 5\n", {"columns": {"label": "pixels"}}, "holds '1 3 10 5'"),
        ("image,EncodedPixels\na.jpg,1 3 10 5\n", {}, "`classes: [NAME]`"),
        (OWN, {"classes": ["cat"]}, "clean.rename"),
        ("image,breed\na.jpg,pug\n", {}, "set `columns: [label=...]`; there are: image, breed"),
        ('image,label\na.jpg,"a, b"\nb.jpg,a\nc.jpg,b\n', {}, "`label_separator: ','`"),
        ("image,label\na.jpg,scab rust\nb.jpg,scab\nc.jpg,rust\n", {}, "`label_separator: space`"),
        ("a.jpg,3,4,20,30,cat\n", {}, "write a first line that does, such as image,label,x1"),
        (f'{OWN}"a.jpg,cat,1,1,2,2\n', {}, "quotation mark"),
        (OWN.encode("utf-16"), {}, "not UTF-8"),
    ],
)
def test_a_table_of_no_use_is_refused_in_one_line(tmp_path, text, options, part):
    with pytest.raises(UserError) as error:
        table(tmp_path, text, **options)
    assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_and_windows_lines_change_nothing(tmp_path):
    text = f"{OWN}Bär.jpg,cat,1,2,3,4\n"
    plain = table(tmp_path, text)
    assert table(tmp_path, text.replace("\n", "\r\n").encode("utf-8-sig")) == plain
    assert plain[0].image == "Bär.jpg"


def test_of_several_tables_one_is_named_and_its_own_images_are_meant(tmp_path):
    files = {f"{folder}/{name}": OWN + "a.jpg,cat,1,1,2,2\n" for folder in ("train", "test") for name in ("t.csv",)}
    write(tmp_path, {**files, "train/a.jpg": b"", "test/a.jpg": b""})
    with pytest.raises(UserError, match=r"2 CSV files.*set `annotations`"):
        imported(tmp_path, "csv")
    [row] = imported(tmp_path, "csv", annotations="test/t.csv")
    assert row.image == "test/a.jpg"
    write(tmp_path, {"t.csv": files["test/t.csv"]})
    with pytest.raises(UserError, match="set `images`"):
        imported(tmp_path, "csv", annotations="t.csv")
    [row] = imported(tmp_path, "csv", annotations="t.csv", images="train")
    assert row.image == "train/a.jpg"


def test_the_command_takes_all_options(tmp_path):
    write(tmp_path / "s", {"t.csv": "bild\tart\na\tcat\n", "pics/a.png": b""})
    out = tmp_path / "o.parquet"
    command = ("Data_processing.import_source", "--source", "s", "--format", "csv", "--path", tmp_path / "s")
    options = ("--columns", "image=bild", "--columns", "label=art", "--no-normalized", "--delimiter", "tab")
    succeeded(stage(*command, "--out", out, *options))
    [row] = read_imported(out)
    assert (row.image, row.labels, row.normalized, read_about(out).images) == ("pics/a.png", ["cat"], False, "pics")
    write(tmp_path / "s", {"t.csv": f"{OWN}a,cat,0.1,0.2,0.5,1\na,cat,1e-3,0.2,1,1.02\n"})
    succeeded(stage(*command, "--out", out, "--normalized"))
    refused(stage(*command, "--out", tmp_path / "p.parquet"), "further than 1.02 pixels", "`normalized: true`")
    refused(stage(*command, "--out", tmp_path / "p.parquet", "--columns", "image"), "OURS=THEIRS")
    refused(stage(*command, "--out", tmp_path / "p.parquet", "--preset", "coco"), "tensorflow, vott, openimages")
    assert not (tmp_path / "p.parquet").exists()
