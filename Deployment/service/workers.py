"""The worker processes from the service's side: an image that hangs or crashes one costs its own request and no other.

Each process has a pipe of its own, which the event loop reads: whatever happens to one, the others go on. Only the
standard library: through pebble's pools, or with a thread for each worker, the service gave 0.6 of the answers.
"""

import asyncio
import contextlib
import logging
import multiprocessing
from collections.abc import AsyncIterator, Callable
from itertools import chain, repeat
from pathlib import Path

from Datasets.format.graphs import Device
from Datasets.tools.errors import UserError
from Deployment.service.artifact import load
from Deployment.service.worker import Answer, Setup, Task, work

log = logging.getLogger("fourfold")
START_SECONDS = 120  # for a worker to load the model
BUFFERED = 100_000  # bytes of images that a pipe takes at once; more could block the event loop
PAUSES = (0, 1, 2)  # seconds before each attempt to start another worker, then always LONGEST_PAUSE
LONGEST_PAUSE = 5
KILL_SECONDS = 1  # for a killed process to end


class Unavailable(Exception):
    """The service cannot answer this request now; the same request may succeed later."""


class Worker:
    """One worker process. ended: is called if the process ends without a task while it is watched."""

    def __init__(self, setup: Setup, ended: Callable[["Worker"], None]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, setup), daemon=True)
        self._process.start()
        self._answer: asyncio.Future[Answer] | None = None
        self._ended = ended
        theirs.close()

    def wait(self) -> Device:
        """Block until it has loaded the model; return the device that it computes on. Raises UserError."""
        try:
            if not self._pipe.poll(START_SECONDS):
                raise UserError(f"a worker process has not loaded the model in {START_SECONDS} s")
            failure, device = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise UserError(f"a worker process ended with exit code {self._process.exitcode} at its start") from error
        if failure:
            raise UserError(failure)
        return device

    def watch(self) -> None:
        """Receive answers in the event loop from now on."""
        asyncio.get_running_loop().add_reader(self._pipe, self._receive)

    async def answer(self, task: Task, seconds: float) -> Answer | None:
        """The answer to a task; None if the process ended before it was sent.

        Raises TimeoutError, and EOFError or OSError if the process ends meanwhile.
        """
        self._answer = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(seconds):
            try:
                if sum(len(data) for _, data in task.files) < BUFFERED:
                    self._pipe.send(task)
                else:
                    await asyncio.to_thread(self._pipe.send, task)
            except OSError:
                return None
            return await self._answer

    def _receive(self) -> None:
        waiting = self._answer if self._answer and not self._answer.done() else None
        try:
            found = self._pipe.recv()
        except (EOFError, OSError) as error:
            asyncio.get_running_loop().remove_reader(self._pipe)
            if waiting:
                waiting.set_exception(error)
            else:
                self._ended(self)
        else:
            if waiting:
                waiting.set_result(found)

    def kill(self) -> None:
        """End the process, whatever it does; what waits for it fails."""
        self._process.kill()
        self._process.join(KILL_SECONDS)


class Workers:
    """`limits.parallel` worker processes, and the requests that wait for one."""

    def __init__(self, export: Path, setup: Setup) -> None:
        self._export, self._setup, self._limits = export, setup, setup.limits
        self.device = setup.runtime.device  # where the models compute, once they are loaded
        self._loading = set[Worker]()
        self.ready = set[Worker]()  # those that accept requests
        self._idle = asyncio.LifoQueue[Worker]()  # the one used last is the next: its caches are warm
        self._restarts = set[asyncio.Task[None]]()
        self.running = 0  # requests that the workers process
        self._pending = 0  # requests that wait or are processed

    @property
    def waiting(self) -> int:
        """How many requests wait for a worker."""
        return max(0, self._pending - self.running)

    def check(self) -> None:
        """Raise Unavailable unless a worker accepts requests."""
        if not self.ready:
            raise Unavailable("no worker is ready; they are restarting")

    def start(self) -> None:
        """Start the processes, without waiting until they have loaded the model."""
        for _ in range(self._limits.parallel):
            self._start()

    def wait(self) -> None:
        """Wait until all have loaded the model. Raises UserError."""
        for worker in list(self._loading):
            self.device = worker.wait()
            self._accept(worker)

    def stop(self) -> None:
        """End all processes, whatever they do."""
        for worker in (*self._loading, *self.ready):
            worker.kill()

    @contextlib.asynccontextmanager
    async def serving(self, _: object) -> AsyncIterator[None]:
        """Replace workers that end, until the block does: the application's lifespan."""
        for worker in self.ready:
            worker.watch()
        yield
        for task in self._restarts:
            task.cancel()
        for worker in self._loading:
            worker.kill()  # or the thread that waits for it would go on

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
                    worker = await self._idle.get()
                    if found := await asyncio.shield(asyncio.create_task(self._run(worker, task))):
                        return found
        except TimeoutError:
            raise Unavailable("the request timed out; try again, or send a smaller image") from None
        finally:
            self._pending -= 1

    async def _run(self, worker: Worker, task: Task) -> Answer | None:
        """A worker's answer; None if its process ended before it took the task. A worker that fails is replaced."""
        self.running += 1
        try:
            found = await worker.answer(task, self._limits.seconds)
        except (EOFError, OSError) as error:  # TimeoutError is one
            self._replace(worker)
            hangs = isinstance(error, TimeoutError)
            log.error("worker exceeded the request timeout; killed" if hangs else "worker failed: its process ended")
            return Answer(status=503, error="the worker process failed on this request; try again")
        finally:
            self.running -= 1
        if found is None:
            self._replace_ended(worker)
        else:
            self._idle.put_nowait(worker)
        return found

    def _start(self) -> Worker:
        worker = Worker(self._setup, self._replace_ended)
        self._loading.add(worker)
        return worker

    def _accept(self, worker: Worker) -> None:
        self._loading.remove(worker)
        self.ready.add(worker)
        self._idle.put_nowait(worker)

    def _replace_ended(self, worker: Worker) -> None:
        """Replace a worker that ended without a task; one that was killed is replaced already."""
        if worker in self.ready:
            log.error("worker ended while idle")
            self._replace(worker)

    def _replace(self, worker: Worker) -> None:
        """Kill a worker's process and start another one."""
        if worker in self.ready:
            self.ready.remove(worker)
            worker.kill()
            restart = asyncio.create_task(self._restart())
            self._restarts.add(restart)
            restart.add_done_callback(self._restarts.discard)

    async def _restart(self) -> None:
        """Start a worker with the same export, again and again until one is ready."""
        for pause in chain(PAUSES, repeat(LONGEST_PAUSE)):
            await asyncio.sleep(pause)
            worker = self._start()
            try:
                if await asyncio.to_thread(load, self._export) != self._setup.artifact:
                    raise UserError(f"{self._export}: has changed since the service started; start it again")
                await asyncio.to_thread(worker.wait)
                worker.watch()
                return self._accept(worker)
            except (UserError, OSError) as error:
                log.error(f"no new worker, trying again: {error}")
                self._loading.remove(worker)
                worker.kill()
