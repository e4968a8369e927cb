"""The worker processes from the service's side: an image that hangs or crashes one costs its own request and no other.

Each process has a pipe of its own, which the event loop reads: whatever happens to one, the others go on. Only the
standard library: through pebble's pools, or with a thread for each worker, the service gave 0.6 of the answers.
"""

import asyncio
import logging
import multiprocessing
from collections.abc import Callable
from contextlib import suppress
from itertools import chain, repeat
from typing import Any

from starlette.exceptions import HTTPException

from Datasets.format.graphs import Device
from Datasets.tools.errors import UserError
from Deployment.service.artifact import Artifact, Runtime, load
from Deployment.service.worker import Answer, Limits, Task, work

log = logging.getLogger("fourfold")
START_SECONDS = 120  # for a worker to load the model
BUFFERED = 100_000  # bytes of images that a pipe takes at once; more could block the event loop
PAUSES = (0, 1, 2)  # seconds before each attempt to start another worker, then always LONGEST_PAUSE
LONGEST_PAUSE = 5
KILL_SECONDS = 1  # for a killed process to end


class Worker:
    """One worker process, whose answers the running event loop receives.

    setup: what `work` begins with. ended: is called if the process ends while nobody waits for an answer.
    """

    def __init__(self, setup: tuple[Any, ...], ended: Callable[["Worker"], None]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, *setup), daemon=True)
        self._process.start()
        theirs.close()
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Any] = self._loop.create_future()  # the first: whether the model is loaded
        self._loop.add_reader(self._pipe, self._receive)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.is_alive()

    async def loaded(self) -> Device:
        """Wait until it has loaded the model; return the device that it computes on. Raises UserError."""
        try:
            async with asyncio.timeout(START_SECONDS):
                report = await self._answer
        except TimeoutError:
            raise UserError(f"a worker process has not loaded the model in {START_SECONDS} s") from None
        if report is None:
            self._process.join()
            raise UserError(f"a worker process ended with exit code {self._process.exitcode} at its start")
        failure, device = report
        if failure:
            raise UserError(failure)
        return device

    async def answer(self, task: Task, seconds: float) -> Answer | None:
        """The answer to a task; None if the process ends before. Raises TimeoutError."""
        self._answer = self._loop.create_future()
        async with asyncio.timeout(seconds):
            with suppress(OSError):  # the process has ended, which `_receive` hears of
                if sum(len(data) for _, data in task.files) < BUFFERED:
                    self._pipe.send(task)
                else:
                    await asyncio.to_thread(self._pipe.send, task)
            return await self._answer

    def _receive(self) -> None:
        found = None
        try:
            found = self._pipe.recv()
        except (EOFError, OSError):
            self._loop.remove_reader(self._pipe)
        if not self._answer.done():
            self._answer.set_result(found)
        elif found is None:
            self._ended(self)

    def kill(self) -> None:
        """End the process, whatever it does; what waits for it fails."""
        self._process.kill()
        self._process.join(KILL_SECONDS)


class Workers:
    """`limits.parallel` worker processes, and the requests that wait for one."""

    def __init__(self, artifact: Artifact, runtime: Runtime, limits: Limits, extras: bool) -> None:
        self._artifact, self._limits = artifact, limits
        self._setup = (artifact, runtime, extras)
        self.device = runtime.device  # where the models compute, once they are loaded
        self._loading = set[Worker]()
        self.ready = set[Worker]()  # those that accept requests
        self._idle = asyncio.LifoQueue[Worker]()  # the one used last is the next: its caches are warm
        self._restarts = set[asyncio.Task[None]]()
        self.running = 0  # requests that the workers process
        self.pending = 0  # requests that wait or are processed

    def check(self) -> None:
        """Raise HTTPException 503 unless a worker accepts requests."""
        if not self.ready:
            raise HTTPException(503, "no worker is ready; they are restarting")

    def start(self) -> None:
        """Start the processes, without waiting until they have loaded the model."""
        self._loading = {Worker(self._setup, self._replace) for _ in range(self._limits.parallel)}

    async def wait(self) -> None:
        """Wait until all have loaded the model. Raises UserError."""
        await asyncio.gather(*map(self._accept, self._loading))

    def stop(self) -> None:
        """End all processes, whatever they do."""
        workers = self._loading | self.ready
        self._loading, self.ready = set(), set()  # so that none of them is replaced
        for worker in workers:
            worker.kill()

    async def answer(self, task: Task, deadline: float) -> Answer:
        """The answer to a task. deadline: by the event loop's clock.

        Raises HTTPException 503 if too many requests wait, and at the deadline.
        """
        if self.pending >= self._limits.parallel + self._limits.waiting:
            raise HTTPException(503, "more requests are waiting than the service accepts; try again")
        self.pending += 1
        try:
            async with asyncio.timeout_at(deadline):
                while not (worker := await self._idle.get()).alive:
                    self._replace(worker)
                return await asyncio.shield(asyncio.create_task(self._run(worker, task)))
        except TimeoutError:
            raise HTTPException(503, "the request timed out; try again, or send a smaller image") from None
        finally:
            self.pending -= 1

    async def _run(self, worker: Worker, task: Task) -> Answer:
        """A worker's answer. A worker that fails is replaced."""
        self.running += 1
        found, reason = None, "worker failed: its process ended"
        try:
            found = await worker.answer(task, self._limits.seconds)
        except TimeoutError:
            reason = "worker exceeded the request timeout; killed"
        finally:
            self.running -= 1
        if found is None:
            self._replace(worker, reason)
            return Answer(status=503, error="the worker process failed on this request; try again")
        self._idle.put_nowait(worker)
        return found

    async def _accept(self, worker: Worker) -> None:
        """Wait until a worker has loaded the model. Raises UserError."""
        self.device = await worker.loaded()
        self._loading.remove(worker)
        self.ready.add(worker)
        self._idle.put_nowait(worker)

    def _replace(self, worker: Worker, reason: str = "worker ended while idle") -> None:
        """Kill a worker's process and start another one, unless that is done already."""
        if worker in self.ready:
            log.error(reason)
            self.ready.remove(worker)
            worker.kill()
            restart = asyncio.create_task(self._restart())
            self._restarts.add(restart)
            restart.add_done_callback(self._restarts.discard)

    async def _restart(self) -> None:
        """Start a worker with the same export, again and again until one is ready."""
        for pause in chain(PAUSES, repeat(LONGEST_PAUSE)):
            await asyncio.sleep(pause)
            worker = Worker(self._setup, self._replace)
            self._loading.add(worker)
            export = self._artifact.directory
            try:
                if await asyncio.to_thread(load, export) != self._artifact:
                    raise UserError(f"{export}: has changed since the service started; start it again")
                return await self._accept(worker)
            except (UserError, OSError) as error:
                log.error(f"no new worker, trying again: {error}")
                self._loading.discard(worker)
                worker.kill()
