"""Sources of every format, damaged in every way that a strategy can think of, and what must become of them."""

import codecs
import io
import json
import re
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from lxml import etree

from Data_processing.cleaning.records import clean_record
from Data_processing.cleaning.rules import REMEDIES, Rejection, Rules
from Data_processing.import_source import check_paths, formats, read_annotations
from Data_processing.shared.files import MissingFile, SourceFiles
from Data_processing.shared.imported import ImportOptions, from_arrow, to_arrow
from Data_processing.shared.inspected import Facts
from Datasets.format.records import SCHEMA, is_safe_path
from Datasets.tools.errors import UserError
from tests.template.Data_processing.annotated import (
    BOX,
    cvat_image,
    labelme_file,
    percent,
    region,
    shape,
    supervisely_file,
    supervisely_object,
    task,
    via_image,
    write_createml,
    write_cvat,
    write_huggingface,
    write_label_studio,
    write_supervisely,
    write_via,
)
from tests.template.Data_processing.sources import write_masks, write_voc
from tests.template.Data_processing.test_import_formats import WRITERS, odd_record

PACKED = [0, 0, 0, 140, 57, 27, 254, 35, 0, 191, 255, 108, 2, 63, 248, 192, 39, 255, 182, 1, 127, 255, 15, 128, 0]
PNG_IN_ZLIB = "eJzrDPBz5+WS4mJgYOD19HAJAtJMIMwBJBjC7wb9AFJ8ni6OIRVzkv+cP3DkAAMDKy8j8w6vmHyQCk9XP5d1TglNAP5cEPM="
FORMATS = tuple(form for form in formats() if form != "datumaro")  # whose files another program reads
FACTS = Facts("", None, 9, "0" * 64, 60, 40, b"\0" * 32, 99.0, 50.0, 50.0, None)


class Memory(SourceFiles):
    """A source that is a dict."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(Path("source"))
        self._files = files

    def _list(self) -> list[str]:
        return list(self._files)

    def _read(self, name: str) -> bytes:
        if name not in self._files:
            raise MissingFile(name)
        return self._files[name]


def judge(form: str, files: dict[str, bytes]) -> None:
    """Import and clean; what is not as promised raises."""
    source = Memory(files)
    try:
        rows = list(check_paths(read_annotations(source, form, ImportOptions())[2]))
    except UserError as error:
        assert "source" in str(error)
        assert "\n" not in str(error)
        return
    assert rows or form in ("csv", "coco", "json", "parquet", "label_studio", "huggingface")
    assert {rule for row in rows for rule, _ in row.problems} <= set(REMEDIES)
    for row in from_arrow(to_arrow(rows)):
        with suppress(Rejection):
            clean_record(row, "s", FACTS, None, Rules())
        assert row.problems or row.mask is None or is_safe_path(row.mask)


def contents(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def wholes(base: Path) -> dict[str, dict[str, bytes]]:
    """A source of each format with some of everything, written below `base`."""
    write_masks(base / "masks")
    for form, write in WRITERS.items():
        write(base / form)
    write_some_coco(base / "coco")
    names = {"path": ".", "train": "images/train", "val": "images/train", "names": ["cat", "dog"], "nc": 2}
    (base / "yolo/data.yaml").write_text(json.dumps(names))
    (base / "csv/boxes.csv").write_text(
        "filename,label,bbox,outline,width,height,crowd\n"
        'a.png,cat,"[1, 2, 3, 4]",,60,40,0\na.png,dog,,1 3 10 5,60,40,\n'
        'b.png,cat,,"[[1,2,9,2,9,8]]",,,\nb,cat|dog,,"POLYGON ((1 2, 9 2, 9 8))",,,1\nC.PNG,,,,,,\n'
    )
    turned = region("rectangle", percent(*BOX, rotation=5))
    brush = region("brush", {"rle": PACKED}, original_width=7, original_height=5)
    polygon, ellipse = {"points": [[1, 1], [9, 1], [1, 9]]}, {"x": 9, "y": 9, "radiusX": 3, "radiusY": 2, "rotation": 1}
    choice = {"type": "choices", "value": {"choices": ["day"]}}
    regions = [turned, region("polygon", polygon, id="p"), region("ellipse", ellipse), choice]
    write_label_studio(base / "label_studio", task(1, "a.png", regions), task(2, "b.png", [brush], []))
    shapes = [shape("polygon", [[1, 1], [9, 1], [1, 9]], group_id=1), shape("circle", [[9, 9], [9, 5]], group_id=1)]
    mask = shape("mask", [[0, 0], [3, 3]], mask="iVBORw0KGgo=")
    labelme_file(base / "labelme/a.json", [*shapes, mask, shape("rectangle", [[1, 1], [9, 9]])], "a.png", b"x")
    labelme_file(base / "labelme/b.json", [], "b.png", flags={"day": True})
    drawn = (
        '<tag label="day"/><box label="a" xtl="1" ytl="1" xbr="9" ybr="9" rotation="3"/>'
        '<polygon label="a" points="1,1;9,1;1,9"/><ellipse label="a" cx="9" cy="9" rx="3" ry="2" rotation="1"/>'
        '<mask label="a" rle="1, 2, 1, 2" left="1" top="2" width="3" height="2"/><points label="a" points="1,1"/>'
    )
    write_cvat(base / "cvat", cvat_image(0, "a.png", drawn, 'subset="train"'), cvat_image(1, "b.png", ""))
    voc = write_voc(base / "voc", {"a.png": [("cat", *BOX)], "b.png": []})
    for name, text in (
        ("ImageSets/Main/train.txt", "a\n"),
        ("ImageSets/Segmentation/val.txt", "c\n"),
        ("SegmentationClass/a.png", ""),
        ("labelmap.txt", "background\nroad\n"),
    ):
        (voc / name).parent.mkdir(parents=True, exist_ok=True)
        (voc / name).write_text(text)
    _write_others(base)
    return {directory.name: contents(directory) for directory in base.iterdir()}


def _write_others(base: Path) -> None:
    """VIA, CreateML, Supervisely and Hugging Face."""
    round_shape = {"name": "ellipse", "cx": 9, "cy": 9, "rx": 3, "ry": 2, "theta": 1}
    polygon = {"name": "polygon", "all_points_x": [1, 9, 1], "all_points_y": [1, 1, 9]}
    drawn = [round_shape, polygon, {"name": "point", "cx": 1, "cy": 2}]
    write_via(base / "via", via_image("a.png", *drawn), via_image("b.png"))
    box = {"label": "cat", "coordinates": {"x": 11.5, "y": 17, "width": 17, "height": 26}}
    write_createml(base / "createml", {"image": "a.png", "annotations": [box, {"label": "day"}, "x"]})
    write_supervisely(base / "supervisely")
    packed = {"bitmap": {"data": PNG_IN_ZLIB, "origin": [1, 2]}}
    objects = [supervisely_object("polygon", [[0, 0], [9, 0], [0, 9]], [[[1, 1], [3, 1], [1, 3]]])]
    objects += [supervisely_object("bitmap", [], **packed), supervisely_object("rectangle", [[3, 4], [9, 9]])]
    supervisely_file(base / "supervisely/ds0/ann/a.png.json", objects, {"name": "train", "value": None})
    cells = {"bbox": [[3, 4, 17, 26]], "categories": ["cat"], "segmentation": [[[1, 1, 9, 1, 9, 9]]]}
    write_huggingface(base / "huggingface", {"file_name": "a.png", "objects": cells, "label": "x", "width": 60})


def nested(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


numbers = st.integers() | st.floats() | st.sampled_from([1e308, -1e308, 10**30, 0, -1, 2**31, 2**63, 1e-300])
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=5) | st.just("\ud800") | st.builds(nested, st.just(200)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


def places(value, here=()) -> list[tuple]:
    """The paths to all parts of a JSON value."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(place for key, part in parts for place in places(part, (*here, key)))]


def changed(value, place: tuple, new, delete: bool):
    """The JSON value with another part, or without it."""
    if not place:
        return new
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    if delete:
        del inner[place[-1]]
    else:
        inner[place[-1]] = new
    return value


texts = (
    st.text(max_size=6)
    | numbers.map(str)
    | st.sampled_from(["NaN", "-inf", "1,2;3,4;5,6", "0,6", "9" * 5000, "\u0661"])
)


WRONG = [
    lambda text: b"",
    lambda text: codecs.BOM_UTF8 + text,
    lambda text: codecs.BOM_UTF8,
    lambda text: text.decode().encode("utf-16"),
    lambda text: text.decode().encode("utf-32-le"),
    lambda text: text.replace(b"a", "ä".encode("latin-1")),
    lambda text: text.replace(b"a", b"\0"),
    lambda text: text.replace(b'": "', b'": "\x80'),
    lambda text: text[: len(text) // 2],
    lambda text: text + text,
    lambda text: b"[" * 1000 + b"]" * 1000,
    lambda text: b'{"shapes":' * 1000 + b"1" + b"}" * 1000,
    lambda text: b"<annotation>" * 1000 + b"</annotation>" * 1000,
    lambda text: b'<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/hostname">]><annotation>&e;</annotation>',
    lambda text: b'<!DOCTYPE a [<!ENTITY e "' + b"x" * 99 + b'">]><annotations><image name="&e;"/></annotations>',
    lambda text: b"null",
    lambda text: text.replace(b"a", b"\x1b[31ma\x9b"),
    lambda text: text.replace(b" 0.5", b" 0.5 0.93 3 0.1 0.2 2"),
    lambda text: text.replace(b'"bbox"', b'"bbox": ["a"], "b"').replace(b'"image_id"', b'"image_id": null, "i"', 1),
    lambda text: text.replace(b'"cat"', b'"_background_"', 1).replace(b'"cat"', b'"__ignore__"', 1),
    lambda text: b"a: &a [x, x]\nb: &b [" + b"*a, " * 20 + b"]\ntrain: [" + b"*b, " * 20 + b"]\nnames: *b\n" + text,
    lambda text: b"\x89PNG\r\n\x1a\n",
]


def some_coco() -> dict:
    """COCO with polygons, run lengths of both kinds, a crowd, a label, a category without annotations."""
    images = [{"id": n, "file_name": f"{n}.png", "width": 60, "height": 40} for n in (1, 2)]
    run_lengths = {"size": [40, 60], "counts": [100, 50, 2250]}
    segmentations = [[[3, 4, 20, 4, 20, 30]], run_lengths, {"size": [40, 60], "counts": "T3b0`20O10"}, []]
    annotations = [
        {"id": n, "image_id": 1 + n % 2, "category_id": 7, "bbox": [3, 4, 17, 26], "segmentation": s, "iscrowd": n == 1}
        for n, s in enumerate(segmentations)
    ]
    annotations.append({"id": 9, "image_id": 2, "category_id": 8})
    categories = [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_some_coco(directory: Path) -> None:
    directory.mkdir()
    (directory / "annotations.json").write_text(json.dumps(some_coco()))


@st.composite
def broken(draw, files: dict[str, bytes]) -> dict[str, bytes]:
    """The files of a source with one of them damaged; where all are images, with other names."""
    names = sorted(name for name in files if not name.endswith(".png") or "masks/" in name)
    if not names:
        return {_other_name(draw, name): data for name, data in files.items()}
    name = draw(st.sampled_from(names))
    ways = [_bytes, _words, _wrong, *(way for suffix, way in OF_KIND.items() if name.endswith(suffix))]
    return {**files, name: draw(st.sampled_from(ways))(draw, files[name])}


def _other_name(draw, name: str) -> str:
    parts = [draw(st.just(part) | file_names) for part in name.split("/")]
    return "/".join(draw(st.permutations(parts))) + draw(st.sampled_from(["", ".png", "/a.png"]))


file_names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=9)


def _json(draw, data: bytes) -> bytes:
    """Values of other types, or parts missing."""
    said = json.loads(data)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(places(said)))
        said = changed(said, place, draw(anything), draw(st.booleans()))
    return json.dumps(said).encode()


def _xml(draw, data: bytes) -> bytes:
    """Other values, or parts missing."""
    root = etree.fromstring(data)
    for _ in range(draw(st.integers(1, 3))):
        element = draw(st.sampled_from(list(root.iter(etree.Element))))
        action = draw(st.sampled_from(["text", "attribute", "delete", "entity", "deep"]))
        if action == "deep":
            element.append(etree.fromstring("<x>" * 200 + "</x>" * 200))
        elif action == "entity":
            element.append(etree.Entity("e"))
        elif action == "delete" and element.getparent() is not None:
            element.getparent().remove(element)
        else:
            text = "".join(c for c in draw(texts) if c.isprintable() or c == " ")
            if action == "text" or not element.attrib:
                element.text = text
            else:
                element.set(draw(st.sampled_from(sorted(element.attrib))), text)
    return etree.tostring(root)


def _rows(draw, data: bytes) -> bytes:
    """Records of odd values."""
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(draw(st.lists(odd_record, max_size=4)), schema=SCHEMA), file)
    return file.getvalue()


def _bytes(draw, data: bytes) -> bytes:
    """Some bytes changed."""
    text = bytearray(data or b"x")
    for _ in range(draw(st.integers(1, 4))):
        text[draw(st.integers(0, len(text) - 1))] = draw(st.integers(0, 255))
    return bytes(text)


def _words(draw, data: bytes) -> bytes:
    """Some words or numbers replaced, doubled or left out."""
    parts = re.split(r"(\w[\w.-]*)", data.decode("latin-1"))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(parts) - 1))
        parts[place] = draw(st.just("") | st.just(parts[place] * 2) | texts)
    return "".join(parts).encode("utf-8", "surrogatepass")


def _wrong(draw, data: bytes) -> bytes:
    """In another encoding, cut off, nested too deeply, or of another kind."""
    way = draw(st.sampled_from(WRONG))
    try:
        return way(data)
    except UnicodeError:  # of a Parquet file
        return data[: len(data) // 2]


OF_KIND = {".json": _json, ".jsonl": _json, ".yaml": _json, ".xml": _xml, ".parquet": _rows}
