"""A round seen from outside: which units are done and what its workers say, without a trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evalhpc.storage.atomic import read_whole, storage_error


def done_units(leases: Path) -> set[int]:
    """The units of a round's lease folder that somebody has marked as answered."""
    if not leases.is_dir():
        return set()
    return {int(path.stem) for path in leases.glob("*.done") if path.stem.isdigit()}


def last_words(leases: Path, worker: str) -> dict[str, Any]:
    """What the last heartbeat of one worker said; nothing where there is none to be read."""
    return _said(leases / "workers" / f"{worker}.json") or {}


def worker_stats(leases: Path) -> dict[str, dict[str, Any]]:
    """Worker → what its last heartbeat said, in order of names."""
    said: dict[str, dict[str, Any]] = {}
    for path in sorted((leases / "workers").glob("*.json")):
        if (stats := _said(path)) is not None:
            said[path.stem] = stats
    return said


def _said(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(read_whole(path))["stats"])
    except (FileNotFoundError, ValueError, KeyError):
        return None  # replaced or half-visible on a network file system: the next look has it
    except OSError as error:
        raise storage_error(path, error) from error
