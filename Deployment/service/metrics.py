"""What Prometheus reads at /metrics."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from Deployment.service.workers import Workers

SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class WorkerCollector(Collector):
    """What the workers' processes use; ProcessCollector has it of the process that speaks HTTP."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        """The figures of this moment."""
        seconds, memory = self._workers.usage()
        yield CounterMetricFamily("fourfold_workers_cpu_seconds", "Processor time of worker processes", seconds)
        yield GaugeMetricFamily("fourfold_workers_resident_memory_bytes", "Memory of worker processes", memory)


class Metrics:
    """The service's figures since it started."""

    TYPE = CONTENT_TYPE_LATEST

    def __init__(self, manifest: dict[str, Any], workers: Workers) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        if Path("/proc/self/stat").exists():
            registry.register(WorkerCollector(workers))
        self._requests = Counter("fourfold_requests", "Answered requests", ["path", "status"], registry=registry)
        self._seconds = Histogram(
            "fourfold_request_seconds", "From request to answer", ["path"], buckets=SECONDS, registry=registry
        )
        self._images = Counter("fourfold_images", "Images that a prediction was made of", registry=registry)
        self._objects = Counter("fourfold_objects", "Objects found in them", ["name"], registry=registry)
        running = Gauge("fourfold_requests_running", "Requests worked on", registry=registry)
        running.set_function(lambda: workers.running)
        waiting = Gauge("fourfold_requests_waiting", "Requests that wait for a worker", registry=registry)
        waiting.set_function(lambda: workers.waiting)
        alive = Gauge("fourfold_workers", "Worker processes that take requests", registry=registry)
        alive.set_function(lambda: workers.alive)
        model = Gauge("fourfold_model", "The model that answers", ["experiment", "commit"], registry=registry)
        model.labels(manifest["experiment"], str(manifest.get("git", {}).get("commit"))).set(1)

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Count an answer. path: one of the service's own, so that strangers make no new series."""
        self._requests.labels(path, status).inc()
        self._seconds.labels(path).observe(seconds)

    def count_predictions(self, images: int, objects: Iterable[tuple[str, int]]) -> None:
        """Count images, and the objects found in them by class."""
        self._images.inc(images)
        for name, number in objects:
            self._objects.labels(name).inc(number)

    def text(self) -> bytes:
        """All figures in Prometheus' text form."""
        return generate_latest(self._registry)
