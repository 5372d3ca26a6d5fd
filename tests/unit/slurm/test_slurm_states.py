"""The tables know every state and reason, and say what to do."""

from __future__ import annotations

import pytest

from evalhpc.causes.table import table
from evalhpc.slurm.jobs import JobRecord
from evalhpc.slurm.states import STATES, UNKNOWN, explain, is_terminal, state_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("PD", "PENDING"),
        ("R", "RUNNING"),
        ("CG", "COMPLETING"),
        ("OOM", "OUT_OF_MEMORY"),
        ("COMPLETED", "COMPLETED"),
        ("CANCELLED by 1000", "CANCELLED"),
        ("CANCELLED+", "CANCELLED"),
        ("", UNKNOWN),
        (["RUNNING"], "RUNNING"),
        (["RUNNING", "COMPLETING"], "COMPLETING"),
        ([], UNKNOWN),
    ],
)
def test_every_spelling_of_a_state_has_one_name(text: str | list[str], name: str) -> None:
    """Codes, suffixes and lists."""
    assert state_name(text) == name


def test_codes_are_unique() -> None:
    """Two states with one code would make squeue's short form ambiguous."""
    codes = [state.code for state in STATES.values()]
    assert len(codes) == len(set(codes))


def test_only_completed_is_a_success_and_it_is_terminal() -> None:
    """Anything else that ended is not a result."""
    assert [name for name, state in STATES.items() if state.success] == ["COMPLETED"]
    assert is_terminal("COMPLETED")


def test_a_state_that_nobody_knows_is_not_the_end() -> None:
    """A state of a later Slurm, or of a lost job, must not look like a finished one."""
    assert not is_terminal("BRAND_NEW")
    assert not JobRecord(1, state=UNKNOWN).terminal
    assert not JobRecord(1, state="BRAND_NEW").succeeded


def test_every_failure_has_a_remedy() -> None:
    """A user who reads that a job ended badly also reads what to do."""
    for name, state in STATES.items():
        if state.terminal and not state.success and name != "REVOKED":
            assert table().states[name].remedy, name


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("AssocGrpGRESMinutes", "used up"),
        ("AssocMaxNodePerJobLimit", "more than one job"),
        ("QOSMaxGRESPerUser", "your jobs"),
        ("ReqNodeNotAvail, UnavailableNodes:n3", "down, drained"),
        ("DependencyNeverSatisfied", "failed"),
        ("Priority", "ahead"),
    ],
)
def test_the_reason_of_a_pending_job_is_explained(reason: str, said: str) -> None:
    """With a remedy, for patterns of reasons too."""
    meaning, remedy = explain("PENDING", reason)
    assert said in meaning
    assert remedy


def test_a_reason_is_explained_only_while_the_job_waits() -> None:
    """sacct still shows JobArrayTaskLimit on a task that has long completed."""
    assert explain("COMPLETED", "JobArrayTaskLimit") == explain("COMPLETED")


def test_a_reason_of_a_later_slurm_is_shown_as_it_is() -> None:
    """Unknown is not the same as nothing."""
    assert explain("PENDING", "SomethingNew") == ("waits: SomethingNew", "")
    assert explain("BRAND_NEW") == ("brand_new", "")


def test_every_state_has_a_meaning() -> None:
    """The table of states and that of causes name the same ones."""
    assert set(table().states) == set(STATES)
