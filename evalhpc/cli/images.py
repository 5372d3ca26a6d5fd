"""`evalhpc images`: a site's store of container images."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalhpc.cli.output import print_json, print_table
from evalhpc.cli.values import folder, word
from evalhpc.errors import EvalhpcError

if TYPE_CHECKING:
    from evalhpc.models.image import ImportWish
    from evalhpc.models.site import Site
    from evalhpc.workflow.images.importing import Imported

_SITE = click.option(
    "--site", callback=word, help="Site file to use, by name or path. Default: by host name."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print data instead of a table.")


@click.group(epilog="\b\nExample:\n  evalhpc images ls --site eos")
def images() -> None:
    """Import, list and remove the container images of a site."""


def _size(_: click.Context, __: click.Parameter, value: str) -> int:
    """Bytes of `40G` (10⁹) or `40Gi` (2³⁰)."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kKMGT]?)(i?)B?", value)
    if found is None:
        raise click.BadParameter("an amount such as 40G (10⁹ bytes) or 40Gi (2³⁰ bytes)")
    step = 1024 if found[3] else 1000
    return int(float(found[1]) * step ** " KMGT".index(found[2].upper() or " "))


@images.command(
    "import",
    epilog="\b\nExample:\n"
    "  evalhpc images import nvidia/eval/lm-eval:25.09 --name lm-eval\n"
    "  evalhpc images import /transfer/lm-eval.sqsh\n"
    "  evalhpc images import --site eos --all",
)
@click.argument("source", required=False, callback=word)
@_SITE
@click.option("--all", "everything", is_flag=True, help="Every reference that the site names.")
@click.option("--name", callback=word, help="Name in the store. Default: from the source.")
@click.option(
    "--need",
    callback=_size,
    default="40G",
    show_default=True,
    metavar="SIZE",
    help="Space that must be free where a registry's image is made; for a file its size counts.",
)
@click.option("--again", is_flag=True, help="Even if it is there: the tag has moved on.")
@click.option("--job/--no-job", default=None, help="As a CPU job. Default: container.import_job.")
@click.option("--wait", is_flag=True, help="Wait for the job to end.")
@_JSON
def import_(
    source: str | None, site: str | None, everything: bool, name: str | None, need: int,
    again: bool, job: bool | None, wait: bool, as_json: bool,
) -> None:  # fmt: skip
    """Import SOURCE, a registry's [REGISTRY#]PATH[:TAG] or an image file, into the site's store.

    Once for all nodes: whoever imports the same at the same time waits for the first.
    """
    from evalhpc.workflow.record.image_sites import (  # start-up time
        import_wish,
        named_references,
        site_with_store,
    )

    if everything == (source is not None) or (everything and name):
        raise click.UsageError("give a SOURCE, or --all (which takes the names of the site's keys)")
    opened = site_with_store(site, os.environ)
    sources = {name: source} if source else dict(named_references(opened))
    if not sources:
        click.echo(f"site {opened.name} names no reference: nothing to import", err=True)
    wishes = [
        import_wish(opened, text, name=key, need=need, again=again)
        for key, text in sources.items()
        if text is not None
    ]
    as_job = opened.container.import_job if job is None else job
    done = [_import(opened, wish, as_job=as_job, wait=wait) for wish in wishes]
    if as_json:
        print_json(done)


def _import(site: Site, wish: ImportWish, *, as_job: bool, wait: bool) -> dict[str, Any]:
    if as_job and site.scheduler == "slurm":
        from evalhpc.workflow.images.jobs import submit_import, wait_for  # start-up time
        from evalhpc.workflow.record.image_sites import refuse_unready

        refuse_unready(site, os.environ)
        job = submit_import(site, wish, os.environ)
        click.echo(f"job {job.job_id} imports {wish.reference or wish.path}", err=True)
        if not wait:
            click.echo(f"next: evalhpc images ls; its log is in {job.folder}", err=True)
            return {"name": wish.name, "job": job.job_id, "folder": str(job.folder)}
        return _said(wait_for(job, os.environ))
    return _said(_import_here(wish))


def _import_here(wish: ImportWish) -> Imported:
    import logging  # start-up time

    from evalhpc.workflow.images.importing import import_image
    from evalhpc.workflow.record.signals import INTERRUPTED, Interrupted, interruptible

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    try:
        with interruptible():
            return import_image(wish, os.environ)
    except Interrupted as signal:
        click.echo(f"stopped by {signal}: nothing was left behind", err=True)
        sys.exit(INTERRUPTED)


def _said(done: Imported) -> dict[str, Any]:
    record = done.record
    what = "imported" if done.fresh else "was imported before"
    click.echo(f"{record.name}: {what}, sha256 {record.sha256}", err=True)
    click.echo(f"  {done.path}", err=True)
    return {**record.model_dump(mode="json"), "path": str(done.path), "fresh": done.fresh}


@images.command("ls", epilog="\b\nExample:\n  evalhpc images ls --site eos --verify")
@_SITE
@click.option("--verify", is_flag=True, help="Compute every digest anew, from every byte.")
@_JSON
def ls(site: str | None, verify: bool, as_json: bool) -> None:
    """Images of the site's store, and those that the site names without having them.

    Exit code 10 if one is not what was imported.
    """
    from evalhpc.storage.images import readable  # start-up time
    from evalhpc.workflow.images.listing import damaged, list_images
    from evalhpc.workflow.record.image_sites import site_with_store

    opened = site_with_store(site, os.environ)
    rows = list_images(opened, os.environ, verify=verify)
    if as_json:
        print_json([row.model_dump(mode="json") for row in rows])
    else:
        print_table(
            ("name", "sha256", "size", "imported", "used by", "state", "reference"),
            [
                (r.name, r.sha256[:12], readable(r.bytes) if r.bytes else "",
                 r.imported[:10], ", ".join(r.used_by), r.state, r.reference)
                for r in rows
            ],
            title=opened.container.image_dir,
        )  # fmt: skip
    for error in damaged(rows):
        raise error


@images.command("prune", epilog="\b\nExample:\n  evalhpc images prune --site eos --yes")
@_SITE
@click.option(
    "--run-root", "roots", type=click.Path(), callback=lambda c, p, v: [folder(c, p, x) for x in v],
    multiple=True, help="Look for runs there too: other users' run roots. May be repeated.",
)  # fmt: skip
@click.option(
    "--older-than", type=click.FloatRange(min=0), default=1.0, show_default=True, metavar="DAYS",
    help="Keep images that were imported since.",
)  # fmt: skip
@click.option("--yes", is_flag=True, help="Remove them; without it they are only shown.")
@_JSON
def prune(site: str | None, roots: list[Path], older_than: float, yes: bool, as_json: bool) -> None:
    """Remove images that no site names and no run refers to, and what killed imports left."""
    from evalhpc.storage.images import readable  # start-up time
    from evalhpc.workflow.images.prune import prunable, remove
    from evalhpc.workflow.record.image_sites import site_with_store

    opened = site_with_store(site, os.environ)
    found = prunable(opened, os.environ, further_roots=roots, older_than=older_than * 86400)
    failures = remove(opened, found) if yes else []
    if as_json:
        print_json({"removed": yes, "items": [item.model_dump() for item in found]})
    else:
        print_table(
            ("file", "size", "why"),
            [(Path(item.path).name, readable(item.bytes), item.why) for item in found],
            title=opened.container.image_dir,
        )
        total = readable(sum(item.bytes for item in found))
        click.echo(f"{total} removed" if yes else f"{total} could go; next: --yes removes them")
    if failures:
        raise EvalhpcError(
            f"{len(failures)} could not be removed: {'; '.join(failures)}",
            cause="they are another user's",
            hint="ask their owner, or the administrator",
        )
