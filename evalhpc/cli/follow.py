"""`--wait`: progress on the terminal until the run ends, then its scores and exit code."""

from __future__ import annotations

import sys

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from evalhpc.cli.output import print_json, show_error, show_results
from evalhpc.errors import EvalhpcError, IncompleteError, PartialError
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.submit.control import watch
from evalhpc.workflow.watch.results import read_results, refuse_partial
from evalhpc.workflow.watch.status import RunStatus, stall_cause


def follow(run: Run, *, as_json: bool = False) -> int:
    """Show what happens until the run stands still; returns the exit code of the run."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(),
        MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    last: RunStatus | None = None
    said = ""
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("starting", total=None)
            for last in watch(run):
                text, done, total = describe(last)
                progress.update(task, description=text, completed=done, total=total)
                if text != said and not console.is_terminal:
                    console.print(text, highlight=False)  # a log file gets a line a stage
                said = text
    except KeyboardInterrupt:
        console.print(f"the run goes on; next: evalhpc status {run.word}")
        return 130
    return _report(run, last, as_json)


def describe(status: RunStatus) -> tuple[str, int, int | None]:
    """(what is going on, how much is done, of how much or None) for a progress bar."""
    if status.state == "planning":
        return "pass 0: the harness asks its questions", status.asked, None
    if status.state == "answering":
        busy = sum(1 for worker in status.workers if worker.state == "working")
        shards = f", {busy} shards at work" if busy else ", the model is loading"
        what = f"round {status.round}: answering" if status.round else "slices: the harness runs"
        return f"{what}{shards}", status.answered, status.requests
    if status.state == "collecting":
        text = f"pass {status.pass_number}: the harness computes its scores"
        return text, status.asked, status.requests
    return status.state, status.answered, status.requests or None


def _report(run: Run, status: RunStatus | None, as_json: bool) -> int:
    if status is not None and status.state == "complete":
        document = read_results(run)
        if as_json:
            print_json(document)
        else:
            show_results(document)
            click.echo(f"report   {run.paths.report}")
            click.echo(f"results  {run.paths.results_yml}")
        try:
            refuse_partial(run)
        except PartialError as partial:
            show_error(partial)
            return partial.exit_code
        return 0
    error = _why_not(run, status)
    show_error(error)
    if status is not None and status.failure:
        return int(status.failure["exit_code"])
    sys.stdout.flush()
    return error.exit_code


def _why_not(run: Run, status: RunStatus | None) -> EvalhpcError:
    if status is not None and status.failure:
        failure = status.failure
        return EvalhpcError(failure["what"], cause=failure["cause"], hint=failure["hint"])
    state = status.state if status is not None else "unknown"
    return IncompleteError(
        f"the run ended without a score: it is {state}",
        cause=stall_cause(run) if state == "stalled" else "it was cancelled",
        hint=f"evalhpc logs {run.word}, then: evalhpc resume {run.word}",
    )
