"""Each image is looked at once, its facts are kept, and a cluster finds the same to the byte."""

import io
import json
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest
from PIL import Image, ImageFilter
from scipy.fft import dctn

from Data_processing.inspect_images import FactsStore
from Data_processing.shared.inspected import Task, inspect_chunk, perceptual_hash, read_inspected, sharpness
from Data_processing.shared.inspected import inspect as inspect_image
from Datasets.format.images import MAX_PIXELS
from tests.template.conftest import ROOT, refused, succeeded, until
from tests.template.Data_processing.sources import pack, picture, write_coco
from tests.template.Data_processing.stages import clean, curate, stage, take_in

NAMES = [f"{number}.png" for number in range(100)]


def imported(source, tmp_path):
    options = ("--source", "s", "--path", source, "--format", "coco", "--out", tmp_path / "imported.parquet")
    succeeded(stage("Data_processing.import_source", *options))
    return ("--source", "s", "--path", source, "--imported", tmp_path / "imported.parquet")


def inspect(common, out, *options):
    return stage("Data_processing.inspect_images", *common, "--out", out, *options)


@pytest.fixture
def source(tmp_path):
    return write_coco(tmp_path / "source", {name: [("cat", 1, 1, 9, 9)] for name in NAMES})


def test_a_kept_fact_is_used_and_a_new_image_is_looked_at(tmp_path, source):
    common, store = imported(source, tmp_path), ("--facts", tmp_path / "facts.sqlite", "--jobs", "1")
    succeeded(inspect(common, tmp_path / "a.parquet", *store))
    facts = FactsStore(tmp_path / "facts.sqlite", MAX_PIXELS)
    rows = read_inspected(tmp_path / "a.parquet")
    altered = facts.get(rows["images/5.png"].sha256, False) | {"brightness": 7.0}
    (tmp_path / "facts.sqlite").unlink()
    FactsStore(tmp_path / "facts.sqlite", MAX_PIXELS).put([Task("", False)], [altered])
    (source / "images/5.png").rename(source / "images/renamed.png")
    (source / "images/6.png").write_bytes(picture(777))
    succeeded(inspect(common, tmp_path / "b.parquet", *store))
    again = read_inspected(tmp_path / "b.parquet")
    assert again["images/renamed.png"].brightness == 7.0  # known by its bytes, whatever its name
    assert again["images/6.png"].sha256 != rows["images/6.png"].sha256
    assert again["images/7.png"] == rows["images/7.png"]


def test_other_code_or_limits_forget_what_was_kept(tmp_path):
    store = FactsStore(tmp_path / "facts.sqlite", 1000)
    store.put([Task("", False)], [{"sha256": "ab" * 32, "width": 3}])
    assert store.get("ab" * 32, False) == {"sha256": "ab" * 32, "width": 3}
    assert store.get("ab" * 32, True) is None
    assert FactsStore(tmp_path / "facts.sqlite", 2000).get("ab" * 32, False) is None


def test_a_file_that_keeps_no_facts_is_named(tmp_path, source):
    facts = tmp_path / "facts.sqlite"
    facts.write_bytes(b"shopping list " * 100)
    refused(inspect(imported(source, tmp_path), tmp_path / "o", "--facts", facts), f"{facts}: ", "delete")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("content", ["cut", "other"])
def test_a_parquet_file_that_its_stage_did_not_write_is_named(tmp_path, content):
    """By every command that a user may give one to."""
    take_in(tmp_path, "s", write_coco(tmp_path / "source", {"0.png": []}))
    whole = {name: (tmp_path / f"{name}/s.parquet").read_bytes() for name in ("imported", "inspected")}
    bad = whole["imported"][:-9] if content == "cut" else whole["inspected"]
    why = "no whole Parquet file" if content == "cut" else "has no column"
    (tmp_path / "imported/s.parquet").write_bytes(bad)
    told = ("imported/s.parquet", why, "stage import")
    refused(clean(tmp_path, "s"), *told)
    given = ("--source", "s", "--imported", tmp_path / "imported/s.parquet")
    refused(inspect(given, tmp_path / "out"), *told)
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean/accepted.parquet").write_bytes(bad)
    told = ("accepted.parquet", why, "stage clean")
    refused(stage("Data_processing.split", "--accepted", tmp_path / "clean/accepted.parquet"), *told)
    refused(curate(tmp_path), *told)
    assert not (tmp_path / "out").exists() and not (tmp_path / "curated").exists()


def copied(source, number):
    """The source with more images, in all `number`, of which no record tells."""
    for copy in range(len(NAMES), number):
        data = (source / f"images/{copy % len(NAMES)}.png").read_bytes()
        (source / f"images/{copy}.png").write_bytes(data + bytes(copy // len(NAMES)))  # of another sha256


def test_killed_on_the_way_no_process_stays_and_it_goes_on_where_it_was(tmp_path, source):
    copied(source, 500)
    common, facts = imported(source, tmp_path), tmp_path / "facts.sqlite"
    command = ["-m", "Data_processing.inspect_images", *common, "--out", tmp_path / "o", "--facts", facts]
    process = subprocess.Popen([sys.executable, *map(str, command), "--jobs", "2"], cwd=ROOT)
    until(lambda: process.poll() is not None or (facts.exists() and facts.stat().st_size > 20_000))
    others = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert len(others) >= 2
    assert not psutil.wait_procs(others, timeout=10)[1]
    succeeded(inspect(common, tmp_path / "resumed.parquet", "--facts", facts, "--jobs", "1"))
    succeeded(inspect(common, tmp_path / "plain.parquet", "--jobs", "1"))
    assert (tmp_path / "resumed.parquet").read_bytes() == (tmp_path / "plain.parquet").read_bytes()


def test_processes_and_archives_change_nothing(tmp_path, source):
    common, facts = imported(source, tmp_path), ("--facts", tmp_path / "facts.sqlite")
    succeeded(inspect(common, tmp_path / "some.parquet", *facts))  # by threads, as they are few
    copied(source, 280)
    succeeded(inspect(common, tmp_path / "one.parquet", "--jobs", "1"))
    succeeded(inspect(common, tmp_path / "two.parquet", "--jobs", "2", *facts))  # some known, many new
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    packed = imported(pack(source, tmp_path / "s.tar.gz"), tmp_path)
    succeeded(inspect(packed, tmp_path / "packed.parquet", "--jobs", "1"))
    assert read_inspected(tmp_path / "packed.parquet") == read_inspected(tmp_path / "one.parquet")


@pytest.fixture
def cluster(tmp_path):
    """A scheduler's address and two worker processes, as a user would start them in the checkout."""
    file = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--scheduler-file", str(file), "--port", "0"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": ROOT}
    processes = [subprocess.Popen([*dask, "--no-dashboard"], **quiet)]
    until(lambda: processes[0].poll() is not None or (file.exists() and file.read_text()))
    address = json.loads(file.read_text())["address"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny"]
    options = ["--no-dashboard", "--local-directory", str(tmp_path), "--name"]
    processes += [subprocess.Popen([*worker, *options, name], **quiet) for name in ("first", "second")]
    yield address, processes[1:]
    for process in processes:
        process.kill()
        process.wait()


def test_a_cluster_that_loses_a_worker_gives_the_same_bytes_whatever_facts_are_kept(tmp_path, source, cluster):
    import distributed

    address, workers = cluster
    copied(source, 400)
    common, facts, out = imported(source, tmp_path), tmp_path / "facts.sqlite", tmp_path / "dask.parquet"
    succeeded(inspect(common, tmp_path / "local.parquet", "--jobs", "1"))
    options = ("--engine", "dask", "--scheduler", address, "--out", out, "--facts", facts)
    command = [sys.executable, "-m", "Data_processing.inspect_images", *common, *options]
    with distributed.Client(address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        names = {name: worker["name"] for name, worker in client.scheduler_info()["workers"].items()}
        for worker in workers:
            worker.send_signal(signal.SIGSTOP)
        process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stderr=subprocess.PIPE, text=True)
        until(lambda: {names[worker] for worker, tasks in client.processing().items() if tasks} == {"first", "second"})
    assert not out.exists()
    workers[0].kill()
    workers[1].send_signal(signal.SIGCONT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert out.read_bytes() == (tmp_path / "local.parquet").read_bytes()
    succeeded(inspect(common, tmp_path / "again.parquet", "--jobs", "1", "--facts", facts))
    assert (tmp_path / "again.parquet").read_bytes() == out.read_bytes()  # what the cluster found was kept


@pytest.mark.parametrize("archive", ["s.zip", "s.tar"])
def test_a_process_that_lives_on_reads_a_replaced_delivery_anew(tmp_path, archive):
    hashes = set()
    for shade in (50, 200):
        (tmp_path / "s").mkdir(exist_ok=True)
        Image.new("L", (8, 8), shade).save(tmp_path / "s/a.png")
        pack(tmp_path / "s", tmp_path / f"new-{archive}").replace(tmp_path / archive)
        [row] = inspect_chunk(tmp_path / archive, [Task("a.png", False)], MAX_PIXELS)
        hashes.add(row["sha256"])
    assert len(hashes) == 2


def test_a_scheduler_that_does_not_answer_is_named(tmp_path, source):
    options = ("--engine", "dask", "--scheduler", "tcp://127.0.0.1:9")
    refused(inspect(imported(source, tmp_path), tmp_path / "o", *options), "tcp://127.0.0.1:9", "engine: local")
    refused(inspect(imported(source, tmp_path), tmp_path / "o", "--engine", "dask"), "work.scheduler")


def landscape(side: int, blur: int) -> Image.Image:
    """A picture with as much detail at every scale as photographs have."""
    rng, far = np.random.default_rng(0), np.fft.fftfreq(1024)
    distance = np.hypot(far, far[:, None]) + 1e-9
    waves = np.real(np.fft.ifft2(np.fft.fft2(rng.normal(size=(1024, 1024))) / distance))
    pixels = ((waves - waves.mean()) / waves.std() * 50 + 128).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(pixels).resize((side, side * 3 // 4), Image.Resampling.LANCZOS)
    return image.filter(ImageFilter.GaussianBlur(blur)).convert("RGB")


@pytest.mark.parametrize(("side", "blur"), [(513, 0), (640, 3), (1000, 2)])
def test_sharpness_is_about_that_of_the_picture_at_512_pixels(side, blur):
    image, file = landscape(side, blur), io.BytesIO()
    image.save(file, "PNG")
    grey = image.convert("L")
    grey.thumbnail((512, 512), Image.Resampling.BILINEAR)
    assert 0.4 < inspect_image("a.png", file.getvalue(), 10**7)["sharpness"] / sharpness(np.asarray(grey)) < 2.5


@pytest.mark.parametrize(
    "grey", [landscape(64, 0).convert("L"), Image.new("L", (90, 70), 77), Image.linear_gradient("L")]
)
def test_the_perceptual_hash_tells_which_low_frequencies_are_above_their_median(grey):
    small = grey.resize((64, 64), Image.Resampling.LANCZOS, reducing_gap=2.0)
    low = dctn(np.asarray(small, float))[:16, :16]
    assert perceptual_hash(grey) == np.packbits(low > np.median(low)).tobytes()


def test_a_jpeg_is_judged_by_its_luma_and_its_mode_is_told_as_stored():
    image = landscape(640, 1)
    colours = Image.merge("RGB", [image.getchannel(0), image.getchannel(0).rotate(180), image.getchannel(0).rotate(90)])
    facts = {}
    for form in ("PNG", "JPEG"):
        file = io.BytesIO()
        colours.save(file, form, quality=95)
        facts[form] = inspect_image("a", file.getvalue(), 10**7)
        assert (facts[form]["mode"], facts[form]["width"], facts[form]["height"]) == ("RGB", 640, 480)
        cut = inspect_image("a", file.getvalue()[: file.tell() * 9 // 10], 10**7)
        assert "truncated" in cut["reason"]
    for name, tolerance in (("brightness", 1), ("contrast", 1), ("sharpness", 0.1 * facts["PNG"]["sharpness"])):
        assert facts["JPEG"][name] == pytest.approx(facts["PNG"][name], abs=tolerance)
    bits = np.unpackbits(
        np.frombuffer(facts["JPEG"]["phash"], np.uint8) ^ np.frombuffer(facts["PNG"]["phash"], np.uint8)
    )
    assert bits.sum() <= 8


def test_masks_are_looked_at_as_masks(tmp_path):
    palette = Image.new("P", (6, 4), 3)
    palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    palette.save(tmp_path / "palette.png")
    Image.new("RGB", (6, 4), "red").save(tmp_path / "colour.png")
    Image.new("L", (6, 4), 9).save(tmp_path / "grey.jpg")
    Image.new("RGBA", (6, 4)).save(tmp_path / "clear.png")
    tasks = [Task(name, True) for name in ("palette.png", "colour.png", "grey.jpg", "clear.png")]
    row, colour, blurred, clear = inspect_chunk(tmp_path, tasks, 1000)
    assert (row["width"], row["height"], row["values"], row["reason"]) == (6, 4, [3], None)
    assert (row["colours"], colour["colours"]) == ([0x1808000], [0x1FF0000])
    assert blurred["reason"].startswith("JPEG blurs the values of a mask")
    assert "transparent" in clear["reason"]
