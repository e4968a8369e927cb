"""A folder for each class, with or without folders of splits above."""

import pytest

from Datasets.tools.errors import UserError
from tests.template.Data_processing.test_import_formats import imported, write


def rows(root, *names, **options) -> dict:
    found = imported(write(root, dict.fromkeys(names, b"")), "folders", **options)
    return {row.image: (row.labels, row.split) for row in found}


def test_the_class_is_the_folder_and_what_lies_deeper_belongs_to_it(tmp_path):
    found = rows(tmp_path, "cat/a.jpg", "dog/day 1/b.PNG", "top.jpg", "cat/notes.txt", ".cache/c.jpg")
    assert found == {
        "cat/a.jpg": (["cat"], None),
        "dog/day 1/b.PNG": (["dog"], None),
        "top.jpg": (None, None),
    }


def test_splits_lie_above_the_classes(tmp_path):
    names = ("train/cat/a.jpg", "valid/cat/b.jpg", "test/dog/c.jpg", "test/d.jpg", "e.jpg")
    assert rows(tmp_path, *names) == {
        "train/cat/a.jpg": (["cat"], "train"),
        "valid/cat/b.jpg": (["cat"], "val"),
        "test/dog/c.jpg": (["dog"], "test"),
        "test/d.jpg": (None, "test"),
        "e.jpg": (None, None),
    }


def test_a_class_may_be_called_like_a_split(tmp_path):
    assert rows(tmp_path, "bus/a.jpg", "train/b.jpg")["train/b.jpg"] == (["train"], None)


def test_the_root_is_an_option(tmp_path):
    for folder in ("data", ".hidden"):
        found = rows(tmp_path, f"{folder}/cat/a.jpg", "docs/b.png", images=folder)
        assert found == {f"{folder}/cat/a.jpg": (["cat"], None)}


@pytest.mark.parametrize(
    ("names", "options", "part"),
    [
        (["a.txt"], {}, "no images"),
        (["cat/a.jpg"], {"images": "data"}, "no images in the folder data"),
        (["a.jpg"], {}, "no class folders"),
        (["train/a.jpg", "test/b.jpg"], {}, "no class folders"),
        (["train/cat/a.jpg", "extra/cat/b.jpg"], {}, "train would be a split, but extra beside it none"),
        (["images/a.jpg", "masks/a.png"], {}, "masks/a.png and its like look like masks"),
        (["train/Image/a.jpg", "train/other/b.png"], {}, "Image is a folder"),
        (["cat/a.jpg"], {"annotations": "a.txt"}, "`annotations`"),
    ],
)
def test_folders_that_say_nothing_are_refused_in_one_line(tmp_path, names, options, part):
    with pytest.raises(UserError, match=part):
        rows(tmp_path, *names, **options)
