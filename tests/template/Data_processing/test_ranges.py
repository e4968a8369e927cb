"""Images of more than 8 bits are read with the range that their source states, and asked for where they need one."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from Datasets.format.curated import Curated
from tests.template.conftest import refused, succeeded
from tests.template.Data_processing.sources import SIZE, picture, write_coco
from tests.template.Data_processing.stages import clean, curate, stage, take_in

CAT = [("cat", 3, 4, 20, 30)]
NAMES = tuple(f"{number}.{suffix}" for number, suffix in enumerate(("png", "tif", "png", "tif", "png", "tif")))


def write_deep(directory, kind: str, brightest: float, darkest: float = 0, names=NAMES):
    """A COCO source of grey images of `kind` whose values are `darkest` to `brightest`."""
    write_coco(directory, {name: CAT for name in names})
    for number, name in enumerate(names):
        values = np.asarray(Image.open(io.BytesIO(picture(number))).convert("L"), np.float64)
        values = (values - values.min()) / (values.max() - values.min()) * (brightest - darkest) + darkest
        pixels = (values if kind == "<f4" else np.rint(values)).astype(kind)
        (directory / "images" / name).unlink()
        Image.fromarray(pixels).save(directory / "images" / name)
    return directory


def run_clean(tmp_path, sources: dict):
    """Import, inspect and clean. sources: by name, the directory and the range."""
    for name, (path, stated) in sources.items():
        take_in(tmp_path, name, path, "coco", *(word for value in stated for word in ("--range", value)))
    return clean(tmp_path, *sources)


@pytest.mark.parametrize(
    ("kind", "darkest", "brightest", "line"),
    [
        ("<u2", 0, 4071, "`range: [0, 4095]`"),
        ("<u2", 0, 300, "`range: [0, 511]`"),
        ("<f4", -1, 1, "`range: [-1, 1]`"),
        ("<i4", -1000, 2000, "`range: [-1000, 2047]`"),
    ],
)
def test_a_range_is_asked_for_with_the_line_to_write(tmp_path, kind, darkest, brightest, line):
    names = NAMES[1::2]  # TIFF
    done = run_clean(tmp_path, {"s": (write_deep(tmp_path / "s", kind, brightest, darkest, names), [])})
    refused(done, "sources.s", names[0], line, "`range: image`")


@pytest.mark.parametrize(("kind", "brightest"), [("<u2", 65_000), ("<f4", 0.9)])
def test_a_whole_range_needs_no_option(tmp_path, kind, brightest):
    succeeded(run_clean(tmp_path, {"s": (write_deep(tmp_path / "s", kind, brightest, 0, NAMES[1::2]), [])}))


def test_the_range_goes_with_the_curated_dataset_and_what_does_not_fit_is_rejected(tmp_path):
    source = write_deep(tmp_path / "s", "<u2", 4095)
    Image.fromarray(np.full(SIZE[::-1], 4096, np.uint16)).save(source / "images/0.png")
    done = run_clean(tmp_path, {"s": (source, [0, 4095])})
    refused(done, "1 of 6 images rejected", "value range", "4096", "`range`")
    (source / "images/0.png").write_bytes((source / "images/2.png").read_bytes())
    succeeded(run_clean(tmp_path, {"s": (source, [0, 4095])}))
    rows = pq.read_table(tmp_path / "inspected/s.parquet").to_pylist()
    assert {(row["lowest"], row["highest"], row["mode"]) for row in rows} == {(0, 4095, "I;16")}
    assert min(row["brightness"] for row in rows) > 60
    succeeded(curate(tmp_path, "--train", "0.4", "--val", "0.3", "--test", "0.3"))
    assert Curated(tmp_path / "curated").value_range == [0, 4095]


def test_sources_must_agree_and_images_of_eight_bits_do_not_mind(tmp_path):
    deep = [write_deep(tmp_path / name, "<u2", 4000 + number) for number, name in enumerate("ab")]
    plain = write_coco(tmp_path / "p", {f"p{number}.png": CAT for number in range(3)})
    done = run_clean(tmp_path, {"a": (deep[0], [0, 4095]), "p": (plain, []), "b": (deep[1], ["image"])})
    refused(done, "sources.a", "sources.b", "4095", "image")
    succeeded(run_clean(tmp_path, {"a": (deep[0], [0, 4095]), "p": (plain, []), "b": (deep[1], [0, 4095])}))


@pytest.mark.parametrize("stated", [["0"], ["9", "0"], ["0", "nan"], ["dark", "bright"]])
def test_a_range_that_is_none_is_refused(tmp_path, stated):
    options = [word for value in stated for word in ("--range", value)]
    write_coco(tmp_path / "s", {"a.png": CAT})
    common = ("--source", "s", "--path", tmp_path / "s", "--format", "coco", "--out", tmp_path / "s.parquet")
    refused(stage("Data_processing.import_source", *common, *options), "range", "`image`")
