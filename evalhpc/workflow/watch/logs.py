"""The ends of a run's logs."""

from __future__ import annotations

import os
from pathlib import Path

from evalhpc.workflow.record.run import Run

_WINDOW = 256 * 1024


def log_tails(run: Run, kind: str, lines: int) -> list[tuple[Path, list[str]]]:
    """(path, last lines) of every log of the run whose name begins with `kind`, oldest first.

    Empty ones are left out."""
    # Of submitit only what went wrong is of interest: what it ran has logs of its own.
    files = [p for p in run.paths.logs.rglob("*") if p.suffix in (".log", ".err")]
    files += run.paths.passes.glob("*/*/harness.log")
    chosen = [path for path in files if path.name.startswith(kind)]
    tails = [(path, _tail(path, lines)) for path in sorted(chosen, key=_age)]
    return [(path, tail) for path, tail in tails if tail]


def _age(path: Path) -> tuple[float, str]:
    return path.stat().st_mtime, str(path)


def _tail(path: Path, lines: int) -> list[str]:
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _WINDOW))
        text = stream.read().decode("utf-8", "replace")
    # A progress bar overwrites its line; what it showed last is enough.
    plain = [line.rsplit("\r", 1)[-1] for line in text.split("\n")]
    return [line for line in plain if line.strip()][-lines:]
