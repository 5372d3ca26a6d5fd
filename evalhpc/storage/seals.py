"""Seals: how far each journal counted at one merge, so that no later write replaces an answer.

    <n>/journals.json   {"0001-00000-000.journal": bytes, …}: those that have grown since seal n - 1

A merge reads what is sealed, and nothing behind it. Of several answers to one request that of the
earliest seal counts: one that comes later, from a worker that was asleep, changes nothing that a
pass may have used. Seals are folders, since a rename puts none over one that has something in it,
on any file system: two merges at once cannot both make number n.
"""

from __future__ import annotations

import os
import shutil
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evalhpc.core.frames import FILE_HEADER_BYTES
from evalhpc.core.identity import parse_json
from evalhpc.errors import IntegrityError, StorageError
from evalhpc.storage.atomic import (
    look_anew,
    open_file,
    storage_errors,
    sync_folder,
    temporary_name,
    write_json,
)

_NAME = "journals.json"
_RESTORE = "restore it, or submit the run again: without it other answers might count"
#: So many other merges may be quicker to seal, one after the other.
_TRIES = 100
#: A listing may lack a seal and have the next one if both are made during it; another has both.
_LOOKS = 5


@dataclass(frozen=True)
class Seals:
    """Journal name → (where a seal of it ends, the number of that seal), both rising."""

    count: int = 0
    _ends: dict[str, list[int]] = field(default_factory=dict)
    _numbers: dict[str, list[int]] = field(default_factory=dict)

    def marks(self, journal: str) -> tuple[list[int], list[int]]:
        """The ends of a journal's seals in bytes, and their numbers."""
        return self._ends.get(journal, []), self._numbers.get(journal, [])

    def size(self, journal: str) -> int:
        """How many bytes of the journal are sealed."""
        return self._ends.get(journal, [0])[-1]

    def number(self, journal: str, end: int) -> int | None:
        """The seal that covers a frame which ends there; None for one that came later."""
        ends, numbers = self.marks(journal)
        place = bisect_left(ends, end)
        return numbers[place] if place < len(ends) else None

    def missing(self, sizes: Mapping[str, int]) -> list[str]:
        """The journals that are gone or shorter than when they were sealed, of those there are."""
        return sorted(name for name in self._ends if sizes.get(name, 0) < self.size(name))


def count_seals(folder: Path) -> int:
    """How many seals there are; raises StorageError, IntegrityError where one of them is gone."""
    for _ in range(_LOOKS):
        numbers = {int(name) for name in look_anew(folder) if name.isdigit()}
        gone = set(range(1, max(numbers, default=0))) - numbers
        if not gone:
            return len(numbers)
    raise _gone(folder / str(min(gone)))


def read_seals(folder: Path, first: int | None = None) -> Seals:
    """Every seal of a run, or the first so many; raises StorageError, IntegrityError for one that
    is damaged or gone."""
    count = count_seals(folder)
    if first is not None and first > count:
        raise _gone(folder / str(count + 1))
    seals = Seals(count if first is None else first)
    for number in range(1, seals.count + 1):
        for journal, size in _read(folder / str(number) / _NAME).items():
            if size > seals.size(journal):
                seals._ends.setdefault(journal, []).append(size)
                seals._numbers.setdefault(journal, []).append(number)
    return seals


def seal(folder: Path, sizes: Mapping[str, int]) -> Seals:
    """Seal what journals of these sizes have more than before, durably; all seals.

    Raises StorageError, IntegrityError for a seal that is damaged or gone.
    """
    for _ in range(_TRIES):
        seals = read_seals(folder)
        grown = {name: size for name, size in sizes.items() if size > seals.size(name)}
        if not grown:
            return seals
        _try_seal(folder, seals.count + 1, grown)
    raise StorageError(
        f"{folder} cannot be written to: {_TRIES} merges were quicker, or none can rename there",
        cause="merges without end, or a file system that replaces folders",
        hint=f"ls -l {folder}",
        transient=True,
    )


def sealable(journals: Iterable[Path]) -> dict[str, int]:
    """Journal name → its size in bytes as the file server has it, of those with any answer."""
    sizes = {}
    for path in journals:
        # Opening asks the server; a stat may be answered from a cache.
        with storage_errors(path), open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
        if size > FILE_HEADER_BYTES:
            sizes[path.name] = size
    return sizes


def _try_seal(folder: Path, number: int, grown: Mapping[str, int]) -> None:
    """Make a seal, unless another merge has made one of that number."""
    target = folder / str(number)
    temporary = temporary_name(target)
    with storage_errors(target):
        try:
            if not folder.is_dir():
                folder.mkdir(exist_ok=True)
                sync_folder(folder.parent)
            temporary.mkdir()
            write_json(temporary / _NAME, dict(grown))
            temporary.rename(target)
            sync_folder(folder)
        except OSError:
            if target.name not in look_anew(folder):
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _gone(path: Path) -> IntegrityError:
    return IntegrityError(
        f"{path} is gone: nothing else says how far journals counted then",
        cause="it was removed, or the file system lost it",
        hint=f"ls -l {path.parent}  # {_RESTORE}",
    )


def _read(path: Path) -> dict[str, int]:
    with storage_errors(path):
        text = path.read_bytes()
    try:
        value = parse_json(text)
    except ValueError:
        value = None
    match value:
        case dict() if all(isinstance(size, int) for size in value.values()):
            return value
    raise IntegrityError(
        f"{path} is damaged: it does not say how far journals count",
        cause="it was edited, or the file system lost a part of it",
        hint=f"ls -l {path}  # {_RESTORE}",
    )
