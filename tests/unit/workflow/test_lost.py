"""What one store has and the next has not: found by columns, since there may be many millions."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalhpc.core.identity import Answer
from evalhpc.storage.journal import JournalWriter
from evalhpc.storage.store import Store, merge_journals
from evalhpc.workflow.record import lost
from evalhpc.workflow.record.merging import merge
from tests.storage_fixtures import KEYS, RUN, write_journal
from tests.unit.workflow.test_walltime import plan, run_in

Said = dict[bytes, str]
said = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(["a", "b"]))


def stored(folder: Path, answers: Said) -> Store:
    path = folder / f"{secrets.token_hex(4)}.journal"
    write_journal(path, [(key, Answer(200, "", text.encode())) for key, text in answers.items()])
    merge_journals([path], path.with_suffix(".h5"), RUN)
    return Store.open(path.with_suffix(".h5"), RUN)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(said, said)
def test_gone_is_what_the_other_store_lacks_or_answers_otherwise(
    tmp_path: Path, before: Said, after: Said
) -> None:
    """Whichever keys there are, also such that end with zeros, and in pieces of a few."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lost, "_CHUNK", 3)
        with stored(tmp_path, before) as one, stored(tmp_path, after) as other:
            found = list(lost._gone(one, other))
    assert found == sorted(key for key, text in before.items() if after.get(key) != text)


def test_a_disagreement_costs_later_merges_nothing_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays in the journals, as at a temperature above 0: where nothing is lost no plan is read,
    and no answer is looked up by itself."""
    run = run_in(tmp_path / "run")
    plan(run, 1, 2)
    for shard, text in enumerate((b"one", b"another")):
        with JournalWriter.create(run.paths.journal(1, shard, 0), run.hash) as journal:
            journal.append(KEYS[0], Answer(200, "", text))
    merge(run)

    def slow(*_: object) -> None:
        pytest.fail("one by one")

    monkeypatch.setattr(lost, "read_requests", slow)
    for name in ("pairs", "digest", "has"):
        monkeypatch.setattr(Store, name, slow)
    assert merge(run).disagreements == 1
