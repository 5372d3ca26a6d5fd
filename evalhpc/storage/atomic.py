"""Files that are whole or absent: temporary name, fsync, rename; JSON lines; what errno means."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from evalhpc.core.frames import encode_meta
from evalhpc.core.identity import parse_json
from evalhpc.errors import IntegrityError, StorageError

#: errno → (likely cause, next command; {folder} is filled in).
_CAUSES = {
    errno.EACCES: ("no permission there", "ls -ld {folder}; id"),
    errno.EPERM: ("the file system forbids it", "ls -ld {folder}; mount | grep -w {folder}"),
    errno.EROFS: ("mounted read-only on this node", "findmnt -T {folder}"),
    errno.ENOSPC: ("the file system is full (bytes or inodes)", "df -h {folder}; df -i {folder}"),
    errno.EDQUOT: ("your quota is used up", "quota -s; lfs quota -h {folder}"),
    errno.EFBIG: ("a limit on file sizes", "ulimit -f"),
    errno.ENOENT: ("the folder does not exist or was moved", "ls -ld {folder}"),
    errno.EEXIST: ("another process made it first, or an earlier attempt left it", "ls -l {path}"),
    errno.EMFILE: ("too many open files", "ulimit -n"),
    errno.EINVAL: ("a pipe, a device or a folder lies there", "ls -ld {path}"),
    errno.ELOOP: ("a link lies there, which is never written through", "ls -l {path}"),
    errno.EIO: ("the storage or its network is failing", "dmesg | tail; df -h {folder}"),
    errno.ESTALE: ("the file server was restarted or the folder replaced", "ls -ld {folder}"),
    errno.ENOTCONN: ("what mounts it on this node has ended", "findmnt -T {folder}"),
    errno.ESHUTDOWN: (
        "the file server has shut this node out",
        "findmnt -T {folder}; dmesg | tail",
    ),
    errno.ETIMEDOUT: ("the file server does not answer", "findmnt -T {folder}; dmesg | tail"),
    errno.EHOSTDOWN: ("the file server does not answer", "findmnt -T {folder}; dmesg | tail"),
}
#: Ends a line of JSON that was cut off (CANCEL, which JSON writes in another way).
_VOID = b"\x18"
_TRANSIENT = frozenset(
    {
        errno.ESTALE, errno.EIO, errno.EINTR, errno.EAGAIN, errno.ETIMEDOUT, errno.EHOSTDOWN,
        errno.ENOTCONN, errno.ESHUTDOWN,
    }
)  # fmt: skip


_TROUBLE = (_TRANSIENT - {errno.EINTR, errno.EAGAIN}) | {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS,
}  # fmt: skip

#: What `temporary_name` makes.
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")


def storage_error(path: Path, error: OSError) -> StorageError:
    """What `error` on `path` means and which command tells more."""
    cause, hint = _CAUSES.get(error.errno or 0, ("", "ls -ld {folder}"))
    return StorageError(
        f"cannot use {path}: {os.strerror(error.errno) if error.errno else error}",
        cause=cause,
        hint=hint.format(folder=path.parent, path=path),
        transient=error.errno in _TRANSIENT,
    )


def is_storage_trouble(error: OSError) -> bool:
    """Whether a file system itself has failed, not merely the wish for a file of it."""
    return error.errno in _TROUBLE and error.filename is not None


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Inside, an OSError becomes a StorageError about `path`."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error


def open_file(path: Path) -> BinaryIO:
    """The regular file at `path`, to be read; raises OSError.

    For a pipe, whose open would wait for a writer, that it is none.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file")
    return os.fdopen(fd, "rb")


def look_anew(folder: Path) -> frozenset[str]:
    """The names in `folder` as its server has them; none where there is no such folder.

    NFS believes for up to a minute that a file is absent which was so at the last look; listing
    the folder ends that. Raises StorageError.
    """
    with storage_errors(folder):
        try:
            return frozenset(path.name for path in folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return frozenset()


def is_there(path: Path) -> bool:
    """Whether there is such a name, also if this node has just seen none. Raises StorageError."""
    return os.path.lexists(path) or path.name in look_anew(path.parent)


def read_whole(path: Path) -> bytes:
    """The bytes of a file that others replace; raises OSError.

    For NFS a file is lost that another node replaced since it was opened: the new one is read.
    """
    for _ in range(3):
        try:
            return path.read_bytes()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return path.read_bytes()


def temporary_name(path: Path) -> Path:
    """A fresh hidden name beside `path`, so that a rename stays within the file system."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def remove_temporaries(folder: Path) -> None:
    """Remove what writers that were killed left below `folder`; nobody must write there now."""
    for place, folders, names in os.walk(folder):
        for name in filter(_TEMPORARY.fullmatch, folders):
            shutil.rmtree(Path(place, name))
        for name in names:
            if _TEMPORARY.fullmatch(name):
                Path(place, name).unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable; raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network and FUSE file systems refuse to sync a folder: names are durable at once.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(fd)


def sync_files(folder: Path, files: Iterable[Path]) -> None:
    """Make these files below `folder` durable, and the names on their way; raises OSError."""
    folders = {folder}
    for path in files:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        folders.update(parent for parent in path.parents if parent.is_relative_to(folder))
    for place in folders:
        sync_folder(place)


def publish(temporary: Path, path: Path) -> None:
    """Give a finished, fsynced temporary file its name, durably; raises OSError."""
    temporary.replace(path)
    sync_folder(path.parent)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write every byte, however often the kernel takes less; raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_bytes(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Put `data` at `path` as a whole or not at all; raises StorageError.

    `sync=False` leaves out the fsyncs, for what a crash may lose: heartbeats.
    """
    temporary = temporary_name(path)
    with storage_errors(path):
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                write_all(fd, data)
                if sync:
                    os.fsync(fd)
            finally:
                os.close(fd)
            if sync:
                publish(temporary, path)
            else:
                temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str, *, sync: bool = True) -> None:
    """Put UTF-8 `text` at `path` as a whole or not at all; raises StorageError."""
    write_bytes(path, text.encode(), sync=sync)


def write_json(path: Path, value: Any, *, sync: bool = True) -> None:
    """Put indented JSON with sorted keys at `path`; raises StorageError."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    write_bytes(path, orjson.dumps(value, option=options), sync=sync)


def append_jsonl(path: Path, record: Any) -> None:
    """Append one JSON line in a single durable write; raises StorageError.

    What an interrupted append left is made void first, never joined to this record; a record that
    lacks its end of line only is given one.
    """
    line = encode_meta(record) + b"\n"
    with storage_errors(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
        try:
            line = _end_of_last(fd) + line
            written = os.write(fd, line)
            if written < len(line):
                os.ftruncate(fd, os.lseek(fd, 0, os.SEEK_CUR) - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(fd)
        finally:
            os.close(fd)


def _end_of_last(fd: int) -> bytes:
    """What the last line of an open file of JSON lines lacks; raises OSError."""
    size = os.fstat(fd).st_size
    if not size or os.pread(fd, 1, size - 1) == b"\n":
        return b""
    with os.fdopen(fd, "rb", closefd=False) as file:
        file.seek(0)
        last = file.read().rpartition(b"\n")[2]
    try:
        parse_json(last)
    except ValueError:
        return _VOID + b"\n"
    return b"\n"


def read_jsonl(path: Path) -> list[Any]:
    """Every record; an absent file has none, and torn lines are left out.

    Raises StorageError, and IntegrityError for any other line that is not JSON.
    """
    try:
        with open_file(path) as file:
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise storage_error(path, error) from error
    records = []
    for number, line in enumerate(lines, 1):
        if line.endswith(_VOID):
            continue
        try:
            records.append(parse_json(line)) if line else None
        except ValueError as error:
            if number == len(lines):
                break
            raise IntegrityError(
                f"{path}, line {number}, is not JSON: {error}",
                cause="it was edited, or the file system lost a part of it",
                hint=f"sed -n {number}p {path}  # then delete the line if it says nothing",
            ) from error
    return records


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits; raises StorageError."""
    digest = hashlib.sha256()
    with storage_errors(path), path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
