"""Runs a function as a command: its options, its progress, and one line instead of a traceback for a user's mistake."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from Datasets.tools.errors import UserError, one_line

T = TypeVar("T")


def run(*functions: Callable[..., Any]) -> None:
    """Run a function as a typer command on sys.argv; of several, the one that the first word names.

    Options may be written with dashes or underscores, so that DVC can unpack a mapping of params.yaml into them.
    Exit codes: 0 done; 1 the user's mistake, reported in one line on stderr; 130 interrupted.
    """
    import typer  # here, as worker processes need only end_with_parent

    usage_error: type[Exception] = typer.BadParameter.__mro__[1]  # typer does not export the base of its usage errors
    if "DVC_STAGE" in os.environ:
        end_with_parent()
    app = typer.Typer(add_completion=False, context_settings={"token_normalize_func": _dashes})
    for function in functions:
        app.command(function.__name__.rstrip("_"))(function)
    try:
        sys.exit(typer.main.get_command(app).main(standalone_mode=False))  # typer returns 130 if interrupted
    except usage_error as error:
        _fail(f"{one_line(error.format_message())} (--help lists the options)")  # type: ignore[attr-defined]
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else f"{type(error).__name__}: {error}")
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _dashes(token: str) -> str:
    return token.replace("_", "-")


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def end_with_parent(parent: int | None = None) -> None:
    """Have Linux end this process when its parent dies; otherwise it would write where the next run does.

    parent: its process id, if known; if it is dead already, this process ends at once.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG in prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
        if parent not in (None, os.getppid()):
            os._exit(1)


def progress(items: Iterable[T], total: int, what: str, unit: str, seconds: float = 10.0) -> Iterator[T]:
    """Yield `items` and show progress on stderr: a bar on a terminal, elsewhere at most one line in `seconds`."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc=what, unit=f" {unit}")
        return
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            print(f"{what}: {done} of {total} {unit}, {done / (last - start):.0f} a second", file=sys.stderr)
    unit = unit.removesuffix("s") if done == 1 else unit
    print(f"{what}: {done} {unit} in {time.monotonic() - start:.1f} s", file=sys.stderr)
