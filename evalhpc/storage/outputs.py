"""What a harness left in its output folder: its plain files, and nothing that leads out of it."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from evalhpc.errors import HarnessError
from evalhpc.storage.atomic import storage_errors

log = logging.getLogger(__name__)

#: What readers of results open.
_READ = (".json", ".jsonl", ".eval", ".yml", ".yaml")
#: Names in a message; a harness may leave thousands.
_SHOWN = 5


def plain_files(folder: Path) -> Iterator[Path]:
    """Regular files below `folder`, and links to such; each folder once, under its own name."""
    return (path for path, plain in _entries(folder) if plain)


def foreign_entries(folder: Path) -> list[Path]:
    """All else below `folder`, sorted.

    Links that lead out of it, to nothing or to a folder; pipes, sockets and devices, of which a
    reader might never see the end; names that are not UTF-8, which no certificate can hold.
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
    """(path, whether it is a plain file), without real folders."""
    root = os.path.realpath(folder)
    for place, folders, names in os.walk(folder):
        linked = [name for name in folders if Path(place, name).is_symlink()]
        for name in [*names, *linked]:
            path = Path(place, name)
            # Path.resolve raises for a link to itself.
            inside = not path.is_symlink() or Path(os.path.realpath(path)).is_relative_to(root)
            yield path, inside and _is_text(name) and path.is_file()


def _is_text(name: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in name)


def _named(folder: Path, paths: list[Path]) -> str:
    names = [ascii(str(path.relative_to(folder))) for path in paths[:_SHOWN]]
    more = len(paths) - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")
