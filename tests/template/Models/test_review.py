"""The review of an experiment: suspicious labels, failures, features, and the images to label next."""

import re
import shutil
from base64 import b64encode
from copy import deepcopy

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from test_evaluation import predicted, truth_of

from Datasets.format.curated import Curated
from Datasets.format.images import VOID
from Datasets.tools.errors import UserError
from Models.learning.data_loading import Samples
from Models.reviewing.looks import Look, look
from Models.reviewing.next_images import choose, next_images
from Models.reviewing.sections import failures, things
from Models.reviewing.suspects import find_suspects
from tests.template.conftest import ROOT, refused, run_in, succeeded
from tests.template.Models.shape_scenes import box, png


def look_at(samples, predictions, confidences=None):
    nothing = [None] * len(samples)
    return Look("test", True, samples, predictions, confidences or nothing, nothing, nothing, nothing)


@pytest.fixture
def samples(shapes):
    """The test images with boxes, whose records a test may change."""
    samples = Samples(Curated(shapes), "test", 48)
    samples = samples.subset([row for row in range(len(samples)) if len(truth_of(samples, row)) > 1 and row != 2])
    samples.records = deepcopy(samples.records)
    return samples


def sure(samples):
    """A model that is right about everything."""
    return [predicted(*((*each, 0.9) for each in truth_of(samples, row))) for row in range(len(samples))]


def test_spoilt_boxes_lead_the_list_each_as_what_it_is(samples):
    predictions = sure(samples)
    assert find_suspects(look_at(samples, predictions)) == []
    wrong, moved, lost = (samples.records[row]["boxes"] for row in (0, 1, 2))
    wrong[0]["name"] = {"disc": "square", "square": "disc"}[wrong[0]["name"]]
    moved[1]["x1"], moved[1]["x2"] = moved[1]["x1"] + 8, moved[1]["x2"] + 8
    gone = lost.pop(0)
    found = sorted(find_suspects(look_at(samples, predictions)))
    assert [(each.row, each.kind, each.number) for each in found] == [
        (0, "wrong class", 0),
        (1, "badly placed", 1),
        (2, "missing", None),
    ]
    assert (found[0].name, found[0].predicted) == (wrong[0]["name"], predictions[0]["boxes"][0]["name"])
    assert found[1].box == [moved[1][side] for side in ("x1", "y1", "x2", "y2")]
    assert (found[2].predicted, found[2].place) == (gone["name"], [gone[side] for side in ("x1", "y1", "x2", "y2")])


def test_a_box_where_the_model_sees_nothing_is_a_suspect_and_a_crowd_is_none(samples):
    predictions = sure(samples)
    samples.records[0]["boxes"].append(box("disc", 0, 0, 5, 5))
    samples.records[1]["boxes"].append(box("disc", 0, 0, 64, 48, crowd=True))
    predictions[1]["boxes"].append({**predicted(("disc", 2, 2, 20, 20, 0.9))["boxes"][0]})
    [found] = find_suspects(look_at(samples, predictions))
    assert (found.row, found.kind, found.number) == (0, "nothing found there", len(samples.records[0]["boxes"]) - 1)


def test_a_region_of_a_mask_is_as_suspicious_as_the_model_is_sure(shapes):
    samples = Samples(Curated(shapes), "test", 64, "mask")
    samples.records = deepcopy(samples.records)
    masks = [samples.mask(row) for row in range(len(samples))]
    predictions = [{"mask": b64encode(png(np.where(mask == VOID, 0, mask))).decode()} for mask in masks]
    spoilt = masks[0].copy()
    name, x1, y1, x2, y2 = next(iter(truth_of(samples, 0)))
    spoilt[int(y1) : int(y2), int(x1) : int(x2)] = 0
    samples.records[0]["mask"]["bytes"] = png(spoilt)
    suspicions = []
    for certain in (255, 153):
        confidences = [np.full((64, 64), certain, np.uint8)] * len(samples)
        [found] = find_suspects(look_at(samples, predictions, confidences))
        assert (found.row, found.kind, found.predicted) == (0, "missing", name)
        np.testing.assert_allclose(found.place, [x1, y1, x2, y2], atol=1)
        suspicions.append(found.suspicion / certain)
    assert suspicions[0] == pytest.approx(suspicions[1])


class Background(torch.nn.Linear):
    """A model that gives no more than a mask, of nothing."""

    def forward(self, images):
        return {"mask": torch.zeros_like(images[:, 0])}


def test_a_model_of_masks_that_gives_no_confidence_counts_as_sure(shapes):
    samples = Samples(Curated(shapes), "test", 64, "mask")
    seen = look(samples, "test", Background(1, 1), 4, 0.0)
    suspects = find_suspects(seen)
    assert {each.kind for each in suspects} == {"nothing found there"} and suspects[0].suspicion > 0.5
    assert seen.uncertainties == [0] * len(samples) and seen.features == [None] * len(samples)


def test_a_label_that_the_model_contradicts_leads_the_list(shapes):
    samples = Samples(Curated(shapes), "train", 48, "labels")
    samples.records = deepcopy(samples.records)
    truth = np.array([samples.labels(row) for row in range(len(samples))])
    random = np.random.default_rng(0)
    scores = np.where(truth, 0.8, 0.2) + random.uniform(-0.15, 0.15, truth.shape)
    predictions = [{"scores": dict(zip(samples.classes, row, strict=True))} for row in scores.tolist()]
    row = next(row for row in range(len(samples)) if truth[row].tolist() == [True, False])
    samples.records[row]["labels"] = ["square"]
    first, second, *_ = sorted(find_suspects(look_at(samples, predictions)), key=lambda each: -each.suspicion)
    assert {(each.row, each.kind, each.name or each.predicted) for each in (first, second)} == {
        (row, "missing", "disc"),
        (row, "wrong label", "square"),
    }


def test_failures_say_what_is_found_of_what(samples):
    predictions = sure(samples)
    for prediction in predictions:
        prediction["boxes"] = [each for each in prediction["boxes"] if each["name"] == "disc"]
    predictions[0]["boxes"].append(predicted(("square", 0, 40, 60, 48, 0.9))["boxes"][0])
    tables = dict(failures(things(look_at(samples, predictions), 0.5)))
    names = [each["name"] for record in samples.records for each in record["boxes"]]
    [alone] = dict(failures(things(look_at(samples.subset([0]), predictions[:1]), 0.5).query("`class` == 'disc'")))[
        "class"
    ]
    assert alone["name"] == "disc", "the only class has figures, too"
    assert tables["class"] == [
        {"name": "square", "things": names.count("square"), "found": 0.0, "extra": 1},
        {"name": "disc", "things": names.count("disc"), "found": 1.0, "extra": 0},
    ]


@pytest.fixture(scope="module")
def project(outputs, tmp_path_factory):
    """Where the experiment e001 was trained, evaluated and reviewed."""
    root = tmp_path_factory.mktemp("reviewed")
    shutil.copytree(outputs, root / "Models/outputs/e001")
    return root


def review(project, *words):
    return run_in(project, "python", "-m", "Models.review", *words, PYTHONPATH=str(ROOT), DVC_ROOT=str(project))


def test_a_review_is_a_page_a_table_and_features_that_duckdb_joins(project, shapes):
    succeeded(review(project, "e001", "--curated", str(shapes)))
    out = project / "Models/outputs/e001"
    page = (out / "review.html").read_text()
    assert "<script" not in page and not re.findall(r'(?:src|href)="(?!data:|#)', page)
    joined = duckdb.sql(
        f"""SELECT f.split, count(*) AS images, count(f.mistakes) AS known, min(len(f.features)) AS least
        FROM '{out}/features.parquet' f JOIN '{shapes}/*-of-*.parquet' c USING (sha256)
        GROUP BY f.split ORDER BY f.split"""
    ).fetchall()
    assert joined == [("test", 11, 11, 64), ("train", 59, 0, 64), ("val", 11, 11, 64)]
    table = pd.read_parquet(out / "review.parquet")
    assert set(table["split"]) <= {"val", "test"} and table["suspicion"].is_monotonic_decreasing


def test_with_folds_the_labels_of_train_are_reviewed_by_models_that_have_not_seen_them(project, shapes):
    succeeded(review(project, "e001", "--curated", str(shapes), "--folds", "2"))
    features = pd.read_parquet(project / "Models/outputs/e001/features.parquet")
    assert features["mistakes"].notna().all()
    assert not list((project / ".checkpoints").iterdir())
    refused(review(project, "e001", "--curated", str(shapes), "--folds", "100"), "more than the 59 groups")
    refused(review(project, "e009"), "e009", "dvc repro evaluate@e009")


def test_the_next_images_are_unsure_and_no_near_duplicates(project, shapes, tmp_path):
    succeeded(review(project, "e001", "--curated", str(shapes)))
    pool = tmp_path / "pool"
    pool.mkdir()
    samples = Samples(Curated(shapes), "val", 48)
    for row in range(8):
        (pool / f"new{row}.png").write_bytes(samples.file(row))
    (pool / "again.png").write_bytes(samples.file(0))
    (pool / "broken.png").write_bytes(samples.file(0)[:99])
    export = project / "Models/outputs/e001/export"
    answers, chosen = tmp_path / "pool.parquet", tmp_path / "next.parquet"
    succeeded(run_in(ROOT, "python", "-m", "Deployment.predict", str(export), str(pool), "--to", str(answers)))
    rows = pq.read_table(answers).to_pylist()
    assert [row["image"] for row in rows if row["features"] is None] == ["broken.png"]
    labelled = tmp_path / "labelled.parquet"
    table = pq.read_table(answers)
    pq.write_table(table.filter(pa.compute.equal(table["image"], "new1.png")), labelled)
    words = ["next", str(answers), "--to", str(chosen), "--labelled", str(labelled)]
    assert "1 unreadable" in succeeded(review(project, *words, "--count", "3")).stdout
    assert len(pq.read_table(chosen)) == 3 and pq.read_schema(chosen) == pq.read_schema(answers)
    assert "near duplicates" in succeeded(review(project, *words, "--count", "50")).stdout
    images = pq.read_table(chosen)["image"].to_pylist()
    assert "new1.png" not in images and len({"new0.png", "again.png"} & set(images)) == 1
    assert "0 of 9 images" in succeeded(review(project, "next", str(answers), "--to", str(chosen))).stdout, (
        "all labelled"
    )
    other = tmp_path / "other.parquet"
    pq.write_table(table.replace_schema_metadata({"weights": "0"}), other)
    for bad, to, message in [
        (other, chosen, "is of other weights"),
        (pool / "broken.png", chosen, "broken.png: cannot be read"),
        (tmp_path / "none.parquet", chosen, "none.parquet: cannot be read"),
        (answers, tmp_path / "next.csv", "must end in .parquet"),
        (answers, pool / "../pool.parquet", "not be the pool"),
    ]:
        with pytest.raises(UserError, match=re.escape(message)):
            next_images(bad, to, labelled=labelled)
    (project / "Models/outputs/e001/features.parquet").unlink()
    refused(review(project, "next", str(answers), "--to", str(chosen)), "features.parquet", "dvc repro review@e001")


def test_of_images_that_a_model_is_as_unsure_of_those_that_differ_most_are_chosen():
    angles = np.radians([0, 1, 2, 90, 91, 180])
    pool = np.stack([np.cos(angles), np.sin(angles)], 1)
    assert choose(pool, np.full(6, 0.5), pool[:1], 2) == [5, 3]
    assert choose(pool, np.array([0, 9, 9, 9, 9, 0]), pool[5:], 1) == [1]
