"""Callbacks for what is given on the command line: an empty word is no wish, but a mistake.

`--model "$CKPT"` with CKPT unset must not evaluate the default model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import click

from evalhpc.errors import UsageError


def word(context: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Any text but none."""
    if value is not None and not value.strip():
        raise click.BadParameter("it is empty; is a shell variable not set?", context, param)
    return value


def folder(context: click.Context, param: click.Parameter, value: str | None) -> Path | None:
    """A path from a non-empty text; `Path("")` would be the current folder."""
    return None if word(context, param, value) is None else Path(str(value))


def check_encoding(words: Iterable[str]) -> None:
    """Raises UsageError for a word of the command line that is no text: it is in no encoding."""
    for given in words:
        try:
            given.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"{given!a} is not UTF-8",
                cause="the scripts and YAML files of a run are, and so must be every name in them",
                hint="rename the file, or quote the word otherwise",
            ) from error


def budget(context: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """A number of hours: 0 or more, and neither infinite nor NaN."""
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise click.BadParameter("it must be a number of hours, 0 or more", context, param)
    return value
