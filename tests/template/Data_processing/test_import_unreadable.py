"""What cannot be read is named with the file and the true reason, and no delivery takes more memory than it should."""

import json
import zipfile
import zlib

import pytest

from Data_processing.adding.recognise import recognise
from Data_processing.shared.files import MissingFile, open_source
from Data_processing.shared.imported import ImportOptions
from Datasets.tools.errors import UserError
from tests.template.Data_processing.sources import pack, picture, write_coco, write_voc

CAT = {"a.png": [("cat", 3, 4, 20, 30)], "b.png": []}


def refusal(path) -> str:
    with pytest.raises(UserError) as error:
        recognise(open_source(path), ImportOptions(), None, lambda *_: 0)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def zipped(path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("d.7z", b"7z\xbc\xaf\x27\x1c" + b"x" * 600, "7-Zip"),
        ("d.rar", b"Rar!\x1a\x07\x01\x00" + b"x" * 600, "RAR"),
        ("d.tar.zst", b"\x28\xb5\x2f\xfd" + b"x" * 600, "Zstandard"),
        ("renamed.zip", b"Rar!\x1a\x07\x00" + b"x" * 600, "RAR"),
        ("d.tar", b"x" * 2000, "cut off"),
    ],
)
def test_archives_of_other_programs_are_named_by_what_they_begin_with(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    assert says in refusal(tmp_path / name)
    assert "directory" in refusal(tmp_path / name)


@pytest.mark.parametrize(("place", "value", "says"), [(6, 1, "encrypted"), (8, 9, "Deflate64")])
def test_members_that_python_cannot_unpack_are_named(tmp_path, place, value, says):
    data = bytearray(zipped(tmp_path / "d.zip", {"a.json": b"{}" * 99}).read_bytes())
    directory = data.index(b"PK\x01\x02")
    data[place] = data[directory + place + 2] = value
    (tmp_path / "d.zip").write_bytes(data)
    assert "a.json is " in refusal(tmp_path / "d.zip") and says in refusal(tmp_path / "d.zip")


def test_a_damaged_or_cut_off_annotation_file_is_named_and_never_hidden_by_folders(tmp_path):
    folders = {f"{name}/{number}.png": picture(number) for name in ("cat", "dog") for number in range(2)}
    coco = json.dumps({"images": [], "annotations": [], "categories": []}).encode()
    data = zipped(tmp_path / "crc.zip", {**folders, "train.json": coco}, zipfile.ZIP_STORED).read_bytes()
    (tmp_path / "crc.zip").write_bytes(data.replace(b'"images"', b'"imagez"', 1))
    assert "train.json" in refusal(tmp_path / "crc.zip") and "CRC" in refusal(tmp_path / "crc.zip")
    cut = zipped(tmp_path / "cut.zip", {**folders, "train.json": coco[:20]})
    assert "train.json: not JSON" in refusal(cut) and "cut off" in refusal(cut)


def test_text_in_another_encoding_is_named(tmp_path):
    voc = write_voc(tmp_path / "voc", CAT)
    for file in (voc / "Annotations").iterdir():
        file.write_bytes(file.read_text().encode("utf-16"))
    assert "Annotations/a.xml: is in UTF-16" in refusal(voc)


def test_an_archive_inside_the_delivery_is_named(tmp_path):
    source = write_coco(tmp_path / "inner", CAT)
    inner = pack(source, tmp_path / "inner.zip").read_bytes()
    assert "all/inner.zip" in refusal(zipped(tmp_path / "outer.zip", {"all/inner.zip": inner}))
    beside = {"annotations.json": (source / "annotations.json").read_bytes(), "images.zip": inner}
    told = refusal(zipped(tmp_path / "beside.zip", beside))
    assert "none of its images" in told and "images.zip" in told and "unpack it first" in told


def test_a_member_that_unpacks_to_gigabytes_is_refused_before_and_while_it_is_read(tmp_path, monkeypatch):
    path = zipped(tmp_path / "bomb.zip", {"a.json": b"[" + b" " * 2**20 + b"]"})
    assert open_source(path).read("a.json")
    monkeypatch.setattr("Data_processing.shared.files.UNPACKED", 2**19)
    with pytest.raises(MissingFile, match=r"a\.json unpacks to 1048578 bytes.*FOURFOLD_MAX_UNPACKED"):
        open_source(path).read("a.json")
    assert "unpacks to 1048578 bytes" in refusal(path)
    tar = pack(write_coco(tmp_path / "d", {"a.png": []}), tmp_path / "d.tar.gz")
    assert open_source(tar).read("annotations.json")
    monkeypatch.setenv("FOURFOLD_MAX_UNPACKED", "10")
    with pytest.raises(MissingFile, match=r"annotations\.json unpacks to"):
        open_source(tar).read("annotations.json")
    monkeypatch.delenv("FOURFOLD_MAX_UNPACKED")
    data = path.read_bytes()  # a size that is stated too low
    size, lie = (2**20 + 2).to_bytes(4, "little"), (99).to_bytes(4, "little")
    path.write_bytes(data.replace(size, lie))
    with pytest.raises(MissingFile, match="CRC"):
        open_source(path).read("a.json")


def test_what_compresses_well_needs_no_option(tmp_path, monkeypatch):
    monkeypatch.setattr("Data_processing.shared.files.UNPACKED", 100)
    coco = json.dumps([{"id": zlib.crc32(bytes([n % 250, n // 250]))} for n in range(2000)]).encode()
    assert open_source(zipped(tmp_path / "d.zip", {"a.json": coco})).read("a.json") == coco
