"""Several merges of one run at once: the store that stays is the newest, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from evalhpc.core.identity import Answer, make_key
from evalhpc.errors import StorageError
from evalhpc.storage import merge as storage_merge
from evalhpc.storage.journal import JournalWriter
from evalhpc.workflow.record import merging
from evalhpc.workflow.record.merging import merge
from evalhpc.workflow.record.run import Run
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
