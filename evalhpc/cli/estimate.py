"""Estimates in words: two or three lines for `submit`, tables for `estimate`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from evalhpc.cli.output import print_table

if TYPE_CHECKING:
    from evalhpc.workflow.submit.estimate import Estimate


def estimate_lines(found: Estimate) -> Iterator[str]:
    """The most it can cost, what is expected and why, and when it could start."""
    yield f"at most   {_at_most(found)}"
    yield f"expected  {_expected(found)}"
    if found.queue:
        yield f"queue     {'; '.join(f'{start.kind}: {start.text}' for start in found.queue)}"


def show_estimate(found: Estimate) -> None:
    """`evalhpc estimate` for people."""
    print_table(
        ("job", "tasks", "nodes", "GPUs/node", "CPUs/node", "walltime", "GPU-h", "CPU-h"),
        [
            (j.kind, j.tasks, j.nodes, j.gpus_per_node, j.cpus, j.walltime,
             _number(j.gpu_seconds), _number(j.cpu_seconds))
            for j in found.jobs
        ],
    )  # fmt: skip
    for line in estimate_lines(found):
        click.echo(line)
    if found.max_gpu_hours is not None:
        click.echo(f"budget    {found.max_gpu_hours:g} GPU-hours")


def show_notes(found: Estimate) -> None:
    """What a reader of the figures should know: on stderr."""
    for note in found.notes:
        click.secho("note: ", fg="yellow", nl=False, err=True)
        click.echo(note, err=True)


def _at_most(found: Estimate) -> str:
    """One round's GPU-hours with the arithmetic, or its CPU-hours where no GPU is asked for."""
    from evalhpc.core.estimate import hours  # start-up time

    if found.gpu_hours_at_most is None:
        return f"nothing bounds it: {found.unbounded or 'a walltime of 0 is no limit'}"
    if found.gpu_hours_at_most:
        sums = "; ".join(job.sum for job in found.jobs if job.gpu_seconds)
        return f"{hours(found.gpu_hours_at_most * 3600)} GPU-hours a round ({sums})"
    if found.cpu_hours_at_most is None:
        return f"0 GPU-hours; nothing bounds the CPU-hours: {found.unbounded or 'no walltime'}"
    return f"0 GPU-hours; {hours(found.cpu_hours_at_most * 3600)} CPU-hours a round"


def _expected(found: Estimate) -> str:
    from evalhpc.core.estimate import duration, hours  # start-up time

    expected = found.expected
    if expected.seconds is None:
        return expected.text
    gpus = bool(found.gpu_hours_at_most) or found.gpu_hours_at_most is None
    amount = expected.gpu_hours if gpus else expected.cpu_hours
    kind = "GPU" if gpus else "CPU"
    cost = "" if amount is None else f"{hours(amount * 3600)} {kind}-hours in "
    return f"{cost}{duration(expected.seconds)} without the queue, {expected.text}"


def _number(seconds: int | None) -> str:
    from evalhpc.core.estimate import hours  # start-up time

    return "?" if seconds is None else hours(seconds)
