"""Leases: which worker answers which unit, agreed by exclusive file names alone.

    <unit>.lease        its first holder         <unit>.stolen-<n>   its n-th thief, from 1
    <unit>.done         answered                 workers/<worker>.json   a counter that rises

A unit belongs to whoever made its highest generation (the lease is generation 0). A thief makes
the next generation's name, which only one can; a thief that dies is robbed in the same way, and
a thief that decided long ago finds the name taken. Nothing is ever renamed or removed.

Names are made with link(2): the file appears with its owner in it, which O_CREAT|O_EXCL cannot
promise, and link is exclusive on NFS of every version and on Lustre. Where hard links are not
supported, O_EXCL it is; an owner that cannot be read then counts as one that does not move.

A holder is dead when its heartbeat stands still for `timeout`. At worst (a worker that was only
asleep, a cached directory) a unit is answered twice; the merge keeps the first answer.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from evalhpc.storage.atomic import storage_errors, write_all, write_bytes
from evalhpc.storage.heartbeats import Heartbeat, Watch

_NAME = re.compile(r"(\d+)\.(lease|done|stolen-(\d+))")
#: A worker's own units are this many times the number of workers apart, at most, from the first
#: free one: a wider window means fewer looks at the folder, and an order that is kept less well.
WINDOW = 8
#: After so many claims that someone else was quicker at, the folder is listed again: listing one
#: with thousands of names costs as much as dozens of claims.
REFRESH_AFTER = 16
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})


@dataclass(frozen=True)
class _Owner:
    """Who holds a lease: a worker, and which life of it."""

    worker: str
    token: str


class LeaseBook:
    """One worker's view of the units of one round; not thread-safe.

    `worker` must be unique to the attempt. `timeout` is in seconds of `clock`; heartbeats should
    come at least four times as often. Units are claimed in their order, but for a window: among
    the first few that are free, each of `workers` prefers every so many-th, from `place` on
    (default: spread by name), so that they keep out of each other's way. All methods raise
    StorageError where the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        worker: str,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        place: int | None = None,
        workers: int = 1,
    ) -> None:
        if not re.fullmatch(r"[\w.-]+", worker) or worker.startswith("."):
            raise ValueError(f"a worker's name is letters, digits, dots and dashes: {worker!r}")
        self.folder = folder
        self.worker = worker
        self._place_in_line = zlib.crc32(worker.encode()) if place is None else place
        self._workers_at_once = workers
        self._token = secrets.token_hex(8)
        self._workers = folder / "workers"
        self._owner_file = self._workers / f".{worker}.{self._token}.owner"
        self._owner_text = json.dumps({"worker": worker, "token": self._token}).encode()
        self._heartbeat = Heartbeat(self._workers, worker, self._token)
        self._watch = Watch(self._workers, timeout, clock)
        self._mine: dict[int, int] = {}  # unit → the generation that we made
        self._generation: dict[int, int] = {}  # unit → highest known generation
        self._done: set[int] = set()
        self._owners: dict[tuple[int, int], _Owner | None] = {}
        self._listed = False
        self._names: set[str] = set()  # as the folder had them when it was listed last
        with storage_errors(self._workers):
            self._workers.mkdir(parents=True, exist_ok=True)
        write_bytes(self._owner_file, self._owner_text)
        self.beat({})

    # --- one unit

    def claim(self, unit: int) -> bool:
        """Take a unit that nobody ever held; False if somebody does, we included."""
        return self._take(unit, 0)

    def done(self, unit: int) -> None:
        """Say for good that the unit is answered: after its answers were flushed."""
        self._place(f"{unit}.done")
        self._done.add(unit)
        self._mine.pop(unit, None)

    def is_done(self, unit: int) -> bool:
        """Whether anyone has said that the unit is answered."""
        if unit not in self._done and _exists(self.folder / f"{unit}.done"):
            self._done.add(unit)
        return unit in self._done

    def still_mine(self, unit: int) -> bool:
        """Whether we hold the unit and nobody has stolen it. If stolen: drop its requests."""
        generation = self._mine.get(unit)
        if generation is None:
            return False
        if is_stolen(self.lease(unit)):
            del self._mine[unit]
            self._generation[unit] = max(generation + 1, self._generation.get(unit, 0))
            return False
        return True

    def lease(self, unit: int) -> Path:
        """The file that says that we hold the unit; raises KeyError where we do not."""
        return self.folder / _lease_name(unit, self._mine[unit])

    # --- many units

    def next_unit(self, ids: Sequence[int]) -> int | None:
        """Claim one of the units `ids`, else steal one from the dead; None if neither works now.

        None does not mean that all is done: ask `free_units`, `any_open` or `is_done`, or ask
        again, since the holder of a unit may yet die.
        """
        if not self._listed:
            self.refresh()
        while choices := self._choices(ids):
            for unit in choices[:REFRESH_AFTER]:
                if self.claim(unit):
                    return unit
            self.refresh()  # others went on since the last look
        return self.steal_dead(ids)

    def steal_dead(self, ids: Sequence[int]) -> int | None:
        """Take over one undone unit of a worker that died or ended; None if there is none.

        The first call only starts to watch: a holder is dead at the earliest `timeout` later.
        """
        for unit in self._dead_units(ids):
            if self._take(unit, self._generation[unit] + 1):
                return unit
        return None

    def free_units(self, all_ids: Iterable[int]) -> list[int]:
        """The units that are not done and that nobody ever claimed, as the folder says now."""
        self.refresh()
        return [unit for unit in all_ids if unit not in self._generation and unit not in self._done]

    def open_units(self, all_ids: Iterable[int]) -> list[int]:
        """The units that are not done, claimed or not, as the folder says now."""
        self.refresh()
        return [unit for unit in all_ids if unit not in self._done]

    def any_open(self, ids: Sequence[int]) -> bool:
        """Whether a unit could be had now: is a model worth starting?"""
        return bool(self.free_units(ids)) or bool(self._dead_units(ids))

    def refresh(self) -> None:
        """List the folder once and remember what it says."""
        with storage_errors(self.folder), os.scandir(self.folder) as entries:
            names = {entry.name for entry in entries}
        new, self._names = names - self._names, names
        for name in new:
            if not (match := _NAME.fullmatch(name)):
                continue
            unit, kind, thief = int(match[1]), match[2], match[3]
            if kind == "done":
                self._done.add(unit)
            else:
                generation = int(thief or 0)
                self._generation[unit] = max(generation, self._generation.get(unit, 0))
        self._listed = True

    # --- being alive

    def beat(self, stats: Mapping[str, Any]) -> None:
        """Say that this worker lives, with figures for whoever watches."""
        self._heartbeat.beat(stats)

    def end(self, stats: Mapping[str, Any]) -> None:
        """Say that this worker goes: what it holds undone may be taken at once."""
        self._heartbeat.beat(stats, ended=True)
        self._mine.clear()

    # --- the dead

    def _dead_units(self, ids: Sequence[int]) -> list[int]:
        """Held, undone units whose holder is dead, in order."""
        self.refresh()
        verdicts: dict[_Owner | None, bool] = {}  # one look at each worker is enough
        dead = []
        for unit in ids:
            generation = self._generation.get(unit)
            if generation is None or unit in self._done or unit in self._mine:
                continue
            owner = self._owner(unit, generation)
            if owner is None or owner not in verdicts:
                verdicts[owner] = self._is_dead(unit, owner)
            # Who ended meanwhile may have marked it since the folder was listed.
            if verdicts[owner] and not self.is_done(unit):
                dead.append(unit)
        return dead

    def _is_dead(self, unit: int, owner: _Owner | None) -> bool:
        if owner is None:
            return self._watch.stands_still(str(unit))
        return self._watch.is_dead(owner.worker, owner.token)

    def _owner(self, unit: int, generation: int) -> _Owner | None:
        """Who made this generation; None while (or if for ever) it cannot be read."""
        place = (unit, generation)
        if (owner := self._owners.get(place)) is None:
            try:
                value = json.loads((self.folder / _lease_name(*place)).read_bytes())
                owner = self._owners[place] = _Owner(str(value["worker"]), str(value["token"]))
            except (OSError, ValueError, KeyError, TypeError):
                return None
        return owner

    # --- names

    def _take(self, unit: int, generation: int) -> bool:
        if self._generation.get(unit, -1) >= generation:
            return False
        self._generation[unit] = generation
        won = self._place(_lease_name(unit, generation))
        if won:
            self._mine[unit] = generation
        return won

    def _place(self, name: str) -> bool:
        """Make a name that says that it is ours; False if it exists already."""
        target = self.folder / name
        with storage_errors(target):
            try:
                os.link(self._owner_file, target)
            except FileExistsError:
                # NFS may lose the reply to a link that worked, ask again, and find it there.
                return target.samefile(self._owner_file)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return self._place_exclusively(target)
        return True

    def _place_exclusively(self, target: Path) -> bool:
        try:
            fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        try:
            write_all(fd, self._owner_text)
        finally:
            os.close(fd)
        return True

    def _choices(self, ids: Sequence[int]) -> list[int]:
        """The units at the front that seem free: our own ones, then the others, spread by place."""
        seem_free = (u for u in ids if u not in self._generation and u not in self._done)
        window = list(islice(seem_free, WINDOW * self._workers_at_once))
        own = self._place_in_line % self._workers_at_once
        start = own * len(window) // self._workers_at_once
        others = [*window[start:], *window[:start]]
        return [*(u for u in window if u % self._workers_at_once == own), *others]


def is_stolen(lease: Path) -> bool:
    """Whether somebody has taken the unit of this lease over since; raises StorageError.

    For a process that works under the lease of another one.
    """
    match = _NAME.fullmatch(lease.name)
    assert match is not None, f"{lease} is no lease"
    return _exists(lease.with_name(_lease_name(int(match[1]), int(match[3] or 0) + 1)))


def _exists(path: Path) -> bool:
    with storage_errors(path):
        try:
            # Opening asks the server; a stat may be answered from a cache.
            os.close(os.open(path, os.O_RDONLY))
        except FileNotFoundError:
            return False
    return True


def _lease_name(unit: int, generation: int) -> str:
    return f"{unit}.stolen-{generation}" if generation else f"{unit}.lease"
