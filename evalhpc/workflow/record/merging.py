"""Merging the run's journals into its store."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from evalhpc.storage.seals import seal, sealable
from evalhpc.workflow.record.run import Run

if TYPE_CHECKING:
    from evalhpc.storage.store import MergeReport

log = logging.getLogger(__name__)


def merge(run: Run) -> MergeReport:
    """All journals of the run into its store; the same journals and seals give the same bytes.

    They are sealed first: whichever answers this store holds are those of every later one.
    """
    # Late: HDF5 is a third of the start of the verbs that steer a run.
    from evalhpc.storage.store import merge_journals
    from evalhpc.workflow.record.lost import note_lost

    journals = run_journals(run)
    sizes = sealable(journals)
    seals = seal(run.paths.seals, sizes)
    missing = seals.missing(sizes)
    for name in missing:
        log.warning("%s is gone or shorter than it was; what it lacks is asked again", name)

    def note(fresh: Path, report: MergeReport) -> None:
        # Nothing else takes away or replaces what is sealed.
        if report.damaged or report.disagreements or missing:
            note_lost(run, fresh)

    report = merge_journals(
        journals, run.paths.store, run.hash, log=log.warning, seals=seals, before=note
    )
    log.info(
        "store: %d answers, %d duplicates, %d damaged frames from %d journals",
        report.answers, report.duplicates, len(report.damaged), len(journals),
    )  # fmt: skip
    return report


def merge_aside(run: Run, out: Path) -> None:
    """The answers that count by now into a store of the caller's own."""
    from evalhpc.storage.store import merge_journals  # start-up time

    journals = run_journals(run)
    seals = seal(run.paths.seals, sealable(journals))
    merge_journals(journals, out, run.hash, seals=seals)


def run_journals(run: Run) -> list[Path]:
    """Every journal, in the order of their names."""
    return sorted(run.paths.journals.glob("*.journal"))
