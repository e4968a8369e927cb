"""YOLO sources: data.yaml in its many forms, splits, polygons, negatives, and what is wrong in one line or row."""

import json

import pytest

from Data_processing.adding.recognise import candidates
from Data_processing.readers import yolo
from Data_processing.shared.files import open_source
from Data_processing.shared.imported import ImportOptions
from Datasets.tools.errors import UserError
from tests.template.Data_processing.test_import_formats import imported, pack, problems, write

BOX = "0 0.5 0.5 0.2 0.4\n"
BOMB = (
    "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)) + "train: *a8"
)


def by_image(rows) -> dict:
    return {row.image: row for row in rows}


def source(root, yaml="train: images/train\nval: images/val\nnames: [cat, dog]\n", files=None):
    """Two images of split train, one of val, with labels; more, or other, files."""
    both = {f"images/{name}.jpg": b"" for name in ("train/a", "train/b", "val/c")}
    labels = {f"labels/{name}.txt": BOX for name in ("train/a", "train/b", "val/c")}
    return write(root, {"data.yaml": yaml, **both, **labels, **(files or {})})


def test_boxes_are_corners_in_fractions_and_say_their_line(tmp_path):
    row = by_image(imported(source(tmp_path, files={"labels/train/a.txt": f"\n{BOX}1 .1 .2 .1 .2\n"}), "yolo"))[
        "images/train/a.jpg"
    ]
    assert row.normalized
    assert (row.width, row.height, row.split, row.origin) == (None, None, "train", "labels/train/a.txt")
    assert [(box.name, box.origin) for box in row.boxes] == [
        ("cat", "labels/train/a.txt:2"),
        ("dog", "labels/train/a.txt:3"),
    ]
    first = row.boxes[0]
    assert (first.x1, first.y1, first.x2, first.y2) == pytest.approx((0.4, 0.3, 0.6, 0.7))


def test_a_polygon_becomes_an_outline_and_the_box_around_it(tmp_path):
    row = imported(source(tmp_path, files={"labels/train/a.txt": "1 0.1 0.2 0.5 0.2 0.3 0.9\n"}), "yolo")[0]
    box = row.boxes[0]
    assert (box.name, box.x1, box.y1, box.x2, box.y2) == ("dog", 0.1, 0.2, 0.5, 0.9)
    assert json.loads(box.outline) == [[0.1, 0.2, 0.5, 0.2, 0.3, 0.9]]


@pytest.mark.parametrize(
    "yaml",
    [
        "path: ../datasets/thing\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}",
        "path: /home/ann/data/thing\ntrain: images/train\nval: images/val\nnames: {'0': cat, '1': dog}",
        "train: ../images/train\nval: ../images/val\nnc: 2\nnames: ['cat', 'dog']",
        "train: [images/train]\nvalidation: ./images/val/\nnames:\n  - cat\n  - dog",
        "train: C:\\data\\thing\\images\\train\nval: C:\\data\\thing\\images\\val\nnames: [cat, dog]",
        "train: train.txt\nval: /somewhere/val.txt\ntest:\nnames: [cat, dog]",
        "path: .\ntrain: cvat/train.txt\nval: cvat/val.txt\nnames: [cat, dog]",
        "train: thing/images/train\nval: thing/images/val\nnames: [cat, dog]",
    ],
)
def test_every_way_to_name_the_splits_gives_the_same(tmp_path, yaml):
    lists = {"train.txt": "./images/train/a.jpg\nimages/train/b.jpg\n", "val.txt": "/home/x/images/val/c.jpg\n"}
    lists |= {
        "cvat/train.txt": "data/images/train/a.jpg\ndata/images/train/b.jpg",
        "cvat/val.txt": "data/images/val/c.jpg",
    }
    plain = by_image(imported(source(tmp_path / "plain"), "yolo"))
    rows = by_image(imported(source(tmp_path / "other", yaml, lists), "yolo"))
    assert rows == plain
    assert [rows[name].split for name in sorted(rows)] == ["train", "train", "val"]


@pytest.mark.parametrize("entry", ["/home/ann/thing/images/train", "C:\\thing\\images\\train", "train.txt"])
def test_absolute_paths_are_found_below_a_wrapper_folder(tmp_path, entry):
    lists = {"train.txt": "/home/ann/thing/images/train/a.jpg\n/home/ann/thing/images/train/b.jpg\n"}
    source(tmp_path / "ds", f"train: {entry}\nnames: [cat, dog]", lists)
    rows = by_image(imported(tmp_path, "yolo"))
    assert [rows[f"ds/images/train/{name}.jpg"].split for name in "ab"] == ["train", "train"]


def test_a_hidden_folder_that_is_listed_is_read(tmp_path):
    files = {"train.txt": ".c/a.jpg\n", **dict.fromkeys((".c/a.txt", ".d/b.txt"), BOX), ".c/a.jpg": b""}
    for listed in ("train.txt", ".c"):
        [row] = imported(write(tmp_path, {"data.yaml": f"train: {listed}\nnames: [cat]", **files}), "yolo")
        assert (row.image, len(row.boxes)) == (".c/a.jpg", 1)


def test_roboflows_layout_has_labels_beside_the_folder_of_images(tmp_path, capsys):
    files = {f"{split}/{part}" for split in ("train", "valid") for part in ("images/a.jpg", "labels/a.txt")}
    write(tmp_path, {name: BOX for name in files})
    write(tmp_path, {"data.yaml": "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [cat]"})
    rows = by_image(imported(tmp_path, "yolo"))
    assert {name: row.split for name, row in rows.items()} == {
        "train/images/a.jpg": "train",
        "valid/images/a.jpg": "val",
    }
    assert not problems(rows.values())
    assert "data.yaml: test: there is no ../test/images; left out" in capsys.readouterr().err


def test_an_image_without_labels_is_a_negative_only_in_a_split_that_has_labels(tmp_path):
    files = {"images/train/n.jpg": b"", "labels/train/b.txt": "", "images/test/t.jpg": b""}
    yaml = "train: images/train\nval: images/val\ntest: images/test\nnames: [cat]"
    rows = by_image(imported(source(tmp_path, yaml, files), "yolo"))
    assert rows["images/train/b.jpg"].boxes == rows["images/train/n.jpg"].boxes == []
    assert rows["images/test/t.jpg"].boxes is None
    assert list(rows)[-2:] == ["images/train/n.jpg", "images/test/t.jpg"]  # after those with labels, in order
    assert rows["images/test/t.jpg"].split == "test"


def test_labels_of_no_image_and_of_an_unlisted_one_are_rows_too(tmp_path):
    files = {"labels/train/z.txt": BOX, "images/more/y.jpg": b"", "labels/more/y.txt": BOX, "README.txt": "Hello 1 2"}
    rows = by_image(imported(source(tmp_path, files=files), "yolo"))
    assert len(rows) == 5
    assert (rows["images/train/z"].origin, rows["images/train/z"].split) == ("labels/train/z.txt", "train")
    assert rows["images/train/z"].problems[0][1].startswith("there is no image for the label file labels/train/z.txt;")
    assert rows["images/more/y.jpg"].problems[0][0] == "unlisted image"


def test_annotations_alone_are_enough(tmp_path):
    write(tmp_path, {"data.yaml": "train: images/train\nnames: [cat]", "labels/train/a.txt": BOX})
    [row] = imported(tmp_path, "yolo")
    assert (row.image, row.split, len(row.boxes)) == ("images/train/a", "train", 1)


def test_an_image_in_two_splits_has_none(tmp_path):
    yaml = "train: [images/train, images/val]\nval: images/val\nnames: [cat]"
    rows = by_image(imported(source(tmp_path, yaml), "yolo"))
    assert (rows["images/train/a.jpg"].split, rows["images/val/c.jpg"].split) == ("train", None)


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("2 0.5 0.5 0.1 0.1", "unknown category"),
        ("0.5 0.5 0.5 0.1 0.1", "unknown category"),
        ("0 0.5 0.5 0.1", "malformed box"),
        ("0 0.1 0.1 0.2 0.2 inf 0.3 0.4", "malformed box"),
        ("0 30 20 10 10", "malformed box"),
        ("0 0.5 0.5 0.2 0.4 0.5 0.5 2 0.6 0.6 0", "malformed box"),
        ("0 0,5 0,5 0,1 0,1", "malformed box"),
        (b"\xff\xfe0\x00", "malformed annotation"),
    ],
)
def test_a_wrong_line_is_a_problem_of_its_record_alone(tmp_path, line, rule):
    rows = by_image(imported(source(tmp_path, files={"labels/train/a.txt": line}), "yolo"))
    assert [found for found, _ in rows["images/train/a.jpg"].problems] == [rule]
    assert "labels/train/a.txt" in rows["images/train/a.jpg"].problems[0][1]
    assert not rows["images/train/b.jpg"].problems


def test_key_points_are_left_out_and_never_taken_for_a_polygon(tmp_path):
    yaml = "train: images/train\nval: images/val\nkpt_shape: [2, 2]\nnames: [cat]"
    files = {"labels/train/a.txt": "0 0.5 0.5 0.2 0.4 0.5 0.5 0.6 0.6 0.93\n"}
    rows = by_image(imported(source(tmp_path, yaml, files), "yolo"))
    [box] = rows["images/train/a.jpg"].boxes
    assert box.outline is None
    assert (box.x1, box.x2) == pytest.approx((0.4, 0.6))
    assert rows["images/train/b.jpg"].problems[0][0] == "malformed box"


@pytest.mark.parametrize(
    ("yaml", "part"),
    [
        ("", "no data.yaml"),
        ("names: [cat", "not YAML"),
        (BOMB, "aliases"),
        ("train: images/train", "no `names`"),
        ("train: images/train\nnames: [cat, true]", "True"),
        ('train: images/train\nnames: ["\\ud800"]', "data.yaml"),
        ("train: images/train\nnames: [cat]\nnc: 2", "nc is 2"),
        ("train: nowhere\nnames: [cat]", "'nowhere'"),
    ],
)
def test_a_data_yaml_of_no_use_is_refused_in_one_line(tmp_path, yaml, part):
    with pytest.raises(UserError) as error:
        imported(source(tmp_path, yaml), "yolo")
    assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_labels_that_were_forgotten_do_not_make_a_dataset_of_negatives(tmp_path):
    write(tmp_path, {"data.yaml": "train: images\nnames: [cat]", "images/a.jpg": b""})
    with pytest.raises(UserError, match=r"labels/a\.txt"):
        imported(tmp_path, "yolo")


def test_of_several_files_data_yaml_is_meant_or_the_one_that_is_named(tmp_path):
    source(tmp_path, files={"hyp.yaml": "lr: 1"})
    assert len(imported(tmp_path, "yolo")) == 3
    write(tmp_path, {"more/data.yaml": "train: images/train\nnames: [fish]"})
    with pytest.raises(UserError, match="set `annotations`"):
        imported(tmp_path, "yolo")
    rows = by_image(imported(tmp_path, "yolo", annotations="more/data.yaml"))
    assert rows["images/train/a.jpg"].boxes[0].name == "fish"
    with pytest.raises(UserError, match="has no file x"):
        imported(tmp_path, "yolo", annotations="x.yaml")


def test_without_data_yaml_a_list_of_class_names_is_enough(tmp_path):
    files = {"obj.names": "cat\ndog\n", "obj/a.jpg": b"", "obj/a.txt": BOX, "obj/b.jpg": b"", "obj/c.txt": BOX}
    write(tmp_path, {**files, "README.txt": "Made by hand.", "train.txt": "obj/a.jpg\n"})
    rows = by_image(imported(tmp_path, "yolo"))
    assert {image: problems([row]) for image, row in rows.items()} == {"obj/a.jpg": [], "obj/c": ["missing image"]}


def test_the_same_class_names_in_several_folders_are_read_once(tmp_path):
    files = {f"{split}/{name}": "" for split in ("train", "val") for name in ("a.jpg", "b.jpg")}
    labels = {f"{split}/a.txt": BOX for split in ("train", "val")}
    write(tmp_path, {**files, **labels, "train/classes.txt": "cat\n", "val/classes.txt": "cat"})
    [guess] = candidates(open_source(tmp_path), ImportOptions(), None)
    assert guess.annotations == "train/classes.txt"
    rows = by_image(imported(tmp_path, "yolo"))
    assert {name: row.split for name, row in rows.items()} == {"train/a.jpg": "train", "val/a.jpg": "val"}
    files = open_source(tmp_path)
    assert (
        yolo.read(files, yolo.find(files, ImportOptions()), ImportOptions())[0] == ""
    )  # where images without labels are
    write(tmp_path, {"val/classes.txt": "cat\ndog\n"})
    assert len(candidates(open_source(tmp_path), ImportOptions(), None)) == 2
    with pytest.raises(UserError, match=r"class name files \(train/classes.txt, val/classes.txt\); set `annotations`"):
        imported(tmp_path, "yolo")


def test_label_files_named_as_in_a_url_belong_to_the_image_of_the_plain_name(tmp_path):
    files = {"classes.txt": "cat", "labels/d%C3%A9cran.txt": BOX, "images/d\xe9cran.jpg": ""}
    [row] = imported(write(tmp_path, files), "yolo")
    assert (row.image, len(row.boxes)) == ("images/d\xe9cran.jpg", 1)
    write(tmp_path, {"labels/d\xe9cran.txt": ""})
    rows = imported(tmp_path, "yolo")
    assert {row.image: len(row.boxes) for row in rows} == {"images/d%C3%A9cran": 1, "images/d\xe9cran.jpg": 0}


def test_a_label_file_counts_in_the_last_folder_called_images(tmp_path):
    write(tmp_path, {"data.yaml": "train: images/set/images\nnames: [cat]"})
    write(tmp_path, {"images/set/images/a.b.jpg": b"", "images/set/labels/a.b.txt": BOX})
    [row] = imported(pack(tmp_path, tmp_path.parent / "s.tar.gz"), "yolo")
    assert (row.image, len(row.boxes)) == ("images/set/images/a.b.jpg", 1)


PERSON = [
    "0 0.5 0.5 0.2 0.4 0.45 0.4 0.55 0.6",
    "0 0.3 0.7 0.1 0.3 0.28 0.6 0.33 0.8",
    "1 0.8 0.4 0.3 0.2 0.7 0.35 0.9 0.45",
]
SQUARES = ["0 0.1 0.1 0.3 0.1 0.3 0.3 0.1 0.3", "1 0.6 0.5 0.9 0.5 0.9 0.9 0.6 0.9"]


def lines_of(tmp_path, lines, yaml=None):
    """The boxes of a dataset that has just these lines: what is drawn, in fractions of the image."""
    files = {"labels/train/a.txt": "\n".join(lines), "labels/train/b.txt": "", "labels/val/c.txt": ""}
    rows = by_image(imported(source(tmp_path, *([yaml] if yaml else []), files=files), "yolo"))
    row = rows["images/train/a.jpg"]
    return row, [(round(b.x1, 6), round(b.y1, 6), round(b.x2, 6), round(b.y2, 6), b.outline) for b in row.boxes]


@pytest.mark.parametrize("more", [[" 0.9"], [" 0.93 3", " 0.87 12"], [" 4"]])
def test_confidences_and_tracks_behind_boxes_are_no_points(tmp_path, more):
    plain = ["0 0.5 0.5 0.2 0.4", "1 0.3 0.7 0.1 0.2"]
    lines = [line + more[number % len(more)] for number, line in enumerate(plain)]
    _, found = lines_of(tmp_path, lines)
    assert found == [(0.4, 0.3, 0.6, 0.7, None), (0.25, 0.6, 0.35, 0.8, None)]


@pytest.mark.parametrize("more", ["", " 0.93", " 0.93 3"])
def test_confidences_and_tracks_behind_polygons_are_no_points(tmp_path, more):
    _, found = lines_of(tmp_path, [line + more for line in SQUARES])
    assert [corners for *corners, _ in found] == [[0.1, 0.1, 0.3, 0.3], [0.6, 0.5, 0.9, 0.9]]
    assert all(len(json.loads(outline)[0]) == 8 for *_, outline in found)


def test_a_lost_number_is_a_problem_and_shifts_no_polygon(tmp_path):
    row, found = lines_of(tmp_path, [*SQUARES, "0 0.1 0.1 0.3 0.3 0.3 0.1 0.3"])
    assert len(found) == 2
    assert row.problems[0][0] == "malformed box" and "a.txt:3" in row.problems[0][1]


@pytest.mark.parametrize("visible", ["", " 2", " 0"])
def test_key_points_without_kpt_shape_are_known_by_all_lines(tmp_path, visible):
    lines = [" ".join([*line.split()[:7], *visible.split(), *line.split()[7:], *visible.split()]) for line in PERSON]
    _, found = lines_of(tmp_path, lines)
    assert found[0] == (0.4, 0.3, 0.6, 0.7, None) and found[2] == (0.65, 0.3, 0.95, 0.5, None)


def test_lines_that_could_be_both_are_refused_until_data_yaml_says_what_they_are(tmp_path):
    both = ["0 0.5 0.5 0.6 0.6 0.3 0.4 0.7 0.6"]
    with pytest.raises(UserError, match=r"a\.txt: lines of 9 numbers are polygons, or .*`kpt_shape: \[N, 2\]`"):
        lines_of(tmp_path / "unknown", both)
    yaml = "train: images/train\nval: images/val\nnames: [cat, dog]\nkpt_shape: "
    assert lines_of(tmp_path / "pose", both, f"{yaml}[2, 2]")[1] == [(0.2, 0.2, 0.8, 0.8, None)]
    (polygon,) = lines_of(tmp_path / "polygon", both, f"{yaml}[0, 2]")[1]
    assert polygon[:4] == (0.3, 0.4, 0.7, 0.6) and polygon[4]
