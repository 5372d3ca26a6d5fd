"""What Slurm's error messages mean, as data: likely cause, next command, and whether to retry.

The messages are those of `slurm_strerror` (slurm_errno.h, 22.05), as sbatch, squeue, scancel,
sacct and scontrol print them; every one with a test was met on a real cluster.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from evalhpc.errors import ClusterError
from evalhpc.process import Finished


@dataclass(frozen=True)
class Refusal:
    """One message; `show` is what to list beside it: partitions, or the limits of arrays."""

    pattern: str
    cause: str
    hint: str
    show: str = ""


_ASSOCIATIONS = "sacctmgr show associations user=$USER format=account,partition,qos"

#: The first match counts, so the particular stands before the general.
REFUSALS: tuple[Refusal, ...] = (
    Refusal("Invalid partition name|invalid partition specified",
            "the partition does not exist on this cluster",
            "set `slurm.partition` in the site file to one of the above", "partitions"),
    Refusal("Required partition not available", "the partition is inactive or drained",
            "use another partition: sinfo --summarize", "partitions"),
    Refusal("Job violates accounting/QOS policy",
            "a limit of your account or QOS: jobs in the queue, size or time",
            "lower `shards` or the walltime; sacctmgr show associations user=$USER "
            "format=account,qos,maxjobs,maxsubmit,maxwall,maxtres"),
    Refusal("Invalid account",
            "the account does not exist, is not yours, or may not use this partition",
            f"set `slurm.account` in the site file; {_ASSOCIATIONS}"),
    Refusal("Invalid qos", "the QOS does not exist, or this account or partition may not use it",
            f"set `slurm.qos` in the site file; {_ASSOCIATIONS}"),
    Refusal("group not permitted to use this partition", "the partition is for other groups",
            "use another partition: sinfo --summarize", "partitions"),
    Refusal("Requested time limit is invalid", "the walltime is above the partition's limit",
            "lower `walltime` under `resources` in the site file, or use another partition",
            "partitions"),
    Refusal("Node count specification invalid|More processors requested",
            "more nodes or CPUs than the partition or the account allows",
            "lower `nodes` or `cpus` under `resources` in the site file", "partitions"),
    Refusal("Requested node configuration is not available",
            "no node has the GPUs, CPUs or memory that the job asks for",
            "compare `resources` and `gpu_type` in the site file with: sinfo -o '%P %c %m %G'",
            "partitions"),
    Refusal("Invalid generic resource|Invalid gres", "no such generic resource on this cluster",
            "set `gpu_type` and `gpu_request` in the site file; sinfo -o '%P %G'", "partitions"),
    Refusal("Invalid job array specification", "the array has more tasks than the cluster allows",
            "set `max_array_size` in the site file", "arrays"),
    Refusal("Invalid feature specification", "no node has the feature of `constraint`",
            "sinfo -o '%P %f' lists the features"),
    Refusal("reservation is invalid|Access denied to requested reservation",
            "the reservation does not exist, has ended, or is not yours",
            "scontrol show reservation"),
    Refusal("Invalid node name", "a node that was asked for by name does not exist",
            "drop --nodelist and --exclude from the site's extra directives"),
    Refusal("Job dependency problem", "the job to wait for is gone or is not yours",
            "evalhpc status, then evalhpc resume"),
    Refusal("does not look like a batch script|DOS line breaks|Batch script is empty",
            "the script was edited and is no batch script any more",
            "its first line must be #!/bin/bash, its lines must end in \\n"),
    Refusal("Unable to open file", "the script is missing or unreadable", "evalhpc submit again"),
    Refusal("[Uu]nrecognized option|[Uu]nknown option|Invalid --", "a directive that this Slurm "
            "does not know", "check `slurm.extra` in the site file; sbatch --version"),
    Refusal("Munge encode failed|Protocol authentication error",
            "munged does not run on this node, or its key differs from the controller's",
            "munge -n | unmunge; tell the administrators"),
    Refusal("Access/permission denied", "the job, or the right to submit one, is somebody else's",
            "run it as the user who submitted the job: squeue --Format=JobID,UserName"),
    Refusal("Could not establish a configuration source|fetch_config",
            "this machine knows no Slurm cluster", "log in to a login node, or set SLURM_CONF"),
)  # fmt: skip

#: It may work in a moment. The controller or the database restarts, or is busy.
TRANSIENT = re.compile(
    "Unable to contact slurm controller|Socket timed out on send/recv|Zero Bytes were transmitted"
    "|Resource temporarily unavailable|Slurm temporarily unable to accept job|standby mode"
    "|Connection refused|Connection timed out|Connection reset|Transport endpoint is not connected"
    "|Communication connection failure"
)
#: Transient, and the request was surely never taken: sbatch can simply be run again.
NEVER_TAKEN = re.compile(
    r"\(connect failure\)|Slurm temporarily unable to accept job|standby mode|Connection refused"
)
#: sacct on a cluster without slurmdbd.
NO_ACCOUNTING = "Slurm accounting storage is disabled"

_OVER = re.compile("already completing or completed|Invalid job id specified")

_TIMED_OUT, _NOT_STARTED = 124, 127
_PREFIX = re.compile(
    r"^(?:\w+: )?(?:fatal: |error: )?(?:allocation failure: |Batch job submission failed: )?"
)


def find_refusal(done: Finished) -> Refusal | None:
    """The table's entry for a command that failed."""
    text = done.stderr + done.stdout
    return next((entry for entry in REFUSALS if re.search(entry.pattern, text)), None)


def is_transient(done: Finished) -> bool:
    """Whether the same command may succeed in a moment."""
    if done.returncode in (0, _TIMED_OUT):
        return done.returncode != 0
    return bool(TRANSIENT.search(done.stderr + done.stdout))


def may_be_taken(done: Finished) -> bool:
    """Whether a failed sbatch may have reached the controller all the same."""
    return is_transient(done) and not NEVER_TAKEN.search(done.stderr)


def is_missing(done: Finished) -> bool:
    """Whether the command is not on PATH."""
    return done.returncode == _NOT_STARTED and not done.stderr


def only_over(done: Finished) -> bool:
    """Whether all that failed is that jobs have ended, or are forgotten."""
    return bool(done.stderr.strip()) and all(map(_OVER.search, done.stderr.strip().splitlines()))


def wrong_partition(done: Finished) -> str:
    """The partition that sbatch calls invalid; "" where it names none."""
    match = re.search(r"invalid partition specified: (\S+)", done.stderr)
    return match[1] if match else ""


def message(done: Finished) -> str:
    """Slurm's own words, without the prefixes, each line once."""
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    words = dict.fromkeys(_PREFIX.sub("", line.strip()) for line in lines)
    return "; ".join(filter(None, words)) or f"exit code {done.returncode}, and no message"


def failure(what: str, done: Finished, listing: Sequence[str] = ()) -> ClusterError:
    """The error for a command that failed; `listing` are lines to show below its first."""
    if is_missing(done):
        return not_found((done.argv[0],))
    said = message(done)
    if done.returncode == _TIMED_OUT:
        said = f"no answer from {done.argv[0]} in time"
    if is_transient(done):
        return ClusterError(
            f"{what}: {said}",
            cause="the Slurm controller is down, restarting or overloaded",
            hint="scontrol ping; then the same command again",
            transient=True,
        )
    entry = find_refusal(done)
    return ClusterError(
        "\n  ".join((f"{what}: {said}", *listing)),
        cause=entry.cause if entry else "",
        hint=entry.hint if entry else "",
    )


def not_found(names: Sequence[str]) -> ClusterError:
    """The error for Slurm commands that are not on PATH."""
    return ClusterError(
        f"Slurm is not available here: {', '.join(names)} not found",
        cause="this is no login node, or Slurm's module is not loaded",
        hint="log in to a login node or `module load slurm`; without a cluster: --site local",
    )
