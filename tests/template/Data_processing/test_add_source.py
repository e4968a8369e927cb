"""Adding a source: every format is recognised, doubt is a question, and all happens or nothing."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from Data_processing.add_source import entry_of, open_project, try_import
from Data_processing.adding.project import with_dependencies
from Data_processing.adding.recognise import recognise
from Data_processing.curating.duplicates import compile_pattern, own_key, with_copies
from Data_processing.import_source import main as import_source
from Data_processing.shared.files import open_source
from Data_processing.shared.imported import ImportOptions
from Datasets.format.curated import ORIGINS
from Datasets.tools.errors import UserError
from Datasets.tools.params import with_entry
from tests.template.conftest import ROOT, copy_checkout, edit_params, has_ended, refused, run_in, succeeded, until
from tests.template.Data_processing import test_import_formats
from tests.template.Data_processing.annotated import read_imported
from tests.template.Data_processing.sources import pack, picture, write_coco, write_voc
from tests.template.Data_processing.stages import stage
from tests.template.Data_processing.test_import_formats import write

MODULE = "Data_processing.add_source"
BOXES = {f"{n}.png": [("cat", 3, 4, 30, 36)] for n in range(6)}


def found(path: Path, form=None, **options) -> dict:
    """The entry of params.yaml without its path, and without its format if that is all."""
    guess, needed = recognise(open_source(path), ImportOptions(**options), form, pytest.fail)
    entry = entry_of(guess.format, Path("x"), needed)
    del entry["path"]
    return entry


@pytest.fixture
def bare(tmp_path) -> Path:
    """As much of a project as the command looks at, without a repository."""
    files = {"params.yaml": (ROOT / "params.yaml").read_bytes(), "dvc.yaml": (ROOT / "dvc.yaml").read_bytes()}
    root = write(tmp_path / "bare", {**files, ".dvc/config": ""})
    write(root, {"Datasets/raw/.gitignore": (ROOT / "Datasets/raw/.gitignore").read_bytes()})
    return root


def state(root: Path) -> dict[str, bytes | None]:
    """Every file with its content, but for DVC's own."""
    paths = [path for path in root.rglob("*") if not path.is_relative_to(root / ".dvc")]
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in paths}


def add(root: Path, *words: str | Path):
    return stage(MODULE, *words, cwd=root)


def added(root: Path, *words: str | Path):
    """The same by a process of its own, which DVC needs."""
    return run_in(root, sys.executable, "-m", MODULE, *words, PYTHONPATH=str(ROOT))


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotations", "images"),
        ("VOCdevkit/VOC2012/Annotations", "VOCdevkit/VOC2012/JPEGImages"),
        ("labels", ""),
        (".", "."),
    ],
)
def test_the_folders_of_voc_are_found(tmp_path, annotations, images):
    (tmp_path / "s").mkdir()
    source = tmp_path / "s"
    written = write_voc(tmp_path / "w", BOXES)
    shutil.copytree(written / "Annotations", source / annotations, dirs_exist_ok=True)
    shutil.copytree(written / "JPEGImages", source / images, dirs_exist_ok=True)
    assert found(source) == {"format": "voc", "annotations": annotations}
    held = try_import(open_source(source), "s", "voc", ImportOptions(annotations=annotations))
    assert (held.found, held.folder) == (6, "" if images == "." else images)


def test_the_folder_annotations_of_voc_is_meant_where_all_its_files_lie_deeper(tmp_path):
    for folder in ("Annotations", "JPEGImages"):
        written = write_voc(tmp_path / "w" / folder, BOXES) / folder
        shutil.copytree(written, tmp_path / "s" / folder / "cam1")
    write(tmp_path / "s", {"ImageSets/Main/train.txt": "cam1/0\ncam1/1.png\n"})
    assert found(tmp_path / "s") == {"format": "voc"}
    assert try_import(open_source(tmp_path / "s"), "s", "voc", ImportOptions()).splits == {"train": 2}


def test_splits_as_folders_of_voc_are_one_source(tmp_path):
    for split in ("train", "valid"):
        voc = write_voc(tmp_path / "w" / split, {f"{split}.png": [("cat", 3, 4, 9, 9)]})
        for folder in ("Annotations", "JPEGImages"):
            shutil.copytree(voc / folder, tmp_path / "s" / split, dirs_exist_ok=True)
    assert found(tmp_path / "s") == {"format": "voc", "annotations": "."}


def test_masks_of_voc_are_not_taken_for_its_images(tmp_path):
    source = write_voc(tmp_path / "VOC2012", BOXES)
    shutil.copytree(source / "JPEGImages", source / "SegmentationClass")
    shutil.move(source / "JPEGImages", source / "pictures")
    archive = pack(tmp_path, tmp_path.parent / f"{tmp_path.name}.zip")
    assert found(archive) == {"format": "voc", "annotations": "VOC2012/Annotations"}
    options = ImportOptions(annotations="VOC2012/Annotations")
    assert try_import(open_source(archive), "s", "voc", options).folder == "VOC2012/pictures"


@pytest.mark.parametrize(
    ("names", "entry"),
    [
        (["cat/a.png", "dog/b.png"], {}),
        (["set/cat/a.png", "set/dog/b.png"], {"images": "set"}),
        (["set/train/cat/a.png", "set/test/cat/b.png"], {"images": "set"}),
        (["train/cat/a.png", "train/dog/b.png"], {}),
    ],
)
def test_folders_around_the_classes_are_left_out(tmp_path, names, entry):
    write(tmp_path, {name: picture(seed) for seed, name in enumerate(names)})
    assert found(tmp_path) == {"format": "folders", **entry}


def test_a_table_about_something_else_does_not_hide_folders(tmp_path):
    write(tmp_path, {"cat/a.png": picture(1), "dog/b.png": picture(2), "licences.csv": "image,licence\na.png,CC0\n"})
    assert found(tmp_path) == {"format": "folders"}


def test_one_folder_of_images_is_a_class_only_if_told(tmp_path):
    write(tmp_path, {"cats/a.png": picture(1), "cats/b.png": picture(2)})
    with pytest.raises(UserError, match=r"no annotation format .*2 \.png.*--format"):
        found(tmp_path)
    assert found(tmp_path, form="folders") == {"format": "folders"}


def test_a_curated_dataset_is_recognised_by_its_shards(curated):
    assert (curated / ORIGINS).exists()
    assert found(curated) == {"format": "parquet"}
    rows = test_import_formats.imported(curated, "parquet")
    assert {row.image.partition("/")[0] for row in rows} == {"digits"}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.xml", "<annotations><track id='0' label='cat'/></annotations>", "looks like cvat .*: it has tracks"),
        ("a.json", '{"images": [], "annotations": []}', "looks like coco .*required field `categories`"),
        ("a.json", '[{"id": 1, "image": "/a.png", "annotation_id": 1}]', "label_studio .*and not as JSON-MIN"),
        ("a.json", '{"id": 1, "result": [], "task": {"id": 1}}', "label_studio .*got `object`"),
        ("a.json", '{"images": 1, "x": 2}', "no annotation format is recognised"),
    ],
)
def test_what_is_nearly_a_format_is_refused_with_the_reason(tmp_path, name, text, says):
    write(tmp_path, {name: text, "a.png": picture(1)})
    with pytest.raises(UserError, match=says):
        found(tmp_path)
    write(tmp_path, {"cat/b.png": picture(1), "dog/c.png": picture(2)})
    with pytest.raises(UserError, match=f"{says}|{name} names images and would not be read"):
        found(tmp_path)
    (tmp_path / name).unlink()
    assert found(tmp_path)["format"] == "folders"


def test_a_table_is_recognised_with_its_columns(tmp_path):
    write(tmp_path, {"t.csv": "file,kind\na.png,cat\n", "a.png": picture(1)})
    with pytest.raises(UserError, match=r"set `columns: \[label"):
        found(tmp_path)
    columns = {"image": "file", "label": "kind"}
    assert found(tmp_path, form="csv", columns=columns) == {
        "format": "csv",
        "columns": ["image=file", "label=kind"],
    }


def doubtful(root: Path, doubt: str) -> Path:
    """A delivery of which two things could be meant."""
    source = write_coco(root, BOXES)
    if doubt == "--format":
        write_voc(root, BOXES)
        shutil.rmtree(root / "JPEGImages")
    elif doubt == "--annotations":
        shutil.copy(root / "annotations.json", root / "second.json")
    else:
        shutil.copytree(root / "images", root / "large")
    return source


DOUBTS = {
    "--format": ("coco", "voc"),
    "--annotations": ("annotations.json", "second.json"),
    "--images": ("images", "large"),
}


@pytest.mark.parametrize("option", DOUBTS)
def test_doubt_without_a_terminal_names_the_option_which_then_settles_it(bare, tmp_path, option):
    source = doubtful(tmp_path / "s", option)
    before = state(bare)
    refused(add(bare, "s", source, "--dry-run"), *DOUBTS[option], option)
    for answer in DOUBTS[option]:
        told = succeeded(add(bare, "s", source, "--dry-run", option, answer)).stdout
        assert f"{option[2:]}: {answer}\n" in told
    assert state(bare) == before


def test_doubt_on_a_terminal_is_a_numbered_question(bare, tmp_path):
    ours, theirs = pty.openpty()
    source = doubtful(tmp_path / "s", "--annotations")
    command = [sys.executable, "-m", MODULE, "s", source, "--dry-run"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=bare, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    said = _until(ours, "number")
    shown = dict(line.split()[:2] for line in said.splitlines() if line.startswith("  "))
    os.write(ours, b"9\n")  # no answer
    said = _until(ours, "number", _until(ours, "one of 1 to 2"))
    os.write(ours, b"2\n")
    said = _until(ours, "nothing was changed")
    assert process.wait(timeout=60) == 0
    os.close(ours)
    assert f"annotations: {shown['2']}" in said


def _until(terminal: int, end: str, said: str = "") -> str:
    """What a terminal shows up to a text."""
    deadline = time.monotonic() + 60
    while end not in said:
        assert select.select([terminal], [], [], deadline - time.monotonic())[0], said
        said += os.read(terminal, 4096).decode()
    return said


def test_what_is_there_is_counted_and_a_name_that_is_nearly_right_is_not_the_sources(bare, tmp_path):
    source = write_coco(tmp_path / "s", {**BOXES, "empty.png": []})
    (source / "images/0.png").rename(source / "images/0.PNG")
    (source / "images/more.png").write_bytes(picture(70))
    told = succeeded(add(bare, "pets", source, "--dry-run")).stdout
    assert "such as images/0.PNG for images/0.png" in told
    assert "  pets:\n    format: coco\n" in told
    assert "; 1 with nothing on them; 1 others, such as images/more.png, have no annotation\n" in told


@pytest.mark.parametrize("name", ["", "no-cats", "a/b", "digits"])
def test_a_name_that_is_none_or_taken_is_refused(bare, monkeypatch, name):
    monkeypatch.chdir(bare)
    with pytest.raises(UserError, match="a name has letters" if name != "digits" else "sources has 'digits' already"):
        open_project(name)
    if name != "digits":  # the import stage says the same
        with pytest.raises(UserError, match="a name has letters"):
            import_source(name, "coco", Path("x"), Path("y"))


MISTAKES = {
    "[keep]": "Expected `object | null`, got `array` - at `$.clean`",
    "{rename: 5}": "Expected `array | null`, got `int` - at `$.clean.rename`",
    "{rename: [bad]}": "clean.rename: 'bad' is not of the form OLD=NEW",
    "{keep: [{cat: 1}]}": "got `object` - at `$.clean.keep[0]`",
}


def test_what_cannot_be_added_is_refused_and_changes_nothing(bare, tmp_path):
    source = write_coco(tmp_path / "s", BOXES)
    refused(add(bare, "s", tmp_path / "nowhere"), "nowhere", "no such file")
    refused(add(bare, "s", bare), "Datasets/raw is in it")
    write(tmp_path, {"cut.zip": b"PK"})
    refused(add(bare, "s", tmp_path / "cut.zip"), "no whole .zip")
    write(bare, {"Datasets/raw/s/other.txt": "mine"})
    shutil.copytree(source, bare / "Datasets/raw/a$(touch x)")
    refused(add(bare, "t", bare / "Datasets/raw/a$(touch x)"), "cannot stand in a command; rename it")
    before = state(bare)
    refused(add(bare, "s", source), "Datasets/raw/s: is there already")
    for end in ("/etc", "out"):
        (source / "out").symlink_to(end)
        refused(add(bare, "t", source), "leads to no file inside")
        (source / "out").unlink()
    os.mkfifo(source / "pipe")
    refused(add(bare, "t", source), "neither a file nor a directory")
    assert state(bare) == before
    (source / "pipe").unlink()
    for line, says in MISTAKES.items():
        (bare / "params.yaml").write_text(f"sources: {{}}\nclean: {line}\n")
        refused(add(bare, "t", source), "params.yaml: ", says)
        assert (bare / "params.yaml").read_text() == f"sources: {{}}\nclean: {line}\n"
    (bare / "params.yaml").write_text("sources:\n")  # as is left where the last entry was deleted
    refused(add(bare, "t", source), "params.yaml: sources: has no entry", "write `sources: {}`")
    assert state(bare).keys() == before.keys()
    shutil.rmtree(bare / ".dvc")
    refused(add(bare, "t", source), "DVC is not initialised")
    (bare / "params.yaml").write_text("sources: [")
    (bare / ".dvc").mkdir()
    refused(add(bare, "t", source), "params.yaml: not YAML")
    (bare / "params.yaml").write_text("sources:\n<<<<<<< HEAD\n  a: {}\n=======\n  b: {}\n>>>>>>> other\n")
    refused(add(bare, "t", source), "params.yaml: a merge left a conflict in it; keep the lines of both sides")


def test_a_failing_dvc_add_leaves_nothing(bare, tmp_path):
    source = pack(write_coco(tmp_path / "s", BOXES), tmp_path / "all.tar.gz")
    before = state(bare), source.read_bytes()
    refused(added(bare, "t", source), "dvc add Datasets/raw/t")
    assert (state(bare), source.read_bytes()) == before


@pytest.fixture
def repository(bare) -> Path:
    """The same under git and DVC, with the file that has git ignore what DVC keeps."""
    shutil.rmtree(bare / ".dvc")
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        succeeded(run_in(bare, *command))
    return bare


@pytest.mark.parametrize(("moment", "number", "code"), [("copy", signal.SIGINT, 130), ("add", signal.SIGTERM, 143)])
def test_an_interruption_leaves_nothing(repository, tmp_path, moment, number, code):
    source = write_coco(tmp_path / "s", BOXES)
    size = 200_000_000 if moment == "copy" else 1_000
    with (source / "film.raw").open("wb") as file:
        file.truncate(size)
    before = {name: data for name, data in state(repository).items() if ".git/" not in name}
    command, environment = [sys.executable, "-m", MODULE, "t", source], {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=repository, env=environment, stderr=subprocess.PIPE, text=True)
    running = psutil.Process(process.pid)
    until(lambda: (repository / "Datasets/raw/.t.partial").exists() if moment == "copy" else running.children())
    assert process.poll() is None
    children = running.children(recursive=True)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (code, "interrupted: nothing was added\n")
    until(lambda: all(map(has_ended, children)))
    assert {name: data for name, data in state(repository).items() if ".git/" not in name} == before
    assert (source / "film.raw").stat().st_size == size


def test_a_delivery_in_raw_stays_and_can_be_two_sources(repository):
    source = doubtful(repository / "Datasets/raw/delivery", "--annotations")
    for name in ("annotations", "second"):
        succeeded(added(repository, name, source, "--annotations", f"{name}.json"))
    sources = YAML(typ="safe").load(repository / "params.yaml")["sources"]
    assert [sources[name]["path"] for name in ("annotations", "second")] == ["Datasets/raw/delivery"] * 2
    there = {path.name for path in (repository / "Datasets/raw").iterdir()}
    assert there == {".gitignore", "delivery", "delivery.dvc"}


def test_a_failing_dvc_add_of_a_delivery_in_raw_leaves_that_alone(repository):
    write_coco(repository / "Datasets/raw/delivery", BOXES)
    (repository / ".dvc/config").write_text("[core")
    before = {name: content for name, content in state(repository).items() if ".git/" not in name}
    refused(added(repository, "s", "Datasets/raw/delivery"), "dvc add Datasets/raw/delivery")
    assert {name: content for name, content in state(repository).items() if ".git/" not in name} == before


ENTRY = {"format": "csv", "path": "Datasets/raw/x", "images": "no", "columns": ["image=a b", "label=k"]}
OTHERS = "work:\n    engine:   'local' # quoted\nclean: {keep: [a, \"b\"], min: 0.10}\n"


@pytest.mark.parametrize(
    "text",
    [
        (ROOT / "params.yaml").read_text().replace("\n", "\r\n"),
        f"{OTHERS}sources:\n    a:\n        format: coco # it\n        path: p\n    # the end\n\n# really",
        f"sources:\n  a: {{format: coco, path: p}}\n\n# about work\n{OTHERS}",
        f"sources:\n  a:\n    path: p\n    columns:\n    - x=y # so\n\n{OTHERS}",
        f"sources: {{}} # none yet\n{OTHERS}",
        f"{OTHERS}sources:",
        f"{OTHERS}sources: {{}}",
    ],
)
def test_an_entry_is_added_and_every_other_byte_of_the_parameters_stays(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_bytes(text.encode())
    before = YAML(typ="safe").load(text)
    path.write_bytes(with_entry(path, "sources", "x", ENTRY).encode())
    after = path.read_bytes().decode()
    expected = {**before, "sources": {**(before.get("sources") or {}), "x": ENTRY}}
    assert YAML(typ="safe").load(after) == expected
    assert list(expected["sources"]) == list(YAML(typ="safe").load(after)["sources"])
    kept = after.split("\n")
    lost = [line for line in text.split("\n") if line not in kept]
    assert all(line.startswith("sources") for line in lost)  # the brackets of an empty or one-line mapping
    assert OTHERS.strip() in after or "digits" in text
    assert ("\r\n" in text) == ("\r\n" in after)
    assert after.count("\r") in (0, after.count("\n"))


def test_parameters_that_an_entry_cannot_be_added_to_stay_as_they_are(tmp_path):
    for text in ("base: &s {a: {path: p}}\nsources: *s\n", "sources: {a: {path: p}}\n", "clean: {}\n"):
        path = write(tmp_path, {"params.yaml": text}) / "params.yaml"
        with pytest.raises(UserError, match="write 'x' there"):
            with_entry(path, "sources", "x", ENTRY)
        assert path.read_text() == text


def test_stage_clean_depends_on_each_source_and_every_other_byte_of_dvc_yaml_stays(tmp_path):
    path, text = tmp_path / "dvc.yaml", (ROOT / "dvc.yaml").read_text()
    empty = re.sub(r".*/digits\.parquet.*\n", "", text)
    for before in (text, text.replace("\n", "\r\n"), empty):
        path.write_bytes(before.encode())
        path.write_bytes(with_dependencies(path, "x").encode())
        after = path.read_bytes().decode()
        assert with_dependencies(path, "x") == after
        deps = YAML(typ="safe").load(after)["stages"]["clean"]["deps"]
        new = [f"Data_processing/intermediate/{folder}/x.parquet" for folder in ("imported", "inspected")]
        place = 0 if before is empty else 2
        assert deps[place : place + 2] == new
        assert re.sub(r".*/x\.parquet.*\n", "", after) == before
        assert after.count("\r") in (0, after.count("\n"))
    path.write_text("stages: {clean: {cmd: x, deps: [a]}}\n")
    with pytest.raises(UserError, match="a line for each; write `- Data_processing/intermediate/imported/x.parquet`"):
        with_dependencies(path, "x")


def test_a_reader_of_the_teams_own_is_used_by_its_name(tmp_path):
    checkout = tmp_path / "checkout"
    copy_checkout(checkout)
    folder = checkout / "Data_processing/own_readers"
    example = re.search("```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
    write(folder, {"tagged.py": example})
    source = write(tmp_path / "s", {"a.png": picture(1), "tags.txt": "a.png cat 3 4 30 36\n"})
    told = succeeded(run_in(checkout, "python", "-m", MODULE, "s", source, "--format", "tagged")).stdout
    assert "  s:\n    format: tagged\n    path: Datasets/raw/s\n" in told
    assert "cat 1" in told
    succeeded(run_in(checkout, "dvc", "repro", "-s", "import@s"))
    [row] = read_imported(checkout / "Data_processing/intermediate/imported/s.parquet")
    [box] = row.boxes
    assert (row.image, row.problems, box.name, box.x1, box.y2) == ("a.png", [], "cat", 3, 36)
    other = run_in(checkout, "python", "-m", MODULE, "t", source, "--format", "tags")
    refused(other, "format 'tags'", "no such reader", "coco", "tagged")


def test_a_voc_archive_is_added_beside_the_demonstration(tmp_path):
    checkout = tmp_path / "checkout"
    copy_checkout(checkout)
    archive = pack(write_voc(tmp_path / "cats", BOXES, "my boxes", "images & more"), tmp_path / "Cats 1.zip")
    delivered, params = archive.read_bytes(), (checkout / "params.yaml").read_text()
    told = succeeded(run_in(checkout, "python", "-m", MODULE, "cats", archive)).stdout
    for part in ("voc: 6 XML files in my boxes", "records  6", "6 found", "cat 6", "dvc repro report"):
        assert part in told
    assert "not in clean.keep, so left out as it stands: cat\n" in told
    lines = ("format: voc", "path: Datasets/raw/cats.zip", "annotations: my boxes")
    entry = "".join(["  cats:\n", *(f"    {line}\n" for line in lines)])
    assert entry in told
    assert (checkout / "params.yaml").read_text().replace(entry, "", 1) == params
    assert archive.read_bytes() == delivered
    assert (checkout / "Datasets/raw/cats.zip.dvc").exists()
    status = run_in(checkout, "git", "status", "--short").stdout.split()
    assert status == ["M", "dvc.yaml", "M", "params.yaml", "??", "Datasets/raw/cats.zip.dvc"]


def test_a_read_only_directory_is_added_to_a_project_without_sources(repository, tmp_path):
    edit_params(repository, lambda params: (params.update(sources={}), params["clean"].update(keep=["cat"])))
    pipeline = (repository / "dvc.yaml").read_text()
    (repository / "dvc.yaml").write_text(re.sub(r".*/digits\.parquet.*\n", "", pipeline))
    source = write_coco(tmp_path / "delivery", BOXES)
    (source / "images").chmod(0o555)  # as on a disc
    told = succeeded(added(repository, "cats", source)).stdout
    (source / "images").chmod(0o755)
    assert (repository / "Datasets/raw/cats/images").stat().st_mode & 0o200
    assert "not in clean.keep" not in told
    assert "  cats:\n    format: coco\n    path: Datasets/raw/cats\n" in told
    assert sorted(file.name for file in source.rglob("*.png")) == sorted(BOXES)


def test_what_params_yaml_could_say_for_a_source_is_printed(bare, tmp_path):
    def params(edited: dict) -> None:
        edited["clean"].update(keep=["cat", "person"], rename=["feline=cat"])
        edited["curate"].update(group_pattern="")

    edit_params(bare, params)
    names = {
        f"{n % 3}_jpg.rf.{n:032x}.jpg": [("cats", 3, 4, 30, 36), ("Person", 1, 1, 9, 9), ("bus", 1, 1, 5, 5)]
        for n in range(6)
    }
    source = tmp_path / "s"
    for split in ("train", "valid"):
        write_coco(source / split, names, folder="")
        (source / split / "annotations.json").rename(source / split / "_annotations.coco.json")
    printed = succeeded(add(bare, "s", source, "--dry-run")).stdout
    assert "called nearly as in clean.keep: Person, cats; to take them for the same:" in printed
    assert "`rename: [feline=cat, Person=person, cats=cat]`" in printed
    assert "left out as it stands: bus\n  with them: `keep: [cat, person, bus]`" in printed
    assert "to keep them: `keep_splits: true` in curate" in printed
    pattern = YAML().load(re.search(r"`(group_pattern: .*)`", printed)[1])["group_pattern"]
    keys = {own_key(compile_pattern(pattern), f"train/{name}", "s", None, "0" * 64) for name in names}
    assert keys == {"s/0_jpg", "s/1_jpg", "s/2_jpg"}
    assert with_copies(pattern, [f"train/{name}" for name in names]) == ""
    edit_params(bare, lambda edited: edited["curate"].update(keep_splits=True, group_pattern=pattern))
    refused(add(bare, "s", source, "--corrects", "gone"), "--corrects gone: params.yaml has no such source")
    printed = succeeded(add(bare, "s", source, "--dry-run")).stdout
    assert "keep_splits" not in printed and "group_pattern" not in printed


def test_a_coco_file_an_image_is_one_source(tmp_path):
    for number in range(25):
        write_coco(tmp_path / "w", {f"{number}.png": [("cat", 3, 4, 30, 36)]})
        (tmp_path / "s/ann").mkdir(parents=True, exist_ok=True)
        shutil.move(tmp_path / "w/annotations.json", tmp_path / f"s/ann/{number}.json")
    shutil.move(tmp_path / "w/images", tmp_path / "s/images")
    assert found(tmp_path / "s") == {"format": "coco", "annotations": "ann/*.json"}
    held = try_import(open_source(tmp_path / "s"), "s", "coco", ImportOptions(annotations="ann/*.json"))
    assert (held.records, held.found, held.boxes, held.splits) == (25, 25, 25, {})


def test_a_licence_goes_into_the_entry_and_must_be_allowed(bare, tmp_path):
    source = write_coco(tmp_path / "s", BOXES)
    assert "    license: CC-BY-4.0\n" in succeeded(add(bare, "s", source, "--license", "CC-BY-4.0", "--dry-run")).stdout
    edit_params(bare, lambda params: params.update(licenses={"allow": ["MIT"]}))
    for words, told in ((("--license", "CC-BY-4.0"), "CC-BY-4.0 (of source s)"), ((), "unknown (of source s)")):
        before = state(bare)
        refused(add(bare, "s", source, *words), f"licenses.allow in params.yaml lacks {told}")
        assert state(bare) == before
