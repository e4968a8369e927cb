"""Runs a function as a command: its options, its progress, and one line instead of a traceback for a user's mistake."""

import ctypes
import functools
import inspect
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import MISSING, fields
from typing import Annotated, Any, TypeVar, get_origin

from Datasets.tools.errors import UserError, one_line

T = TypeVar("T")
SECONDS = 10  # between lines of progress
Command = TypeVar("Command", bound=Callable[..., Any])
# What moves the cursor, colours, or turns letters round on a terminal, but for what shows progress: \n, \r and ESC[K.
CONTROL = re.compile(r"(?!\x1b\[[KA])[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

# Read by the OpenMP runtime when torch is imported, after this module: threads that spin long while they wait for each
# other make training many times slower as soon as anything else runs on the machine.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def run(*functions: Callable[..., Any]) -> None:
    """Run a function as a typer command on sys.argv; of several, the one that the first word names.

    Options may be written with dashes or underscores, so that DVC can unpack a mapping of params.yaml into them.
    Exit codes: 0 done; 1 the user's mistake, reported in one line on stderr; 130 interrupted; 143 and 129 ended by
    SIGTERM and SIGHUP, which undo what is half done, too.
    """
    import typer  # here, as worker processes need only end_with_parent

    usage_error: type[Exception] = typer.BadParameter.__mro__[1]  # typer does not export the base of its usage errors
    if "DVC_STAGE" in os.environ:
        end_with_parent()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup has it ignored
            signal.signal(number, lambda number, frame: sys.exit(128 + number))
    settings = {"token_normalize_func": lambda token: token.replace("_", "-")}
    app = typer.Typer(add_completion=False, context_settings=settings)
    for function in functions:
        app.command(function.__name__.rstrip("_"))(_plain_output(function))
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


def with_options(parameters: Iterable[inspect.Parameter]) -> Callable[[Command], Command]:
    """Give a command, in place of its **options, an option for each of these parameters."""
    added = list(parameters)

    def decorate(command: Command) -> Command:
        *own, _ = inspect.signature(command).parameters.values()
        command.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        command.__annotations__ |= {parameter.name: parameter.annotation for parameter in added}
        return command

    return decorate


def options_of(kind: type) -> list[inspect.Parameter]:
    """The fields of a dataclass that are annotated as options of a command, with their defaults."""
    return [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=each.default if each.default_factory is MISSING else each.default_factory(),
            annotation=each.type,
        )
        for each in fields(kind)
        if get_origin(each.type) is Annotated
    ]


def filled(kind: type[T], options: Mapping[str, Any], **others: Any) -> T:
    """The dataclass with what the options of a command say, and others."""
    return kind(**others, **{each.name: options[each.name] for each in options_of(kind) if each.name in options})


class _Plain:
    """A stream that writes control characters as their escapes, as names in data come from others."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(CONTROL.sub(lambda found: ascii(found[0])[1:-1], text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _plain_output(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose output is plain."""

    @functools.wraps(function)
    def plain(*words: Any, **options: Any) -> Any:
        with redirect_stdout(_Plain(sys.stdout)), redirect_stderr(_Plain(sys.stderr)):
            return function(*words, **options)

    return plain


def _fail(message: str) -> None:
    print(f"error: {message}", file=_Plain(sys.stderr))
    sys.exit(1)


def dvc(*words: str) -> None:
    """Run DVC. Raises UserError with its message if it fails."""
    command = [sys.executable, "-m", "dvc", *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        error = re.search(r"ERROR: (.*)", done.stderr)
        raise UserError(f"dvc {' '.join(words)}: {error[1] if error else done.stderr.strip()[-300:]}")


def end_with_parent(parent: int | None = None) -> None:
    """Have Linux end this process when its parent dies; otherwise it would write where the next run does.

    parent: its process id, if known; if it is dead already, this process ends at once.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG in prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
        if parent not in (None, os.getppid()):
            os._exit(1)


def progress(items: Iterable[T], total: int, what: str, unit: str, more: Callable[[], str] = str) -> Iterator[T]:
    """Yield `items` and show progress on stderr: a bar on a terminal, elsewhere at most one line in SECONDS.

    more: what else to show after an item.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        for item in (bar := tqdm(items, total=total, desc=what, unit=f" {unit}")):
            yield item
            bar.set_postfix_str(more(), refresh=False)
        return
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        if time.monotonic() - last >= SECONDS:
            last = time.monotonic()
            line = f"{what}: {done} of {total} {unit}, {done / (last - start):.0f} a second {more()}"
            print(line.rstrip(), file=sys.stderr)
    unit = unit.removesuffix("s") if done == 1 else unit
    print(f"{what}: {done} {unit} in {time.monotonic() - start:.1f} s", file=sys.stderr)
