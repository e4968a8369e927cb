"""Work on many chunks, by processes of this machine or by a Dask cluster, with the same results in the same order."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import islice
from typing import Annotated, Any, TypeVar

import typer

from Datasets.tools.command import end_with_parent
from Datasets.tools.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Engine(StrEnum):
    """Where work is done."""

    local = "local"
    dask = "dask"


@dataclass(frozen=True)
class Workers:
    """Who does the work, as the options of a command say."""

    engine: Annotated[Engine, typer.Option(help="local processes, or a Dask cluster")] = Engine.local
    scheduler: Annotated[str, typer.Option(help="address of the cluster's scheduler, such as tcp://HOST:8786")] = ""
    jobs: Annotated[int, typer.Option(help="local processes; -1 for one a core")] = -1

    def run(
        self, function: Callable[..., Result], chunks: Iterable[tuple[Any, ...]], few: bool = False
    ) -> Iterator[Result]:
        """function(*chunk) for each chunk, in order. few: so little work that local processes are not worth starting.

        On a cluster, every worker must see the files that a chunk names and be able to import the function; the chunk
        of a worker that dies goes to another. Raises UserError if the scheduler does not answer.
        """
        if self.engine is Engine.dask:
            yield from _on_cluster(self.scheduler, function, chunks)
        elif few or self.jobs == 1:
            yield from (function(*chunk) for chunk in chunks)
        else:
            import joblib

            work = (joblib.delayed(function)(*chunk) for chunk in chunks)
            initializer = partial(end_with_parent, os.getpid())
            yield from joblib.Parallel(n_jobs=self.jobs, return_as="generator", initializer=initializer)(work)


def _on_cluster(address: str, function: Callable[..., Result], chunks: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
    if not address:
        raise UserError("work.scheduler: the engine dask needs the address of a scheduler, such as tcp://HOST:8786")
    try:
        import distributed
    except ImportError as error:
        raise UserError("engine dask: the package distributed is not installed; `pip install distributed`") from error
    import joblib

    try:
        client = distributed.Client(address, timeout=5, set_as_default=False)  # seconds
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"scheduler {address!r} does not answer ({error}); start it, or set engine: local") from error
    with client:
        with joblib.parallel_config(backend="dask", client=client):
            work = (joblib.delayed(_call)((function, chunk)) for chunk in chunks)
            results = joblib.Parallel(return_as="generator")(work)
        yield from results


def _call(task: tuple[Callable[..., Result], tuple[Any, ...]]) -> Result:
    """Call a function with a chunk; as one tuple, of which joblib keeps no copy on a worker that may die."""
    function, chunk = task
    return function(*chunk)


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one shorter. (itertools.batched comes with Python 3.12.)"""
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part
