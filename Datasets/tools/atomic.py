"""Outputs appear under their final name whole or not at all."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from Datasets.tools.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make the error of a full disk name `path`, which is being written; Python names nothing, or what was copied."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            error.filename = str(path)
        raise


@contextmanager
def replacing(path: Path, *own: str) -> Iterator[Path]:
    """Yield a temporary sibling of `path` to write a file or directory to; put it in place if all went well.

    own: names or patterns of files that mark a directory as an earlier output of the caller, if it has all of them. Any
    other directory that is not empty is refused, with a UserError: `path` may be a user's mistake.
    The sibling is named `.NAME.partial`, and an earlier output `.NAME.old.partial` while it makes way: what a killed
    run left behind is cleared by the next one, and git ignores it.
    """
    if path.is_dir() and any(path.iterdir()) and not (own and all(any(path.glob(name)) for name in own)):
        raise UserError(f"{path}: is a directory that holds something else; name another, or delete it")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (path.with_name(f".{path.name}.{state}") for state in ("partial", "old.partial"))
    _remove(partial)
    _remove(old)
    try:
        with naming(path):
            yield partial
        if path.is_dir():
            path.rename(old)  # not removed here: killed halfway, it would be nobody's
        partial.replace(path)
        _remove(old)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
