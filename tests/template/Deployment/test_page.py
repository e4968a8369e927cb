"""The page in a real browser."""

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.template.Deployment.browser import Page, chromium, needs_browser
from tests.template.Deployment.made_export import encoded, scene, write_manifest
from tests.template.Deployment.running_service import Service, serving

pytestmark = needs_browser
STATUS = "document.querySelector('#status').textContent"
NAMES = "[...document.querySelectorAll('.box')].map((box) => box.textContent)"


@pytest.fixture(scope="module")
def service(pristine_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Of an export that began with another's weights, and whose threshold no whole hundredth is."""
    export = Path(shutil.copytree(pristine_export, tmp_path_factory.mktemp("finetuned") / "e900"))
    init = {"source": "Datasets/pretrained/e899", "sha256": "d41d"}
    write_manifest(export, project="Our <b>cats</b>", score_threshold=0.2549, init=init)
    with serving(export) as running:
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser: Page, service: Service, request: pytest.FixtureRequest) -> Page:
    browser.open(f"http://127.0.0.1:{service.port}/", width=getattr(request, "param", 1280))
    browser.wait("document.title === 'Our <b>cats</b>, experiment e900'")
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
    assert page.run("document.documentElement.scrollWidth") <= page.width


def test_the_slider_begins_where_the_service_does(page: Page) -> None:
    assert page.run("Number(document.querySelector('#threshold').value)") == 0.2549
    assert page.run("document.querySelector('#least').textContent") == "0.25"


def test_the_slider_leaves_out_what_scores_less(page: Page, pristine_export: Path) -> None:
    page.choose("#file", pristine_export / "sample/000.jpg")
    page.wait(f"{STATUS}.includes('2 found')")
    page.run("(document.querySelector('#threshold').value = 0.9, threshold.dispatchEvent(new Event('input')))")
    assert page.run(NAMES) == ["blue 0.90"]


def test_the_slider_shows_what_scores_less_than_the_manifest_asks(page: Page, tmp_path: Path) -> None:
    (tmp_path / "small.png").write_bytes(encoded(scene(64, 64, {"red": (8, 8, 12, 12)}), "PNG"))
    page.choose("#file", tmp_path / "small.png")
    page.wait(f"{STATUS}.includes('0 found')")
    page.run("(document.querySelector('#threshold').value = 0.2, threshold.dispatchEvent(new Event('input')))")
    assert page.run(NAMES) == ["red 0.20"]
    assert "1 found" in page.run(STATUS)
    answer = page.run("JSON.parse(document.querySelector('#json').textContent)")
    assert (answer["labels"], answer["counts"], set(answer)) == (
        ["red"],
        [{"name": "red", "count": 1}],
        {"width", "height", "labels", "counts", "boxes"},
    )


def test_names_of_boxes_are_inside_the_image_and_beside_each_other(page: Page, tmp_path: Path) -> None:
    close = scene(64, 64, {"red": (60, 2, 64, 20), "blue": (56, 2, 62, 40)})
    (tmp_path / "close.png").write_bytes(encoded(close, "PNG"))
    page.choose("#file", tmp_path / "close.png")
    page.wait(f"{STATUS}.includes('2 found')")
    sides = "(({left, top, right, bottom}) => [left, top, right, bottom])"
    elements = "[image, ...document.querySelectorAll('.box span')]"
    image, blue, red = page.run(f"{elements}.map((each) => {sides}(each.getBoundingClientRect()))")
    assert all(image[0] <= name[0] < name[2] <= image[2] and image[1] <= name[1] for name in (blue, red))
    assert blue[3] <= red[1] or red[3] <= blue[1]


def test_names_can_be_read_in_the_colour_of_any_class(page: Page) -> None:
    made = "Object.assign(element('p', '', {'--hue': hue}), {className: 'badges', innerHTML: '<span>name</span>'})"
    page.run(f"document.body.append(...[...Array(360).keys()].map((hue) => {made}))")
    assert page.contrast(".badges span") >= 4.5


def test_a_dropped_and_a_pasted_image_are_answered(page: Page, pristine_export: Path) -> None:
    image = base64.b64encode((pristine_export / "sample/000.jpg").read_bytes()).decode()
    for kind in ("drop", "paste"):
        page.run("clear()")
        page.run(
            f"(() => {{ const bytes = Uint8Array.from(atob('{image}'), (c) => c.charCodeAt(0));"
            "const moved = new DataTransfer(); moved.items.add(new File([bytes], 'a.jpg', {type: 'image/jpeg'}));"
            f"window.dispatchEvent('{kind}' === 'drop' ? new DragEvent('drop', {{dataTransfer: moved}})"
            " : new ClipboardEvent('paste', {clipboardData: moved})); })()"
        )
        page.wait(f"{STATUS}.includes('2 found')")
    page.run("window.dispatchEvent(new DragEvent('drop', {dataTransfer: new DataTransfer()}))")  # of a link, say
    assert "No file" in page.run(STATUS)


def test_whoever_has_no_image_at_hand_tries_the_models(page: Page) -> None:
    for found in (2, 1, 0, 2):  # and begins again
        page.click("#sample")
        page.wait(f"{STATUS}.includes('{found} found')")
        assert page.run("document.querySelector('#truth').hidden") == (found != 2), "of one the truth is known"


def test_what_a_test_image_shows_is_drawn_beside_the_answer(browser: Page, exports: dict[str, Path]) -> None:
    known = "[...document.querySelectorAll('#known :is(.box, .badges) span')].map((each) => each.textContent)"
    for task, said in {"boxes": "red", "labels": "red", "counts": "1 red", "mask": None}.items():
        with serving(exports[task]) as service:
            browser.open(f"http://127.0.0.1:{service.port}/")
            browser.wait("document.title.includes('xperiment')")
            browser.click("#sample")
            browser.wait("!document.querySelector('#truth').hidden")
            assert browser.run(known) == [said] * (said is not None)
            places = browser.run("[image, same].map((each) => each.getBoundingClientRect().toJSON())")
            assert places[0]["y"] == places[1]["y"] and places[0]["width"] == places[1]["width"] > 200
            assert browser.run("document.querySelectorAll('#known canvas').length") == (task == "mask")


def test_the_answer_can_be_copied(page: Page, service: Service, pristine_export: Path) -> None:
    page.open(f"http://plain.test:{service.port}/")  # neither https nor this machine's name: no navigator.clipboard
    page.choose("#file", pristine_export / "sample/000.jpg")
    page.wait(f"{STATUS}.includes('2 found')")
    page.click("#copy")
    assert page.run("document.querySelector('#copy').textContent") == "Copied"
    page.run("document.body.append(Object.assign(document.createElement('textarea'), {id: 'paper'})), paper.focus()")
    page.paste()
    assert page.run("JSON.parse(paper.value)") == page.run("JSON.parse(copied())")


def test_the_models_card_is_beside(page: Page) -> None:
    assert page.run("document.querySelector('#about').textContent") == "Finds red, green, blue"
    assert "64 pixels" in page.run("document.querySelector('#use').textContent")
    cells = page.run("[...document.querySelectorAll('#facts :is(th, td)')].map((cell) => cell.textContent)")
    assert cells[:2] == ["mAP50mean average precision at IoU 0.50", "1"]
    assert "commit" in cells
    assert cells[cells.index("init") + 1] == "Datasets/pretrained/e899"


def test_the_page_asks_for_the_key(browser: Page, pristine_export: Path) -> None:
    with serving(pristine_export, FOURFOLD_API_KEY="not-a-secret-but-long") as service:
        browser.open(f"http://127.0.0.1:{service.port}/")
        browser.wait("!document.querySelector('#key').hidden")
        browser.choose("#file", pristine_export / "sample/000.jpg")
        browser.wait(f"{STATUS} === 'The service asks for a key.'")
        browser.run("(secret.value = 'wrong', document.querySelector('#key').requestSubmit())")
        browser.wait(f"{STATUS} === 'The key is wrong.'")
        browser.run("(secret.value = 'not-a-secret-but-long', document.querySelector('#key').requestSubmit())")
        browser.wait(f"{STATUS}.includes('2 found')")
        assert browser.run("document.querySelector('#key').hidden")


def test_a_file_that_is_no_image_is_said(page: Page, pristine_export: Path) -> None:
    page.choose("#file", pristine_export / "manifest.json")
    page.wait(f"{STATUS}.startsWith('not an image file')")
    assert page.run("document.querySelector('#stage').hidden")
    page.run("(window.fetch = async () => new Response('<h1>', {status: 413, statusText: 'Too Large'})) && undefined")
    page.choose("#file", pristine_export / "sample/000.jpg")
    page.wait(f"{STATUS} === 'answered with 413 Too Large'")  # by a proxy before the service


def test_nothing_comes_from_elsewhere(page: Page) -> None:
    names = page.run("performance.getEntriesByType('resource').map((entry) => new URL(entry.name).host)")
    assert set(names) <= {page.run("location.host")}


CANVAS = "document.querySelector('#drawn canvas')"
LIST = "[...document.querySelectorAll('#counts li')].map((item) => item.textContent)"
BADGES = "[...document.querySelectorAll('.badges span')].map((badge) => badge.textContent)"
ANSWER = "JSON.parse(copied())"


def slide(page: Page, value: float) -> None:
    page.run(f"(document.querySelector('#threshold').value = {value}, threshold.dispatchEvent(new Event('input')))")


def opened(browser: Page, service: Service, export: Path, found: str, width: int = 1280) -> None:
    """Open the page of a service and choose a sample that has a red and a blue rectangle."""
    browser.open(f"http://127.0.0.1:{service.port}/", width=width)
    browser.wait(f"document.title === 'Experiment {export.name}'")
    browser.choose("#file", export / "sample/000.jpg")
    browser.wait(f"{STATUS}.includes('{found}')")
    assert browser.run("document.documentElement.scrollWidth") <= width


def test_a_mask_lies_over_the_image(browser: Page, exports: dict[str, Path]) -> None:
    with serving(exports["mask"]) as service:
        for width in (1280, 390):
            opened(browser, service, exports["mask"], "2 found", width)
        data = f"{CANVAS}.getContext('2d').getImageData(x, y, 1, 1).data"
        pixels = browser.run(f"[[10, 10], [45, 50], [2, 2]].map(([x, y]) => [...{data}])")
        assert pixels[0] != pixels[1] and pixels[0][3] == pixels[1][3] == 255 and pixels[2][3] == 0
        sides = browser.run(
            f"[{CANVAS}, image].map((each) => each.getBoundingClientRect()).map(({{x, y, width, height}}) => "
            "[x, y, width, height])"
        )
        assert sides[0] == sides[1]
        assert browser.run(LIST) == ["red 12.5 %", "blue 14.6 %"]
        slide(browser, 0.25)
        assert browser.run(f"getComputedStyle({CANVAS}).opacity") == "0.25"
        expected = json.loads((exports["mask"] / "sample/expected.json").read_text())["000.jpg"]
        assert browser.run(ANSWER) == expected


@pytest.mark.parametrize(("task", "said"), [("labels", ["red 0.89", "blue 0.90"]), ("counts", ["1 red", "1 blue"])])
def test_labels_and_counts_stand_over_the_image(
    browser: Page, exports: dict[str, Path], task: str, said: list[str]
) -> None:
    with serving(exports[task]) as service:
        opened(browser, service, exports[task], "2 found", 390)
        assert browser.run(BADGES) == browser.run(LIST) == said
        expected = json.loads((exports[task] / "sample/expected.json").read_text())["000.jpg"]
        assert browser.run(ANSWER) == expected
        slide(browser, 0.9)
        assert browser.run(BADGES) == said[1:]
        assert browser.run(f"{ANSWER}.labels") == ["blue"]
        assert browser.run("[0.5, 1.5, 2.5, 1.2].map(even)") == [0, 2, 2, 1]
