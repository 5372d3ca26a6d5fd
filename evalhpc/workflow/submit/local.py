"""Starting a run of the `local` site: a driver in the background."""

from __future__ import annotations

import os

from evalhpc import process
from evalhpc.workflow.record.jobs import process_start, record_job
from evalhpc.workflow.record.run import Run

#: Seconds that a script gets to end in good order; above shard.LAST_WORDS.
GRACE = 25.0


def start_driver(run: Run, *, first: str) -> int:
    """Start the run's driver in the background, from `first` on; returns its process id."""
    command = [run.spec.python, "-m", "evalhpc", "node", "drive", "--run-dir", str(run.paths.root)]
    child = process.start(
        [*command, "--from", first],
        log=run.paths.log("driver.log"),
        env=process.scrubbed(os.environ),
    )
    try:
        record_job(run.paths, "driver", child.pid, 0, "local", started=process_start(child.pid))
    except BaseException:
        process.stop(child)  # what nobody knows of cannot be cancelled
        raise
    return child.pid
