"""The slices of a run by samples: which there are, and what became of them."""

from __future__ import annotations

from evalhpc.models.base import Frozen
from evalhpc.workflow.record.records import read_record
from evalhpc.workflow.record.run import Run

#: Slices are leased before round 1 is planned.
SLICE_ROUND = 0


class Slice(Frozen):
    """Some documents of one benchmark, for one shard: what it leases."""

    id: int
    benchmark: str
    number: int


class SliceList(Frozen):
    """What `plan/slices.json` holds."""

    run_hash: str
    slices: tuple[Slice, ...]


class SliceOutcome(Frozen):
    """What one run of the harness on a slice came to; `outcome.json` of the attempt."""

    benchmark: str
    number: int
    exit_code: int
    asked: int
    foreign: int  # requests that the unsharded harness does not make
    further: int = 0  # asked beside what pass 0 had planned: turns that followed an answer
    seconds: float = 0.0
    log_tail: tuple[str, ...] = ()


def is_sliced(run: Run) -> bool:
    """Whether the documents are cut: shards may begin."""
    return run.paths.slice_list.is_file()


def load_slices(run: Run) -> tuple[Slice, ...]:
    """Every slice of the run; none before they are cut."""
    return read_record(run.paths.slice_list, SliceList).slices if is_sliced(run) else ()


def slice_outcomes(run: Run) -> list[SliceOutcome]:
    """Of every attempt that came to its end."""
    found = sorted(run.paths.slices.glob("*/*-*/outcome.json"))
    return [read_record(path, SliceOutcome) for path in found]
