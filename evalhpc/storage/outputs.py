"""What a harness left in its output folder: its plain files, and nothing that leads out of it."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from evalhpc.errors import HarnessError
from evalhpc.storage.atomic import storage_errors

log = logging.getLogger(__name__)

#: What readers of results open.
_READ = (".json", ".jsonl", ".eval", ".yml", ".yaml")
#: Names in a message; a harness may leave thousands.
_SHOWN = 5
#: Folders within one another; more than that many are made to end whoever walks them.
_DEEPEST = 100
#: Bytes of a path; the system takes 4096, and results/ may be a longer one.
_LONGEST = 3500


@dataclass(frozen=True)
class Bounds:
    """What one run of a harness may leave: bytes (holes in files count) and names."""

    bytes: int
    names: int


def excess(folder: Path, bounds: Bounds, besides: int = 0) -> str:
    """How `folder`, and so many bytes besides, go beyond their bounds; "" where they do not.

    A link within the folder counts like the file that it leads to, since it becomes a copy.
    """
    root, size = os.path.realpath(folder), besides
    if besides > bounds.bytes:
        return f"questions of more than {bounds.bytes / 2**30:g} GiB"
    for names, (name, depth) in enumerate(_walk(folder), start=1):
        with suppress(OSError):  # gone meanwhile
            size += _copied_size(Path(name), root)
        if size > bounds.bytes:
            return f"more than {bounds.bytes / 2**30:g} GiB"
        if names > bounds.names:
            return f"more than {bounds.names} files and folders"
        if depth > _DEEPEST or len(os.fsencode(name)) > _LONGEST:
            return f"more than {_DEEPEST} folders within one another, or paths of {_LONGEST} bytes"
    return ""


def _copied_size(path: Path, root: str) -> int:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode) and Path(os.path.realpath(path)).is_relative_to(root):
        status = path.stat()
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def plain_files(folder: Path) -> Iterator[Path]:
    """Regular files below `folder`, and links to such; each folder once, under its own name."""
    return (path for path, plain in _entries(folder) if plain)


def foreign_entries(folder: Path) -> list[Path]:
    """All else below `folder`, sorted.

    Links that lead out of it, to nothing or to a folder; files that have a further name outside;
    pipes, sockets and devices, of which a reader might never see the end; folders that cannot be
    looked into; names that are not UTF-8, which no certificate can hold.
    """
    return sorted(path for path, plain in _entries(folder) if not plain)


def check_readable(folder: Path) -> None:
    """Raises HarnessError where a reader of results would leave `folder`, or wait for ever."""
    strange = [path for path in foreign_entries(folder) if path.suffix in _READ]
    if strange:
        raise HarnessError(
            f"the harness left {_named(folder, strange)} in {folder}, which is no file of its own",
            cause="a link out of its output folder, or a pipe: what it holds was not looked "
            "through for stubs, and may change",
            hint=f"ls -lR {folder}",
        )


def copy_plain(folder: Path, target: Path) -> None:
    """Copy the plain files to `target`, which is made; says what stays behind.

    Raises StorageError.
    """
    with storage_errors(target):
        target.mkdir()
        for path in plain_files(folder):
            copy = target / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
    left = foreign_entries(folder)
    if left:
        log.warning("not copied from %s, since they are no files in it: %s",
                    folder, _named(folder, left))  # fmt: skip


def _entries(folder: Path) -> Iterator[tuple[Path, bool]]:
    """(path, whether it is a plain file), without real folders that can be looked into."""
    root, elsewhere = os.path.realpath(folder), _known_elsewhere(folder)
    for name, _ in _walk(folder):
        path = Path(name)
        try:
            status = path.lstat()
        except OSError:  # its name has grown too long for the system
            yield path, False
            continue
        if stat.S_ISDIR(status.st_mode):
            if not os.access(path, os.R_OK | os.X_OK):
                yield path, False
            continue
        # Path.resolve raises for a link to itself.
        inside = not path.is_symlink() or Path(os.path.realpath(path)).is_relative_to(root)
        if not (inside and _is_text(path.name) and path.is_file()):
            yield path, False
            continue
        place = path.stat()
        yield path, (place.st_dev, place.st_ino) not in elsewhere


def _known_elsewhere(folder: Path) -> set[tuple[int, int]]:
    """(device, inode) of the files below it that have more names than those in it."""
    seen, names = Counter[tuple[int, int]](), dict[tuple[int, int], int]()
    for name, _ in _walk(folder):
        with suppress(OSError):
            status = os.lstat(name)
            if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
                place = status.st_dev, status.st_ino
                seen[place] += 1
                names[place] = status.st_nlink
    return {place for place, count in names.items() if count > seen[place]}


def _walk(folder: Path) -> Iterator[tuple[str, int]]:
    """(path, how deep it lies) of every name below it, in flat memory and without recursion.

    Folders come before what is in them, which is left out where they cannot be looked into.
    """
    waiting = [(str(folder), 1)]
    while waiting:
        place, depth = waiting.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    yield entry.path, depth
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((entry.path, depth + 1))
        except OSError as error:
            # Gone meanwhile, closed to us, or its name has grown too long for the system.
            if error.errno not in (errno.ENOENT, errno.EACCES, errno.ENAMETOOLONG, errno.ENOTDIR):
                raise


def _is_text(name: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in name)


def _named(folder: Path, paths: list[Path]) -> str:
    names = [ascii(str(path.relative_to(folder))) for path in paths[:_SHOWN]]
    more = len(paths) - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")
