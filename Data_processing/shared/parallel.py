"""Work on many chunks, by processes of this machine or by a Dask cluster, with the same results in the same order."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

from Datasets.tools.command import end_with_parent
from Datasets.tools.errors import UserError

Result = TypeVar("Result")
WINDOW = 8  # chunks that wait for each of a cluster's threads
TIMEOUT = 5  # seconds for a scheduler to answer


class Engine(StrEnum):
    """Where work is done."""

    local = "local"
    dask = "dask"


@dataclass(frozen=True)
class Workers:
    """jobs: processes of this machine, -1 for one a core. scheduler: of the engine dask, such as tcp://host:8786.

    threads: of this process, instead of processes: they start at once; all chunks are taken at once.
    """

    engine: Engine = Engine.local
    scheduler: str = ""
    jobs: int = -1
    threads: bool = False

    def run(self, function: Callable[..., Result], chunks: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
        """function(*chunk) for each chunk, in order; only a few chunks are taken ahead.

        On a cluster, every worker must see the files that a chunk names and be able to import the function. What a
        worker that died had in hand is done again by another. Raises UserError if the scheduler does not answer.
        """
        if self.engine is Engine.dask and not self.scheduler:
            raise UserError("work.scheduler: the engine dask needs the address of a scheduler, such as tcp://HOST:8786")
        if self.engine is Engine.dask:
            yield from _on_cluster(self.scheduler, function, chunks)
        elif self.jobs == 1:
            yield from (function(*chunk) for chunk in chunks)
        elif self.threads:
            with ThreadPoolExecutor(self.jobs if self.jobs > 0 else None) as pool:
                yield from pool.map(lambda chunk: function(*chunk), chunks)
        else:
            import joblib

            work = (joblib.delayed(function)(*chunk) for chunk in chunks)
            parallel = joblib.Parallel(
                n_jobs=self.jobs, return_as="generator", initializer=partial(end_with_parent, os.getpid())
            )
            yield from parallel(work)


def _on_cluster(address: str, function: Callable[..., Result], chunks: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
    try:
        import distributed
    except ImportError as error:
        raise UserError("engine dask: the package distributed is not installed; `pip install distributed`") from error
    try:
        client = distributed.Client(address, timeout=TIMEOUT, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"scheduler {address!r} does not answer ({error}); start it, or set engine: local") from error
    with client:
        window: deque[Any] = deque()
        ahead = WINDOW * max(1, sum(client.nthreads().values()))
        for chunk in chunks:
            window.append(client.submit(function, *chunk, pure=False))
            if len(window) > ahead:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
