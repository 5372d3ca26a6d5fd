"""Merges of one run at once, and of one that is complete: which store stays."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from evalhpc.core.acceptance import Outcome
from evalhpc.core.identity import Answer, make_key
from evalhpc.errors import IntegrityError, StorageError
from evalhpc.models.certificate import Counts
from evalhpc.storage import merge as storage_merge
from evalhpc.storage.atomic import write_text
from evalhpc.storage.journal import JournalWriter
from evalhpc.workflow.collect import finish
from evalhpc.workflow.collect.verify import verify_run
from evalhpc.workflow.record import merging
from evalhpc.workflow.record.merging import merge
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.stored import stored_answers
from evalhpc.workflow.submit.control import merge_run
from tests.unit.workflow.test_walltime import plan, run_in

KEYS = [make_key(bytes([number]) * 16, 0) for number in range(3)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Three requests, the first of which was answered twice, and merged."""
    run = run_in(tmp_path / "run")
    plan(run, 1, 3)
    answer(run, 0, {KEYS[0]: "first"})
    answer(run, 1, {KEYS[0]: "second"})
    merge(run)
    return run


def answer(run: Run, shard: int, said: dict[bytes, str]) -> None:
    """A journal of its own with these answers."""
    with JournalWriter.create(run.paths.journal(1, shard, 0), run.hash) as journal:
        for key, text in said.items():
            journal.append(key, Answer(200, "application/json", text.encode()))


def before_first(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, act: Callable[[], object]
) -> None:
    """Have `act` done just before the first call of a function."""
    real = getattr(module, name)

    def wrapped(*args: object, **named: object) -> object:
        monkeypatch.setattr(module, name, real)
        act()
        return real(*args, **named)

    monkeypatch.setattr(module, name, wrapped)


@pytest.mark.parametrize(
    ("module", "name"),
    [(merging, "seal"), (storage_merge, "_write_layout"), (storage_merge, "publish")],
    ids=["when it has looked", "when it has read", "when it has compared"],
)
def test_an_older_store_does_not_stay_over_a_newer_one(
    run: Run, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str
) -> None:
    """A merge that another one overtakes, wherever it is just then, ends with the same store, and
    takes no answer for lost that the other one found."""
    found: list[int] = []

    def other_merge() -> None:
        answer(run, 2, {KEYS[1]: "new", KEYS[2]: "newer"})
        found.append(merge(run).answers)

    answer(run, 3, {KEYS[1]: "late"})
    before_first(monkeypatch, module, name, other_merge)
    found.append(merge(run).answers)
    assert found == [3, 3]
    with run.open_store() as store:
        assert len(store) == 3
    assert not list(run.paths.seals.glob("lost-*"))


def test_merges_that_are_always_overtaken_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others that seal without end are said to do so; that may pass."""
    monkeypatch.setattr(merging, "_TRIES", 2)
    monkeypatch.setattr(merging, "count_seals", lambda _folder: 99)
    with pytest.raises(StorageError, match="other merges were quicker") as caught:
        merge(run)
    assert caught.value.transient


def stored(run: Run) -> list[tuple[bytes, bytes]]:
    """Keys and digests of the answers in the run's store."""
    with run.open_store() as store:
        return list(store.pairs())


def certify(run: Run) -> None:
    """A certificate for the run as it is stored now, where only the first request has an answer."""
    write_text(run.paths.provenance, "{}")
    with run.open_store() as store:
        failed = dict.fromkeys(KEYS[1:])
        given = stored_answers(run, store, failed)["arc"].root
    outcome = Outcome(
        benchmark="arc", number=1, exit_code=0, asked=3, answered=1, misses=0, dependents=0,
        store_root=given,
    )  # fmt: skip
    root, seals = finish._checked_root(run, [outcome], failed)
    counts = Counts(
        planned=3, answered=1, failed=2, duplicates=1, disagreements=1, damaged=0, rounds=1,
        passes=2,
    )  # fmt: skip
    certificate = finish._certificate(run, 1, counts, root, seals, failed)
    write_text(run.paths.certificate, certificate.model_dump_json())


def test_a_merge_of_a_complete_run_changes_nothing_that_was_certified(run: Run) -> None:
    """A worker wakes up and answers what failed for good; somebody merges by hand."""
    certify(run)
    before = stored(run)
    checks = verify_run(run)
    answer(run, 2, {KEYS[1]: "late"})
    assert merge_run(run)["answers"] == 1
    assert stored(run) == before
    late = "3 planned, 1 answered, 2 failed; 1 came later and count for nothing"
    assert [found for found in verify_run(run) if found not in checks] == [("completeness", late)]


@pytest.mark.parametrize("name", ["_write_layout", "publish"])
def test_what_was_sealed_while_the_run_was_certified_does_not_count_either(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A pass that was taken over merges late: it has sealed, and then meets the certificate. What
    it takes out of the store again is not lost."""
    answer(run, 2, {KEYS[1]: "late"})
    before = stored(run)
    before_first(monkeypatch, storage_merge, name, lambda: certify(run))
    assert merge(run).answers == 1
    assert stored(run) == before
    assert not list(run.paths.seals.glob("lost-*"))
    verify_run(run)


def test_a_certified_seal_that_is_gone_fails_verify(run: Run) -> None:
    """The last one, too, which no later one gives away."""
    certify(run)
    shutil.rmtree(run.paths.seals / "1")
    with pytest.raises(IntegrityError, match="1 is gone"):
        verify_run(run)
