"""Our folder on a node's own disk: unpacked images, and what running commands write."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evalhpc import process
from evalhpc.errors import StorageError
from evalhpc.storage.atomic import storage_errors

#: An unpacked image that nothing has used for so long is removed when another one is unpacked.
_KEEP_SECONDS = 14 * 24 * 3600
#: An image is compressed to a half or less.
_EXPANSION = 2
_SUPERBLOCK = 96
_UID_MAP = "/proc/self/uid_map"
#: Only root makes device nodes, and the node's own /dev is mounted over them.
_HARMLESS = re.compile(r"(character|block) device|superuser")


def node_folder(place: str | None) -> Path:
    """Our own folder below `place` (with $VARIABLES of the node; None: /tmp), made if needed.

    Raises StorageError if it is somebody else's, who could then put any program into it.
    """
    parent = Path(os.path.expandvars(place or "/tmp"))
    folder = parent / f"evalhpc-{outer_user(Path(_UID_MAP).read_text(), os.geteuid())}"
    with storage_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o77:
            raise StorageError(
                f"the image cannot be unpacked below {folder}: it is not a folder of ours alone",
                cause="another user made it, or its mode is not 700",
                hint=f"ls -ld {folder}; container.node_dir names another place",
            )
        for name in ("images", "commands"):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
    return folder


def outer_user(uid_map: str, uid: int) -> int:
    """The id by which a node knows this user: within a user namespace everybody may be 0.

    `uid_map`: lines of three numbers, the first id inside and outside, and how many there are.
    """
    for line in uid_map.splitlines():
        inside, outside, count = map(int, line.split())
        if inside <= uid < inside + count:
            return outside + uid - inside
    return uid


def private_folder(folder: Path) -> Path:
    """A folder for one command, with an empty `home`; those of commands that have ended go.

    Locked by a descriptor that the command inherits, so that the kernel says when it has ended.
    """
    commands = folder / "commands"
    with storage_errors(commands), _held(commands, fcntl.LOCK_EX):
        for old in commands.iterdir():
            if not _in_use(old):
                _remove(old)
        own = Path(tempfile.mkdtemp(dir=commands))
        (own / "home").mkdir(mode=0o700)
        _keep_locked(own)
    return own


def unpacked(image: Path, folder: Path) -> Path:
    """The squashfs file `image` as a folder on this node, unpacked once for all who use it.

    Its name is a fingerprint of the file, so that an image put in another's place is unpacked
    anew. Raises StorageError where there is no room, or the image cannot be read.
    """
    images = folder / "images"
    with storage_errors(image):
        root = images / f"{image.stem}-{_fingerprint(image)}"
    lock = images / f".{root.name}.lock"
    with storage_errors(images):
        lock.touch(mode=0o600)
        with _held(lock, fcntl.LOCK_EX):  # whoever comes second waits here until it is there
            if not root.is_dir():
                _prune(images)
                _unpack(image, root)
            os.utime(root)
            _keep_locked(root, fcntl.LOCK_SH)
    return root


def _fingerprint(image: Path) -> str:
    import hashlib  # start-up time

    found = image.stat()
    with image.open("rb") as file:
        head = file.read(_SUPERBLOCK)
    what = f"{image} {found.st_size} {found.st_mtime_ns} {head.hex()}"
    return hashlib.sha256(what.encode()).hexdigest()[:16]


def _unpack(image: Path, root: Path) -> None:
    part = root.with_name(f".{root.name}.part")
    _remove(part)  # of one that was killed: we hold the lock
    wanted, free = image.stat().st_size * _EXPANSION, shutil.disk_usage(root.parent).free
    if free < wanted:
        raise _no_room(image, root, f"{free >> 20} MiB are free, it needs some {wanted >> 20}")
    words = ["unsquashfs", "-no-progress", "-no-xattrs", "-d", str(part), str(image)]
    done = process.run(words, check=False)
    # What it calls no fatal error may be a file that lacks its end.
    said = [line for line in done.stderr.splitlines() if line and not _HARMLESS.search(line)]
    if said or done.returncode in (1, 127):
        _remove(part)
        if any("No space left" in line for line in said):
            raise _no_room(image, root, said[0])
        raise StorageError(
            f"the image {image} cannot be unpacked: {said[0] if said else 'unsquashfs failed'}",
            cause="unsquashfs (package squashfs-tools) is not on this node"
            if done.returncode == 127
            else "an interrupted import, or another kind of image",
            hint=f"file {image}",
        )
    part.rename(root)


def _no_room(image: Path, root: Path, why: str) -> StorageError:
    return StorageError(
        f"the image {image} does not fit into {root.parent}: {why}",
        cause="the node's own disk is full",
        hint="container.node_dir names a folder with room on each node",
    )


def _prune(images: Path) -> None:
    for old in images.iterdir():
        idle = time.time() - old.stat().st_mtime
        if old.name.startswith(".") or idle < _KEEP_SECONDS or _in_use(old):
            continue
        _remove(old)
        old.with_name(f".{old.name}.lock").unlink(missing_ok=True)


@contextmanager
def _held(path: Path, kind: int) -> Iterator[None]:
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, kind)
        yield
    finally:
        os.close(fd)


def _in_use(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _keep_locked(path: Path, kind: int = fcntl.LOCK_EX) -> None:
    fd = os.open(path, os.O_RDONLY)
    fcntl.flock(fd, kind)
    os.set_inheritable(fd, True)


def _remove(folder: Path) -> None:
    """Remove what is ours, folders that the image made read-only included."""
    for path, _, _ in os.walk(folder):
        Path(path).chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
