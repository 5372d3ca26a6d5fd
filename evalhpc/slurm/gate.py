"""The Slurm verbs: every Slurm command that evalhpc runs is run through this class."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from evalhpc import process
from evalhpc.errors import ClusterError
from evalhpc.process import Finished
from evalhpc.slurm import commands, parsers, refusals
from evalhpc.slurm.inventory import Association, Node, parse_associations, parse_nodes
from evalhpc.slurm.jobs import (
    Dependency,
    JobRecord,
    Limits,
    Partition,
    TestOnly,
    by_submission,
    default_partition,
    latest_attempts,
)
from evalhpc.slurm.quota_parsers import (
    parse_account_limits,
    parse_association_limits,
    parse_qos_limits,
    parse_queued,
)
from evalhpc.slurm.quotas import Quotas
from evalhpc.slurm.runner import Run, Runner
from evalhpc.slurm.submission import Submission, is_marked, marked

COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo")
#: Lines that an error text spends on what the cluster offers.
LISTED = 20


class Slurm:
    """One cluster, as its commands on PATH see it; every verb raises ClusterError.

    What the controller cannot answer at the moment is asked again, about half a minute long.
    """

    def __init__(
        self,
        run: Run = process.run,
        env: Mapping[str, str] = os.environ,
        *,
        sleep: Callable[[float], None] = time.sleep,
        attempts: int = 6,
    ) -> None:
        self._runner = Runner(run, env, sleep, attempts)

    def available(self) -> None:
        """Raise ClusterError with the names of the Slurm commands that are not on PATH."""
        path = self._runner.env.get("PATH")
        missing = [name for name in COMMANDS if shutil.which(name, path=path) is None]
        if missing:
            raise refusals.not_found(missing)

    def version(self) -> str:
        """Like `22.05.8`; needs no controller."""
        what = "cannot ask for Slurm's version"
        return parsers.parse_version(self._runner.query(commands.version(), what))

    def test_only(
        self, script: Path, *args: str, array: str | None = None, extra: Sequence[str] = ()
    ) -> TestOnly:
        """Ask whether Slurm would take the script, and when it would start; submits nothing."""
        argv = commands.sbatch(script, *args, array=array, extra=extra, test_only=True)
        done = self._runner.read(argv, f"cannot ask Slurm about {script.name}")
        if done.returncode != 0:
            raise self._refused(f"Slurm will not take {script.name}", done)
        return parsers.parse_test_only(done.stderr + done.stdout)

    def submit(
        self,
        script: Path,
        *args: str,
        dependency: Dependency | None = None,
        array: str | None = None,
        comment: str | None = None,
        extra: Sequence[str] = (),
    ) -> int:
        """Submit the script, once, and return its job id.

        `comment` (a site's own) gets a token added to it. A job that waits for another's success
        is cancelled by Slurm when the other fails.
        """
        what = f"Slurm did not take {script.name}"
        submission = Submission(self._runner, lambda done: self._refused(what, done))
        argv = commands.sbatch(
            script,
            *args,
            dependency=str(dependency) if dependency else None,
            kill_on_invalid_dep=dependency is not None and bool(dependency.after_ok),
            array=array,
            comment=marked(comment, submission.token),
            extra=extra,
        )
        try:
            return submission.submit(argv)
        except KeyboardInterrupt:
            submission.withdraw()
            raise

    def cancel(self, job_ids: Iterable[int], *, only_pending: bool = False) -> None:
        """Cancel jobs, or only what waits of them; those that have ended or are forgotten need
        nothing."""
        ids = sorted(set(job_ids), reverse=True)
        if not ids:
            return
        what = f"cannot cancel {' '.join(map(str, ids))}"
        done = self._runner.read(commands.scancel(ids, only_pending=only_pending), what)
        if done.returncode != 0 and not refusals.only_over(done):
            raise refusals.failure(what, done)

    def jobs(self, job_ids: Iterable[int]) -> dict[int, list[JobRecord]]:
        """The last attempt of each job, and of each task of an array, by submitted id.

        One squeue for all; sacct for those that the controller forgot, wholly or in part (of an
        array, it may have forgotten some tasks). What neither knows has the state UNKNOWN: without
        accounting that is every job that ended longer than MinJobAge ago.
        """
        ids = sorted(set(job_ids))
        if not ids:
            return {}
        records = {_key(record): record for record in self._squeue(ids)}
        whole = {job_id for job_id, task in records if task is None}
        doubtful = [job_id for job_id in ids if job_id not in whole]
        for record in latest_attempts(self._sacct(doubtful) if doubtful else []):
            records.setdefault(_key(record), record)
        found = by_submission(records.values())
        return {job_id: found.get(job_id, [JobRecord(job_id)]) for job_id in ids}

    def jobs_in(self, folder: Path, names: Iterable[str]) -> dict[int, str]:
        """The user's jobs of these names that start in `folder` and go on: submitted id → name.

        It finds those, too, whose sbatch was answered by nobody, and those submitted by hand.
        """
        output = self._runner.query(commands.squeue_named(names), "cannot look for the run's jobs")
        jobs = parsers.parse_squeue_folders(output)
        wanted = folder.resolve()
        return {job: name for job, name, where in jobs if Path(where).resolve() == wanted}

    def submitted(self) -> set[int]:
        """Those of the user's jobs, by submitted id, that `submit` submitted, wherever it ran."""
        what = "cannot read the comments of jobs"
        output = self._runner.query(commands.squeue_comments(), what)
        return {job for job, said in parsers.parse_squeue_comments(output) if is_marked(said)}

    def folder(self, job_id: int) -> Path | None:
        """Where a job starts; None of one that Slurm does not know (any more)."""
        what = f"cannot ask for job {job_id}"
        for argv in (commands.squeue_folder(job_id), commands.sacct_folder(job_id)):
            done = self._runner.read(argv, what)
            if done.returncode == 0:
                for line in done.stdout.splitlines():
                    if line.strip("| "):
                        return Path(line.removesuffix("|"))
            elif not refusals.only_over(done) and refusals.NO_ACCOUNTING not in done.stderr:
                raise refusals.failure(what, done)
        return None

    def partitions(self) -> list[Partition]:
        """Every partition with its limits and nodes, hidden ones included."""
        what = "cannot list the partitions"
        limits = self._runner.query(commands.scontrol_partitions(), what)
        return parsers.parse_partitions(limits, self._runner.query(commands.sinfo(), what))

    def nodes(self) -> list[Node]:
        """Every node, once for each of its partitions."""
        return parse_nodes(self._runner.query(commands.sinfo_nodes(), "cannot list the nodes"))

    def free_cpus(self, nodes: Sequence[str]) -> dict[str, int]:
        """CPUs of these nodes that jobs may have, without those kept for the system."""
        if not nodes:
            return {}
        what = f"cannot ask for node {', '.join(nodes)}"
        shown = parsers.parse_scontrol(self._runner.query(commands.scontrol_nodes(nodes), what))
        told = {node.get("NodeName", ""): node.get("CPUEfctv", "") for node in shown}
        return {name: int(cpus) for name, cpus in told.items() if cpus.isdigit()}

    def associations(self, user: str) -> list[Association]:
        """What the accounting lets the user submit under."""
        what = "cannot ask for accounts"
        return parse_associations(self._runner.query(commands.associations(user), what))

    def quotas(self, user: str, cluster: str) -> Quotas:
        """What the accounting lets the user submit, and what of that is in the queue.

        Other users' jobs are asked for only where some limit counts them.
        """
        what = "cannot read the limits of your account"
        read = self._runner.query
        partitions = parsers.parse_partitions(read(commands.scontrol_partitions(), what), "")
        default, own = default_partition(partitions), commands.association_limits(user, cluster)
        found = Quotas(
            default_account=read(commands.default_account(user), what).strip(),
            associations=parse_association_limits(read(own, what)),
            qos=parse_qos_limits(read(commands.qos_limits(), what)),
            partition_qos={partition.name: partition.qos for partition in partitions},
            default_partition=default.name if default else "",
            accounts=parse_account_limits(read(commands.account_limits(cluster), what)),
            user=user,
        )
        ask = commands.squeue_everybody if found.counts_others else commands.squeue_own
        return replace(found, queued=parse_queued(read(ask(), what)))

    def limits(self) -> Limits:
        """Limits from the controller's configuration."""
        what = "cannot read Slurm's configuration"
        return parsers.parse_limits(self._runner.query(commands.scontrol_config(), what))

    def has_pyxis(self) -> bool:
        """Whether srun here knows the option that Pyxis adds to it."""
        what = "cannot ask for srun's options"
        return "--container-image" in self._runner.query(commands.srun_help(), what)

    def _squeue(self, ids: Sequence[int]) -> list[JobRecord]:
        what = "cannot ask for jobs"
        done = self._runner.read(commands.squeue(ids), what)
        if done.returncode == 0:
            return parsers.parse_squeue(done.stdout)
        # A single id that the controller has forgotten is an error, several are an empty list.
        if refusals.only_over(done):
            return []
        raise refusals.failure(what, done)

    def _sacct(self, ids: Sequence[int]) -> list[JobRecord]:
        what = "cannot ask for finished jobs"
        done = self._runner.read(commands.sacct(ids), what)
        if done.returncode == 0:
            return parsers.parse_sacct(done.stdout)
        if refusals.NO_ACCOUNTING in done.stderr:
            return []
        raise refusals.failure(what, done)

    def _refused(self, what: str, done: Finished) -> ClusterError:
        return refusals.failure(what, done, self._offers(done))

    def _offers(self, done: Finished) -> list[str]:
        """What the cluster has instead of what was refused; nothing if it does not say."""
        entry = None if refusals.is_transient(done) else refusals.find_refusal(done)
        try:
            if entry and entry.show == "partitions":
                return _partition_lines(self.partitions(), done)
            if entry and entry.show == "arrays":
                limits = self.limits()
                last = limits.max_array_size - 1
                return [f"at most {limits.max_array_tasks} tasks, numbered up to {last}"]
        except ClusterError:
            # The refusal is what matters; that its listing failed too would hide it.
            return []
        return []


def _key(record: JobRecord) -> tuple[int, int | None]:
    return record.submitted_id, record.task_id


def _partition_lines(partitions: Sequence[Partition], done: Finished) -> list[str]:
    """One line for each partition, after the one whose name is nearest to a wrong one."""
    names = [partition.name for partition in partitions]
    near = get_close_matches(refusals.wrong_partition(done), names, n=1)
    lines = [f"did you mean {name}?" for name in near]
    lines += [partition.summary() for partition in partitions[:LISTED]]
    if len(partitions) > LISTED:
        lines.append(f"… and {len(partitions) - LISTED} more: sinfo --summarize")
    return lines
