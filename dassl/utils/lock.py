"""One process per folder."""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator

from dassl.utils.logger import log

__all__ = ["sole_user_of", "taking_turns"]

LOCK_SECONDS = 15
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def sole_user_of(folder: str) -> Iterator[None]:
    """Make ``folder`` and hold a lock on it, which ends with the process. ``ValueError`` if another process has it.

    The lock of a killed process may be held by its data loaders for some seconds, which is waited for.
    """
    os.makedirs(folder or ".", exist_ok=True)
    handle = os.open(folder or ".", os.O_RDONLY)
    try:
        _lock(handle, folder)
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)  # for data loaders that live on, too
        os.close(handle)


@contextlib.contextmanager
def taking_turns(folder: str, what: str) -> Iterator[None]:
    """Hold a lock on ``folder`` that other processes wait for, however long; they say that they wait for ``what``.

    Where the file system has no locks, all work at once, so they must write the same, and atomically. Who holds it must
    not ask for it again.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        _wait(handle, folder, what)
        yield
    finally:
        os.close(handle)


def _wait(handle: int, folder: str, what: str) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.info(f"Waiting for {what} in {folder}, which another process is at work on")
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def _lock(handle: int, folder: str) -> None:
    for patience in range(LOCK_SECONDS, -1, -1):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not patience:
                raise ValueError(
                    f'"{folder}" is in use: another process carries out a run there; wait, or give another OUTPUT_DIR'
                ) from None
            time.sleep(1)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            log.info(f'Note: the file system of "{folder}" has no locks: let no other run use this folder')
            return
