"""The processes that work on images: so many at once, so many requests waiting, none longer than a request may take.

Threads would wait for each other and for the service, as only one of them runs Python at a time; and a process can be
ended. So an image that takes too long, or that brings its worker down, costs one request only.
"""

import asyncio
import contextlib
import logging
import resource
from collections import deque
from collections.abc import AsyncIterator
from typing import Self

from starlette.exceptions import HTTPException

from Datasets.tools.errors import UserError
from Deployment.service.artifact import load
from Deployment.service.messages import Answer, Job, Task
from Deployment.service.processes import LOOK_SECONDS, Call, Process, Worker, code

log = logging.getLogger("fourfold")
RETRY_SECONDS = "1"
PAUSE = 1  # seconds before the second start in a row of a worker that does not answer; twice as long before each next
LONGEST_PAUSE = 5  # an image that ends workers must not keep the others waiting for long


def busy(message: str = "more requests are waiting than the service takes; try again") -> HTTPException:
    """The refusal of a request that would have to wait too long."""
    return HTTPException(503, message, {"Retry-After": RETRY_SECONDS})


class Workers:
    """`parallel` workers, before which at most `places` calls wait; they end with the block.

    Their processes start at once, and learn their job meanwhile; after wait() and within at_work() they take calls.
    """

    def __init__(self, parallel: int, places: int) -> None:
        self._parallel, self._places = parallel, places
        self._waiting: deque[Call] = deque()
        self._alive: list[Worker] = []
        self._starting: set[Process] = set()
        self._restarts: set[asyncio.Task[None]] = set()
        self._taken, self._looking, self._ended = 0, False, False

    def __enter__(self) -> Self:
        for _ in range(self._parallel):
            self._starting.add(Process())
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def learn(self, job: Job) -> None:
        """Tell the workers their job, without waiting until they know it."""
        self._job = job
        for process in self._starting:
            process.learn(job)
        self._code = code()

    def wait(self) -> None:
        """Wait until all are ready. Raises UserError if they cannot do their job."""
        for process in self._starting:
            process.wait()

    @contextlib.asynccontextmanager
    async def at_work(self, _: object) -> AsyncIterator[None]:
        """Have the workers take calls until the block ends, and end them then: an application's lifespan."""
        for process in list(self._starting):
            await self._attach(process)
        watch = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            for task in (watch, *self._restarts):
                task.cancel()
            self._end()

    async def run(self, task: Task, body: bytearray, deadline: float) -> Answer:
        """The answer to a task. deadline: by the event loop's clock.

        Raises HTTPException 503 if all places are taken, or at the deadline; RuntimeError if its worker has ended.
        """
        if self._taken >= self._parallel + self._places:
            raise busy()
        self._taken += 1
        call = Call(task, body, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        self.begin()
        try:
            async with asyncio.timeout_at(deadline):
                return await call.answer
        except TimeoutError:
            with contextlib.suppress(ValueError):
                self._waiting.remove(call)
            raise busy("the answer took longer than a request may; try again, or send a smaller image") from None
        finally:
            self._taken -= 1

    def is_ready(self, worker: Worker) -> None:
        """Have a worker take calls."""
        self._starting.discard(worker.process)
        self._alive.append(worker)
        self.begin()

    def has_ended(self, worker: Worker) -> None:
        """Start another worker for one that has ended; what it was at fails, what was sent ahead goes to another."""
        if worker not in self._alive:  # as all of them are to end
            return
        self._alive.remove(worker)
        reason = f"a worker's process ended with exit code {worker.process.end()}"
        log.error(f"{reason}; another is started in {worker.pause} s" if worker.pause else reason)
        calls = list(worker.calls)
        worker.calls.clear()
        if calls and calls[0].worker is worker and not calls[0].answer.done():
            calls[0].answer.set_exception(RuntimeError(reason))
        self._waiting.extendleft(calls[1:])
        self.begin()
        restart = asyncio.ensure_future(self._restart(worker.pause))
        self._restarts.add(restart)
        restart.add_done_callback(self._restarts.discard)

    def begin(self) -> None:
        """Send the workers what they can take."""
        while self._waiting and (worker := self._taker(self._waiting[0])):
            call = self._waiting.popleft()
            if call.answer.done() or call.begun:  # by the worker that it was first sent to
                continue
            worker.begin(call)
            if len(worker.calls) > 1 and not self._looking:
                self._looking = True
                asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _taker(self, call: Call) -> Worker | None:
        takers = (worker for worker in self._alive if worker.takes(call))
        return min(takers, key=lambda worker: len(worker.calls), default=None)

    def _look(self) -> None:
        """Have another worker do what lies behind a call that takes long."""
        self._looking = False
        for worker in self._alive:
            if len(worker.calls) > 1:
                first, ahead = worker.calls
                if first is worker.seen and ahead not in self._waiting:
                    self._waiting.appendleft(ahead)
                worker.seen, self._looking = first, True
        if self._looking:
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)
        self.begin()

    async def _watch(self) -> None:
        """End workers that have been at a call for as long as a request may take, so that nobody waits for it."""
        loop, most = asyncio.get_running_loop(), self._job.limits.seconds
        while True:
            await asyncio.sleep(most / 10)
            for worker in self._alive:
                if worker.calls and loop.time() > worker.since + most:
                    log.error("a worker took much longer than a request may, and is ended")
                    worker.process.end()

    async def _attach(self, process: Process, pause: int = 0) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: Worker(process, self, pause), sock=process.connection)

    async def _restart(self, pause: int) -> None:
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause or PAUSE, LONGEST_PAUSE)
            try:
                return await self._attach(await asyncio.to_thread(self._started), pause)
            except (UserError, OSError) as error:
                log.error(f"no new worker: {error}; the next try is in {pause} s")

    def _started(self) -> Process:
        job, now = self._job, code()
        changed = [file for file, digest in self._code.items() if now.get(file) != digest]
        if load(job.export) != job.artifact:
            changed.append(job.export)
        if changed:
            raise UserError(f"{changed[0]}: is not what it was when the service started; start the service again")
        process = Process()
        self._starting.add(process)
        if self._ended:  # while this was comparing files
            process.end()
        process.learn(job)
        try:
            process.wait()
        except UserError:
            self._starting.discard(process)
            process.end()
            raise
        return process

    def _end(self) -> None:
        self._ended = True
        for process in (*self._starting, *(worker.process for worker in self._alive)):
            process.end()
        self._alive.clear()
        self._starting.clear()

    def usage(self) -> tuple[float, int]:
        """Processor seconds of all workers, those that have ended too, and resident bytes of those that have not."""
        used = [process.usage() for process in (*self._starting, *(worker.process for worker in self._alive))]
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = ended.ru_utime + ended.ru_stime + sum(seconds for seconds, _ in used)
        return seconds, sum(memory for _, memory in used)

    @property
    def alive(self) -> int:
        """How many workers can take calls."""
        return len(self._alive)

    @property
    def running(self) -> int:
        """How many calls are worked on."""
        return sum(bool(worker.calls) for worker in self._alive)

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return max(0, self._taken - self.running)
