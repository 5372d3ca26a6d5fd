"""Findings: what each trace of a failure says of its cause, and how likely it makes it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from evalhpc.causes.table import Cause, ReasonCause, matches, of_exit, of_reason, table
from evalhpc.core.acceptance import Outcome
from evalhpc.models.base import Frozen
from evalhpc.slurm.jobs import JobRecord
from evalhpc.workflow.faults.shard_failures import ShardFailure
from evalhpc.workflow.record.records import read_record
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.watch.log_evidence import LogEvidence, line_at, plain
from evalhpc.workflow.watch.status import RunStatus

#: Lower comes first. A root cause in the job that failed, evalhpc's own words, what follows from
#: something else, an exit code by itself, and what only says that a job waits its turn.
_CERTAIN, _ROOT, _OWN, _FOLLOWS, CODE, WAITS = 0, 10, 20, 30, 40, 60
_ELSEWHERE = 5  # added to a root cause that a log of another kind of job shows
#: Errors that say exactly what is wrong; for the others, a log knows better.
_EXACT = frozenset(
    {"BudgetError", "IntegrityError", "UsageError", "ConfigError", "StorageError", "PartialError"}
)
#: Class of the run's error → how the names of the logs begin that explain it.
_LOGS_OF = {
    "HarnessError": ("harness",),
    "EndpointError": ("server", "shard", "deploy"),
    "IncompleteError": ("server", "shard", "deploy"),
    "ModelError": ("server", "shard", "deploy"),
    "ClusterError": ("collect", "planning", "driver"),
}
_ENDED_BY = re.compile(r"\((?:exit code (?P<code>\d+)|signal (?P<signal>\d+))\)")


class Finding(Frozen):
    """One cause, and what shows it."""

    about: str
    cause: str
    remedy: str
    what: str  # the line, or the job and its state
    file: str = ""
    line: int | None = None  # from 1
    times: int = 1  # logs, jobs or shards that show it
    rank: int = 0  # lower is likelier


def from_logs(evidence: LogEvidence, error: str) -> Iterator[Finding]:
    """What logs show; `error` is the class of the run's own error, which tells whose logs count."""
    expected = _LOGS_OF.get(error, ())
    for seen in evidence.sightings:
        rank = _rank(seen.entry)
        if expected and not seen.path.name.startswith(expected):
            rank += _ELSEWHERE
        if seen.shown.startswith("| "):
            rank += 1  # quoted from another log, which says more
        yield Finding(
            about=seen.entry.about,
            cause=seen.entry.cause,
            remedy=seen.entry.remedy,
            what=seen.shown,
            file=str(seen.path),
            line=seen.line,
            rank=rank,
        )
    for own in evidence.own:
        yield Finding(
            about="evalhpc",
            cause=own.cause,
            remedy=own.hint,
            what=own.what,
            file=str(own.path),
            line=own.line,
            rank=_OWN + 3,
        )


def from_jobs(records: Mapping[int, Sequence[JobRecord]]) -> Iterator[Finding]:
    """What Slurm says of the jobs, by submitted id."""
    known = [record for number in sorted(records) for record in records[number]]
    failed = any(_ended_badly(record) and record.state != "CANCELLED" for record in known)
    for record in known:
        if failed and record.state == "CANCELLED" and not record.node_list:
            # Slurm itself cancels what waited for the success of a job that failed.
            yield Finding(
                about="Slurm",
                cause="never started: a job that it waited for failed",
                remedy="find that one above; then evalhpc resume RUN",
                what=f"job {record.label}: {record.state}",
                rank=_FOLLOWS + 6,
            )
        else:
            yield from job_findings(record)


def job_findings(record: JobRecord) -> Iterator[Finding]:
    """What Slurm's state, reason and exit code of a job say; nothing for one that went well."""
    what = f"job {record.label}" + (f" on {record.node_list}" if record.node_list else "")
    if record.state == "PENDING" and record.reason:
        known: Cause | None = of_reason(record.reason)
        rank = _reason_rank(known) if isinstance(known, ReasonCause) else CODE
        said = f"PENDING ({record.reason})"
        if known is None:
            known = Cause(
                cause="Slurm gives a reason that is not in our table",
                remedy="scontrol show job JOB",
            )
    elif _ended_badly(record):
        known, said = table().states.get(record.state), record.state
        rank = CODE + 5 if known and known.consequence else _ROOT + 1
        if record.exit_code or record.signal:
            said += f" ({_exit(record)})"
        yield from _from_exit(record, what)
    else:
        return
    if known is not None:
        remedy = known.remedy.replace("JOB", record.label)
        yield Finding(
            about="Slurm", cause=known.cause, what=f"{what}: {said}", rank=rank, remedy=remedy
        )


def _ended_badly(record: JobRecord) -> bool:
    return record.terminal and not record.succeeded


def _exit(record: JobRecord) -> str:
    return f"signal {record.signal}" if record.signal else f"exit code {record.exit_code}"


def _reason_rank(cause: ReasonCause) -> int:
    return WAITS if cause.waits else _FOLLOWS + 5 if cause.consequence else _CERTAIN + 5


def _from_exit(record: JobRecord, what: str) -> Iterator[Finding]:
    told = of_exit(record.exit_code or 0, record.signal or 0)
    if told is not None and record.state == "FAILED":
        yield Finding(
            about="exit code",
            cause=told.cause,
            what=f"{what}: {_exit(record)}",
            remedy=told.remedy.replace("JOB", record.label).replace("NODE", record.node_list),
            rank=_FOLLOWS + 3,
        )


def from_run(run: Run, status: RunStatus, error: str) -> Iterator[Finding]:
    """What the run itself wrote down, or shows by standing still."""
    failure: dict[str, Any] = status.failure or {}
    if failure:
        texts = [str(failure.get(key, "")) for key in ("what", "cause", "hint")]
        yield from from_text("\n".join(texts[:2]), "the run", str(run.paths.failure))
        rank = _CERTAIN if error in _EXACT else _OWN
        own = _own(texts[0], texts[1], texts[2], "", rank)
        yield own.model_copy(update={"file": str(run.paths.failure)})
    for why, jobs in status.again.items():
        what = f"{jobs}: submitted again by the run itself"
        yield Finding(about="evalhpc", cause=why, what=what, remedy="", rank=CODE + 2)
    if status.state == "stalled" and "file system" in status.why:
        full = next(entry for entry in table().logs if entry.id == "disk-full")
        yield Finding(
            about="disk",
            cause="the file system of the run is full",
            rank=_CERTAIN,
            remedy=full.remedy,
            what=f"df -h {run.word}",
        )


def from_outcomes(run: Run, status: RunStatus) -> Iterator[Finding]:
    """Exit codes of harnesses in the last pass."""
    for benchmark in run.spec.benchmarks:
        path = run.paths.outcome(status.pass_number, benchmark.name)
        if path.is_file():
            told = of_exit(read_record(path, Outcome).exit_code)
            if told is not None:
                yield Finding(
                    about="exit code",
                    cause=told.cause,
                    remedy=told.remedy,
                    what=f"the harness of {benchmark.name}: exit code {told.code}",
                    file=str(path),
                    rank=_FOLLOWS + 3,
                )


def from_text(text: str, whose: str, file: str) -> Iterator[Finding]:
    """Causes in what a run wrote down of an error, with the end of a server's log in it."""
    log = text.replace("\n  | ", "\n")
    for match in matches(log):
        yield Finding(
            about=match.entry.about,
            cause=match.entry.cause,
            remedy=match.entry.remedy,
            what=f"{whose}: {plain(line_at(log, match.start))}",
            file=file,
            rank=_rank(match.entry),
        )
    ended = _ENDED_BY.search(text)
    told = of_exit(int(ended["code"] or 0), int(ended["signal"] or 0)) if ended else None
    if told is not None:
        yield Finding(
            about="exit code",
            cause=told.cause,
            remedy=told.remedy,
            file=file,
            what=f"{whose}: {plain(text.splitlines()[0])}",
            rank=_FOLLOWS + 3,
        )


def from_shard(failed: ShardFailure) -> Iterator[Finding]:
    """What a shard that ended early left behind: its words, and the end of its server's log."""
    name = f"shard {failed.shard} of round {failed.round}"
    name += f" on {failed.node}" if failed.node else ""
    yield from from_text(f"{failed.what}\n{failed.cause}", name, "")
    yield _own(failed.what, failed.cause, failed.hint, name, _OWN + 2)


def _own(what: str, cause: str, hint: str, whose: str, rank: int) -> Finding:
    first = plain(what.splitlines()[0]) if what.strip() else "an error without words"
    if not cause:
        rank = CODE + 1  # that something failed is no cause
    return Finding(
        about="evalhpc",
        cause=plain(cause.splitlines()[0]) if cause else first,
        remedy=hint,
        what=f"{whose}: {first}" if whose else first,
        rank=rank,
    )


def _rank(cause: Cause) -> int:
    return _FOLLOWS if cause.consequence else _ROOT


def placed(run: Run, findings: Iterable[Finding]) -> list[Finding]:
    """Each cause once, with how often it was seen, in order; RUN is the run's directory."""
    return placed_below(run.word, findings)


def placed_below(root: str, findings: Iterable[Finding]) -> list[Finding]:
    """The same, with `root` as the word for the run's directory."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.about, finding.cause), []).append(finding)
    best = [
        min(group, key=lambda finding: (finding.rank, not finding.line)).model_copy(
            update={"times": len({finding.file or finding.what for finding in group})}
        )
        for group in groups.values()
    ]
    best.sort(key=lambda finding: (finding.rank, -finding.times))
    return [
        finding.model_copy(update={"remedy": re.sub(r"\bRUN\b", lambda _: root, finding.remedy)})
        for finding in best
    ]
