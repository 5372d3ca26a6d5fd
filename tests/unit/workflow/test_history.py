"""The site's history: complete runs only, newest first, and broken ones named but not fatal."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evalhpc.core.acceptance import Outcome
from evalhpc.core.expectation import profile
from evalhpc.paths import RunPaths
from evalhpc.storage.heartbeats import Heartbeat
from evalhpc.workflow.record.history import READ, History, read_history, read_past
from tests.factories import make_spec

SPEC = make_spec()
Seconds = dict[str, float]


def write_run(
    root: Path,
    shards: list[dict[int, Seconds]],
    passes: dict[int, float] | None = None,
    *,
    complete: bool = True,
    completed: float = 0,
    **changes: Any,
) -> RunPaths:
    """A run's records: each shard's seconds by round and state, and those of the passes."""
    spec, paths = make_spec(**changes), RunPaths(root)
    for folder in paths.folders():
        folder.mkdir(parents=True)
    paths.provenance.write_text(json.dumps({"spec": spec.model_dump(mode="json")}))
    for shard, rounds in enumerate(shards):
        for round_, seconds in rounds.items():
            workers = paths.round_leases(round_) / "workers"
            workers.mkdir(parents=True, exist_ok=True)
            Heartbeat(workers, f"{shard:05d}", "t").beat({"seconds": seconds}, ended=True)
    for number, took in (passes or {}).items():
        outcome = Outcome(
            benchmark="arc", number=number, exit_code=0, asked=8, answered=8, misses=0,
            dependents=0, seconds=took,
        )  # fmt: skip
        paths.pass_dir(number, "arc").mkdir(parents=True)
        paths.outcome(number, "arc").write_text(outcome.model_dump_json())
    if complete:
        paths.certificate.write_text("{}")
        os.utime(paths.certificate, (completed, completed))
    return paths


def read(root: Path) -> History:
    return read_history(profile(SPEC, "/run"), "testsite", [root])


def test_times_are_those_that_shards_and_passes_left(tmp_path: Path) -> None:
    """Loading is each shard's, work that of all; pass 0 is the planning job's."""
    write_run(
        tmp_path / "run",
        [
            {1: {"starting": 100, "working": 50, "ended": 0}, 2: {"starting": 20, "working": 30}},
            {1: {"starting": 80, "working": 60, "waiting": 5, "passing": 2}},
        ],
        {0: 7, 1: 3, 2: 4},
    )
    (past,) = read(tmp_path).same
    assert (past.planning, past.inside, past.collecting) == (7, 0, 7)
    assert (past.load, past.work, past.idle_each) == (100, 140, 3.5)


def test_a_pass_inside_the_array_is_the_arrays(tmp_path: Path) -> None:
    """All shards hold their nodes meanwhile; work at a queue is counted once."""
    for name, settings, planning, inside in (
        ("inline", {"plan": "inline"}, 0, 7),
        ("forward", {"miss": "forward"}, 7, 0),  # to an endpoint that is up: no shard is needed
        ("wait", {"miss": "wait"}, 0, 0),
    ):
        paths = write_run(tmp_path / name, [{1: {"working": 5}}], {0: 7}, run=settings)
        past = read_past(paths, make_spec(run=settings))
        assert past is not None
        assert (past.planning, past.inside) == (planning, inside)


def test_the_newest_complete_runs_come_first(tmp_path: Path) -> None:
    """Runs that go on say nothing yet; of many, the last READ to be completed are read."""
    for number in range(READ + 3):
        write_run(tmp_path / f"r{number}", [{1: {"working": number + 1.0}}], completed=number)
    write_run(tmp_path / "going", [{1: {"working": 999}}], complete=False)
    (tmp_path / "a file").touch()
    found = [past.work for past in read(tmp_path).same]
    assert found == [float(number + 1) for number in range(READ + 2, 2, -1)]


def test_runs_that_say_nothing_of_this_one_are_left_out(tmp_path: Path) -> None:
    """Another site, another suite, shards that left no times (an earlier version's)."""
    write_run(tmp_path / "site", [{1: {"working": 1}}], site={"name": "other"})
    write_run(tmp_path / "suite", [{1: {"working": 1}}],
              benchmarks=[{"name": "b", "harness": "lm-eval", "task": "b"}])  # fmt: skip
    write_run(tmp_path / "old", [{1: {}}])
    found = read(tmp_path)
    assert (found.same, found.similar, found.unread) == ([], [], [])


def test_broken_records_are_named_and_skipped(tmp_path: Path) -> None:
    """Whatever is wrong with one run, the others count."""
    broken: dict[str, Callable[[RunPaths], object]] = {
        "cut": lambda paths: paths.provenance.write_text("{"),
        "gone": lambda paths: paths.provenance.unlink(),
        "list": lambda paths: paths.provenance.write_text("[]"),
        "text": lambda paths: paths.provenance.write_text('{"spec": "none"}'),
        "newer": lambda paths: paths.provenance.write_text(
            '{"spec": {"site": {"name": "testsite"}, "newer": 1}}'
        ),
        "pass": lambda paths: paths.outcome(0, "arc").write_text("nonsense"),
    }
    for name, damage in broken.items():
        damage(write_run(tmp_path / name, [{1: {"working": 1}}], {0: 1}))
    for name, seconds in (("negative", -1), ("word", "x"), ("endless", 1e999)):
        write_run(tmp_path / name, [{1: {"working": 1, "starting": seconds}}])  # type: ignore[dict-item]  # on purpose
    write_run(tmp_path / "good", [{1: {"working": 5}}])
    found = read(tmp_path)
    assert [past.work for past in found.same] == [5]
    assert sorted(found.unread) == sorted([*broken, "endless", "negative", "word"])


def test_no_history_is_no_error(tmp_path: Path) -> None:
    """A run root that does not exist yet."""
    assert read(tmp_path / "none") == History()
