"""Turns a function into a command whose user sees one line for a mistake, never a traceback."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from Datasets.tools.errors import UserError, one_line


def run(function: Callable[..., Any]) -> None:
    """Run `function` as a typer command on sys.argv.

    Options may be written with dashes or underscores, so that DVC can unpack a mapping of params.yaml into them.
    Exit codes: 0 done; 1 the user's mistake, told in one line on stderr; 130 interrupted.
    """
    import typer  # here, as worker processes need only end_with_parent

    usage_error: type[Exception] = typer.BadParameter.__mro__[1]  # typer does not export the base of its usage errors
    if "DVC_STAGE" in os.environ:
        end_with_parent()
    if "pyarrow" in sys.modules and "pandas" not in sys.modules:
        _spare_pandas()
    app = typer.Typer(add_completion=False, context_settings={"token_normalize_func": _dashes})
    app.command()(function)
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


def end_with_parent(parent: int | None = None) -> None:
    """Have Linux end this process when its parent dies, or it would go on writing where the next run does.

    parent: its process id, if known; if it has died already, this process ends at once.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG in prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
        if parent not in (None, os.getppid()):
            os._exit(1)


def _spare_pandas() -> None:
    """Keep pyarrow from importing pandas, 0.3 s, when it makes its first array; `to_pandas` still imports it."""
    import pyarrow as pa

    sys.meta_path.insert(0, _NoPandas)
    pa.array([])
    sys.meta_path.remove(_NoPandas)


class _NoPandas:
    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


def _dashes(token: str) -> str:
    return token.replace("_", "-")


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)
