"""`evalhpc explain`: why a run or a job went wrong, what shows it, and what to do."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from evalhpc.cli.output import print_json
from evalhpc.cli.values import word

if TYPE_CHECKING:
    from evalhpc.workflow.watch.explain import Explanation
    from evalhpc.workflow.watch.findings import Finding

#: Exit code where something is wrong that the table of causes does not know.
UNRECOGNISED = 1
#: Further causes that the text shows; --json has them all.
_SHOWN = 4


@click.command(
    epilog="\b\nExample:\n  evalhpc explain RUN\n  evalhpc explain 4711_3 --json\n\n"
    "Exit codes: 0 a cause was found or nothing is wrong, 1 nothing was recognised."
)
@click.argument("run", metavar="RUN|JOB", callback=word)
@click.option("--json", "as_json", is_flag=True, help="Print data instead of text.")
def explain(run: str, as_json: bool) -> None:
    """Why RUN, or the Slurm job JOB, went wrong: the likeliest cause first, with what shows it.

    RUN is a run directory or run id, JOB a Slurm job or array task such as 4711 or 4711_3.
    """
    from evalhpc.workflow.watch.job_runs import explain as explain_named  # start-up time

    found = explain_named(run, os.environ)
    if as_json:
        print_json(found.model_dump())
    else:
        show_explanation(found)
    if not found.recognised:
        sys.exit(UNRECOGNISED)


def show_explanation(found: Explanation) -> None:
    """The explanation as text."""
    whose = " ".join(filter(None, (found.run_id, found.job and f"job {found.job}")))
    click.secho(f"{whose}: {found.state}", bold=True)
    if found.run_dir:
        click.echo(f"  directory  {found.run_dir}")
    if found.scheduler:
        click.secho(f"  from files alone, as Slurm did not answer: {found.scheduler}", fg="yellow")
    if not found.findings and found.recognised:
        click.echo("  nothing is wrong, as far as can be seen")
    if not found.recognised:
        click.secho("  nothing was recognised as a cause; look here:", fg="yellow")
        for place in found.look:
            click.echo(f"    {place}")
    for number, finding in enumerate(found.findings[: _SHOWN + 1]):
        _show(finding, first=number == 0)
    hidden = len(found.findings) - _SHOWN - 1
    if hidden > 0:
        click.echo(f"  {hidden} less likely causes: --json has them")
    click.echo(f"  then: {found.next}")


def _show(finding: Finding, *, first: bool) -> None:
    click.secho(f"  {finding.about}: {finding.cause}", fg="red" if first else None, bold=first)
    click.echo(f"    seen   {finding.what}")
    times = f" (and {finding.times - 1} more)" if finding.times > 1 else ""
    if finding.file:
        click.echo(f"    in     {place(finding)}{times}")
    if finding.remedy:
        click.echo(f"    do     {finding.remedy}")


def place(finding: Finding) -> str:
    """`file:line`, as editors and grep write it."""
    return finding.file + (f":{finding.line}" if finding.line else "")
