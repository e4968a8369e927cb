"""The service's worker processes: one that ends, or that takes for ever, costs a request and not the service."""

import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests.template.conftest import ROOT, copy_code, until
from tests.template.Deployment.made_export import SAMPLES, encoded
from tests.template.Deployment.running_service import Service, command, form, is_one_line, serving

IMAGE = encoded(SAMPLES["000.jpg"])
LARGE = encoded(Image.new("RGB", (7000, 7000)), "PNG")  # decoding it takes a good part of a second


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def service(pristine_export: Path, log: Path) -> Iterator[Service]:
    with serving(pristine_export, "--parallel", 2, "--seconds", 2, log=log) as running:
        yield running


def workers_of(service: Service) -> list[psutil.Process]:
    return psutil.Process(service.process.pid).children()


def metric(service: Service, name: str) -> float:
    text = service.answer("GET", "/metrics")[2].decode()
    return float(text.partition(f"\n{name} ")[2].split()[0])


def alive(service: Service) -> float:
    """How many workers take requests."""
    return metric(service, "fourfold_workers")


def test_a_worker_that_is_killed_is_replaced(service: Service, log: Path) -> None:
    first = workers_of(service)
    memory = sum(worker.memory_info().rss for worker in first)
    assert metric(service, "fourfold_workers_resident_memory_bytes") == pytest.approx(memory, rel=0.1)
    used = metric(service, "fourfold_workers_cpu_seconds_total")
    assert used == pytest.approx(sum(sum(worker.cpu_times()[:2]) for worker in first), rel=0.1, abs=0.1)
    for worker in first:
        worker.kill()
    until(lambda: service.request("GET", "/health/ready")[0] == 503)
    assert service.request("GET", "/health/live")[0] == 200
    assert service.predict(IMAGE)[0] in (200, 503)  # it waits for the new ones, for --seconds at most
    until(lambda: alive(service) == 2)
    new = sum(sum(worker.cpu_times()[:2]) for worker in workers_of(service))
    assert metric(service, "fourfold_workers_cpu_seconds_total") > used + new / 2  # of those that have ended too
    assert service.request("GET", "/health/ready")[0] == 200
    assert service.predict(IMAGE)[1]["labels"] == ["blue", "red"]
    assert not {worker.pid for worker in workers_of(service)} & {worker.pid for worker in first}
    assert log.read_text().count("ended with exit code -9") == 2


def test_who_asks_just_after_a_worker_was_killed_is_answered_by_another(pristine_export: Path) -> None:
    with serving(pristine_export, "--parallel", 2) as service, ThreadPoolExecutor(4) as clients:
        service.process.send_signal(signal.SIGSTOP)  # so that it hears of the death and of the requests at once
        workers_of(service)[0].kill()
        answers = [clients.submit(service.predict, IMAGE) for _ in range(4)]
        time.sleep(0.1)
        service.process.send_signal(signal.SIGCONT)
        assert [answer.result()[0] for answer in answers] == [200] * 4


def test_a_new_worker_serves_neither_a_changed_export_nor_by_changed_code(
    export: Path, log: Path, tmp_path: Path
) -> None:
    code = tmp_path / "code"
    copy_code(code, "Datasets", "Deployment", "Deployment/service")
    shutil.copy(ROOT / "Deployment/service/page.html", code / "Deployment/service")
    with serving(export, "--parallel", 1, cwd=code, log=log) as service:
        model = (export / "model.onnx").read_bytes()
        (export / "model.onnx").write_bytes(model + b"\0")
        workers_of(service)[0].kill()
        until(lambda: "no new worker" in log.read_text())
        assert "model.onnx" in log.read_text()
        assert service.request("GET", "/health/ready")[0] == 503
        (export / "model.onnx").write_bytes(model)
        until(lambda: alive(service) == 1)
        assert service.predict(IMAGE)[0] == 200
        (code / "Deployment/.#coco.py").symlink_to("an editor's lock")
        with (code / "Datasets/format/coco.py").open("a") as file:
            file.write("NEW = 1\n")
        workers_of(service)[0].kill()
        until(lambda: log.read_text().count("no new worker") == 2)
        assert "coco.py: is not what it was when the service started" in log.read_text()
        assert service.request("GET", "/health/ready")[0] == 503


def test_workers_that_die_unused_are_replaced_ever_more_slowly(pristine_export: Path, log: Path) -> None:
    def seconds_until_replaced(ended: int) -> float:
        start = time.monotonic()
        workers_of(service)[0].kill()
        until(lambda: log.read_text().count("ended with exit code -9") == ended)
        until(lambda: alive(service) == 1)
        return time.monotonic() - start

    with serving(pristine_export, "--parallel", 1, log=log) as service:
        seconds_until_replaced(1)
        assert "is started in" not in log.read_text()
        assert seconds_until_replaced(2) > 1
        assert "ended with exit code -9; another is started in 1 s" in log.read_text()
        assert service.predict(IMAGE)[0] == 200
        seconds_until_replaced(3)
        assert log.read_text().count("is started in") == 1


def test_a_request_whose_worker_ends_is_told_so(pristine_export: Path, log: Path) -> None:
    with serving(pristine_export, "--parallel", 1, log=log) as service, ThreadPoolExecutor(2) as client:
        failed = client.submit(service.answer, "POST", "/predict", LARGE)
        until(lambda: b"fourfold_requests_running 1.0" in service.answer("GET", "/metrics")[2])
        workers_of(service)[0].kill()
        status, _, body = failed.result()
        assert (status, b"its log says why" in body) == (500, True)
        assert service.predict(IMAGE)[0] == 200
        (worker,) = workers_of(service)  # which is quick, and is sent a second request ahead
        worker.suspend()
        failed = client.submit(service.answer, "POST", "/predict", IMAGE)
        until(lambda: metric(service, "fourfold_requests_running") == 1)
        ahead = client.submit(service.answer, "POST", "/predict", IMAGE)
        time.sleep(0.01)
        worker.kill()
        assert (failed.result()[0], ahead.result()[0]) == (500, 200)


def test_a_worker_that_hangs_is_ended_and_what_lay_behind_is_answered(service: Service, log: Path) -> None:
    hanging = workers_of(service)[0]
    hanging.suspend()
    with ThreadPoolExecutor(8) as clients:
        statuses = [status for status, _ in clients.map(lambda _: service.predict(IMAGE), range(40))]
    assert statuses.count(503) == 1  # the one that it was at
    assert statuses.count(200) == 39
    until(lambda: not hanging.is_running())
    until(lambda: alive(service) == 2)
    assert "took much longer than a request may" in log.read_text()
    assert service.predict(IMAGE)[0] == 200


def test_a_worker_does_not_go_on_for_nobody(pristine_export: Path, log: Path) -> None:
    slow = encoded(Image.new("1", (7000, 7000)), "PNG")
    with serving(pristine_export, "--parallel", 1, "--seconds", 1, log=log) as service:
        with ThreadPoolExecutor(2) as clients:
            batch = form(*[("", slow)] * 30)  # which takes far longer than a second on any machine
            first, second = (clients.submit(service.answer, "POST", "/predict/batch", *batch) for _ in range(2))
            assert (first.result()[0], second.result()[0]) == (503, 503)
        until(lambda: service.predict(IMAGE)[0] == 200)
        assert "took much longer than a request may" in log.read_text()


def test_many_small_images_do_not_wait_for_a_large_one(pristine_export: Path) -> None:
    with serving(pristine_export, "--parallel", 2) as service, ThreadPoolExecutor(4) as clients:
        large = clients.submit(service.predict, LARGE)
        until(lambda: b"fourfold_requests_running 1.0" in service.answer("GET", "/metrics")[2])
        for status, _ in clients.map(lambda _: service.predict(IMAGE), range(20)):
            assert status == 200
        assert not large.done()
        assert large.result()[0] == 200


def test_an_image_that_takes_long_is_worked_on_once_however_many_wait(pristine_export: Path) -> None:
    slow = encoded(Image.new("1", (4000, 4000)), "PNG")  # small enough to be sent ahead

    def seconds(images: int, at_once: int) -> float:
        """Processor time of the workers for each."""
        before = metric(service, "fourfold_workers_cpu_seconds_total")
        with ThreadPoolExecutor(at_once) as clients:
            assert {status for status, _ in clients.map(lambda _: service.predict(slow), range(images))} == {200}
        return (metric(service, "fourfold_workers_cpu_seconds_total") - before) / images

    with serving(pristine_export, "--parallel", 2) as service:
        alone = seconds(4, 1)
        assert seconds(12, 5) < 1.7 * alone


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_the_service(service: Service, number: signal.Signals) -> None:
    workers = workers_of(service)
    assert len(workers) == 2
    service.process.send_signal(number)
    service.process.wait(20)
    until(lambda: not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers))


def test_ctrl_c_ends_a_service_whose_new_worker_hangs(pristine_export: Path) -> None:
    with serving(pristine_export, "--parallel", 1) as service:
        (first,) = workers_of(service)
        first.kill()
        until(lambda: {*workers_of(service)} - {first})
        (hanging,) = {*workers_of(service)} - {first}
        hanging.suspend()
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(20) == 130
        until(lambda: not hanging.is_running())


def test_sigterm_is_heeded_from_the_beginning(pristine_export: Path) -> None:
    with serving(pristine_export) as service:
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) == 0


def test_what_waited_too_long_is_not_kept(pristine_export: Path) -> None:
    with serving(pristine_export, "--parallel", 1, "--seconds", 2) as service, ThreadPoolExecutor(11) as clients:
        memory = psutil.Process(service.process.pid).memory_info
        workers_of(service)[0].suspend()
        small, before = clients.submit(service.predict, IMAGE), memory().rss
        large = [clients.submit(service.predict, bytes(15_000_000)) for _ in range(10)]
        until(lambda: memory().rss > before + 100e6)
        assert {answer.result()[0] for answer in (small, *large)} == {503}
        until(lambda: memory().rss < before + 75e6)  # the allocator may keep some


@pytest.mark.parametrize("arguments", [[], ["abc"], [77]])
def test_a_worker_is_not_started_by_hand(arguments: list[object]) -> None:
    process = command("Deployment.service.worker", *arguments)
    assert is_one_line(process)
    assert "Deployment.serve" in process.stderr
