"""What there is: runs, sites, tasks, harnesses; one site; one checkpoint."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import click

from evalhpc.cli.output import print_json, print_table
from evalhpc.cli.values import folder, word

_JSON = click.option("--json", "as_json", is_flag=True, help="Print data instead of a table.")


@click.group(epilog="\b\nExample:\n  evalhpc ls tasks")
def ls() -> None:
    """List runs, sites, tasks or harnesses."""


@ls.command("runs", epilog="\b\nExample:\n  evalhpc ls runs --root /shared/evals")
@click.option(
    "--root", type=click.Path(), callback=folder, help="Default: the run_root of every site."
)
@_JSON
def ls_runs(root: Path | None, as_json: bool) -> None:
    """Run directories below the run_root of every site, or below ROOT."""
    from evalhpc.workflow.watch.listing import list_runs  # start-up time

    rows = list_runs(root, os.environ)
    if as_json:
        print_json([row.model_dump() for row in rows])
        return
    print_table(
        ("run", "state", "site", "model", "benchmarks"),
        [(r.run_id, r.state, r.site, r.model, ", ".join(r.benchmarks)) for r in rows],
    )


@ls.command("sites", epilog="\b\nExample:\n  evalhpc ls sites")
@_JSON
def ls_sites(as_json: bool) -> None:
    """Site files, in the order in which they are looked up."""
    from evalhpc.config.sites import list_sites  # start-up time

    entries = list_sites(os.environ)
    if as_json:
        print_json([vars(entry) for entry in entries])
        return
    print_table(
        ("site", "from", "description"),
        [(e.name, str(e.path), e.error or e.description) for e in entries],
    )


@ls.command("tasks", epilog="\b\nExample:\n  evalhpc ls tasks --json")
@_JSON
def ls_tasks(as_json: bool) -> None:
    """Tasks of the catalogue; `lm-eval/NAME` names any other task of lm-eval."""
    from evalhpc.harness.catalogue import list_tasks  # start-up time

    tasks = list_tasks()
    if as_json:
        print_json({name: task.model_dump() for name, task in tasks.items()})
        return
    print_table(
        ("task", "harness", "endpoint", "description"),
        [(n, t.harness, t.params.endpoint, t.description) for n, t in tasks.items()],
    )


@ls.command("harnesses", epilog="\b\nExample:\n  evalhpc ls harnesses")
@_JSON
def ls_harnesses(as_json: bool) -> None:
    """Evaluation harnesses that can be run."""
    from evalhpc.harness.catalogue import list_harnesses  # start-up time

    harnesses = list_harnesses()
    if as_json:
        print_json({name: entry.model_dump() for name, entry in harnesses.items()})
        return
    print_table(
        ("harness", "description", "install"),
        [(name, entry.description, entry.install) for name, entry in harnesses.items()],
    )


@click.group(epilog="\b\nExample:\n  evalhpc site show devcluster")
def site() -> None:
    """Write, look at or check a site file."""


@site.command("show", epilog="\b\nExample:\n  evalhpc site show eos")
@click.argument("name", callback=word)
@_JSON
def site_show(name: str, as_json: bool) -> None:
    """Site NAME with every default filled in."""
    from evalhpc.workflow.site.check import site_document, site_yaml  # start-up time

    if as_json:
        print_json(site_document(name, os.environ))
    else:
        click.echo(site_yaml(name, os.environ), nl=False)


@site.command("init", epilog="\b\nExample:\n  evalhpc site init mycluster --partition gpu")
@click.argument("name", callback=word)
@click.option(
    "--output",
    metavar="FILE|-",
    callback=word,
    help="Default: NAME.yaml among your own sites; - prints it.",
)
@click.option("--partition", callback=word, help="For the shards; default: where the GPUs are.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def site_init(name: str, output: str | None, partition: str | None, force: bool) -> None:
    """Write a site file NAME from what this cluster says of itself; run it on a login node.

    Each value has a comment that names the command it comes from. What cannot be known is left
    out, and listed.
    """
    from evalhpc.workflow.site.init import (  # start-up time
        draft_site,
        refuse_overwriting,
        site_file,
        write_site,
    )

    path = None if output == "-" else site_file(name, Path(output) if output else None, os.environ)
    if path is not None:
        refuse_overwriting(path, force=force)
    made = draft_site(name, partition, os.environ)
    if path is None:
        click.echo(made.text, nl=False)
    else:
        write_site(path, made)
        click.echo(f"wrote {path}")
    for left in made.open:
        click.secho(f"  open: {left}", fg="yellow", err=True)
    if path is not None:
        click.echo(f"next: evalhpc site check {name if output is None else path}")


@site.command("check", epilog="\b\nExample:\n  evalhpc site check devcluster --node")
@click.argument("name", callback=word)
@click.option("--node", "on_node", is_flag=True, help="By a short job too: what a node has.")
@click.option("--suite", callback=word, help="Load the data of this suite there.")
@click.option("--tasks", callback=word, help="Load the data of these tasks. Default: all staged.")
@click.option("--model", callback=word, help="Checkpoint whose tokenizer --tasks load.")
@click.option(
    "--set", "sets", metavar="params.KEY=VALUE", multiple=True, help="As for `stage`, with --tasks."
)
@click.option(
    "--wait", type=click.FloatRange(min=1), default=600.0, show_default=True, metavar="SECONDS",
    help="How long that job may wait and run, beside loading; it is cancelled then.",
)  # fmt: skip
@_JSON
def site_check(name: str, on_node: bool, wait: float, as_json: bool, **asked: Any) -> None:
    """Check site NAME against this cluster: commands, partitions, account, folders.

    With --node, jobs as the site's own tell what their nodes have: python, run root, images, and
    whether benchmarks load their data there, without a network. Exit code 3 if a check fails.
    """
    from evalhpc.workflow.site.check import check_nodes, check_site  # start-up time
    from evalhpc.workflow.site.loads import DOCUMENTS
    from evalhpc.workflow.submit.wish import Wish

    if any(asked.values()) and not on_node:
        raise click.UsageError("--suite, --tasks, --model and --set tell --node what to load")
    if not all(text.startswith("params.") for text in asked["sets"]):
        raise click.UsageError("--set takes params.KEY=VALUE here; the rest is the site file's")
    if any(asked.values()) and not (asked["suite"] or asked["tasks"]):
        raise click.UsageError("--model and --set belong to --tasks or --suite")
    checks = check_site(name, os.environ)
    if on_node:
        wish = Wish(site=name, limit=DOCUMENTS, **asked)
        checks += check_nodes(wish, os.environ, wait=wait)
    if as_json:
        print_json([check.model_dump() for check in checks])
    else:
        print_table(
            ("check", "", "found"),
            [(c.name, "ok" if c.ok else "FAILED", _found(c.found, c.hint)) for c in checks],
        )
    if not all(check.ok for check in checks):
        raise SystemExit(3)


def _found(found: str, hint: str) -> str:
    return f"{found}\nnext: {hint}" if hint else found


@click.group(epilog="\b\nExample:\n  evalhpc model inspect ckpt/")
def model() -> None:
    """Look at a checkpoint."""


def _memory(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """Bytes of `80G` (10⁹) or `80Gi` (2³⁰)."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([MGT])(i?)B?", value) if value else None
    if value is None:
        return None
    if found is None or float(found[1]) == 0:
        raise click.BadParameter("an amount such as 80G (10⁹ bytes) or 80Gi (2³⁰ bytes)")
    step = 1024 if found[3] else 1000
    return int(float(found[1]) * step ** (2 + "MGT".index(found[2])))


@model.command(
    "inspect",
    epilog="\b\nExample:\n  evalhpc model inspect ckpt/ --gpu-memory 80G --gpus-per-node 8",
)
@click.argument("checkpoint", callback=word)
@click.option(
    "--gpu-memory", callback=_memory, metavar="SIZE", help="Suggest a layout for such GPUs: 80G."
)
@click.option(
    "--gpus-per-node", type=click.IntRange(1), default=8, show_default=True, help="GPUs of a node."
)
@click.option("--site", callback=word, help="Suggest a layout for the GPUs of this site.")
@_JSON
def model_inspect(
    checkpoint: str, gpu_memory: int | None, gpus_per_node: int, site: str | None, as_json: bool
) -> None:
    """What CHECKPOINT (a folder, a .gguf file or a demo name) is, from its files alone."""
    from evalhpc.core.sizing import GpuNode  # start-up time
    from evalhpc.workflow.submit.models import gpus_of_site, inspect_checkpoint  # start-up time

    node = GpuNode(gpu_memory, gpus_per_node) if gpu_memory else None
    if site is not None and node is None:
        node = gpus_of_site(site, os.environ)
    found = inspect_checkpoint(checkpoint, node)
    if as_json:
        print_json(found)
        return
    sizing = found.pop("sizing", {})
    print_table(("property", "value"), [(k, _plain(v)) for k, v in found.items()])
    for line in sizing.get("lines", ()):
        click.echo(line)


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return "; ".join(map(str, value))
    return "" if value is None else str(value)
