"""Every trace of a failure is found, and the likeliest cause stands first."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from evalhpc.errors import ClusterError
from evalhpc.paths import RunPaths
from evalhpc.slurm.jobs import JobRecord
from evalhpc.workflow.record.job_answers import JobAnswers, ask
from evalhpc.workflow.record.jobs import record_job, recorded_jobs
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.watch.explain import Explanation, Target, explain_run, explain_status
from evalhpc.workflow.watch.log_evidence import log_evidence, plain
from evalhpc.workflow.watch.status import run_status
from tests.factories import make_spec
from tests.slurm_fakes import FakeSlurm, message

OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."


class Traces:
    """A run directory that a test leaves traces in; Slurm knows of its jobs what it is told."""

    def __init__(self, root: Path) -> None:
        spec = make_spec()
        self.run = Run(RunPaths(root), spec, spec.digest())
        for folder in self.run.paths.folders():
            folder.mkdir()
        self.states: dict[int, list[JobRecord]] = {}

    def job(self, kind: str, number: int, state: str, round_: int = 0, **fields: object) -> None:
        record_job(self.run.paths, kind, number, round_, "slurm")
        record = JobRecord(number, state=state, **fields)  # type: ignore[arg-type] # of JobRecord
        self.states.setdefault(number, []).append(record)

    def log(self, name: str, text: str) -> Path:
        path = self.run.paths.log(name)
        path.write_text(text)
        return path

    def failure(self, error: str, what: str, cause: str, hint: str = "look") -> None:
        record = {"error": error, "exit_code": 9, "what": what, "cause": cause, "hint": hint}
        self.run.paths.failure.write_text(json.dumps(record))

    def explained(self, target: Target | None = None) -> Explanation:
        answers = JobAnswers(None, ())
        answers.slurm, answers.known = FakeSlurm().gate(), self.states
        return explain_run(self.run, answers, target or Target())


@pytest.fixture
def traces(tmp_path: Path) -> Traces:
    return Traces(tmp_path)


def test_a_root_cause_comes_before_what_follows_from_it(traces: Traces) -> None:
    """The evidence is the line of the server's log; what others print of its end comes later."""
    traces.log("server-1-0.log", f"loading\nmore\n{OOM}\n")
    traces.log("server-1-1.log", "ray.exceptions.ActorDiedError: The actor died unexpectedly "
               "before finishing this task.\n")  # fmt: skip
    traces.log("shard-7_0.log", f"error: the server ended\n  | {OOM}\n")
    traces.failure("EndpointError", "round 1 answered none: no score", "the server ended")
    traces.job("shard", 7, "FAILED", 1, exit_code=7)
    traces.job("collect", 8, "FAILED", 1, exit_code=9)
    found = traces.explained()
    assert (found.state, found.recognised) == ("failed", True)
    first = found.findings[0]
    assert (first.about, first.line, first.what, first.times) == ("CUDA", 3, OOM, 2)
    assert first.file.endswith("logs/server-1-0.log")
    assert [f.about for f in found.findings] == ["CUDA", "evalhpc", "Ray", "Slurm"]
    assert found.next == f"evalhpc resume {traces.run.paths.root}"


def test_logs_of_what_failed_come_first(traces: Traces) -> None:
    """A server that once lacked memory is not why a harness does not know its task."""
    traces.log("server-1-0.log", OOM)
    harness = traces.run.paths.harness_log(0, "arc")
    harness.parent.mkdir(parents=True)
    harness.write_text("ValueError: Tasks not found: arc_esay\n")
    traces.failure("HarnessError", "the harness of arc exited with code 1", "task or data")
    assert [f.about for f in traces.explained().findings] == ["harness", "CUDA", "evalhpc"]


def test_an_error_that_says_exactly_what_is_wrong_stays_first(traces: Traces) -> None:
    """No log knows better than the budget's own arithmetic."""
    traces.log("server-1-0.log", OOM)
    traces.failure("BudgetError", "needs 32 GPU-hours", "the budget is 16", "evalhpc resume RUN")
    first = traces.explained().findings[0]
    assert (first.about, first.cause) == ("evalhpc", "the budget is 16")
    assert first.remedy == f"evalhpc resume {traces.run.paths.root}"


@pytest.mark.parametrize(
    ("state", "reason", "said"),
    [
        ("OUT_OF_MEMORY", "", "more memory than it asked for"),
        ("TIMEOUT", "", "time limit"),
        ("NODE_FAIL", "", "a node of the job went down"),
        ("PREEMPTED", "", "higher priority"),
        ("PENDING", "AssocMaxJobsLimit", "as many of your jobs"),
        ("PENDING", "QOSMaxSubmitJobPerUserLimit", "queues as many"),
        ("PENDING", "ReqNodeNotAvail, UnavailableNodes:n3", "down, drained"),
        ("PENDING", "DependencyNeverSatisfied", "the job it waits for failed"),
        ("PENDING", "Priority", "higher priority are ahead"),
    ],
)
def test_states_and_reasons_of_jobs_are_causes(
    traces: Traces, state: str, reason: str, said: str
) -> None:
    """With the job and the state as evidence."""
    traces.job("planning", 4711, state, reason=reason, node_list="n1")
    found = traces.explained()
    (finding,) = found.findings
    assert said in finding.cause
    assert "4711 on n1" in finding.what
    assert state in finding.what
    assert found.recognised


def test_a_failed_dependency_yields_to_the_job_that_failed(traces: Traces) -> None:
    """The chain stands because of its first link."""
    traces.job("planning", 5, "OUT_OF_MEMORY")
    traces.job("shard", 6, "PENDING", reason="DependencyNeverSatisfied")
    assert "memory" in traces.explained().findings[0].cause
    assert "scancel 6" in traces.explained().findings[1].remedy


def test_what_slurm_cancelled_for_a_failed_job_yields_to_that(traces: Traces) -> None:
    """Nobody cancelled it: it waited for another's success."""
    traces.job("planning", 5, "FAILED", exit_code=3, node_list="n1")
    traces.job("shard", 6, "CANCELLED", 1)
    findings = traces.explained().findings
    assert findings[0].cause.startswith("never started")
    assert findings[1].what == "job 5 on n1: FAILED (exit code 3)"
    traces.states[5] = [JobRecord(5, state="COMPLETED")]
    assert traces.explained().findings[0].cause.startswith("cancelled by its owner")


def test_signals_of_jobs_are_told(traces: Traces) -> None:
    """Killed by 9 is most often a lack of memory, and more than that it FAILED."""
    traces.job("shard", 6, "FAILED", 1, exit_code=0, signal=9)
    causes = [finding.cause for finding in traces.explained().findings]
    assert causes[0].startswith("killed (signal 9)")
    assert causes[1] == "ended with an exit code other than 0"


def test_nothing_recognised_is_said(traces: Traces) -> None:
    """With where to look, rather than a guess."""
    traces.job("planning", 5, "FAILED", exit_code=3)
    log = traces.log("planning-5.log", "Flux capacitor misaligned\n")
    found = traces.explained()
    assert not found.recognised
    assert found.look == (str(log),)


def test_a_run_that_goes_well_has_nothing_to_explain(traces: Traces) -> None:
    """A log of a running job with no error in it is no cause."""
    traces.job("planning", 5, "RUNNING")
    traces.log("planning-5.log", "INFO all is well\n")
    found = traces.explained()
    assert (found.findings, found.recognised) == ((), True)


def test_one_task_of_an_array_is_explained_by_itself(traces: Traces) -> None:
    """Its own log and that of its server, not those of others."""
    for task, error in enumerate(("OSError: [Errno 122] Disk quota exceeded: '/h'", OOM)):
        traces.log(f"server-1-{task}.log", error)
        traces.log(f"shard-6_{task}.log", "")
        traces.job("shard", 6, "FAILED", 1, array_job_id=6, task_id=task, exit_code=7)
    job = recorded_jobs(traces.run.paths)[0]
    found = traces.explained(Target(job, 1))
    assert found.job == "6_1"
    assert [f.about for f in found.findings] == ["CUDA", "Slurm"]
    assert "6_1" in found.findings[1].what


def test_without_a_controller_the_files_tell(traces: Traces) -> None:
    """And it is said that Slurm was not heard."""
    traces.job("shard", 6, "FAILED", 1)
    traces.log("server-1-0.log", OOM)
    slurm = FakeSlurm(squeue=message("squeue-no-controller")).gate()
    answers = ask(traces.run, slurm)
    assert "Unable to contact slurm controller" in answers.why_not
    found = explain_run(traces.run, answers)
    assert "Unable to contact slurm controller" in found.scheduler
    assert found.findings[0].about == "CUDA"
    with pytest.raises(ClusterError):
        slurm.jobs([6])


def test_slurm_is_asked_for_jobs_only(traces: Traces) -> None:
    """Not for a resume, which stands among them without a number: an id 0 is an error to squeue."""
    traces.job("shard", 6, "RUNNING", 1)
    record_job(traces.run.paths, "resume", 0, 1, "slurm")
    fake = FakeSlurm(squeue="", sacct="")
    assert ask(traces.run, fake.gate()).why_not == ""
    asked = [word for call in fake.calls for word in call if word.startswith("--jobs")]
    assert asked == ["--jobs=6"] * len(fake.calls)


def test_status_says_the_likeliest_cause_of_a_run_that_stands(traces: Traces) -> None:
    """And nothing of one that goes on."""
    traces.log("server-1-0.log", OOM)
    traces.job("shard", 6, "FAILED", 1)
    answers = JobAnswers(None, ())
    answers.known = traces.states
    first = explain_status(traces.run, run_status(traces.run, answers), traces.states)
    assert first is not None
    assert first.about == "CUDA"
    traces.states[6] = [JobRecord(6, state="RUNNING")]
    assert explain_status(traces.run, run_status(traces.run, answers), traces.states) is None


@pytest.mark.parametrize(
    "reason", ["JobHeldUser", "InvalidAccount", "QOSMaxWallDurationPerJobLimit"]
)
def test_status_says_why_a_job_will_not_start_by_itself(traces: Traces, reason: str) -> None:
    """The run has not ended, and would wait for ever; one that has its turn to come is fine."""
    traces.job("planning", 5, "PENDING", reason=reason)
    traces.job("shard", 6, "PENDING", reason="Dependency")
    answers = JobAnswers(None, ())
    answers.known = traces.states
    first = explain_status(traces.run, run_status(traces.run, answers), traces.states)
    assert first == traces.explained().findings[0]
    assert first is not None
    assert reason in first.what
    traces.states[5] = [JobRecord(5, state="PENDING", reason="Priority")]
    assert explain_status(traces.run, run_status(traces.run, answers), traces.states) is None


def test_an_interpreter_that_the_node_lacks_is_named(traces: Traces) -> None:
    """Not only that some program was not found."""
    traces.job("planning", 5, "FAILED", exit_code=127, node_list="n1")
    traces.log(
        "planning-5.log", "/spool/slurm_script: line 40: /e/bin/python3: No such file or directory"
    )
    first = traces.explained().findings[0]
    assert "lacks the interpreter" in first.cause
    assert "/e/bin/python3" in first.what


def test_a_node_without_the_run_directory_is_named_by_slurms_signal(traces: Traces) -> None:
    """There is no log then; in `status` too, before what Slurm cancelled for it."""
    traces.job("planning", 5, "FAILED", signal=53, node_list="n1")
    traces.job("shard", 6, "CANCELLED", 1)
    findings = traces.explained().findings
    assert "does not see the run directory" in findings[0].cause
    assert f"srun -N1 -w n1 ls -ld {traces.run.paths.root}" in findings[0].remedy
    answers = JobAnswers(None, ())
    answers.known = traces.states
    first = explain_status(traces.run, run_status(traces.run, answers), traces.states)
    assert first == findings[0]


def test_shards_that_failed_are_evidence(traces: Traces) -> None:
    """Also where their logs are gone: the end of the server's log is in what they left."""
    path = traces.run.paths.shard_failures(1, 3, 0)
    what = f"the server ended (signal 9) before it answered\n  | {OOM}"
    path.write_text(json.dumps({"fatal": what, "cause": "see its log", "node": "n2"}) + "\n")
    traces.job("shard", 6, "FAILED", 1)
    found = traces.explained().findings
    assert found[0].what == f"shard 3 of round 1 on n2: {OOM}"
    assert any(f.cause.startswith("killed (signal 9)") for f in found)


def test_a_long_log_is_read_at_both_ends(traces: Traces) -> None:
    """The number of a line near the end counts those that were not read."""
    noise = "INFO 200 OK " * 8 + "\n"
    traces.log("server-1-0.log", noise * 20000 + OOM + "\n" + noise * 5)
    (seen,) = log_evidence(traces.run).sightings
    assert seen.line == 20001
    traces.log("server-1-0.log", OOM + "\n" + noise * 20000)
    (seen,) = log_evidence(traces.run).sightings
    assert seen.line == 1


def test_links_and_pipes_among_logs_are_left_alone(traces: Traces, tmp_path: Path) -> None:
    """Whoever may write to the folder cannot make us read, or wait for, another file."""
    secret = tmp_path / "secret"
    secret.write_text(OOM)
    traces.run.paths.log("server-1-0.log").symlink_to(secret)
    os.mkfifo(traces.run.paths.log("server-1-1.log"))
    found = log_evidence(traces.run)
    assert (found.sightings, found.read) == ((), ())


def test_lines_cannot_steer_a_terminal() -> None:
    """Control characters are shown as blanks, progress bars by their last state, long lines cut."""
    assert plain("10%\r\x1b[31m20%\x07 done") == "[31m20%  done"
    assert len(plain("x" * 9999)) < 300


def test_our_own_errors_in_logs_explain_themselves(traces: Traces) -> None:
    """A job's last words have a cause and a next step of their own."""
    traces.log("planning-5.log", "INFO x\nerror: cannot use /r: full\n  likely cause: a disk\n"
               "  next: df /r\n")  # fmt: skip
    traces.job("planning", 5, "FAILED", exit_code=6)
    first = traces.explained().findings[0]
    assert (first.cause, first.remedy, first.line) == ("a disk", "df /r", 2)
