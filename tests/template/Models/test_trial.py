"""What an experiment is tried on; that it then trains, evaluates and exports, tests/contract shows."""

import pytest

from Datasets.format.curated import Curated
from Datasets.format.records import SPLITS
from Models.experiment import write_few
from Models.learning.data_loading import Samples
from tests.template.conftest import refused, stage
from tests.template.Models.shape_scenes import write_scenes


def labels_first(split, number, record, files):
    """The first images have labels alone, the next no objects."""
    if number < 6:
        record["labels"], record["boxes"], record["mask"] = [box["name"] for box in record["boxes"]][:1], None, None
    elif number < 13:
        record["boxes"], record["mask"] = [], None


@pytest.mark.parametrize("task", ["boxes", "mask", "labels", "counts"])
def test_the_few_images_are_those_that_the_model_can_learn_from(tmp_path, task):
    written = write_scenes(tmp_path / "written", dict.fromkeys(SPLITS, 20), change=labels_first)
    write_few(written, tmp_path / "few", task, 6)
    samples = Samples(Curated(tmp_path / "few"), "train", 48, task)
    assert len(samples) == 6 and all(record[task] for record in samples.records)


def test_what_cannot_be_tried_is_reported_in_one_line(tmp_path):
    refused(stage("Models.experiment", "try", "e001", "--curated", tmp_path), "classes.json: not found")
    refused(stage("Models.experiment", "try", "e999"), "has no experiment 'e999'; it has: e001, ")
