"""The page in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Page, chromium
from running_service import Service, serving

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no Chromium at {CHROMIUM}")
STATUS = "document.querySelector('#status').textContent"
NAMES = "[...document.querySelectorAll('.box')].map((box) => box.textContent)"


@pytest.fixture(scope="module")
def service(pristine_export: Path) -> Iterator[Service]:
    with serving(pristine_export) as running:
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser: Page, service: Service, request: pytest.FixtureRequest) -> Page:
    browser.open(f"http://127.0.0.1:{service.port}/", width=getattr(request, "param", 1280))
    browser.wait("document.title === 'Experiment e900'")
    return browser


@pytest.mark.parametrize("page", [1280, 390], indirect=True)
def test_a_chosen_image_shows_its_boxes_where_they_are(page: Page, pristine_export: Path) -> None:
    page.choose("#file", pristine_export / "sample/000.jpg")
    page.wait(f"{STATUS}.includes('2 found')")
    assert page.run(NAMES) == ["blue 0.90", "red 0.89"]
    left, width = page.run(
        "(([box, image]) => [(box.left - image.left) / image.width, box.width / image.width])"
        "([document.querySelector('.box'), document.querySelector('#image')].map((e) => e.getBoundingClientRect()))"
    )
    assert (left, width) == pytest.approx((30 / 64, 30 / 64), abs=0.01)
    assert page.run("[...document.querySelectorAll('li')].map((item) => item.textContent)") == ["1 red", "1 blue"]
    answer = page.run("JSON.parse(document.querySelector('#json').textContent)")
    assert [box["name"] for box in answer["boxes"]] == ["blue", "red"]
    assert page.run("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_slider_leaves_out_what_scores_less(page: Page, pristine_export: Path) -> None:
    page.choose("#file", pristine_export / "sample/000.jpg")
    page.wait(f"{STATUS}.includes('2 found')")
    page.run("(document.querySelector('#threshold').value = 0.9, threshold.dispatchEvent(new Event('input')))")
    assert page.run(NAMES) == ["blue 0.90"]


def test_a_file_that_is_no_image_is_said(page: Page, pristine_export: Path) -> None:
    page.choose("#file", pristine_export / "manifest.json")
    page.wait(f"{STATUS} === 'not an image file'")
    assert page.run("document.querySelector('#stage').hidden")


def test_nothing_comes_from_elsewhere(page: Page) -> None:
    names = page.run("performance.getEntriesByType('resource').map((entry) => new URL(entry.name).host)")
    assert set(names) <= {page.run("location.host")}
