"""The `evalhpc` command: its group, its errors and its exit codes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from evalhpc import __version__
from evalhpc.cli.explain import explain
from evalhpc.cli.images import images
from evalhpc.cli.inspect import ls, model, site
from evalhpc.cli.masked import mask_streams
from evalhpc.cli.node import node
from evalhpc.cli.output import show_error
from evalhpc.cli.runs import cancel, logs, merge, results, resume, status, verify
from evalhpc.cli.stage import stage
from evalhpc.cli.submit import estimate, render, submit
from evalhpc.cli.values import check_encoding
from evalhpc.errors import EvalhpcError

_EPILOG = """\b
Example:
  evalhpc submit --model smollm2-135m --suite demo --wait
  evalhpc submit --site eos --model /path/ckpt --tasks gsm8k --shards 16
  evalhpc status RUN

Exit codes: 0 done, 2 usage, 3 configuration, 4 model, 5 cluster, 6 storage, 7 endpoint,
8 harness, 9 incomplete, 10 integrity, 11 partial, 12 budget; of jobs also 13 futile,
75 asked to end; docs/errors.md explains each.
"""


@click.group(
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="evalhpc")
def cli() -> None:
    """From a model checkpoint to trustworthy evaluation scores on a Slurm cluster."""


@cli.command(
    epilog="\b\nExample:\n  evalhpc completion bash >> ~/.bashrc",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the lines that give SHELL completion of our commands and options."""
    from click.shell_completion import get_completion_class  # start-up time

    kind = get_completion_class(shell)
    if kind is None:  # click knows the three shells of the choice
        raise click.UsageError(f"no completion for {shell}")
    click.echo(kind(cli, {}, "evalhpc", "_EVALHPC_COMPLETE").source())


for _command in (submit, estimate, render, status, logs, cancel, resume, merge, results, verify):
    cli.add_command(_command)
for _command in (explain, ls, site, model, images, stage, node):
    cli.add_command(_command)


def main() -> None:
    """Entry point: our errors become their text on stderr and their exit code."""
    mask_streams(os.environ)
    try:
        check_encoding(sys.argv)
        cli(prog_name="evalhpc")
    except EvalhpcError as error:
        show_error(error)
        sys.exit(error.exit_code)
    except OSError as error:
        sys.exit(_ended_by(error))


def _ended_by(error: OSError) -> int:
    """The exit code of an error that no room has made one of ours; raises it where it is a bug."""
    if isinstance(error, BrokenPipeError):
        # The reader of our output (head, less) is gone; that is no error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    from evalhpc.storage.atomic import is_storage_trouble, storage_error  # start-up time

    if not is_storage_trouble(error):
        raise error
    trouble = storage_error(Path(os.fsdecode(error.filename)), error)
    show_error(trouble)
    return trouble.exit_code
