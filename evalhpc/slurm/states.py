"""Job states as data: which are the end, and which a success; causes.yaml says what they mean.

Sources: "JOB STATE CODES" of squeue(1) and sacct(1), Slurm 22.05.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evalhpc.causes.table import of_reason, table

#: Ours: neither the controller nor the accounting knows the job any more.
UNKNOWN = "UNKNOWN"


@dataclass(frozen=True)
class State:
    """One job state; a terminal state does not change unless the job is requeued."""

    code: str
    terminal: bool
    success: bool


STATES: dict[str, State] = {
    "BOOT_FAIL": State("BF", terminal=True, success=False),
    "CANCELLED": State("CA", terminal=True, success=False),
    "COMPLETED": State("CD", terminal=True, success=True),
    "CONFIGURING": State("CF", terminal=False, success=False),
    "COMPLETING": State("CG", terminal=False, success=False),
    "DEADLINE": State("DL", terminal=True, success=False),
    "FAILED": State("F", terminal=True, success=False),
    "NODE_FAIL": State("NF", terminal=True, success=False),
    "OUT_OF_MEMORY": State("OOM", terminal=True, success=False),
    "PENDING": State("PD", terminal=False, success=False),
    "PREEMPTED": State("PR", terminal=True, success=False),
    "RUNNING": State("R", terminal=False, success=False),
    "RESV_DEL_HOLD": State("RD", terminal=False, success=False),
    "REQUEUE_FED": State("RF", terminal=False, success=False),
    "REQUEUE_HOLD": State("RH", terminal=False, success=False),
    "REQUEUED": State("RQ", terminal=False, success=False),
    "RESIZING": State("RS", terminal=False, success=False),
    "REVOKED": State("RV", terminal=True, success=False),
    "SIGNALING": State("SI", terminal=False, success=False),
    "SPECIAL_EXIT": State("SE", terminal=False, success=False),
    "STAGE_OUT": State("SO", terminal=False, success=False),
    "STOPPED": State("ST", terminal=False, success=False),
    "SUSPENDED": State("S", terminal=False, success=False),
    "TIMEOUT": State("TO", terminal=True, success=False),
    UNKNOWN: State("?", terminal=False, success=False),
}

_CODES = {state.code: name for name, state in STATES.items()}
#: In --json these stand beside a base state; squeue's text shows them instead of it.
_OVERLAYS = frozenset(
    {"COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESIZING",
     "RESV_DEL_HOLD", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "REVOKED"}
)  # fmt: skip


def state_name(text: str | Sequence[str]) -> str:
    """The full name: of `PD`, `CANCELLED by 1000`, `RUNNING+`, or of --json's list of states."""
    if not isinstance(text, str):
        names = [state_name(word) for word in text]
        return next((name for name in names if name in _OVERLAYS), names[0] if names else UNKNOWN)
    word = text.split()[0].rstrip("+").upper() if text.strip() else UNKNOWN
    return _CODES.get(word, word)


def is_terminal(state: str) -> bool:
    """Whether a job in this state has ended; no for a state that is not in the table."""
    return state in STATES and STATES[state].terminal


def explain(state: str, reason: str = "") -> tuple[str, str]:
    """Meaning and remedy of a job's state; of a pending job, those of the reason it waits."""
    if state == "PENDING":
        waits = of_reason(reason)
        if waits is not None:
            return waits.cause, waits.remedy
        return (f"waits: {reason}" if reason else table().states[state].cause), ""
    known = table().states.get(state)
    return (known.cause, known.remedy) if known else (state.lower(), "")
