"""What annotation programs write goes through import, inspect and clean, the same from a directory or an archive."""

import codecs

import pytest

from Datasets.tools.errors import UserError
from tests.template.conftest import refused, succeeded
from tests.template.Data_processing.annotated import BOX, WRITERS, corners, rows_of
from tests.template.Data_processing.sources import pack
from tests.template.Data_processing.stages import accepted, stage
from tests.template.Data_processing.stages import take_in_and_clean as clean

FORMS = pytest.mark.parametrize("form", WRITERS)


@FORMS
def test_the_same_records_from_a_directory_and_from_archives(tmp_path, form):
    directory = WRITERS[form](tmp_path / "s")
    rows = rows_of(directory, form)
    assert sorted((row.image.rpartition("/")[2], tuple(corners(row))) for row in rows.values()) == [
        ("a.png", (("cat", *BOX),)),
        ("b.png", ()),
    ]
    assert all(not row.problems for row in rows.values())
    for archive in ("all.zip", "all.tar", "all.tar.gz"):
        assert rows_of(pack(directory, tmp_path / archive), form) == rows


@FORMS
def test_records_go_through_inspect_and_clean(tmp_path, form):
    source = pack(WRITERS[form](tmp_path / "s"), tmp_path / "s.zip")
    succeeded(clean(source, tmp_path, form=form))
    found = {image.rpartition("/")[2]: row for image, row in accepted(tmp_path).items()}
    assert set(found) == {"a.png", "b.png"}
    (box,) = found["a.png"]["boxes"]
    assert [round(box[key], 3) for key in ("x1", "y1", "x2", "y2")] == list(BOX)
    assert found["b.png"]["boxes"] == []


@FORMS
def test_a_byte_order_mark_and_hidden_files_do_not_matter(tmp_path, form):
    directory = WRITERS[form](tmp_path / "s")
    rows = rows_of(directory, form)
    for file in [file for file in directory.rglob("*") if file.suffix in (".json", ".xml")]:
        file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7")
    assert rows_of(directory, form) == rows


@FORMS
def test_a_source_without_annotations_is_refused_in_one_line(tmp_path, form):
    (tmp_path / "s").mkdir()
    with pytest.raises(UserError, match="annotations"):
        rows_of(tmp_path / "s", form)
    options = ("--source", "s", "--path", tmp_path / "s", "--out", tmp_path / "out.parquet", "--format", form)
    refused(stage("Data_processing.import_source", *options), str(tmp_path / "s"))
