"""The service's worker processes: one that ends, or that takes too long, costs a request and not the service."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests.template.conftest import until
from tests.template.Deployment.made_export import SAMPLES, encoded
from tests.template.Deployment.running_service import Service, form, serving

IMAGE = encoded(SAMPLES["000.jpg"])
LARGE = encoded(Image.new("RGB", (5400, 5400)), "PNG")  # decoding it takes a good part of a second


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def service(pristine_export: Path, log: Path) -> Iterator[Service]:
    with serving(pristine_export, "--parallel", 2, "--seconds", 3, log=log) as running:
        yield running


def workers_of(service: Service) -> list[psutil.Process]:
    children = psutil.Process(service.process.pid).children()
    alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if "resource_tracker" not in " ".join(child.cmdline())]


def metric(service: Service, name: str) -> float:
    text = service.answer("GET", "/metrics")[2].decode()
    return float(text.partition(f"\n{name} ")[2].split()[0])


def alive(service: Service) -> float:
    """How many workers take requests."""
    return metric(service, "fourfold_workers")


def test_workers_that_are_killed_while_idle_are_replaced(service: Service) -> None:
    first = workers_of(service)
    for worker in first:
        worker.kill()
    until(lambda: service.request("GET", "/health/ready")[0] == 503)
    assert service.request("GET", "/health/live")[0] == 200
    assert service.predict(IMAGE)[0] in (200, 503)  # it waits for the new ones, for --seconds at most
    until(lambda: alive(service) == 2)
    assert service.request("GET", "/health/ready")[0] == 200
    assert service.predict(IMAGE)[1]["labels"] == ["blue", "red"]
    assert not {worker.pid for worker in workers_of(service)} & {worker.pid for worker in first}


def test_requests_just_after_a_kill_are_answered_by_another_worker(pristine_export: Path) -> None:
    with serving(pristine_export, "--parallel", 2) as service, ThreadPoolExecutor(4) as clients:
        service.process.send_signal(signal.SIGSTOP)  # so that it hears of the death and of the requests at once
        workers_of(service)[0].kill()
        answers = [clients.submit(service.predict, IMAGE) for _ in range(4)]
        time.sleep(0.1)
        service.process.send_signal(signal.SIGCONT)
        assert [answer.result()[0] for answer in answers] == [200] * 4


def test_a_new_worker_does_not_serve_a_changed_export(export: Path, log: Path) -> None:
    with serving(export, "--parallel", 1, log=log) as service:
        model = (export / "model.onnx").read_bytes()
        (export / "model.onnx").write_bytes(model + b"\0")
        workers_of(service)[0].kill()
        until(lambda: "no new worker" in log.read_text())
        assert "model.onnx" in log.read_text()
        assert service.request("GET", "/health/ready")[0] == 503
        (export / "model.onnx").write_bytes(model)
        until(lambda: alive(service) == 1)
        assert service.predict(IMAGE)[0] == 200


def test_under_load_each_killed_worker_costs_one_request(pristine_export: Path) -> None:
    with serving(pristine_export, "--parallel", 2) as service, ThreadPoolExecutor(8) as clients:
        right = service.predict(IMAGE)
        answers = [clients.submit(service.predict, IMAGE) for _ in range(1500)]
        for _ in range(2):
            until(lambda: alive(service) == 2)
            workers_of(service)[0].kill()
            time.sleep(0.2)
        found = [answer.result() for answer in answers]
    wrong = [answer for answer in found if answer != right]
    assert [status for status, _ in wrong] == [503] * len(wrong)
    assert len(wrong) <= 2


def test_a_request_whose_worker_ends_is_reported_and_not_tried_again(pristine_export: Path, log: Path) -> None:
    with serving(pristine_export, "--parallel", 1, log=log) as service, ThreadPoolExecutor(2) as client:
        failed = client.submit(service.answer, "POST", "/predict", LARGE)
        until(lambda: metric(service, "fourfold_requests_running") == 1)
        time.sleep(0.2)  # it is at work
        workers_of(service)[0].kill()
        status, headers, body = failed.result()
        assert (status, headers["retry-after"], b"worker" in body) == (503, "1", True)
        assert service.predict(IMAGE)[0] == 200
        assert log.read_text().count("worker failed") == 1


def test_a_worker_that_hangs_costs_one_request(service: Service, log: Path) -> None:
    hanging = workers_of(service)[0]
    hanging.suspend()
    with ThreadPoolExecutor(8) as clients:
        statuses = [status for status, _ in clients.map(lambda _: service.predict(IMAGE), range(40))]
    assert statuses.count(503) == 1  # the one that it was at
    assert statuses.count(200) == 39
    until(lambda: not hanging.is_running())
    until(lambda: alive(service) == 2)
    assert "exceeded the request timeout" in log.read_text()
    assert service.predict(IMAGE)[0] == 200


def test_a_batch_that_times_out_frees_its_worker(pristine_export: Path, log: Path) -> None:
    slow = encoded(Image.new("1", (5400, 5400)), "PNG")
    with serving(pristine_export, "--parallel", 1, "--seconds", 1, log=log) as service:
        with ThreadPoolExecutor(2) as clients:
            batch = form(*[("", slow)] * 30)  # which takes far longer than a second on any machine
            first, second = (clients.submit(service.answer, "POST", "/predict/batch", *batch) for _ in range(2))
            assert (first.result()[0], second.result()[0]) == (503, 503)
        until(lambda: service.predict(IMAGE)[0] == 200)
        assert "exceeded the request timeout" in log.read_text()


def test_many_small_images_do_not_wait_for_a_large_one(pristine_export: Path) -> None:
    with serving(pristine_export, "--parallel", 2) as service, ThreadPoolExecutor(4) as clients:
        large = clients.submit(service.predict, LARGE)
        until(lambda: metric(service, "fourfold_requests_running") == 1)
        for status, _ in clients.map(lambda _: service.predict(IMAGE), range(10)):
            assert status == 200
        assert not large.done()
        assert large.result()[0] == 200


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
        for hanging in {*workers_of(service)} - {first}:
            hanging.suspend()
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(20) == 130
        until(lambda: not hanging.is_running())


def test_sigterm_ends_it_from_the_beginning(pristine_export: Path) -> None:
    with serving(pristine_export) as service:
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) == 0


def test_bodies_of_requests_that_timed_out_are_freed(pristine_export: Path) -> None:
    with serving(pristine_export, "--parallel", 1, "--seconds", 2) as service, ThreadPoolExecutor(11) as clients:
        memory = psutil.Process(service.process.pid).memory_info
        workers_of(service)[0].suspend()
        small, before = clients.submit(service.predict, IMAGE), memory().rss
        large = [clients.submit(service.predict, bytes(15_000_000)) for _ in range(10)]
        until(lambda: memory().rss > before + 100e6)
        assert {answer.result()[0] for answer in (small, *large)} == {503}
        until(lambda: memory().rss < before + 75e6)  # the allocator may keep some
