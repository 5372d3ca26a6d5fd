"""The table of causes, read from causes.yaml; asked by log text, reason or exit code."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, cached_property
from pathlib import Path

import yaml

from evalhpc.models.base import Frozen

_FILE = Path(__file__).with_name("causes.yaml")
#: What `about` says of entries on images that do not start, whichever the runtime.
RUNTIMES = frozenset({"Pyxis", "Enroot", "Charliecloud", "Bubblewrap", "Apptainer"})
#: Exit codes of shells for a process that a signal ended: 128 + its number.
SIGNALLED = 128


class Cause(Frozen):
    """A likely cause and what to do; a consequence yields to what it follows from."""

    cause: str
    remedy: str = ""
    consequence: bool = False


class LogCause(Cause):
    """A cause that logs show."""

    id: str
    about: str
    pattern: str
    seen: tuple[str, ...]  # lines as programs print them; a test matches each

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """Matched against whole logs: ^ and $ are those of lines."""
        return re.compile(self.pattern, re.MULTILINE)


class ReasonCause(Cause):
    """Why a pending job waits; `waits` where it will start by itself."""

    pattern: str  # of a shell
    waits: bool = False
    seen: tuple[str, ...]


class ExitCause(Cause):
    """What an exit code means, whatever the program."""

    code: int


class Table(Frozen):
    """causes.yaml."""

    logs: tuple[LogCause, ...]
    states: dict[str, Cause]
    reasons: tuple[ReasonCause, ...]
    exits: tuple[ExitCause, ...]


@dataclass(frozen=True)
class Match:
    """Where a log shows a cause: `start` and `end` are places in the text."""

    entry: LogCause
    text: str
    start: int
    end: int


@cache
def table() -> Table:
    """The whole table; a file that is part of the package, so a fault in it is a fault of ours."""
    return Table.model_validate(yaml.safe_load(_FILE.read_text(encoding="utf-8")))


def matches(log: str, about: Collection[str] | None = None) -> Iterator[Match]:
    """The first match of each entry, in the table's order; one a line: the particular one.

    `about`: only entries on these subjects.
    """
    taken: set[int] = set()
    for entry in table().logs:
        if about is not None and entry.about not in about:
            continue
        for found in entry.regex.finditer(log):
            line = log.rfind("\n", 0, found.start()) + 1
            if line not in taken:
                taken.add(line)
                yield Match(entry, found.group(), found.start(), found.end())
                break


def of_reason(reason: str) -> ReasonCause | None:
    """Why a job waits, by Slurm's reason; None for one that is not in the table."""
    entries = table().reasons
    return next((entry for entry in entries if fnmatchcase(reason, entry.pattern)), None)


def of_exit(code: int, signal: int = 0) -> ExitCause | None:
    """What an exit code or a signal means; None where it says nothing by itself."""
    told = code if not signal else SIGNALLED + signal
    return next((entry for entry in table().exits if entry.code == told), None)
