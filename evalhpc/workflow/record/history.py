"""The site's history: what earlier runs took, read from their own directories, newest first."""

from __future__ import annotations

import heapq
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evalhpc.core.acceptance import Outcome
from evalhpc.core.expectation import Past, Profile, alike, profile
from evalhpc.errors import EvalhpcError, IntegrityError
from evalhpc.models.runspec import RunSpec
from evalhpc.paths import RunPaths
from evalhpc.storage.round_view import worker_stats
from evalhpc.workflow.record.records import read_object, read_record
from evalhpc.workflow.record.run import Run

#: Directories looked at in one folder, and complete runs among them that are read.
LOOKED_AT, READ = 10_000, 64


@dataclass
class History:
    """Runs that say something of the wanted one, newest first; `unread` names broken ones."""

    same: list[Past] = field(default_factory=list)
    similar: list[Past] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def read_history(wanted: Profile, site: str, roots: Iterable[Path]) -> History:
    """What the newest complete runs of the site below `roots` took; a broken one is only named."""
    history = History()
    for root in newest_runs(roots):
        paths = RunPaths(root)
        try:
            provenance = read_object(paths.provenance)
            if provenance["spec"]["site"]["name"] != site:
                continue
            spec = RunSpec.model_validate(provenance["spec"])
            kind = alike(wanted, profile(spec, str(root)))
            past = None if kind is None else read_past(paths, spec)
        except (EvalhpcError, ValidationError, OSError, KeyError, TypeError, ValueError):
            history.unread.append(root.name)
            continue
        if past is not None:
            (history.same if kind == "same" else history.similar).append(past)
    return history


def newest_runs(roots: Iterable[Path]) -> list[Path]:
    """Complete runs directly below `roots`, the last to be completed first, READ of them."""
    found = ((when, str(path)) for root in dict.fromkeys(roots) for when, path in _complete(root))
    return [Path(path) for _, path in heapq.nlargest(READ, set(found))]


def _complete(root: Path) -> Iterator[tuple[float, Path]]:
    try:
        with os.scandir(root) as entries:
            names = [entry.name for entry in islice(entries, LOOKED_AT)]
    except OSError:
        return  # no runs there yet, or a folder that is not ours to list
    for name in names:
        try:
            yield RunPaths(root / name).certificate.stat().st_mtime, root / name
        except OSError:
            continue  # not complete, no run, or another user's


def read_past(paths: RunPaths, spec: RunSpec) -> Past | None:
    """What a run took; None where its shards left no times (made by an earlier version)."""
    spent = _seconds(paths)
    if not any("working" in states for states in spent.values()):
        return None
    passes = _passes(paths)
    first, later = passes.pop(0, 0.0), sum(passes.values())
    in_array = Run(paths, spec, spec.digest()).plans_inline
    return Past(
        run_id=spec.run_id,
        planning=0.0 if in_array else first,
        collecting=later,
        # A queue's shards count the pass as their work: they answer while it goes on.
        inside=first if in_array and spec.run.miss != "wait" else 0.0,
        load=_sum(spent, "starting") / len(spent),
        work=_sum(spent, "working"),
        idle_each=_sum(spent, "waiting", "passing") / len(spent),
    )


def _seconds(paths: RunPaths) -> dict[str, dict[str, float]]:
    """Shard → state → seconds, all rounds together."""
    spent: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for leases in sorted(paths.leases.iterdir()):
        for worker, said in worker_stats(leases).items():
            for state, seconds in _checked(said.get("seconds", {}), leases).items():
                spent[worker][state] += seconds
    return spent


def _checked(seconds: Any, leases: Path) -> dict[str, float]:
    times = {str(state): float(value) for state, value in dict(seconds).items()}
    if not all(0 <= value < float("inf") for value in times.values()):
        raise IntegrityError(f"a worker in {leases} took a time that cannot be")
    return times


def _sum(spent: dict[str, dict[str, float]], *states: str) -> float:
    return sum(times.get(state, 0.0) for times in spent.values() for state in states)


def _passes(paths: RunPaths) -> dict[int, float]:
    """Pass → seconds; its benchmarks run side by side, so the longest counts."""
    passes: dict[int, float] = {}
    for path in paths.passes.glob("*/*/outcome.json"):
        outcome = read_record(path, Outcome)
        passes[outcome.number] = max(passes.get(outcome.number, 0.0), outcome.seconds)
    return passes
