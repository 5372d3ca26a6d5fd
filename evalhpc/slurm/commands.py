"""Argument vectors of the Slurm commands; nothing here runs one.

Jobs are asked for in text with named fields rather than with `--json`: squeue(1) of 22.05 ignores
every filter then, and sacct of 22.05 reports exit code 7 as return_code 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

#: squeue --Format; the name comes last because it alone may contain the separator.
SQUEUE_FIELDS = (
    "JobArrayID", "JobID", "State", "exit_code", "RestartCnt", "Reason", "NodeList",
    "StartTime", "EndTime", "TimeUsed", "Partition", "Name",
)  # fmt: skip
#: sacct --format, in the same spirit.
SACCT_FIELDS = (
    "JobID", "JobIDRaw", "State", "ExitCode", "Reason", "NodeList",
    "Start", "End", "ElapsedRaw", "Partition", "JobName",
)  # fmt: skip
#: sinfo --format: partition (* marks the default), node count, node state, gres.
SINFO_FORMAT = "%P|%D|%t|%G"
#: sinfo --Node --format: partition, node, CPUs, MiB, gres, state.
NODE_FORMAT = "%P|%N|%c|%m|%G|%t"
#: sacctmgr show associations format=….
ASSOCIATION_FIELDS = ("account", "partition", "qos")
#: The same with what they limit; inherited limits are listed too, but for those of a group.
ASSOCIATION_LIMITS = (
    "account", "partition", "defaultqos", "maxsubmit", "maxwall", "maxjobs", "grpsubmit", "grpjobs",
)  # fmt: skip
#: The same of whole accounts.
ACCOUNT_LIMITS = ("account", "parentname", "grpsubmit", "grpjobs")
#: sacctmgr show qos format=….
QOS_LIMITS = (
    "name", "flags", "maxsubmitpu", "maxwall", "maxjobspu", "grpsubmit", "grpjobs",
    "maxsubmitpa", "maxjobspa",
)  # fmt: skip
#: squeue --Format of jobs that count against a limit.
OWN_FIELDS = ("JobArrayID", "Account", "Partition", "QOS", "UserName")

Argv = list[str]


def sbatch(
    script: Path,
    *args: str,
    dependency: str | None = None,
    kill_on_invalid_dep: bool = False,
    array: str | None = None,
    comment: str | None = None,
    parsable: bool = True,
    test_only: bool = False,
    extra: Sequence[str] = (),
) -> Argv:
    """Submit `script` with `args`; `extra` are further options, before the script's name."""
    words = ["sbatch"]
    if parsable and not test_only:
        words.append("--parsable")
    if test_only:
        words.append("--test-only")
    if dependency:
        words.append(f"--dependency={dependency}")
    if kill_on_invalid_dep:
        words.append("--kill-on-invalid-dep=yes")
    if array is not None:
        words.append(f"--array={array}")
    if comment is not None:
        words.append(f"--comment={comment}")
    return [*words, *extra, str(script), *args]


def squeue(job_ids: Iterable[int]) -> Argv:
    """These jobs, finished ones included, in every partition; pending array tasks in one line."""
    return [*_squeue_all(), f"--jobs={_ids(job_ids)}", f"--Format={_suffixed(SQUEUE_FIELDS)}"]


def squeue_comments() -> Argv:
    """The comment of each of the user's own jobs."""
    return [*_squeue_all(), "--me", f"--Format={_suffixed(('JobArrayID', 'Comment'))}"]


def squeue_own() -> Argv:
    """The user's own jobs that have not ended, with what they are counted under."""
    return [*squeue_everybody(), "--me"]


def squeue_everybody() -> Argv:
    """The same of all users, as far as the cluster shows their jobs."""
    return ["squeue", "--noheader", "--all", f"--Format={_suffixed(OWN_FIELDS)}"]


def squeue_named(names: Iterable[str]) -> Argv:
    """The user's own jobs of these names, which hold no `|`, that have not ended; the folders."""
    return [
        "squeue", "--noheader", "--all", "--me",
        f"--name={','.join(names)}", f"--Format={_suffixed(('JobArrayID', 'Name', 'WorkDir'))}",
    ]  # fmt: skip


def squeue_folder(job_id: int) -> Argv:
    """The folder that a job starts in, if the controller still knows it."""
    return [*_squeue_all(), f"--jobs={job_id}", f"--Format={_suffixed(('WorkDir',))}"]


def sacct_folder(job_id: int) -> Argv:
    """The same, of a job that the controller has forgotten."""
    return [
        "sacct", "--parsable2", "--noheader", "--allocations",
        f"--jobs={job_id}", "--format=WorkDir",
    ]  # fmt: skip


def squeue_json() -> Argv:
    """All that the controller still knows: before 23.02 no filter is honoured."""
    return ["squeue", "--json"]


def sacct(job_ids: Iterable[int]) -> Argv:
    """Allocations of these jobs, with the earlier attempts of requeued ones."""
    return [
        "sacct", "--parsable2", "--noheader", "--allocations", "--duplicates",
        f"--jobs={_ids(job_ids)}", f"--format={','.join(SACCT_FIELDS)}",
    ]  # fmt: skip


def sacct_json(job_ids: Iterable[int]) -> Argv:
    """The same as JSON; not under SLURM_TIME_FORMAT, which 22.05 then fails to read back."""
    return ["sacct", "--json", "--allocations", "--duplicates", f"--jobs={_ids(job_ids)}"]


def sinfo() -> Argv:
    """Nodes of every partition, hidden ones included, grouped by state and gres."""
    return ["sinfo", "--noheader", "--all", f"--format={SINFO_FORMAT}"]


def sinfo_nodes() -> Argv:
    """Each node once for each of its partitions."""
    return ["sinfo", "--noheader", "--all", "--Node", f"--format={NODE_FORMAT}"]


def associations(user: str) -> Argv:
    """What the accounting lets the user submit under."""
    return [
        "sacctmgr", "--noheader", "--parsable2", "show", "associations",
        f"user={user}", f"format={','.join(ASSOCIATION_FIELDS)}",
    ]  # fmt: skip


def association_limits(user: str, cluster: str) -> Argv:
    """What the user's associations with a cluster allow; the database may serve several."""
    return [
        "sacctmgr", "--noheader", "--parsable2", "show", "associations",
        f"user={user}", f"cluster={cluster}", f"format={','.join(ASSOCIATION_LIMITS)}",
    ]  # fmt: skip


def account_limits(cluster: str) -> Argv:
    """What holds for whole accounts: their associations are those of no user."""
    return [
        "sacctmgr", "--noheader", "--parsable2", "show", "associations",
        "user=", f"cluster={cluster}", f"format={','.join(ACCOUNT_LIMITS)}",
    ]  # fmt: skip


def qos_limits() -> Argv:
    """What every QOS allows."""
    return [
        "sacctmgr", "--noheader", "--parsable2", "show", "qos",
        f"format={','.join(QOS_LIMITS)}",
    ]  # fmt: skip


def default_account(user: str) -> Argv:
    """The account of jobs that name none."""
    return [
        "sacctmgr", "--noheader", "--parsable2", "show", "user", user, "format=defaultaccount",
    ]  # fmt: skip


def scontrol_nodes(names: Iterable[str]) -> Argv:
    """These nodes, with what of each jobs may have."""
    return ["scontrol", "show", "node", ",".join(names)]


def sinfo_json() -> Argv:
    """Nodes (22.05) or one row for each partition and node state (23.02 and later)."""
    return ["sinfo", "--json"]


def scancel(job_ids: Iterable[int], *, only_pending: bool = False) -> Argv:
    """Cancel whole jobs, arrays with all their tasks; or only what waits of them."""
    only = ["--state=PENDING"] if only_pending else []
    return ["scancel", *only, *(str(job_id) for job_id in job_ids)]


def scontrol_partitions() -> Argv:
    """Limits of every partition, hidden ones included."""
    return ["scontrol", "--all", "show", "partition"]


def scontrol_config() -> Argv:
    """The controller's configuration as it is in force."""
    return ["scontrol", "show", "config"]


def version() -> Argv:
    """Answered without a controller."""
    return ["sbatch", "--version"]


def srun_help() -> Argv:
    """The options of srun, those of its plugins included."""
    return ["srun", "--help"]


def _squeue_all() -> Argv:
    return ["squeue", "--noheader", "--all", "--states=all"]


def _ids(job_ids: Iterable[int]) -> str:
    return ",".join(map(str, job_ids))


def _suffixed(fields: Iterable[str]) -> str:
    # squeue(1): "type:[size][suffix]"; with a suffix and no size, nothing is cut off.
    return ",".join(f"{field}:|" for field in fields)
