"""What a run's logs show: the lines that the table of causes knows, found with bounded reading."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from evalhpc.causes.table import LogCause, matches
from evalhpc.workflow.run import Run

#: Bytes read of one log (more of its end than of its beginning), and of all logs; files at most.
_HEAD, _TAIL, _ALL, FILES = 1 << 18, 1 << 19, 1 << 23, 400
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
    left = _ALL
    for path in logs[:FILES]:
        if left <= 0:
            break
        for text, first in _windows(path):
            left -= len(text)
            sightings += _sightings(
                path, text, first, {s.entry.id for s in sightings if s.path == path}
            )
            own += _own_errors(path, text, first)[-1:]
        read.append(path)
    return LogEvidence(tuple(sightings), tuple(own), tuple(read), len(logs) - len(read))


def plain(line: str) -> str:
    """The line as a terminal may show it: no control characters, of a progress bar the last."""
    last = line.rstrip("\r").rsplit("\r", 1)[-1]
    text = "".join(char if char.isprintable() else " " for char in last).strip()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _sightings(path: Path, text: str, first: int | None, known: set[str]) -> Iterator[Sighting]:
    for match in matches(text):
        if match.entry.id not in known:
            yield Sighting(
                match.entry,
                path,
                _number(text, match.start, first),
                plain(_line(text, match.start)),
            )


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


def _line(text: str, place: int) -> str:
    end = text.find("\n", place)
    return text[text.rfind("\n", 0, place) + 1 : end if end >= 0 else len(text)]


def _number(text: str, place: int, first: int | None) -> int | None:
    return None if first is None else first + text.count("\n", 0, place)


def _windows(path: Path) -> list[tuple[str, int | None]]:
    """(text, number of its first line) of the log, or of its beginning and end; none if unread."""
    try:
        # A log that was replaced by a link or a pipe since it was listed is left alone.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return []
    with open(fd, "rb") as stream:  # noqa: PTH123 - a descriptor has no path
        size = os.fstat(fd).st_size
        head = stream.read(min(size, _HEAD + _TAIL))
        if size <= _HEAD + _TAIL:
            return [(head.decode("utf-8", "replace"), 1)]
        head = head[:_HEAD]
        before = _lines_before(path, size - _TAIL) if size <= _COUNTED else None
        stream.seek(size - _TAIL)
        tail = stream.read(_TAIL)
    number = None if before is None else before + 1
    return [(head.decode("utf-8", "replace"), 1), (tail.decode("utf-8", "replace"), number)]


def _lines_before(path: Path, place: int) -> int:
    count, left = 0, place
    with path.open("rb") as stream:
        while left > 0 and (chunk := stream.read(min(left, 1 << 20))):
            count += chunk.count(b"\n")
            left -= len(chunk)
    return count
