"""Images and masks in pairs, as programs and projects lay them out: found by their names, exact to the pixel."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from Data_processing.add_source import Summary, entry_of, show, try_import
from Data_processing.adding.recognise import recognise
from Data_processing.import_source import main as import_source
from Data_processing.inspect_images import main as inspect_images
from Data_processing.shared.files import open_source
from Data_processing.shared.imported import ImportOptions
from Data_processing.shared.mask_values import entry, named
from Datasets.format.classes import read_classes
from Datasets.format.curated import Curated
from Datasets.tools.errors import UserError
from tests.template.conftest import succeeded
from tests.template.Data_processing.annotated import rows_of
from tests.template.Data_processing.sources import SIZE, pack, picture
from tests.template.Data_processing.stages import stage
from tests.template.Data_processing.test_import_formats import write

COLOURS = [(0, 0, 0), (128, 64, 128), (0, 128, 0), (200, 0, 9)]
CLASS_DICT = "name,r,g,b\nVoid,0,0,0\nRoad,128,64,128\nTree,0,128,0\nCar,200,0,9\n"


def labels(seed: int, *values: int) -> np.ndarray:
    """Squares of the values on the first one, somewhere."""
    random = np.random.default_rng(seed)
    drawn = np.full(SIZE[::-1], values[0])
    for value in values[1:]:
        x, y = random.integers(0, 40), random.integers(0, 25)
        drawn[y : y + 12, x : x + 15] = value
    return drawn


def encoded(values: np.ndarray, kind: str = "PNG", palette: list | None = None, rgb: bool = False) -> bytes:
    """The mask file of some values: grey of 8 or 16 bits, with a palette, or in the palette's colours."""
    image = Image.fromarray(values.astype(np.uint16 if values.max() > 255 else np.uint8))
    if rgb:
        image = Image.fromarray(np.array(palette, np.uint8)[values])
    elif palette:
        image.putpalette([part for colour in palette for part in colour])
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def photo(seed: int, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(picture(seed))).save(file, kind)
    return file.getvalue()


def pairs(images: str, masks: str, number: int = 6, **more) -> dict[str, bytes]:
    """Files of a source; {} is the number of an image, {s} its split."""
    splits = ["train", "val"] if "{s}" in images else [""]
    suffix = {".jpg": "JPEG", ".png": "PNG", ".tif": "TIFF", ".gif": "GIF", ".bmp": "BMP"}
    return {
        path.format(n, s=split): data
        for at, split in enumerate(splits)
        for n in range(number)
        for path, data in (
            (images, photo(n + 20 * at, suffix[Path(images).suffix])),
            (masks, encoded(labels(n, 0, 1, 2), suffix[Path(masks).suffix], **more)),
        )
    }


def seen(path: Path, form: str | None = None, **options) -> tuple[dict, Summary]:
    """The entry of params.yaml, and what the source states."""
    files = open_source(path)
    found, needed = recognise(files, ImportOptions(**options), form, lambda *_: 0)
    held = try_import(files, "s", found.format, needed)
    return entry_of(found.format, Path("x"), needed), held


LAYOUTS = [
    ("images/{}.jpg", "masks/{}.png"),
    ("data/images/{}.jpg", "data/masks/{}_mask.png"),
    ("PNGImages/FudanPed{:05}.png", "PedMasks/FudanPed{:05}_mask.png"),
    ("{s}/0001TP_{:06}.png", "{s}annot/0001TP_{:06}.png"),
    ("{s}/0001TP_{:06}.png", "{s}_labels/0001TP_{:06}_L.png"),
    ("img_dir/{s}/{}.jpg", "ann_dir/{s}/{}.png"),
    ("images/{s}/ADE_{:08}.jpg", "annotations/{s}/ADE_{:08}.png"),
    ("{s}/images/{}.tif", "{s}/masks/{}.tif"),
    ("leftImg8bit/{s}/ulm/ulm_{:06}_000019_leftImg8bit.png", "gtFine/{s}/ulm/ulm_{:06}_000019_gtFine_labelIds.png"),
    ("training/image_2/{:06}_10.png", "training/semantic/{:06}_10.png"),
    ("JPEGImages/2007_{:06}.jpg", "SegmentationClass/2007_{:06}.png"),
    ("images/Abyssinian_{}.jpg", "annotations/trimaps/Abyssinian_{}.png"),
    ("{s}/{}99_sat.jpg", "{s}/{}99_mask.png"),
    ("train/ab{}_01.jpg", "train_masks/ab{}_01_mask.gif"),
    ("ISIC2018_Task1-2_Training_Input/ISIC_{}.jpg", "ISIC2018_Task1_Training_GroundTruth/ISIC_{}_segmentation.png"),
    ("scan {}.jpg", "scan {}_mask.png"),
    ("{}.jpg", "{}.png"),
    ("{}.jpg", "mask_{}.bmp"),
    ("patient{}/image.png", "patient{}/label.png"),
    ("patient{}/images/1.png", "patient{}/masks/1.png"),
    ("x/{}.jpg", "y/{}.png"),
]


@pytest.mark.parametrize(("images", "masks"), LAYOUTS)
def test_pairs_are_found_by_their_names(tmp_path, images, masks):
    write(tmp_path / "s", pairs(images, masks))
    entry, held = seen(tmp_path / "s", classes=["background", "road", "tree"])
    number = 12 if "{s}" in images else 6
    assert entry["format"] == "masks"
    assert held.records == held.found == len(held.masks) == number
    assert not held.problems
    rows = rows_of(tmp_path / "s", "masks", classes=["background", "road", "tree"]).values()
    splits = ["train", "val"] if "{s}" in images else [""]
    expected = {(images.format(n, s=s), masks.format(n, s=s)) for n in range(6) for s in splits}
    assert {(row.image, row.mask) for row in rows} == expected
    if "{s}" in images:
        assert held.splits == {"train": 6, "val": 6}
    with pytest.raises(UserError, match="--classes background=0 --classes NAME=1 --classes NAME=2`"):
        seen(tmp_path / "s")


def test_of_several_kinds_of_masks_the_label_ids_are_meant(tmp_path):
    image, mask = "leftImg8bit/ulm_{}_leftImg8bit.png", "gtFine/ulm_{}_gtFine_labelIds.png"
    files = pairs(image, mask)
    for number in range(6):
        drawn = labels(number, 0, 1, 2)
        files[mask.format(number).replace("labelIds", "instanceIds")] = encoded(drawn * 1000)
        files[mask.format(number).replace("labelIds", "color")] = encoded(drawn, palette=COLOURS, rgb=True)
    write(tmp_path / "s", files)
    _, held = seen(tmp_path / "s", classes=["background", "road", "tree"])
    assert (held.records, len(held.masks), next(iter(held.masks))) == (6, 6, mask.format(0))
    with pytest.raises(UserError, match="several kinds of masks: .*instanceIds.png"):
        seen(tmp_path / "s", classes=["thing"], instances=True)
    _, held = seen(tmp_path / "s", classes=["thing"], instances=True, annotations="*_instanceIds.png")
    assert (held.records, held.boxes, len(held.masks)) == (6, 12, 0)
    names = [f"{name}={colour[0]}:{colour[1]}:{colour[2]}" for name, colour in zip("abc", COLOURS, strict=False)]
    _, held = seen(tmp_path / "s", classes=names, annotations="*_color.png")
    assert (len(held.masks), sorted(held.classes)) == (6, ["a", "b", "c"])


def test_several_masks_of_an_image_are_of_an_object_each(tmp_path):
    files = {f"{n:08x}/images/{n:08x}.png": photo(n, "PNG") for n in range(3)}
    files |= {f"{n:08x}/masks/{k + 7:08x}.png": encoded(labels(9 * n + k, 0, 255)) for n in range(3) for k in range(2)}
    write(tmp_path, files)
    with pytest.raises(UserError, match="if these are of an object each, give --instances"):
        seen(tmp_path, classes=["nucleus"])
    _, held = seen(tmp_path, classes=["nucleus"], instances=True)
    assert (held.records, held.boxes) == (3, 6)


def test_values_that_the_user_does_not_name_reject_their_image(tmp_path):
    files = pairs("images/{}.jpg", "masks/{}.png")
    write(tmp_path, {**files, "masks/0.png": encoded(labels(0, 0, 1, 2, 3, 4, 5))})
    with pytest.raises(UserError, match="`classes`: it is not certain what the values of masks mean: 0 "):
        seen(tmp_path, classes=["background", "road", "tree"])
    _, held = seen(tmp_path, classes=["background=0", "road=1", "tree=2"])
    assert len(held.masks) == 6


def test_kinds_of_masks_that_nothing_tells_apart_are_refused(tmp_path):
    files = pairs("images/{}_training.tif", "1st_manual/{}_manual1.gif")
    write(tmp_path, files | pairs("images/{}_training.tif", "mask/{}_training_mask.gif"))
    with pytest.raises(UserError, match="1st_manual/0_manual1.gif, mask/0_training_mask.gif; set `annotations`"):
        seen(tmp_path)
    _, held = seen(tmp_path, annotations="1st_manual", classes=["background", "vessel", "vein"])
    assert (held.records, len(held.masks)) == (6, 6)


def test_an_image_without_a_mask_was_not_annotated_and_a_mask_without_an_image_is_a_problem(tmp_path):
    files = pairs("images/{}.jpg", "masks/{}.png", 9)
    del files["images/3.jpg"], files["masks/4.png"]
    rows = rows_of(write(tmp_path, files), "masks", classes=["background", "road", "tree"])
    assert rows["masks/3.png, a mask"].problems == [("missing image", "masks/3.png")]
    assert (rows["images/4.jpg"].mask, rows["images/4.jpg"].boxes) == (None, None)
    assert sum(row.mask is not None for row in rows.values()) == 7


def test_an_image_that_is_missing_does_not_give_its_mask_to_another_of_its_name(tmp_path):
    files = pairs("{s}/images/{}.jpg", "{s}/masks/{}.png", 9)
    del files["train/masks/3.png"], files["val/images/3.jpg"]
    rows = rows_of(write(tmp_path, files), "masks", classes=["background", "road", "tree"])
    assert rows["val/masks/3.png, a mask"].problems == [("missing image", "val/masks/3.png")]
    assert rows["train/images/3.jpg"].mask is None


def test_a_folder_around_all_may_be_called_like_masks(tmp_path):
    write(tmp_path, pairs("road_segmentation/{}.jpg", "road_segmentation/{}_mask.png"))
    assert len(seen(tmp_path, classes=["background", "road", "tree"])[1].masks) == 6


def test_lists_state_splits(tmp_path):
    files = pairs("images/{}.jpg", "masks/{}.png")
    lists = {"train.txt": "0\n1\n", "val.txt": "images/2.jpg masks/2.png\n", "test.txt": "/data/images/3.jpg\n1\n"}
    write(tmp_path, files | {f"splits/{name}": text.encode() for name, text in lists.items()})
    rows = rows_of(tmp_path, "masks", classes=["background", "road", "tree"]).values()
    assert [row.split for row in sorted(rows, key=lambda row: row.image)] == ["train", None, "val", "test", None, None]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("class_dict.csv", "name,r,g,b\nVoid,0,0,0\nroad,128,64,128\nLane 1,0,128,0\n"),
        ("class_dict_seg.csv", "name, r, g, b\nunlabeled, 0, 0, 0\nroad, 128, 64, 128\nLane 1, 0, 128, 0\n"),
        ("label_colors.txt", "128 64 128\troad\n0 128 0\t\tLane 1\n0 0 0\tVoid\n"),
        ("label_colors.txt", "128 64 128 road\n0 128 0 Lane 1\n0 0 0 Void\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nroad:128,64,128::\nvoid:0,0,0::\nLane 1:0,128,0::\n"),
        ("classes.csv", "id,name,r,g,b\n0,void,0,0,0\n1,road,128,64,128\n2,Lane 1,0,128,0\n"),
    ],
)
def test_lists_of_classes_name_colours(tmp_path, file, text):
    files = pairs("images/{}.jpg", "masks/{}.png", palette=COLOURS, rgb=text[0] == "n")
    row = next(iter(rows_of(write(tmp_path, files | {file: text.encode()}), "masks").values()))
    assert row.mask_names == {1 << 24: None, 0x1804080: "road", 0x1008000: "Lane 1", 0x1E0E0C0: None}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("train/_classes.csv", "Pixel Value, Class\n0, background\n1, road\n2, Lane 1\n"),
        ("classes.txt", "_background_\nroad\nLane 1\n"),
        ("codes.txt", "Background\nroad\nLane 1\n"),
        ("obj_class.names", "0: background\n1: road\n2: Lane 1\n"),
        ("classes.csv", "name\nbackground\nroad\nLane 1\n"),
    ],
)
def test_lists_of_classes_name_values(tmp_path, file, text):
    files = pairs("images/{}.jpg", "masks/{}.png")
    row = next(iter(rows_of(write(tmp_path, files | {file: text.encode()}), "masks").values()))
    assert row.mask_names == {0: "", 1: "road", 2: "Lane 1"}


def test_a_value_that_is_in_one_mask_alone_counts_for_the_meaning_of_a_list(tmp_path):
    files = pairs("images/{}.jpg", "masks/{}.png") | {"masks/1.png": encoded(labels(1, 0, 7))}
    with pytest.raises(UserError, match="classes.txt: it is not certain .*, 7 "):
        seen(write(tmp_path, files | {"classes.txt": b"background\nroad\ntree\n"}))


def test_lists_of_classes_that_contradict_each_other_are_refused(tmp_path):
    files = pairs("images/{}.jpg", "masks/{}.png", palette=COLOURS)
    lists = {"class_dict.csv": CLASS_DICT, "classes.txt": "void\nRoad\nTree\n"}
    write(tmp_path, files | {name: text.encode() for name, text in lists.items()})
    assert rows_of(tmp_path, "masks")["masks/0.png"].mask_names[0x1804080] == "Road"
    write(tmp_path, {"classes.txt": b"void\nTree\nRoad\n"})
    with pytest.raises(UserError, match="class_dict.csv and classes.txt: it is not certain"):
        rows_of(tmp_path, "masks")


@pytest.mark.parametrize(
    ("classes", "values", "ignore", "names"),
    [
        (["background", "road"], [0, 255], None, {0: "", 255: "road"}),
        (["road", "sky"], [0, 1], None, {0: "road", 1: "sky"}),
        (["background", "road", "sky"], [0, 7, 9], None, None),
        (["background", "road", "sky"], [0, 1, 2, 255], None, {0: "", 1: "road", 2: "sky"}),
        (["background", "road", "sky"], [0, 1, 255], None, None),  # sky, or not annotated?
        (["background", "road"], [0, 1, 255], 255, {0: "", 1: "road"}),
        (["cat", "dog"], [0, 2], None, None),
        (["road=7", "void=3"], [0, 3, 7], None, {7: "road", 3: None}),
        (["cat", "road=7"], [0, 7], None, None),
        (["road"], [255], 255, {0: "road"}),
        (["road=9:8:7", "background=0:0:0"], [0, 1], None, None),
    ],
)
def test_names_are_those_of_values_and_what_is_not_certain_is_refused(classes, values, ignore, names):
    grey = [(value, (1 << 24) + value * 0x10101) for value in values]
    assert named([entry(name) for name in classes], grey, ignore) == names


def test_what_cannot_be_masks_is_refused_with_the_reason(tmp_path):
    blurred = {f"masks/{n}.jpg": photo(n) for n in range(6)} | {f"images/{n}.jpg": photo(n) for n in range(6)}
    write(tmp_path / "jpeg", blurred)
    with pytest.raises(UserError, match=r"masks/0.jpg: JPEG blurs the values of a mask"):
        seen(tmp_path / "jpeg")
    cases = {f"case{n}/{name}.png": photo(3 * n + at, "PNG") for n in range(3) for at, name in enumerate(("t1", "t2"))}
    write(tmp_path / "cases", cases | {f"case{n}/seg.png": encoded(labels(n, 0, 1)) for n in range(3)})
    for path, mask in (("jpeg", "masks/0.jpg"), ("cases", "case0/seg.png")):
        with pytest.raises(UserError, match=f"{mask} and its like look like masks"):
            seen(tmp_path / path, "folders")


@pytest.mark.parametrize(
    ("file", "text"),
    [("labels.json", '{"cat/1.jpg": "sick"}'), ("scores.txt", "id score\nimg_001 3\n"), ("cat/1.txt", "sick")],
)
def test_folders_with_texts_about_their_images_are_no_classes(tmp_path, file, text):
    files = {f"{name}/{n}.jpg": photo(n + at) for n in range(3) for at, name in enumerate(("cat", "dog"))}
    files |= {"cat/img_001.jpg": photo(9), "README.txt": b"1.jpg", "index.json": b'{"cat": 1}'}
    assert seen(write(tmp_path / "s", files))[0] == {"format": "folders", "path": "x"}
    write(tmp_path / "s", {file: text.encode()})
    with pytest.raises(UserError, match=f"{file} names images and would not be read"):
        seen(tmp_path / "s")


def test_every_class_is_shown_with_its_value_colour_and_share(tmp_path, capsys):
    files = pairs("images/{}.jpg", "masks/{}.png", palette=COLOURS)
    path = write(tmp_path / "s", files | {"classes.txt": b"background\nroad\nvoid\n"})
    files = open_source(pack(path, tmp_path / "s.zip"))
    found, _ = recognise(files, ImportOptions(), None, lambda *_: 0)
    show(path, found, try_import(files, "s", "masks", ImportOptions()), files)
    told = capsys.readouterr().out
    every = np.stack([labels(n, 0, 1, 2) for n in range(6)])
    for line in ("0 {:.2%} background", "1 (128:64:128) {:.2%} road", "2 (0:128:0) {:.2%} not annotated"):
        assert f"    {line.format((every == int(line[0])).mean())}\n" in told


def test_masks_beside_other_annotations_are_named(tmp_path, capsys):
    files = pairs("images/{}.jpg", "masks/{}.png")
    table = "image,label\n" + "".join(f"images/{n}.jpg,cat\n" for n in range(6))
    files = open_source(write(tmp_path, files | {"labels.csv": table.encode()}))
    found, options = recognise(files, ImportOptions(), None, lambda *_: 0)
    show(tmp_path, found, try_import(files, "s", found.format, options), files)
    assert "masks    not read, such as masks/0.png; --format masks reads them instead" in capsys.readouterr().out


SOURCES = {  # values of its masks, how they are written, what they mean; None: not annotated
    "grey": ((0, 7, 11), {}, {0: 0, 7: "road", 11: None}, {"classes": ["background=0", "road=7"], "ignore": 11}),
    "palette": ((0, 1, 2), {"palette": COLOURS}, {0: 0, 1: "road", 2: "tree"}, {"classes": ["bg", "road", "tree"]}),
    "colour": ((0, 1, 2, 3), {"palette": COLOURS, "rgb": True}, {0: None, 1: "Road", 2: "Tree", 3: "Car"}, {}),
    "binary": ((0, 255), {}, {0: 0, 255: "road"}, {"classes": ["road"]}),
    "objects": ((0, 1, 2, 300), {}, {}, {"classes": ["cell"], "instances": True}),
}


def test_masks_are_exact_to_the_pixel_in_the_curated_dataset(tmp_path):
    imported, inspected, clean, curated = (tmp_path / "of" / name for name in ("imported", "inspected", "c", "curated"))
    for at, (name, (values, how, _, options)) in enumerate(SOURCES.items()):
        images = {f"images/{n}.png": picture(10 * at + n) for n in range(3)}
        masks = {f"masks/{n}.png": encoded(labels(n, *values), **how) for n in range(3)}
        write(tmp_path / name, images | masks | ({"class_dict.csv": CLASS_DICT.encode()} if name == "colour" else {}))
        paths = {"imported": imported / f"{name}.parquet", "out": inspected / f"{name}.parquet"}
        import_source(name, "masks", tmp_path / name, paths["imported"], **options)
        inspect_images(name, jobs=1, max_pixels=10**6, **paths)
    stages = ("--imported", imported, "--inspected", inspected, "--out", clean, "--jobs=1")
    succeeded(stage("Data_processing.clean", *stages, *SOURCES))
    assert pd.read_csv(clean / "rejected.csv").empty
    rest = ("--out", curated, "--summary", tmp_path / "s.json", "--train=1", "--val=0", "--test=0", "--jobs=1")
    succeeded(stage("Data_processing.curate", "--cleaned", clean, *rest))
    ids = read_classes(curated / "classes.json")
    assert sorted(ids) == ["Car", "Road", "Tree", "cell", "road", "tree"]
    records = Curated(curated).records("train")
    assert len(records) == 3 * len(SOURCES)
    for record in records:
        values, _, meaning, _ = SOURCES[record["source"]]
        drawn = labels(int(Path(record["image"]).stem), *values)
        if not meaning:
            found = {(b["x1"], b["y1"], b["x2"], b["y2"]): coco_mask.decode(b["segmentation"]) for b in record["boxes"]}
            for value in values[1:]:
                rows, columns = np.nonzero(drawn == value)
                if len(rows):
                    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                    assert np.array_equal(found.pop(box), drawn == value)
            assert not found
            continue
        expected = np.zeros_like(drawn)
        for value, name in meaning.items():
            expected[drawn == value] = 255 if name is None else ids[name] + 1 if name else 0
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(record["mask"]["bytes"]))), expected)
