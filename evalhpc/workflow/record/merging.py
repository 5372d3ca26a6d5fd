"""Merging the run's journals into its store."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from evalhpc.errors import StorageError
from evalhpc.models.certificate import Certificate
from evalhpc.storage.atomic import is_there
from evalhpc.storage.seals import Seals, count_seals, read_seals, seal, sealable
from evalhpc.workflow.record.records import read_record
from evalhpc.workflow.record.run import Run

if TYPE_CHECKING:
    from evalhpc.storage.store import MergeReport

log = logging.getLogger(__name__)

#: So many other merges may seal more during this one, one after the other.
_TRIES = 100


class _Overtaken(Exception):
    """Another merge has sealed more since this one began."""


def merge(run: Run) -> MergeReport:
    """All journals of the run into its store; the same journals and seals give the same bytes.

    They are sealed first: whichever answers this store holds are those of every later one. Of two
    merges at once the one with fewer seals begins anew: no older store comes to lie over a newer.
    Of a run that is complete nothing more is sealed: its store has what was certified.
    Raises StorageError, IntegrityError.
    """
    for _ in range(_TRIES):
        report = _merge_once(run)
        if report is not None:
            return report
        log.info("another merge has sealed more meanwhile: this one begins anew")
    raise StorageError(
        f"{run.paths.store} was not written: {_TRIES} other merges were quicker, one after another",
        cause="merges without end",
        hint=f"evalhpc status {run.word}",
        transient=True,
    )


def _merge_once(run: Run) -> MergeReport | None:
    """One try at it; None where another merge has sealed more meanwhile."""
    # Late: HDF5 is a third of the start of the verbs that steer a run.
    from evalhpc.storage.store import merge_journals
    from evalhpc.workflow.record.lost import find_lost, note_lost

    journals, seals, missing = _sealed(run)

    def look(fresh: Path, report: MergeReport) -> None:
        # Nothing else takes away or replaces what is sealed.
        suspect = report.damaged or report.disagreements or missing
        suspect = suspect and not is_there(run.paths.certificate)
        lost = find_lost(run, fresh) if suspect else None
        # What was compared, and is replaced now, is then no newer than `fresh`.
        if _count(run) != seals.count:
            raise _Overtaken
        for name in missing:
            log.warning("%s is gone or shorter than it was", name)
        if lost:
            note_lost(run, lost)

    try:
        report = merge_journals(
            journals, run.paths.store, run.hash, log=log.warning, seals=seals, before=look
        )
    except _Overtaken:
        return None
    if _count(run) != seals.count:
        return None  # whoever slept just then has put an older store over a newer one
    log.info(
        "store: %d answers, %d duplicates, %d damaged frames from %d journals",
        report.answers, report.duplicates, len(report.damaged), len(journals),
    )  # fmt: skip
    return report


def merge_aside(run: Run, out: Path) -> None:
    """The answers that count by now into a store of the caller's own."""
    from evalhpc.storage.store import merge_journals  # start-up time

    journals, seals, _ = _sealed(run)
    merge_journals(journals, out, run.hash, seals=seals)


def _sealed(run: Run) -> tuple[list[Path], Seals, list[str]]:
    """The journals, sealed as they are now; and the names of those that are gone or shorter."""
    journals = run_journals(run)
    sizes = sealable(journals)
    certified = _certified(run)
    if certified is None:
        seals = seal(run.paths.seals, sizes)
    else:
        seals = read_seals(run.paths.seals, certified)
    if seals.missing(sizes):  # or another merge has sealed what came after this look
        journals = run_journals(run)
        sizes = sealable(journals)
    return journals, seals, seals.missing(sizes)


def _count(run: Run) -> int:
    """How many seals count now."""
    certified = _certified(run)
    return count_seals(run.paths.seals) if certified is None else certified


def _certified(run: Run) -> int | None:
    """How many seals the certificate counted, where there is one that says so."""
    if not is_there(run.paths.certificate):
        return None
    return read_record(run.paths.certificate, Certificate).seals


def run_journals(run: Run) -> list[Path]:
    """Every journal, in the order of their names."""
    return sorted(run.paths.journals.glob("*.journal"))
