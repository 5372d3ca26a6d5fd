"""`evalhpc node`: what the batch scripts call on the nodes; not for people."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import click

_RUN_DIR = click.option(
    "--run-dir", required=True, type=click.Path(path_type=Path), help="The run's directory."
)
_ROUND = click.option("--round", "round_", required=True, type=click.IntRange(min=1))


@click.group(hidden=True, epilog="\b\nExample:\n  evalhpc node pass --run-dir RUN --pass 0")
def node() -> None:
    """Entry points of the rendered scripts."""
    from evalhpc.workflow.node.privacy import keep_private  # start-up time

    keep_private()
    level = os.environ.get("EVALHPC_LOG", "").upper()
    if level != "DEBUG":
        logging.getLogger("httpx").setLevel(logging.WARNING)  # one line a request is too much
    logging.basicConfig(
        level=level if level in ("DEBUG", "WARNING") else logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(message)s",
    )


@node.command(epilog="\b\nExample:\n  evalhpc node secrets --file ~/.secrets HF_TOKEN")
@click.option("--file", help="NAME=VALUE lines; yours, and of mode 0600.")
@click.option("--command", multiple=True, help="A word of the helper that prints such lines.")
@click.argument("names", nargs=-1, required=True)
def secrets(file: str | None, command: tuple[str, ...], names: tuple[str, ...]) -> None:
    """Print lines that export secrets, for the `eval` of a batch script."""
    from evalhpc.models.site import Secrets  # start-up time
    from evalhpc.workflow.record.secrets import exports

    wanted = Secrets(file=file, command=command, names=names)
    if sys.stdout.isatty():
        raise click.UsageError("secrets are not shown on a terminal; scripts read them")
    # Past the mask that lies over our output.
    with os.fdopen(os.dup(1), "wb") as pipe:
        pipe.write(exports(wanted, os.environ).encode())


@node.command("pass", epilog="\b\nExample:\n  evalhpc node pass --run-dir RUN --pass 0")
@_RUN_DIR
@click.option("--pass", "number", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--lease", type=click.Path(path_type=Path), help="Of the shard that runs the pass.")
def pass_(run_dir: Path, number: int, lease: Path | None) -> None:
    """Run pass 0 and write the first round's plan; later passes are the collector's."""
    if number:
        raise click.UsageError(f"pass {number} belongs to: evalhpc node collect --round {number}")
    from evalhpc.workflow.node.succession import planning_job  # start-up time

    sys.exit(planning_job(run_dir, lease))


@node.command(epilog="\b\nExample:\n  evalhpc node shard --run-dir RUN --round 1 --shard 0")
@_RUN_DIR
@_ROUND
@click.option("--shard", required=True, type=click.IntRange(min=0))
def shard(run_dir: Path, round_: int, shard: int) -> None:
    """Answer requests of a round until none is left to lease."""
    from evalhpc.workflow.node.jobs import answering  # start-up time

    sys.exit(answering(run_dir, round_, shard))


@node.command(epilog="\b\nExample:\n  evalhpc node deploy --run-dir RUN --job 0")
@_RUN_DIR
@click.option("--job", required=True, type=click.IntRange(min=0))
def deploy(run_dir: Path, job: int) -> None:
    """Hold the model servers of a run for all its shards."""
    from evalhpc.workflow.node.jobs import deploying  # start-up time

    sys.exit(deploying(run_dir, job))


@node.command(epilog="\b\nExample:\n  evalhpc node collect --run-dir RUN --round 1")
@_RUN_DIR
@_ROUND
def collect(run_dir: Path, round_: int) -> None:
    """Merge, run the next pass, and publish or go on to the next round."""
    from evalhpc.workflow.node.succession import collector_job  # start-up time

    sys.exit(collector_job(run_dir, round_))


@node.command(
    "stage", epilog="\b\nExample:\n  evalhpc node stage --run-dir W --benchmark b --pass 0"
)
@_RUN_DIR
@click.option("--benchmark", required=True, help="The benchmark whose harness runs.")
@click.option("--pass", "number", required=True, type=click.IntRange(0, 1))
@click.option("--isolated", is_flag=True, help="In a network namespace of its own.")
def stage_(run_dir: Path, benchmark: str, number: int, isolated: bool) -> None:
    """Run a harness over stubs, as a pass of `evalhpc stage`."""
    from evalhpc.errors import EvalhpcError  # start-up time
    from evalhpc.workflow.record.signals import INTERRUPTED, Interrupted
    from evalhpc.workflow.stage.passes import stage_pass

    try:
        sys.exit(stage_pass(run_dir, benchmark, number, isolated=isolated))
    except Interrupted:
        sys.exit(INTERRUPTED)
    except EvalhpcError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


@node.command("check", epilog="\b\nExample:\n  evalhpc node check --wish FOLDER/wish.json")
@click.option("--wish", required=True, type=click.Path(path_type=Path), help="What to look at.")
def check(wish: Path) -> None:
    """Tell what this node has, as the job of `evalhpc site check --node`."""
    from evalhpc.workflow.site.node_probe import probe  # start-up time

    probe(wish)


@node.command("import", epilog="\b\nExample:\n  evalhpc node import --wish FOLDER/wish.json")
@click.option("--wish", required=True, type=click.Path(path_type=Path), help="What to import.")
def import_(wish: Path) -> None:
    """Import an image into a site's store, as a job of `evalhpc images import`."""
    from evalhpc.workflow.images.jobs import import_in_job  # start-up time

    sys.exit(import_in_job(wish))


@node.command(epilog="\b\nExample:\n  evalhpc node drive --run-dir RUN")
@_RUN_DIR
@click.option(
    "--from", "first", type=click.Choice(["planning", "shard", "collect"]), default="planning"
)
def drive(run_dir: Path, first: str) -> None:
    """Run all jobs of a run on this machine, in order (the `local` site)."""
    from evalhpc.workflow.node.driver import drive as run_driver  # start-up time
    from evalhpc.workflow.record.run import open_run

    sys.exit(run_driver(open_run(run_dir), first))


@node.command(
    context_settings={"ignore_unknown_options": True},
    epilog="\b\nExample:\n  evalhpc node enter --runtime bwrap --image x.sqsh -- bash -c id",
)
@click.option("--runtime", required=True, help="The program that makes the container.")
@click.option("--image", required=True, type=click.Path(path_type=Path), help="File or folder.")
@click.option("--mount", "mounts", multiple=True, help="SRC:DST[:FLAGS]; again for more.")
@click.option("--option", "options", multiple=True, help="A further word for the runtime.")
@click.option("--node-dir", help="Folder on this node's own disk [default: /tmp].")
@click.option("--no-unpack", is_flag=True, help="Let Charliecloud mount a squashfs file itself.")
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED)
def enter(
    runtime: str,
    image: Path,
    mounts: tuple[str, ...],
    options: tuple[str, ...],
    node_dir: str | None,
    no_unpack: bool,
    words: tuple[str, ...],
) -> None:
    """Become a command in an image, with a home of its own."""
    from evalhpc.errors import EvalhpcError  # start-up time
    from evalhpc.workflow.node.enter import enter as become

    try:
        become(
            runtime, image, words,
            mounts=mounts, options=options, node_dir=node_dir, unpack=not no_unpack,
        )  # fmt: skip
    except EvalhpcError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
