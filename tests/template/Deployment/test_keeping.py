"""Images that the service keeps with its answers, for people to look at and for models to learn from."""

import hashlib
import json
import time
from types import SimpleNamespace

import pytest

from Deployment.service.artifact import load
from Deployment.service.keeping import Keeper
from tests.template.Deployment.made_export import SAMPLES, encoded, scene
from tests.template.Deployment.running_service import command, is_one_line, serving
from tests.template.s3_server import serving as s3_serving

IMAGES = [encoded(scene(64, 64, {"red": (8, 8, 9 + side, 24)})) for side in range(1, 21)]


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kept(folder):
    return sorted(path.stem for path in folder.iterdir()) if folder.exists() else []


def test_a_share_is_kept_with_the_answers_up_to_the_limit(pristine_export, tmp_path):
    where = tmp_path / "kept images"
    for _ in range(2):  # the limit holds for both starts together
        with serving(pristine_export, "--keep", where, "--keep-share", 0.9, "--keep-most", 5) as service:
            answers = {hashlib.sha256(image).hexdigest(): service.predict(image)[1] for image in IMAGES}
            wait_for(lambda: len(kept(where / "answers")) == 5)
    images = kept(where / "random") + kept(where / "unsure")
    assert len(images) == 5 and sorted(images) == kept(where / "answers")
    for path in (where / "answers").iterdir():
        answer = json.loads(path.read_text())
        assert (answer.pop("experiment"), answer.pop("commit")) == ("e900", None)
        assert answer.pop("uncertainty") >= 0 and answer.pop("time")
        assert answer == answers[path.stem]
    for path in (*(where / "random").iterdir(), *(where / "unsure").iterdir()):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem


def test_of_those_that_chance_leaves_the_most_unsure_are_kept(pristine_export, tmp_path, monkeypatch):
    monkeypatch.setattr("Deployment.service.keeping.random", SimpleNamespace(random=lambda: 1.0))
    keeper = Keeper(str(tmp_path / "kept"), 100, 0.1, load(pristine_export).manifest)
    unsure = [1, 2, 3, 1, 2, 3, 1, 9, 2, 1, 3, 2, 8, 1, 1, 1, 2, 3, 2, 1]
    for number, image in zip(unsure, IMAGES, strict=True):
        keeper.consider(image, {"labels": []}, number)
    wait_for(lambda: kept(tmp_path / "kept/answers"))
    names = {hashlib.sha256(image).hexdigest(): number for number, image in zip(unsure, IMAGES, strict=True)}
    wait_for(lambda: {9, 8} <= {names[name] for name in kept(tmp_path / "kept/unsure")})
    assert len(kept(tmp_path / "kept/unsure")) <= 5 and not kept(tmp_path / "kept/random")


def test_images_are_kept_in_an_object_store(pristine_export, tmp_path):
    with s3_serving(tmp_path / "s3") as s3:
        options = ["--keep", "s3://bucket/kept", "--keep-share", 0.9]
        with serving(pristine_export, *options, **s3.environment) as service:
            for image in IMAGES:
                service.predict(image)
            wait_for(lambda: kept(s3.bucket / "kept/answers"))
    assert kept(s3.bucket / "kept/answers")


def test_a_place_where_nothing_can_be_written_is_refused_and_one_that_fails_later_is_logged(pristine_export, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", "nonsense://x"):
        refused = command("Deployment.serve", pristine_export, "--keep", place)
        assert is_one_line(refused) and "--keep" in refused.stderr
    where, log = tmp_path / "kept", tmp_path / "log"
    with serving(pristine_export, "--keep", where, "--keep-share", 0.9, log=log) as service:
        for folder in where.iterdir():
            folder.rmdir()
        where.rmdir()
        where.write_text("no directory any more")
        for image in IMAGES:
            assert service.predict(image)[0] == 200
        wait_for(
            lambda: service.predict(encoded(SAMPLES["000.jpg"]))[0] == 200 and "could not be kept" in log.read_text()
        )


@pytest.mark.parametrize(
    "words", [["--keep-share", "1"], ["--overlap", "nan"], ["--keep-most", "0"], ["--cors", "example.com"]]
)
def test_a_wrong_option_is_refused(pristine_export, words):
    refused = command("Deployment.serve", pristine_export, *words)
    assert is_one_line(refused) and f"'{words[0]}'" in refused.stderr
