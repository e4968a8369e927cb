"""The worker processes from the service's side: an image that hangs or crashes one costs its own request and no other.

Each process is a pebble pool of its own, because the processes of one pool share a pipe and its locks: one that is
killed while it holds them would stop the others.
"""

import asyncio
import contextlib
import logging
import multiprocessing
from collections.abc import AsyncIterator
from concurrent.futures import Future
from itertools import chain, repeat
from pathlib import Path

from pebble import ProcessExpired, ProcessPool

from Datasets.tools.errors import UserError
from Deployment.service.artifact import Artifact, load
from Deployment.service.worker import Answer, Limits, Task, answer, load_model

log = logging.getLogger("fourfold")
START_SECONDS = 120  # for a worker to load the model
CHECK_SECONDS = 1  # between two looks whether an idle worker still runs
PAUSES = (0, 1, 2)  # seconds before each attempt to start another worker, then always LONGEST_PAUSE
LONGEST_PAUSE = 5


class Unavailable(Exception):
    """The service cannot answer this request now; the same request may succeed later."""


class Workers:
    """`limits.parallel` worker processes, and the requests that wait for one."""

    def __init__(self, export: Path, artifact: Artifact, threads: int, limits: Limits) -> None:
        self._export, self._artifact, self._threads, self._limits = export, artifact, threads, limits
        self._loading = dict[ProcessPool, Future[None]]()
        self._ready = set[ProcessPool]()
        self._idle = asyncio.LifoQueue[ProcessPool]()  # the one used last is the next: its caches are warm
        self._restarts = set[asyncio.Task[None]]()
        self._running = dict[ProcessPool, asyncio.Future[Answer]]()
        self._pending = 0  # requests that wait or are processed

    @property
    def running(self) -> int:
        """How many requests the workers process."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many requests wait for a worker."""
        return max(0, self._pending - self.running)

    @property
    def alive(self) -> int:
        """How many workers accept requests."""
        return len(self._ready)

    def start(self) -> None:
        """Start the processes, without waiting until they have loaded the model."""
        for _ in range(self._limits.parallel):
            self._start()

    def wait(self) -> None:
        """Wait until all have loaded the model. Raises UserError."""
        for pool, loaded in list(self._loading.items()):
            try:
                loaded.result(START_SECONDS)
            except ProcessExpired as error:
                raise UserError(f"a worker process ended with exit code {error.exitcode} at its start") from error
            except TimeoutError as error:
                raise UserError(f"a worker process has not loaded the model in {START_SECONDS} s") from error
            self._accept(pool)

    def stop(self) -> None:
        """End all processes, whatever they do."""
        pools = [*self._loading, *self._ready]
        for pool in pools:
            pool.stop()
        for process in multiprocessing.active_children():
            process.kill()
        for pool in pools:
            pool.join()

    @contextlib.asynccontextmanager
    async def serving(self, _: object) -> AsyncIterator[None]:
        """Replace workers that end, until the block does: the application's lifespan."""
        watch = asyncio.create_task(self._watch())
        yield
        for task in (watch, *self._restarts):
            task.cancel()

    async def answer(self, task: Task, deadline: float) -> Answer:
        """The answer to a task. deadline: by the event loop's clock.

        Raises Unavailable if too many requests wait, at the deadline, and if the worker fails.
        """
        if self._pending >= self._limits.parallel + self._limits.waiting:
            raise Unavailable("more requests are waiting than the service accepts; try again")
        self._pending += 1
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    pool = await self._idle.get()
                    if found := await asyncio.shield(asyncio.create_task(self._run(pool, task))):
                        return found
        except TimeoutError:
            raise Unavailable("the request timed out; try again, or send a smaller image") from None
        finally:
            self._pending -= 1

    async def _run(self, pool: ProcessPool, task: Task) -> Answer | None:
        """A worker's answer; None if its process ended before it took the task. A worker that fails is replaced."""
        try:
            async with asyncio.timeout(self._limits.seconds):
                self._running[pool] = asyncio.wrap_future(pool.schedule(answer, (task,)))
                found = await self._running[pool]
        except RuntimeError:
            self._replace(pool)
            return None
        except Exception as error:
            self._replace(pool)
            hangs = isinstance(error, TimeoutError)
            log.error("worker exceeded the request timeout; killed" if hangs else f"worker failed: {error!r}")
            return Answer(status=503, error="the worker process failed on this request; try again")
        finally:
            self._running.pop(pool, None)
        self._idle.put_nowait(pool)
        return found

    def _start(self) -> ProcessPool:
        pool = ProcessPool(max_workers=1, context=multiprocessing.get_context("spawn"))
        self._loading[pool] = pool.schedule(load_model, (self._artifact, self._threads, self._limits))
        return pool

    def _accept(self, pool: ProcessPool) -> None:
        del self._loading[pool]
        self._ready.add(pool)
        self._idle.put_nowait(pool)

    async def _watch(self) -> None:
        """Replace workers that end without a task."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            for pool in [pool for pool in self._ready if not pool.active]:
                log.error("worker ended")
                self._replace(pool)
                if (lost := self._running.get(pool)) and not lost.done():  # pebble was given it too late to notice
                    lost.set_exception(RuntimeError())

    def _replace(self, pool: ProcessPool) -> None:
        """Kill a worker's process and start another one."""
        if pool in self._ready:
            self._ready.remove(pool)
            self._kill(pool)
            restart = asyncio.create_task(self._restart())
            self._restarts.add(restart)
            restart.add_done_callback(self._restarts.discard)

    def _kill(self, pool: ProcessPool) -> None:
        pool.stop()
        asyncio.get_running_loop().run_in_executor(None, pool.join)  # takes 3 s where the process hangs

    async def _restart(self) -> None:
        """Start a worker with the same export, again and again until one is ready."""
        for pause in chain(PAUSES, repeat(LONGEST_PAUSE)):
            await asyncio.sleep(pause)
            pool = self._start()
            try:
                if await asyncio.to_thread(load, self._export) != self._artifact:
                    raise UserError(f"{self._export}: has changed since the service started; start it again")
                async with asyncio.timeout(START_SECONDS):
                    await asyncio.wrap_future(self._loading[pool])
                return self._accept(pool)
            except (UserError, RuntimeError, OSError) as error:
                log.error(f"no new worker, trying again: {error}")
                del self._loading[pool]
                self._kill(pool)
