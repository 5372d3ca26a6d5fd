"""`evalhpc stage`: data sets, tokenizers and images onto a site, from its login node."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Any

import click

from evalhpc.cli.output import print_json, print_table
from evalhpc.cli.values import word

_text = partial(click.option, callback=word)


@click.command(
    epilog="\b\nExample:\n"
    "  evalhpc stage --site eos --tasks gsm8k,lm-eval/arc_easy --model /path/ckpt\n"
    "  evalhpc stage --site eos --suite arena.yaml --offline",
)
@_text("--site", help="Site file to use, by name or path. Default: by host name.")
@_text("--suite", help="Suite by name, or a YAML file.")
@_text("--tasks", help="Comma-separated tasks, instead of a suite.")
@_text("--model", help="Checkpoint whose tokenizer the harness loads; its weights are not.")
@click.option("--limit", type=click.IntRange(min=1), help="First N documents of each task.")
@click.option(
    "--set", "sets", metavar="KEY=VALUE", multiple=True,
    help="Override one setting, e.g. stage_dir=FOLDER. May be repeated.",
)  # fmt: skip
@click.option(
    "--with", "others", metavar="NAME=WHERE[,KEY=VALUE...]", multiple=True,
    help="A judge, user simulator or embedder beside the model, as for `submit`.",
)  # fmt: skip
@click.option("--offline", is_flag=True, help="Fetch nothing: prove that what is there suffices.")
@click.option("--no-images", is_flag=True, help="Leave the images of the harnesses as they are.")
@click.option("--json", "as_json", is_flag=True, help="Print data instead of a table.")
def stage(offline: bool, no_images: bool, as_json: bool, **options: Any) -> None:
    """Fetch what benchmarks load, for compute nodes without internet; run it on a login node.

    Each harness runs as in a job, against stubs: first with internet, so that it fetches data sets
    and tokenizers into the site's stage_dir, then without, to prove that nothing is missing.
    """
    import logging  # start-up time

    from evalhpc.workflow.record.signals import INTERRUPTED, Interrupted, interruptible
    from evalhpc.workflow.stage.images import stage_images
    from evalhpc.workflow.stage.stage import stage as stage_all
    from evalhpc.workflow.submit.wish import Wish

    # It says when another staging is waited for.
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    wish = Wish(**options)
    say = partial(click.echo, err=True)
    try:
        with interruptible():
            if not (offline or no_images):
                stage_images(wish, os.environ, said=say)
            records = stage_all(wish, os.environ, fetch=not offline, said=say)
    except Interrupted as signal:
        click.echo(f"stopped by {signal}; what was fetched is kept for the next time", err=True)
        sys.exit(INTERRUPTED)
    if as_json:
        print_json([record.model_dump(mode="json") for record in records])
        return
    print_table(
        ("benchmark", "harness", "requests", "fetched MB", "proved", "questions"),
        [
            (r.benchmark, r.harness, r.requests, r.fetched_bytes / 1e6,
             "without a network" if r.isolated else "by offline variables",
             "the same twice" if r.same else "not the same twice")
            for r in records
        ],
    )  # fmt: skip
