"""Why a benchmark could not be staged: the log of its harness, with the next command to run."""

from __future__ import annotations

from pathlib import Path

from evalhpc.causes.table import Match, matches
from evalhpc.errors import HarnessError
from evalhpc.models.site import Site
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
#: By id, where that is more particular.
_HINTS_BY_ID = {
    "read-only": "libraries lock what they read: stage_dir must be writable, on nodes too; "
    "--set stage_dir=FOLDER, then evalhpc stage",
    "stale-file": "ls stage_dir on that machine; tell the administrators",
}
#: Characters of a log's line that are shown.
_LONGEST = 300
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
    elif match and match.entry.about == "network" and fetching:
        cause = "this machine has no internet, or no name service"
    hint = _hint(match, fetching, fetched)
    return HarnessError(f"{what}{code}: {why}", cause=cause, hint=f"{hint}; log: {log}")


def load_failed(
    site: Site, benchmark: Benchmark, told: StagePass | None, log: Path
) -> HarnessError:
    """The error for a benchmark whose data a node could not load; `log` has what was said there."""
    match = next(iter(sorted(matches(_text(log)), key=_rank)), None)
    code = "" if told is None else f" (exit code {told.exit_code})"
    again = f"evalhpc stage --site {site.name} --tasks {benchmark.harness}/{benchmark.task}"
    if site.stage_dir is None:
        again = f"set stage_dir in the site file (docs/stage.md), then {again}"
    if told is not None and told.exit_code == 0:
        return HarnessError("its harness asked nothing", cause="an empty task", hint=again)
    if match is None:
        said = (log_tail(log) or ("it said nothing",))[-1]
        return HarnessError(f"{said}{code}", cause="its harness ended early", hint=again)
    unreached = match.entry.id in _UNREACHED
    return HarnessError(
        f"{_last(match, log)}{code}",
        cause=f"{_place(site)} lacks what the harness loads" if unreached else match.entry.cause,
        hint=again if unreached else _remedy(match),
    )


def _hint(match: Match | None, fetching: bool, fetched: bool) -> str:
    if match is None:
        return _AGAIN.removeprefix("then ")
    if match.entry.id in _UNREACHED and not fetching:
        return (
            "give it its data by a path (params.include_path, params.tokenizer)"
            if fetched
            else "evalhpc stage without --offline"
        )
    return _HINTS["network"] if match.entry.id in _UNREACHED else _remedy(match)


def _place(site: Site) -> str:
    return "the node's own cache" if site.stage_dir is None else "stage_dir, as the node sees it,"


def _remedy(match: Match) -> str:
    by_subject = _HINTS.get(match.entry.about, match.entry.remedy)
    return _HINTS_BY_ID.get(match.entry.id, by_subject)


def _last(match: Match, log: Path) -> str:
    """The last line that says it: before that a traceback may show the line that raises it."""
    text = _text(log)
    start = [match.start, *(found.start() for found in match.entry.regex.finditer(text))][-1]
    line = text[text.rfind("\n", 0, start) + 1 :].split("\n", 1)[0]
    return line.strip()[:_LONGEST]


def _found(log: Path) -> list[Match]:
    return list(matches(_text(log), ("gated data", "data", "network", "quota", "disk")))


def _text(log: Path) -> str:
    return log.read_bytes()[-(1 << 20) :].decode("utf-8", "replace")


def _rank(match: Match) -> tuple[int, int]:
    """What is full or locked comes before what followed from it."""
    order = ("disk", "quota", "gated data", "network", "data")
    about = match.entry.about
    return order.index(about) if about in order else len(order), match.start
