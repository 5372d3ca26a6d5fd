"""The processes of a run, whatever node they are on, as this machine's /proc shows them."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One process; `start` tells it from a later one with the same id."""

    pid: int
    parent: int
    start: str
    command: str

    def is_a(self, word: str) -> bool:
        """Whether its command line has this in it."""
        return word in self.command

    def send(self, number: signal.Signals) -> bool:
        """Signal it, unless it is gone; False if it is."""
        if _stat(self.pid)[1:] != (self.parent, self.start):
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


def processes_in(folder: Path) -> list[Process]:
    """Those that work in `folder`, or name it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            inside = (entry / "cwd").readlink().is_relative_to(folder)
            inside = inside or f"{folder} " in command or f"{folder}/" in command
            state, parent, start = _stat(int(entry.name))
        except OSError:
            continue  # it has ended
        if inside and command and state != "Z":
            found.append(Process(int(entry.name), parent, start, command.strip()))
    return sorted(found, key=lambda process: process.pid)


def parent_of(child: Process, among: Sequence[Process], word: str) -> Process | None:
    """The nearest ancestor of `child` that has `word` in its command line."""
    by_pid = {process.pid: process for process in among}
    above = by_pid.get(child.parent)
    while above is not None and not above.is_a(word):
        above = by_pid.get(above.parent)
    return above


def _stat(pid: int) -> tuple[str, int, str]:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0, ""
    return fields[0], int(fields[1]), fields[19]
