"""`evalhpc submit`, `evalhpc estimate` and `evalhpc render`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from evalhpc.cli.estimate import estimate_lines, show_estimate, show_notes
from evalhpc.cli.output import fitted, print_json
from evalhpc.cli.values import budget, folder, word

if TYPE_CHECKING:
    from evalhpc.models.runspec import RunSpec
    from evalhpc.workflow.record.run import Run
    from evalhpc.workflow.submit.run_directory import Prepared

F = TypeVar("F", bound=Callable[..., Any])

_text = partial(click.option, callback=word)

_OPTIONS = (
    _text("--site", help="Site file to use, by name or path. Default: by host name."),
    _text("--model", help="Checkpoint folder, .gguf file, or a demo name."),
    _text("--endpoint", metavar="URL", help="An OpenAI-compatible server that is up."),
    _text("--model-id", help="The name that requests carry in their `model` field."),
    _text("--api-key-env", metavar="NAME", help="Variable that holds the endpoint's key."),
    click.option(
        "--with", "others", metavar="NAME=WHERE[,KEY=VALUE...]", multiple=True,
        help="A judge, user simulator or embedder beside the model: a checkpoint or URL, with "
        "model_id, api_key_env, kind (chat, completions, embeddings, rerank) or concurrency.",
    ),
    _text("--suite", help="Suite by name, or a YAML file."),
    _text("--tasks", help="Comma-separated tasks, instead of a suite."),
    click.option("--shards", type=click.IntRange(min=1), help="Array tasks."),
    click.option("--limit", type=click.IntRange(min=1), help="First N documents of each task."),
    click.option(
        "--set", "sets", metavar="KEY=VALUE", multiple=True,
        help="Override one setting, e.g. run.concurrency=4. May be repeated.",
    ),
    click.option(
        "--miss",
        type=click.Choice(["stub", "forward", "wait"]),
        help="What a request without an answer gets in pass 0: a stub, or the model's answer, "
        "from one shard (forward) or from all (wait).",
    ),
    click.option(
        "--schedule",
        type=click.Choice(["dynamic", "static"]),
        help="Shards lease work as they get on, or have a fixed slice each.",
    ),
    click.option(
        "--shard-by",
        type=click.Choice(["requests", "samples"]),
        help="Shards answer requests, or run the harness itself on a slice of the documents.",
    ),
    click.option(
        "--max-gpu-hours", type=float, callback=budget, metavar="H",
        help="Submit nothing that may use more, in all rounds together.",
    ),
    click.option("--run-dir", type=click.Path(), callback=folder, help="Default: RUN_ROOT/ID."),
    _text("--name", help="Begins the run's id. Default: suite and model."),
    click.option("--json", "as_json", is_flag=True, help="Print data instead of prose."),
)  # fmt: skip


def _with_options(command: F) -> F:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command(
    epilog="\b\nExample:\n"
    "  evalhpc submit --model smollm2-135m --suite demo --shards 4 --wait\n"
    "  evalhpc submit --site eos --model /path/ckpt --tasks gsm8k,ifeval --shards 16\n"
    "  evalhpc submit --model ckpt/ --suite arena.yaml --with judge=https://HOST/v1,model_id=ID\n"
    "  (what a site leaves open, such as the account, is asked for by name)",
)
@_with_options
@click.option("--wait", is_flag=True, help="Show progress until the run ends; its exit code.")
@click.option("--dry-run", is_flag=True, help="Write and print every script; submit nothing.")
@click.option("--no-preflight", is_flag=True, help="Leave out the check of space, python and data.")
def submit(wait: bool, dry_run: bool, no_preflight: bool, as_json: bool, **options: Any) -> None:
    """Evaluate a model: render the scripts, submit the jobs, merge the shards.

    Without --model the demo model runs, without --suite and --tasks the demo suite.
    """
    from evalhpc.workflow.submit.estimate import estimate as estimated  # start-up time
    from evalhpc.workflow.submit.estimate import start
    from evalhpc.workflow.submit.launch import launch
    from evalhpc.workflow.submit.preflight import preflight
    from evalhpc.workflow.submit.prepare import prepare
    from evalhpc.workflow.submit.wish import Wish

    wish = Wish(**_merged(options))
    prepared = _warned(prepare(wish, os.environ))
    if dry_run:
        _show_scripts(prepared.run, as_json)
        return
    run = prepared.run
    starts = []
    with prepared.submitting():
        if not no_preflight:
            _warn(preflight(run, os.environ, wish))
        found = estimated(run, os.environ)
        jobs = launch(run, lambda kind, answer: starts.append(start(kind, answer)))
    found = found.model_copy(update={"queue": tuple(starts)})
    show_notes(found)
    if not as_json:
        click.echo(f"run {run.spec.run_id} in {run.paths.root}")
        for line in serving_lines(run.spec):
            click.echo(f"  {line}")
        for job in jobs:
            which = "job" if job.scheduler == "slurm" else "process"
            click.echo(f"  {job.kind}: {which} {job.id}{fitted(job.walltime, job.why)}")
        for line in estimate_lines(found):
            click.echo(f"  {line}")
    elif not wait:
        print_json(
            {
                "run_id": run.spec.run_id,
                "run_dir": str(run.paths.root),
                "hash": run.hash,
                "jobs": [job.model_dump() for job in jobs],
                "deployments": {
                    name: served.deployment.model_dump(mode="json")
                    for name, served in run.spec.served().items()
                },
                "estimate": found.model_dump(mode="json"),
            }
        )
    if wait:
        from evalhpc.cli.follow import follow  # start-up time

        sys.exit(follow(run, as_json=as_json))
    if not as_json:
        click.echo(f"next: evalhpc status {run.word}")


def serving_lines(spec: RunSpec) -> Iterator[str]:
    """What serves each endpoint, in which sizes, and why."""
    for name, served in spec.served().items():
        model, deployment = served.model, served.deployment
        yield f"{name}: {model.model_id} ({model.format}), served by {deployment.kind}"
        for reason in deployment.reasons:
            yield f"  {reason}"


@click.command(
    epilog="\b\nExample:\n  evalhpc render --site devcluster --model ckpt/ --tasks gsm8k_demo",
)
@_with_options
def render(as_json: bool, **options: Any) -> None:
    """Write and print every script that `submit` would run; submit nothing."""
    from evalhpc.workflow.submit.prepare import prepare  # start-up time
    from evalhpc.workflow.submit.wish import Wish

    _show_scripts(_warned(prepare(Wish(**_merged(options)), os.environ)).run, as_json)


@click.command(
    epilog="\b\nExample:\n"
    "  evalhpc estimate --site eos --model /path/ckpt --tasks gsm8k --shards 16",
)
@_with_options
def estimate(as_json: bool, **options: Any) -> None:
    """GPU-hours, time and place in the queue of what `submit` would do; submit nothing.

    No run directory is made. What `submit` would refuse is refused after the figures.
    """
    from evalhpc.workflow.submit.estimate import estimate_wish  # start-up time
    from evalhpc.workflow.submit.wish import Wish

    wished = estimate_wish(Wish(**_merged(options)), os.environ)
    _warn(wished.warnings)
    show_notes(wished.estimate)
    if as_json:
        print_json(wished.estimate.model_dump(mode="json"))
    else:
        show_estimate(wished.estimate)
    wished.refuse()


def _warned(prepared: Prepared) -> Prepared:
    _warn(prepared.warnings)
    return prepared


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        click.secho("warning: ", fg="yellow", bold=True, nl=False, err=True)
        click.echo(warning, err=True)


def _merged(options: dict[str, Any]) -> dict[str, Any]:
    """`--miss X` is `--set run.miss=X` with a name of its own; so are the others here."""
    for name in ("miss", "schedule", "shard_by", "max_gpu_hours"):
        value = options.pop(name)
        if value is not None:
            options["sets"] = (*options["sets"], f"run.{name}={value}")
    return options


def _show_scripts(run: Run, as_json: bool) -> None:
    scripts = sorted(run.paths.scripts.iterdir())
    if as_json:
        print_json(
            {
                "run_id": run.spec.run_id,
                "run_dir": str(run.paths.root),
                "scripts": {path.name: path.read_text() for path in scripts},
            }
        )
        return
    for path in scripts:
        click.secho(f"# ===== {path}", bold=True)
        click.echo(path.read_text())
    click.echo(f"nothing was submitted; the scripts are in {run.paths.scripts}")
