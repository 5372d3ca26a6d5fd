"""Why a benchmark could not be staged: the log of its harness, with the next command to run."""

from __future__ import annotations

from pathlib import Path

from evalhpc.causes.table import Match, matches
from evalhpc.errors import HarnessError
from evalhpc.models.stage import StagePass
from evalhpc.models.suite import Benchmark
from evalhpc.workflow.passes.harness_run import log_tail

_AGAIN = "then evalhpc stage again: what is there is kept"
_ELSEWHERE = (
    "evalhpc stage where there is internet, copy its stage_dir here (rsync -a), then: "
    "evalhpc stage --offline"
)
#: By subject of the table of causes; its own remedies are for jobs.
_HINTS = {
    "gated data": "accept its terms on the hub's page; read -rs HF_TOKEN && export HF_TOKEN; "
    + _AGAIN,
    "network": f"curl -sI $HF_ENDPOINT; where this machine has no internet either: {_ELSEWHERE}",
    "quota": f"remove old runs and data, or --set stage_dir=FOLDER; {_AGAIN}",
    "disk": f"df -h and df -i of stage_dir, or --set stage_dir=FOLDER; {_AGAIN}",
}
_UNREACHED = frozenset({"hub-offline", "hub-unreachable"})


def pass_failed(
    benchmark: Benchmark, told: StagePass | None, log: Path, *, fetching: bool, fetched: bool
) -> HarnessError:
    """The error for a pass that ended badly; `log` has what it and the harness said.

    `fetching`: it had internet. `fetched`: one that had internet went well before.
    """
    match = next(iter(sorted(_found(log), key=_rank)), None)
    tail = log_tail(log)
    what = f"{benchmark.name} cannot be staged" if fetching else f"{benchmark.name} is not staged"
    if told is not None and told.exit_code == 0:
        return HarnessError(
            f"{what}: its harness asked nothing",
            cause="an empty task, or a limit that leaves nothing",
            hint=f"less {log}",
        )
    why = _last(match, log) if match else (tail or ("",))[-1]
    code = "" if told is None else f" (exit code {told.exit_code})"
    cause = match.entry.cause if match else "the harness ended early; its log says why"
    if match and match.entry.id in _UNREACHED:
        cause = (
            "the hub cannot be reached from here"
            if fetching
            else "the harness asks the hub each time, whatever its caches hold"
            if fetched
            else "the stage folder lacks what the harness loads"
        )
    hint = _hint(match, fetching, fetched)
    return HarnessError(f"{what}{code}: {why}", cause=cause, hint=f"{hint}; log: {log}")


def _hint(match: Match | None, fetching: bool, fetched: bool) -> str:
    if match is None:
        return _AGAIN.removeprefix("then ")
    if match.entry.id in _UNREACHED and not fetching:
        return (
            "give it its data by a path (params.include_path, params.tokenizer)"
            if fetched
            else "evalhpc stage without --offline"
        )
    return _HINTS.get("network" if match.entry.id in _UNREACHED else match.entry.about, "") or (
        match.entry.remedy
    )


def _last(match: Match, log: Path) -> str:
    """The last time that it was said: before that a traceback may show the line that says it."""
    found = [match.text, *(m.group() for m in match.entry.regex.finditer(_text(log)))]
    return found[-1].strip()


def _found(log: Path) -> list[Match]:
    return list(matches(_text(log), ("gated data", "data", "network", "quota", "disk")))


def _text(log: Path) -> str:
    return log.read_bytes()[-(1 << 20) :].decode("utf-8", "replace")


def _rank(match: Match) -> tuple[int, int]:
    """What is full or locked comes before what followed from it."""
    order = ("disk", "quota", "gated data", "network", "data")
    return order.index(match.entry.about), match.start
