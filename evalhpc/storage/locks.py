"""A lock on the shared file system: one holder among all nodes that see the file."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evalhpc.core.quoting import shell_word
from evalhpc.errors import StorageError
from evalhpc.storage.atomic import storage_errors

log = logging.getLogger(__name__)

#: What a file system without locks (Lustre mounted with noflock) answers.
_UNSUPPORTED = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
_LOOK_SECONDS = 0.5


@contextmanager
def exclusive(
    path: Path, busy: str, *, wait: float = 0.0, mode: int = 0o600, cause: str = ""
) -> Iterator[bool]:
    """Hold the lock within the block; StorageError saying `busy` if somebody else holds it.

    `wait`: seconds for which the other one is waited for. `mode`: of a new lock file; others who
    are to take the lock must be able to write it. The kernel lets go of it when its holder dies.
    Where the file system has no locks, the block runs without one; it is told whether it has one.
    """
    deadline = time.monotonic() + wait
    told = wait <= 0
    while (held := _take(path, mode)) is None:
        if time.monotonic() >= deadline:
            raise StorageError(
                busy, cause=cause or "it was started twice", hint="wait for the other one to end"
            )
        if not told:
            log.info("%s: waiting for it", busy)
            told = True
        time.sleep(_LOOK_SECONDS)
    fd, locked = held
    try:
        yield locked
    finally:
        os.close(fd)


@contextmanager
def claimed(path: Path, busy: str) -> Iterator[None]:
    """Hold an exclusive file name within the block: some file systems lock on one node only.

    A name outlives a holder that is killed, so StorageError (`busy`) says which file is to go.
    """
    with storage_errors(path):
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            raise StorageError(
                busy,
                cause="it was started twice, or one was killed",
                hint=f"wait for the other one to end; if there is none: rm {shell_word(str(path))}",
            ) from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _take(path: Path, mode: int) -> tuple[int, bool] | None:
    """(descriptor, whether it is locked), or None while somebody else holds the lock."""
    with storage_errors(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT, mode)
        try:
            if os.fstat(fd).st_mode & 0o777 != mode and os.fstat(fd).st_uid == os.geteuid():
                os.fchmod(fd, mode)  # whatever the umask took away
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _current(path, fd):
                return fd, True
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                log.warning("%s cannot be locked on this file system", path)
                return fd, False
            os.close(fd)
            raise
    os.close(fd)
    return None


def _current(path: Path, fd: int) -> bool:
    """Whether the file still has its name: who tidies up removes locks that nobody holds."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
