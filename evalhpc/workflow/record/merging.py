"""Merging: all journals of a run into its store."""

from __future__ import annotations

import logging

from evalhpc.storage.store import MergeReport, merge_journals
from evalhpc.workflow.record.run import Run

log = logging.getLogger(__name__)


def merge(run: Run) -> MergeReport:
    """All journals of the run into its store; the same journals give the same bytes."""
    journals = sorted(run.paths.journals.glob("*.journal"))
    report = merge_journals(journals, run.paths.store, run.hash)
    for journal, damage in report.damaged:
        log.warning("%s: %s; its request is asked again", journal.name, damage)
    log.info(
        "store: %d answers, %d duplicates, %d damaged frames from %d journals",
        report.answers, report.duplicates, len(report.damaged), len(journals),
    )  # fmt: skip
    return report
