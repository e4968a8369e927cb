"""The worker processes that run the model: an image that hangs or crashes one costs its own request and no other.

Each process is a pebble pool of its own, because the processes of one pool share a pipe and its locks: one that is
killed while it holds them would stop the others.
"""

import asyncio
import contextlib
import json
import logging
import multiprocessing
import traceback
import warnings
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

from pebble import ProcessExpired, ProcessPool

from Datasets.format.coco import predictions_to_coco
from Datasets.format.images import UnreadableImage
from Datasets.tools.errors import UserError, one_line
from Deployment.service.artifact import Artifact, load
from Deployment.service.limits import Limits
from Deployment.service.predictor import Predictor

log = logging.getLogger("fourfold")
START_SECONDS = 120  # for a worker to load the model
CHECK_SECONDS = 1  # between two looks whether an idle worker still runs
PAUSES = (0, 1, 2)  # seconds before each attempt to start another worker, then always LONGEST_PAUSE
LONGEST_PAUSE = 5


class Unavailable(Exception):
    """The service cannot answer this request now; the same request may succeed later."""


class Task(NamedTuple):
    """A request for predictions. files: names and bytes. threshold: None for the manifest's. coco: answer as COCO."""

    files: list[tuple[str, bytes]]
    batch: bool
    threshold: float | None
    coco: bool


class Answer(NamedTuple):
    """The JSON for a task, or an HTTP status and the reason; the number of images, and of objects by class, in it."""

    content: bytes = b""
    status: int = 200
    error: str = ""
    images: int = 0
    objects: dict[str, int] = {}  # noqa: RUF012


class Model:
    """The model in a worker process. Raises UserError if it cannot be loaded, or fails on the first sample."""

    def __init__(self, artifact: Artifact, threads: int, limits: Limits) -> None:
        self._artifact, self._limits = artifact, limits
        self._predictor = Predictor(artifact, threads)
        name, (image, _) = next(iter(artifact.samples().items()))
        try:
            self._predictor(image)  # the first answer is slow
        except Exception as error:
            raise UserError(f"{artifact.directory}: the model fails on sample {name}: {one_line(error)}") from error

    def answer(self, task: Task) -> Answer:
        """The answer to a task; the error of status 500 is a traceback, for the log."""
        try:
            rows = [self._row(name, data, task.threshold) for name, data in task.files]
            if not task.batch and "error" in rows[0]:
                return Answer(status=422, error=rows[0]["error"])
            content = json.dumps(self._content(rows, task), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except Exception:
            return Answer(status=500, error=traceback.format_exc())
        objects = Counter[str]()
        for row in rows:
            objects.update({each["name"]: each["count"] for each in row.get("counts", ())})
        return Answer(content.encode(), images=sum("error" not in row for row in rows), objects=dict(objects))

    def _row(self, name: str, data: bytes, threshold: float | None) -> dict[str, Any]:
        try:
            prediction = self._predictor(data, self._limits.pixels, threshold, self._limits.formats)
        except UnreadableImage as error:
            return {"image": name, "error": one_line(error)}
        return {"image": name, **prediction}

    def _content(self, rows: list[dict[str, Any]], task: Task) -> Any:
        if task.coco:
            return predictions_to_coco(rows, self._artifact.task, self._artifact.manifest["classes"])
        if task.batch:
            return {"answers": rows}
        return {name: value for name, value in rows[0].items() if name != "image"}


_model: Model  # of a worker process


def load_model(artifact: Artifact, threads: int, limits: Limits) -> None:
    """A worker process's first task. Raises UserError."""
    global _model
    warnings.simplefilter("ignore")  # Pillow's, about the images that are sent
    _model = Model(artifact, threads, limits)


def answer(task: Task) -> Answer:
    """A worker process's further tasks."""
    return _model.answer(task)


@dataclass(eq=False)
class Waiting:
    """A task and the future of its answer."""

    task: Task
    answer: asyncio.Future[Answer]


class Workers:
    """`limits.parallel` worker processes and the queue of tasks before them."""

    def __init__(self, export: Path, artifact: Artifact, threads: int, limits: Limits) -> None:
        self._export, self._artifact, self._threads, self._limits = export, artifact, threads, limits
        self._queue = asyncio.Queue[Waiting]()
        self._pools = dict[ProcessPool, Future[None]]()  # with the future of their load_model
        self._pending = 0  # tasks that wait or run
        self.running = 0
        self.alive = 0

    @property
    def waiting(self) -> int:
        """How many tasks wait for a worker."""
        return max(0, self._pending - self.running)

    def start(self) -> None:
        """Start the processes, without waiting until they have loaded the model."""
        for _ in range(self._limits.parallel):
            self._start()

    def wait(self) -> None:
        """Wait until all have loaded the model. Raises UserError."""
        for loaded in self._pools.values():
            try:
                loaded.result(START_SECONDS)
            except ProcessExpired as error:
                raise UserError(f"a worker process ended with exit code {error.exitcode} at its start") from error
            except TimeoutError as error:
                raise UserError(f"a worker process has not loaded the model in {START_SECONDS} s") from error

    def stop(self) -> None:
        """End all processes, whatever they do."""
        for pool in self._pools:
            pool.stop()
        for process in multiprocessing.active_children():
            process.kill()
        for pool in self._pools:
            pool.join()
        self._pools.clear()

    @contextlib.asynccontextmanager
    async def serving(self, _: object) -> AsyncIterator[None]:
        """Answer tasks until the block ends: the application's lifespan."""
        feeders = [asyncio.create_task(self._feed(pool)) for pool in self._pools]
        try:
            yield
        finally:
            for feeder in feeders:
                feeder.cancel()

    async def answer(self, task: Task, deadline: float) -> Answer:
        """The answer to a task. deadline: by the event loop's clock.

        Raises Unavailable if the queue is full, at the deadline, and if the worker process ends.
        """
        if self._pending >= self._limits.parallel + self._limits.waiting:
            raise Unavailable("more requests are waiting than the service accepts; try again")
        waiting = Waiting(task, asyncio.get_running_loop().create_future())
        self._pending += 1
        try:
            async with asyncio.timeout_at(deadline):
                self._queue.put_nowait(waiting)
                return await waiting.answer
        except TimeoutError:
            raise Unavailable("the request timed out; try again, or send a smaller image") from None
        finally:
            self._pending -= 1

    def _start(self) -> ProcessPool:
        pool = ProcessPool(max_workers=1, context=multiprocessing.get_context("spawn"))
        self._pools[pool] = pool.schedule(load_model, (self._artifact, self._threads, self._limits))
        return pool

    async def _feed(self, pool: ProcessPool) -> None:
        """Give a worker one task after the other, and start another one once it hangs or has ended."""
        while True:
            self.alive += 1
            while pool.active:
                try:
                    async with asyncio.timeout(CHECK_SECONDS):
                        waiting = await self._queue.get()
                except TimeoutError:
                    continue
                await self._work(pool, waiting)
            self.alive -= 1
            pool = await self._replace(pool)

    async def _work(self, pool: ProcessPool, waiting: Waiting) -> None:
        """Have a worker answer, and stop it if it does not: pebble kills its process."""
        if waiting.answer.done():  # the request has timed out
            return
        self.running += 1
        try:
            async with asyncio.timeout(self._limits.seconds):
                found = await asyncio.wrap_future(pool.schedule(answer, (waiting.task,)))
        except RuntimeError:  # the process had ended before it took the task
            pool.stop()
            self._queue.put_nowait(waiting)
        except Exception as error:
            pool.stop()
            log.error(
                "worker %s",
                "exceeded the request timeout; killed" if isinstance(error, TimeoutError) else f"failed: {error!r}",
            )
            if not waiting.answer.done():
                waiting.answer.set_exception(Unavailable("the worker process failed on this request; try again"))
        else:
            if not waiting.answer.done():
                waiting.answer.set_result(found)
        finally:
            self.running -= 1

    async def _replace(self, pool: ProcessPool) -> ProcessPool:
        """Start another worker, with the same export."""
        for pause in chain(PAUSES, repeat(LONGEST_PAUSE)):
            del self._pools[pool]
            pool.stop()
            asyncio.get_running_loop().run_in_executor(None, pool.join)  # up to 3 s for a process that hangs
            await asyncio.sleep(pause)
            pool = self._start()
            try:
                if await asyncio.to_thread(load, self._export) != self._artifact:
                    raise UserError(f"{self._export}: has changed since the service started; start it again")
                async with asyncio.timeout(START_SECONDS):
                    await asyncio.wrap_future(self._pools[pool])
                return pool
            except (UserError, RuntimeError, OSError) as error:
                log.error("no new worker, trying again: %s", error)
        raise AssertionError
