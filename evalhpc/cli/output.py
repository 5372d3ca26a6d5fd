"""Tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from evalhpc.errors import EvalhpcError


def print_json(data: Any) -> None:
    """`data` as indented JSON on stdout."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False, default=str))


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None
) -> None:
    """A table on stdout; columns whose every cell is a number are right-aligned."""
    from rich.console import Console  # start-up time
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", header_style="bold")
    for index, name in enumerate(columns):
        cells = [row[index] for row in rows if row[index] is not None]
        numeric = bool(cells) and all(isinstance(cell, int | float) for cell in cells)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    Console().print(table)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def fitted(walltime: str, why: str) -> str:
    """What an array asks for instead of the site's walltime, and where that comes from."""
    return f", --time {walltime} ({why})" if walltime else ""


def show_results(document: Mapping[str, Any]) -> None:
    """The scores as a table."""
    from evalhpc.core.results import SCORE_COLUMNS, score_rows  # start-up time

    print_table(SCORE_COLUMNS, score_rows(document))


def show_error(error: EvalhpcError) -> None:
    """What happened, the likely cause, the next command: on stderr."""
    click.secho("error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(error.what, err=True)
    if error.cause:
        click.echo(f"  likely cause: {error.cause}", err=True)
    if error.hint:
        click.echo(f"  next: {error.hint}", err=True)
