"""Commands on a run that exists: status, logs, cancel, resume, merge, results, verify."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from evalhpc.cli.output import fitted, print_json, print_table, show_results
from evalhpc.cli.values import budget, word

if TYPE_CHECKING:
    from evalhpc.workflow.record.run import Run
    from evalhpc.workflow.watch.findings import Finding
    from evalhpc.workflow.watch.status import RunStatus

_RUN = click.argument("run", callback=word)
#: Shards that failed, and lines of each one's log, that the text shows.
_SHOWN_SHARDS = 5
_SHOWN_LINES = 5
_JSON = click.option("--json", "as_json", is_flag=True, help="Print data instead of a table.")


def _open(run: str) -> Run:
    from evalhpc.workflow.watch.listing import find_run  # start-up time

    return find_run(run, os.environ)


@click.command(epilog="\b\nExample:\n  evalhpc status RUN --json")
@_RUN
@_JSON
def status(run: str, as_json: bool) -> None:
    """Where RUN stands: pass, round, shards, jobs, and why it stands still.

    RUN is a run directory, or a run id below the site's run_root. Where Slurm does not answer, the
    files say what they can, and the exit code is 5.
    """
    from evalhpc.errors import ClusterError  # start-up time
    from evalhpc.workflow.record.job_answers import ask
    from evalhpc.workflow.watch.explain import explain_status
    from evalhpc.workflow.watch.status import look

    opened = _open(run)
    answers = ask(opened)
    found = look(opened, answers)
    likeliest = explain_status(opened, found, answers.known)
    if as_json:
        print_json(found.model_dump() | {"likeliest": likeliest and likeliest.model_dump()})
    else:
        _show_explained(found, likeliest)
    if found.scheduler:
        sys.exit(ClusterError.exit_code)


def _show_explained(found: RunStatus, likeliest: Finding | None) -> None:
    show_status(found)
    if likeliest is not None:
        click.secho(f"  explained  {likeliest.about}: {likeliest.cause}", fg="red")
        click.echo(f"             next: evalhpc explain {found.run_dir}")


def show_status(found: RunStatus) -> None:
    """The status as text."""
    click.secho(f"{found.run_id}: {found.state}", bold=True)
    click.echo(f"  directory  {found.run_dir}")
    if found.moved_from:
        click.echo(f"             moved or copied from {found.moved_from}; its jobs work there")
    if found.scheduler:
        click.secho(f"  from files alone, as Slurm did not answer: {found.scheduler}", fg="yellow")
    if found.why:
        click.echo(f"  now        {found.why}")
    if found.round or found.units:
        what = f"round {found.round}" if found.round else "slices"
        click.echo(
            f"  {what:<10} {found.answered} of {found.requests} requests answered, "
            f"{found.units_done} of {found.units} units done"
        )
    if found.given_up:
        click.secho(f"  given up   requests: {found.given_up}, see failures.jsonl", fg="red")
    _show_failed_shards(found)
    for node, why in found.excluded_nodes.items():
        click.echo(f"  excluded   {node}, from the next round on: {'; '.join(why)}")
    for reason, jobs in found.again.items():
        click.echo(f"  again      {jobs}, submitted by the run itself: {reason}")
    if found.failure:
        click.secho(f"  failed     {found.failure['what']}", fg="red")
        for key, label in (("cause", "likely cause"), ("hint", "next")):
            if found.failure[key]:
                click.echo(f"             {label}: {found.failure[key]}")
    if found.workers:
        print_table(
            ("shard", "node", "state", "in flight", "answered", "failed"),
            [(w.name, w.node, w.state, w.concurrency, w.answered, w.failed) for w in found.workers],
        )
    if found.jobs:
        print_table(
            ("job", "kind", "round", "state"),
            [
                (str(j.id), j.kind, str(j.round), j.state + fitted(j.walltime, j.why))
                for j in found.jobs
            ],
        )


def _show_failed_shards(found: RunStatus) -> None:
    """The latest ones, each with the end of what it said."""
    hidden = found.failed_shards[:-_SHOWN_SHARDS]
    if hidden:
        click.echo(f"             {len(hidden)} more shards failed before; --json has them")
    for failed in found.failed_shards[-_SHOWN_SHARDS:]:
        where = f" on {failed.node}" if failed.node else ""
        first, *log = failed.what.splitlines()
        click.secho(
            f"  shard {failed.shard:<4} failed in round {failed.round}{where}: {first}", fg="red"
        )
        for line in log[-_SHOWN_LINES:]:
            click.echo(f"             {line.strip()}")
        if failed.cause:
            click.echo(f"             likely cause: {failed.cause}")


@click.command(epilog="\b\nExample:\n  evalhpc logs RUN --kind shard --lines 50")
@_RUN
@click.option("--kind", help="Only logs whose name begins so: planning, shard, server, collect.")
@click.option("--lines", type=click.IntRange(min=1), default=20, show_default=True)
@_JSON
def logs(run: str, kind: str | None, lines: int, as_json: bool) -> None:
    """The last lines of every log of RUN, harness logs included."""
    from evalhpc.workflow.watch.logs import log_tails  # start-up time

    tails = log_tails(_open(run), kind or "", lines)
    if as_json:
        print_json([{"path": str(path), "lines": text} for path, text in tails])
        return
    if not tails:
        click.echo("no log" + (f" whose name begins with {kind}" if kind else " yet"), err=True)
    for path, text in tails:
        click.secho(f"==> {path}", bold=True)
        click.echo("\n".join(text))


@click.command(epilog="\b\nExample:\n  evalhpc cancel RUN")
@_RUN
def cancel(run: str) -> None:
    """Stop RUN and keep its answers; `evalhpc resume` goes on from there."""
    from evalhpc.workflow.submit.control import cancel as cancel_run  # start-up time

    opened = _open(run)
    ended = cancel_run(opened)
    jobs = "1 job" if ended == 1 else f"{ended} jobs"
    click.echo(f"cancelled {jobs}; next: evalhpc resume {opened.word}")


@click.command(epilog="\b\nExample:\n  evalhpc resume RUN --wait")
@_RUN
@click.option("--wait", is_flag=True, help="Show progress until the run ends; its exit code.")
@click.option(
    "--max-gpu-hours",
    type=float,
    callback=budget,
    metavar="H",
    help="From now on the run's budget, what it has used included.",
)
@click.option("--no-preflight", is_flag=True, help="Leave out the check of space, python and data.")
@_JSON
def resume(
    run: str, wait: bool, max_gpu_hours: float | None, no_preflight: bool, as_json: bool
) -> None:
    """Go on with RUN: ask only what has no answer yet."""
    from evalhpc.workflow.submit.control import resume as resume_run  # start-up time
    from evalhpc.workflow.submit.preflight import preflight

    opened = _open(run)
    if not no_preflight:
        for warning in preflight(opened, os.environ):
            click.echo(f"warning: {warning}", err=True)
    jobs = resume_run(opened, max_gpu_hours)
    if wait:
        from evalhpc.cli.follow import follow  # start-up time

        sys.exit(follow(opened, as_json=as_json))
    if as_json:
        print_json([job.model_dump() for job in jobs])
        return
    for job in jobs:
        click.echo(f"{job.kind} of round {job.round}: {job.id}{fitted(job.walltime, job.why)}")
    click.echo(f"next: evalhpc status {opened.word}")


@click.command(epilog="\b\nExample:\n  evalhpc merge RUN")
@_RUN
@_JSON
def merge(run: str, as_json: bool) -> None:
    """Merge RUN's journals into its store; the same journals give the same bytes."""
    from evalhpc.workflow.submit.control import merge_run  # start-up time

    report = merge_run(_open(run))
    if as_json:
        print_json(report)
        return
    for key, value in report.items():
        click.echo(f"{key:12} {value}")


@click.command(epilog="\b\nExample:\n  evalhpc results RUN --json")
@_RUN
@_JSON
def results(run: str, as_json: bool) -> None:
    """The scores of RUN; an incomplete run has none, and that is exit code 9.

    Scores without the answers to some requests (run.max_failures) are exit code 11.
    """
    from evalhpc.workflow.watch.results import read_results, refuse_partial  # start-up time

    opened = _open(run)
    document = read_results(opened)
    if as_json:
        print_json(document)
    else:
        show_results(document)
    refuse_partial(opened)


@click.command(epilog="\b\nExample:\n  evalhpc verify RUN")
@_RUN
@click.option("--replay", is_flag=True, help="Run the harness again over the answers; compare.")
@_JSON
def verify(run: str, replay: bool, as_json: bool) -> None:
    """Recheck RUN's certificate from its journals: nothing missing, doubled or changed."""
    from evalhpc.workflow.collect.verify import verify_run  # start-up time

    opened = _open(run)
    checks = verify_run(opened)
    if replay:
        from evalhpc.workflow.collect.replay import replay as run_again  # start-up time

        checks.append(("replay", run_again(opened)))
    if as_json:
        print_json([{"check": name, "found": found} for name, found in checks])
        return
    print_table(("check", "found"), checks)
    click.secho("verified", fg="green")
