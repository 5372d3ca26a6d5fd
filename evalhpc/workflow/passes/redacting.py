"""Secrets in what a harness left that was killed, so that nobody looked it through at its end."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from evalhpc.core.masking import SHORTEST_IN_DATA, Mask, secret_values
from evalhpc.errors import HarnessError
from evalhpc.storage.atomic import storage_errors
from evalhpc.storage.outputs import excess, foreign_entries
from evalhpc.storage.redaction import redact
from evalhpc.storage.unpacking import Budget
from evalhpc.workflow.passes.harness_run import output_bounds, remove_output
from evalhpc.workflow.record.run import Run

log = logging.getLogger(__name__)


def redact_interrupted(run: Run, folder: Path) -> None:
    """Take the secrets out of the output in the folder of one pass or slice.

    Links out of it go, since nothing behind them is ours; all of it does where it is too much to
    look through. The token of its gateway is dead, and
    known to nobody. Raises StorageError.
    """
    output, bounds = folder / "output", output_bounds(run)
    if said := excess(output, bounds):
        log.warning("%s, of a harness that was killed, has %s: it is removed", output, said)
        remove_output(output)
        return
    mask = Mask([*secret_values(os.environ).values()], shortest=SHORTEST_IN_DATA)
    with storage_errors(output):
        for path in foreign_entries(output):
            if path.is_symlink():
                path.unlink()
    try:
        named = redact(output, mask, Budget(bounds.bytes))
    except HarnessError as error:
        # Of archives that unpack to too much only the first bytes are left.
        log.warning("%s, of a harness that was killed: %s", output, error.what)
        return
    for name in named:
        log.warning("%s/output/%s held a secret: asterisks stand there now", folder, ascii(name))


def redact_unfinished(run: Run) -> None:
    """`redact_interrupted` for every pass and slice that has no outcome and runs no longer."""
    for folder in _unfinished(run):
        redact_interrupted(run, folder)


def _unfinished(run: Run) -> Iterator[Path]:
    for output in (*run.paths.passes.glob("*/*/output"), *run.paths.slices.glob("*/*/output")):
        if not (output.parent / "outcome.json").is_file():
            yield output.parent
