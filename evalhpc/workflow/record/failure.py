"""failure.json: why a run stands still."""

from __future__ import annotations

import json
import logging

from evalhpc.errors import EvalhpcError, StorageError
from evalhpc.storage.atomic import write_text
from evalhpc.workflow.record.run import Run

log = logging.getLogger(__name__)


def note_failure(run: Run, error: EvalhpcError) -> None:
    """Leave the reason why the run stands still where `status` and a person find it."""
    if run.paths.certificate.exists():
        return  # a straggler's trouble is not that of a complete run
    record = {
        "error": type(error).__name__,
        "exit_code": error.exit_code,
        "what": error.what,
        "cause": error.cause,
        "hint": error.hint.replace(" RUN", f" {run.word}"),
    }
    try:
        write_text(run.paths.failure, json.dumps(record, indent=1) + "\n")
    except StorageError as unwritten:
        log.error("the reason could not be left in failure.json: %s", unwritten.what)
