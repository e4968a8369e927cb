"""Outputs appear under their final name whole or not at all."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from Datasets.tools.errors import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(path: Path, *own: str) -> Iterator[Path]:
    """Yield a temporary sibling of `path` to write a file or directory to; put it in place if nothing was raised.

    own: names or patterns of files that mark a directory as an earlier output of the caller, if it has all of them. Any
    other directory that is not empty is refused, with a UserError: `path` may be a user's mistake.
    The sibling is named `.NAME.partial`, and an earlier output `.NAME.old.partial` while it makes way. The next run
    clears what a killed one left behind; git ignores it.
    """
    if path.is_dir() and any(path.iterdir()) and not (own and all(any(path.glob(name)) for name in own)):
        raise UserError(f"{path}: is a directory that holds something else; name another, or delete it")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (path.with_name(f".{path.name}.{state}") for state in ("partial", "old.partial"))
    _remove(partial)
    _remove(old)
    try:
        yield partial
        if path.is_dir():
            path.rename(old)  # not removed here: if killed halfway, nothing would mark it as an output
        partial.replace(path)
        _remove(old)
    except OSError as error:
        if error.errno in DISK_FULL:  # Python names no file, or the one that is copied
            error.filename = str(path)
        raise
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
