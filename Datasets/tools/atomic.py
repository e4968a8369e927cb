"""Outputs appear under their final name whole or not at all."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from Datasets.tools.errors import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(path: Path, *own: str) -> Iterator[Path]:
    """Yield a temporary path of the same name to write a file or directory to; put it in place if nothing was raised.

    own: names or patterns of files that mark a directory as an earlier output of the caller, if it has all of them. Any
    other directory that is not empty is refused, with a UserError: `path` may be a user's mistake. So is a path that
    another process is writing. The temporary path lies in `.NAME.partial` beside `path`; the next run clears what a
    killed one left behind; git ignores it.
    """
    if path.is_dir() and any(path.iterdir()) and not (own and all(any(path.glob(name)) for name in own)):
        raise UserError(f"{path}: is a directory that holds something else; name another, or delete it")
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.partial")
    with locked(scratch / "lock", path):
        partial, old = scratch / path.name, scratch / f"{path.name}.old"
        _remove(partial)
        _remove(old)
        try:
            yield partial
            if path.is_dir():
                path.rename(old)  # not removed here: if killed halfway, nothing would mark it as an output
            partial.replace(path)
        except OSError as error:
            if error.errno in DISK_FULL:  # Python names no file, or the one that is copied
                error.filename = str(path)
            raise
        finally:
            if old.exists() and not path.exists():
                old.rename(path)
            _remove(partial)
            _remove(old)


def write_text(path: Path, text: str) -> None:
    """Replace a text file."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def locked(lock: Path, what: Path, wait: bool = False) -> Iterator[None]:
    """Hold a lock, a file that this makes, with its folder. wait: for another process that has it.

    Raises UserError if another process has it, as writing `what`. A process that ends, however, gives its locks back.
    """
    while True:
        with suppress(FileExistsError):
            lock.parent.mkdir()
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:  # another process has just removed the folder
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(handle)
            raise UserError(f"{what}: another process is writing it; wait until that has ended") from None
        except OSError:  # of a file system without locks
            break
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), lock.stat()):
                break
        os.close(handle)  # the one that had it before has removed it
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        with suppress(OSError):  # another process has made its lock there already
            lock.parent.rmdir()
        os.close(handle)


def editing(path: Path) -> AbstractContextManager[None]:
    """What holds others who edit a file by this off until it was read, changed and written."""
    return locked(path.with_name(f".{path.name}.edit.partial") / "lock", path, wait=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
