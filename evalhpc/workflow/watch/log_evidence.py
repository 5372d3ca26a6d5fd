"""What a run's logs show: the lines that the table of causes knows, found with bounded reading."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from evalhpc.causes.table import LogCause, matches
from evalhpc.workflow.record.run import Run

#: Bytes read of one log, at most and at least (two thirds of its end); files at most.
_MOST, _LEAST, FILES = 3 << 18, 3 << 14, 400
#: Characters read of all logs, and searched: of lines that differ in digits only, the first few.
_ALL, _SEARCHED = 1 << 25, 1 << 22
_ALIKE = 4
_DIGITS = {ord(digit): "0" for digit in "123456789"}
#: Bytes up to which lines are counted, so that one near the end can be named by its number.
_COUNTED = 1 << 26
_SHOWN = 240  # characters of a line
#: What our own commands print when they end with an error.
_OURS = re.compile(
    r"^error: (?P<what>[^\n]+)(?:\n {2,}[^\n]*){0,30}?"
    r"\n +likely cause: (?P<cause>[^\n]+)(?:\n +next: (?P<hint>[^\n]+))?",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Sighting:
    """A line of a log, and the entry of the table that knows it."""

    entry: LogCause
    path: Path
    line: int | None  # from 1; None where the log is too long to count
    shown: str


@dataclass(frozen=True)
class OwnError:
    """An error of evalhpc's, with its own cause and next step, in the log of one of its jobs."""

    path: Path
    line: int | None
    what: str
    cause: str
    hint: str


@dataclass(frozen=True)
class LogEvidence:
    """What all logs show; `unread` names those that were too many to be read."""

    sightings: tuple[Sighting, ...]
    own: tuple[OwnError, ...]
    read: tuple[Path, ...]
    unread: int


def run_logs(run: Run) -> list[Path]:
    """Every log of the run that holds something, latest first; links are not followed."""
    found = [path for path in run.paths.logs.rglob("*") if path.suffix in (".log", ".err", ".out")]
    found += run.paths.passes.glob("*/*/harness.log")
    found += run.paths.slices.glob("*/*/harness.log")
    dated = []
    for path in found:
        try:
            seen = path.lstat()
        except OSError:
            continue  # removed or unreadable meanwhile: the others may still tell
        if stat.S_ISREG(seen.st_mode) and seen.st_size:
            dated.append((-seen.st_mtime, str(path), path))
    return [path for _, _, path in sorted(dated)]


def log_evidence(run: Run, wanted: Callable[[Path], bool] = lambda _path: True) -> LogEvidence:
    """The causes that the run's logs show, each log's first line of each."""
    logs = [path for path in run_logs(run) if wanted(path)]
    sightings: list[Sighting] = []
    own: list[OwnError] = []
    read: list[Path] = []
    left, searched = _ALL, _SEARCHED
    share = min(_MOST, max(_LEAST, 2 * _SEARCHED // max(1, len(logs))))
    for path in logs[:FILES]:
        if left <= 0 or searched <= 0:
            break
        known: set[str] = set()
        for text, first in _windows(path, share):
            lines = _Distinct(text, first)
            left -= len(text)
            searched -= len(lines.text)
            for seen in _sightings(path, lines):
                if seen.entry.id not in known:
                    known.add(seen.entry.id)
                    sightings.append(seen)
            own += _own_errors(path, text, first)[-1:]
        read.append(path)
    return LogEvidence(tuple(sightings), tuple(own), tuple(read), len(logs) - len(read))


class _Distinct:
    """The lines of a text without most of those that say the same with other digits."""

    def __init__(self, text: str, first: int | None) -> None:
        lines, self._numbers, counts = [], [], Counter[str]()
        pairs = zip(text.split("\n"), text.translate(_DIGITS).split("\n"), strict=True)
        for number, (line, shape) in enumerate(pairs):
            counts[shape] += 1
            if counts[shape] <= _ALIKE:
                lines.append(line)
                self._numbers.append(number)
        self.text = "\n".join(lines)
        self._first = first

    def number(self, place: int) -> int | None:
        """The number in the log of the line at `place` of `text`."""
        line = self._numbers[self.text.count("\n", 0, place)]
        return None if self._first is None else self._first + line


def plain(line: str) -> str:
    """The line as a terminal may show it: no control characters, of a progress bar the last."""
    last = line.rstrip("\r").rsplit("\r", 1)[-1]
    text = "".join(char if char.isprintable() else " " for char in last).strip()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _sightings(path: Path, lines: _Distinct) -> Iterator[Sighting]:
    for match in matches(lines.text):
        shown = plain(line_at(lines.text, match.start))
        yield Sighting(match.entry, path, lines.number(match.start), shown)


def _own_errors(path: Path, text: str, first: int | None) -> list[OwnError]:
    return [
        OwnError(
            path,
            _number(text, found.start(), first),
            plain(found["what"]),
            plain(found["cause"]),
            plain(found["hint"] or ""),
        )
        for found in _OURS.finditer(text)
    ]


def line_at(text: str, place: int) -> str:
    """The line of the text that has this place in it."""
    end = text.find("\n", place)
    return text[text.rfind("\n", 0, place) + 1 : end if end >= 0 else len(text)]


def _number(text: str, place: int, first: int | None) -> int | None:
    return None if first is None else first + text.count("\n", 0, place)


def _windows(path: Path, share: int) -> list[tuple[str, int | None]]:
    """(text, number of its first line) of the log, or of its beginning and end; none if unread."""
    try:
        # A log that was replaced by a link or a pipe since it was listed is left alone.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return []
    with open(fd, "rb") as stream:  # noqa: PTH123 - a descriptor has no path
        size = os.fstat(fd).st_size
        if size <= share:
            return [(stream.read(share).decode("utf-8", "replace"), 1)]
        head = stream.read(share // 3)
        tail = share - len(head)
        before = _lines_before(stream, size - tail) if size <= _COUNTED else None
        stream.seek(size - tail)
        rest = stream.read(tail)
    number = None if before is None else before + 1
    return [(head.decode("utf-8", "replace"), 1), (rest.decode("utf-8", "replace"), number)]


def _lines_before(stream: BinaryIO, place: int) -> int:
    stream.seek(0)
    count, left = 0, place
    while left > 0 and (chunk := stream.read(min(left, 1 << 20))):
        count += chunk.count(b"\n")
        left -= len(chunk)
    return count
