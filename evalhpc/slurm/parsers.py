"""The text that Slurm commands print, read into records; nothing here runs a command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from evalhpc.errors import ClusterError
from evalhpc.slurm.arrays import JobReference, parse_reference
from evalhpc.slurm.commands import SACCT_FIELDS, SINFO_FORMAT, SQUEUE_FIELDS
from evalhpc.slurm.jobs import JobRecord, Limits, Partition, TestOnly
from evalhpc.slurm.states import is_terminal, state_name

_NOTHING = frozenset({"", "None", "NONE", "N/A", "(null)", "Unknown", "None assigned", "n/a"})
_ENDLESS = frozenset({"UNLIMITED", "INFINITE", "NONE", "NOT_SET", "INVALID", "PARTITION_LIMIT"})
_TEST_ONLY = re.compile(
    r"Job \d+ to start at (?P<start>\S+)(?: a)? using (?P<processors>\d+) processors"
    r" on (?:nodes? )?(?P<nodes>\S*) ?in partition (?P<partition>\S+)"
)


def parse_job_id(stdout: str) -> int:
    """What `sbatch --parsable` printed: `123` or `123;cluster`, after any site's own chatter."""
    for line in reversed(stdout.strip().splitlines()):
        if re.fullmatch(r"\d+(;\S+)?", line.strip()):
            return parse_reference(line).job_id
    raise ClusterError(
        f"sbatch printed no job id but {stdout.strip()!r}",
        cause="a wrapper around sbatch, or a job_submit plugin that talks",
        hint="sbatch --version; type -a sbatch",
    )


def parse_test_only(text: str) -> TestOnly:
    """What `sbatch --test-only` printed (to stderr); a line it does not know gives no estimate."""
    match = _TEST_ONLY.search(text)
    if match is None:
        return TestOnly()
    try:
        start = unix_time(match["start"])
    except ValueError:
        return TestOnly()  # a wrapper's own format of time
    return TestOnly(
        start=start,
        processors=int(match["processors"]),
        node_list=match["nodes"],
        partition=match["partition"],
    )


def parse_squeue(stdout: str) -> list[JobRecord]:
    """Records of `commands.squeue`, one for each array task, running or not."""
    return [record for line in _lines(stdout) for record in _squeue_line(line)]


def parse_squeue_comments(stdout: str) -> list[tuple[int, str]]:
    """(submitted job id, comment) of `commands.squeue_comments`."""
    rows = (_fields(line.removesuffix("|"), 2) for line in _lines(stdout))
    return [(parse_reference(job).job_id, comment) for job, comment in rows]


def parse_squeue_folders(stdout: str) -> list[tuple[int, str, str]]:
    """(submitted job id, name, folder) of `commands.squeue_named`."""
    rows = (_fields(line.removesuffix("|"), 3) for line in _lines(stdout))
    return [(parse_reference(job).job_id, name, folder) for job, name, folder in rows]


def parse_sacct(stdout: str) -> list[JobRecord]:
    """Records of `commands.sacct`: a requeued job appears once for each attempt, oldest first."""
    return [record for line in _lines(stdout) for record in _sacct_line(line)]


def parse_partitions(scontrol: str, sinfo: str) -> list[Partition]:
    """Partitions from `commands.scontrol_partitions`, their nodes from `commands.sinfo`."""
    partitions = {
        fields["PartitionName"]: Partition(
            name=fields["PartitionName"],
            default=fields.get("Default") == "YES",
            state=fields.get("State", "UP"),
            max_seconds=seconds(fields.get("MaxTime", "")),
            default_seconds=seconds(fields.get("DefaultTime", "")),
            max_nodes=_number(fields.get("MaxNodes", "")),
            total_nodes=_number(fields.get("TotalNodes", "")) or 0,
            allow_accounts=fields.get("AllowAccounts", "ALL"),
            exclusive=fields.get("OverSubscribe") == "EXCLUSIVE",
            qos=_text(fields.get("QoS", "")),
        )
        for fields in parse_scontrol(scontrol)
        if "PartitionName" in fields
    }
    for name, count, state, gres in _sinfo_rows(sinfo):
        known = partitions.get(name)
        if known is not None:
            offered = dict.fromkeys((*known.gres, *gres))
            idle = known.idle_nodes + (count if state in ("idle", "idle~") else 0)
            partitions[name] = replace(known, gres=tuple(offered), idle_nodes=idle)
    return list(partitions.values())


def parse_scontrol(stdout: str) -> list[dict[str, str]]:
    """`Key=Value` words of `scontrol show …`, one dictionary for each paragraph."""
    return [
        dict(re.findall(r"(?:^|\s)([A-Za-z/:]+)=(\S*)", paragraph))
        for paragraph in re.split(r"\n\s*\n", stdout)
        if "=" in paragraph
    ]


def parse_config(stdout: str) -> dict[str, str]:
    """`Key = Value` lines of `scontrol show config`."""
    pairs = (line.partition("=") for line in stdout.splitlines() if " = " in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def parse_limits(stdout: str) -> Limits:
    """The limits in `scontrol show config`."""
    config = parse_config(stdout)
    size = _number(config.get("MaxArraySize", "")) or 1001
    option = re.search(r"\bmax_array_tasks=(\d+)", config.get("SchedulerParameters", ""))
    return Limits(
        max_array_size=size,
        max_array_tasks=min(size, int(option[1])) if option else size,
        max_job_count=_number(config.get("MaxJobCount", "")) or 10000,
        accounting=not config.get("AccountingStorageType", "").endswith("/none"),
        cluster=config.get("ClusterName", ""),
        enforced=tuple(filter(None, _text(config.get("AccountingStorageEnforce", "")).split(","))),
    )


def parse_version(stdout: str) -> str:
    """`22.05.8` of `slurm-wlm 22.05.8`."""
    match = re.search(r"\d+\.\d+(?:\.\d+)?\S*", stdout)
    if match is None:
        raise ClusterError(f"sbatch --version printed {stdout.strip()!r}")
    return match[0]


def seconds(text: str) -> int | None:
    """`1-02:03:04`, `2:00:00`, `2:00` (minutes and seconds); None for no limit or no value."""
    if text in _NOTHING or text.upper() in _ENDLESS:
        return None
    days, _, clock = text.rpartition("-")
    total = 0
    for part in clock.split(":"):
        total = total * 60 + int(part)
    return int(days or 0) * 86400 + total


def unix_time(text: str) -> int | None:
    """Unix seconds of `1795254719` (SLURM_TIME_FORMAT=%s) or `2026-11-21T09:51:59`, local time."""
    if text in _NOTHING:
        return None
    return int(text) if text.isdigit() else int(datetime.fromisoformat(text).timestamp())


def parse_exit(text: str) -> tuple[int, int]:
    """(exit code, signal) of `7:0`, or of the raw wait status (1792) that squeue prints."""
    code, colon, number = text.partition(":")
    if colon:
        return int(code), int(number)
    return int(code) >> 8, int(code) & 0x7F


def _squeue_line(line: str) -> Iterator[JobRecord]:
    *head, exit_, restarts, reason, nodes, start, end, used, partition, name = _fields(
        line.removesuffix("|"), len(SQUEUE_FIELDS)
    )
    return _records([*head, exit_, reason, nodes, start, end, used, partition, name], int(restarts))


def _sacct_line(line: str) -> Iterator[JobRecord]:
    return _records(_fields(line, len(SACCT_FIELDS)), restarts=0)


def _records(fields: list[str], restarts: int) -> Iterator[JobRecord]:
    """One record, or one for each task; the fields are those of SACCT_FIELDS, in its order."""
    reference, job, state, exit_, reason, nodes, start, end, elapsed, partition, name = fields
    state = state_name(state)
    # squeue expects an end where a time limit is set; only a job that ended has one.
    ended = is_terminal(state)
    code, number = parse_exit(exit_) if ended else (None, None)
    record = JobRecord(
        job_id=parse_reference(job).job_id,
        name=name,
        state=state,
        reason=_text(reason),
        exit_code=code,
        signal=number,
        node_list=_text(nodes),
        start=unix_time(start),
        end=unix_time(end) if ended else None,
        elapsed_seconds=seconds(elapsed),
        restarts=restarts,
        partition=partition,
    )
    return _each_task(record, parse_reference(reference))


def _each_task(record: JobRecord, reference: JobReference) -> Iterator[JobRecord]:
    if reference.tasks is None:
        yield record
    for task in reference.tasks or ():
        yield replace(record, array_job_id=reference.job_id, task_id=task)


def _sinfo_rows(stdout: str) -> Iterator[tuple[str, int, str, tuple[str, ...]]]:
    """(partition, nodes, state, gres) for each line of `commands.sinfo`."""
    for line in _lines(stdout):
        name, count, state, gres = _fields(line, SINFO_FORMAT.count("|") + 1)
        # gpu:h100:8(S:0-1) names the sockets; idle~ is idle and powered down.
        kinds = re.sub(r"\([^)]*\)", "", _text(gres)).split(",")
        yield name.removesuffix("*"), int(count), state, tuple(filter(None, kinds))


def _fields(line: str, count: int) -> list[str]:
    values = line.split("|", count - 1)
    if len(values) != count:
        raise ClusterError(f"Slurm printed a line of {len(values)} fields, not {count}: {line!r}")
    return values


def _lines(stdout: str) -> list[str]:
    return [line for line in stdout.splitlines() if line.strip()]


def _text(value: str) -> str:
    return "" if value in _NOTHING else value


def _number(text: str) -> int | None:
    match = re.match(r"\d+", text)
    return int(match[0]) if match else None
