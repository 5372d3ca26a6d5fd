"""What a node is to load for `site check --node`: benchmarks, as runs that nobody submits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from evalhpc.config.yaml_files import dump_yaml
from evalhpc.errors import EvalhpcError
from evalhpc.models.checkpoint import Model
from evalhpc.models.node_check import NodeLoads
from evalhpc.models.runspec import RunSpec, Served
from evalhpc.models.stage import StageRecord
from evalhpc.paths import RunPaths
from evalhpc.storage.atomic import storage_errors, write_text
from evalhpc.storage.stage import StageFolder
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.site.checks import Check, failed
from evalhpc.workflow.stage.stage import stand_in
from evalhpc.workflow.submit.prepare import fill_run, resolve_wish
from evalhpc.workflow.submit.wish import Wish

#: Of each benchmark; its data sets are loaded whole all the same.
DOCUMENTS = 2


@dataclass(frozen=True)
class _Group:
    """Benchmarks that one run can hold: they share harness, model and endpoints."""

    label: str
    wish: Wish
    model: Model | None = None  # None: what the wish says
    endpoints: tuple[tuple[str, str], ...] = ()  # name → model id, beside the model


def write_loads(
    asked: Wish, stage_dir: str | None, folder: Path, environ: Mapping[str, str]
) -> tuple[tuple[NodeLoads, ...], list[Check]]:
    """Run directories below `folder`, and a failed check for each that cannot be made.

    They hold the suite or tasks of the wish, or, where it names none, all that is staged.
    """
    loads, checks = [], []
    for number, group in enumerate(_groups(asked, stage_dir, folder)):
        root = folder / f"load-{number}"
        try:
            spec, warnings = _resolved(group, environ)
            with storage_errors(root):
                root.mkdir(mode=0o700)
            fill_run(Run(RunPaths(root), spec, spec.digest()), warnings)
        except EvalhpcError as error:
            checks.append(failed(f"data of {group.label}", error))
            continue
        names = tuple(benchmark.name for benchmark in spec.benchmarks)
        loads.append(NodeLoads(run_dir=str(root), benchmarks=names))
    return tuple(loads), checks


def _groups(asked: Wish, stage_dir: str | None, folder: Path) -> Iterator[_Group]:
    if asked.suite or asked.tasks:
        yield _Group(asked.suite or asked.tasks or "", asked)
    elif stage_dir is not None and Path(stage_dir).is_dir():
        yield from _staged(asked, StageFolder(Path(stage_dir)).all_records(), folder)


def _staged(asked: Wish, records: Iterable[StageRecord], folder: Path) -> Iterator[_Group]:
    groups: dict[Any, list[StageRecord]] = {}
    for record in records:
        shared = tuple(sorted(record.endpoints.items()))
        key = (record.harness, record.model_id, record.tokenizer, shared)
        groups.setdefault(key, []).append(record)
    for number, ((harness, model_id, tokenizer, shared), found) in enumerate(groups.items()):
        path = folder / f"staged-{number}.yaml"
        write_text(path, dump_yaml({"name": "check", "benchmarks": list(_benchmarks(found))}))
        model = stand_in(None).model_copy(update={"model_id": model_id, "tokenizer": tokenizer})
        wish = Wish(site=asked.site, suite=str(path), limit=DOCUMENTS)
        yield _Group(f"{harness}: {len(found)} benchmarks", wish, model, shared)


def _benchmarks(records: Iterable[StageRecord]) -> Iterator[dict[str, Any]]:
    """As a suite lists them; a name that was staged twice, with other parameters, gets a number."""
    names: set[str] = set()
    for record in records:
        name = record.benchmark
        if name in names:
            name = next(n for i in count(2) if (n := f"{record.benchmark[:90]}-{i}") not in names)
        names.add(name)
        params = record.params.model_dump(mode="json", exclude_defaults=True, exclude={"limit"})
        yield {"name": name, "harness": record.harness, "task": record.task, "params": params}


def _resolved(group: _Group, environ: Mapping[str, str]) -> tuple[RunSpec, tuple[str, ...]]:
    replace = stand_in if group.model is None else lambda _: group.model or stand_in(None)
    spec, warnings = resolve_wish(group.wish, environ, replace)
    more = {
        name: Served(
            model=stand_in(None).model_copy(update={"model_id": model_id}),
            deployment=spec.deployment,
            kinds=("chat",),
            concurrency=1,
        )
        for name, model_id in group.endpoints
    }
    return spec.model_copy(update={"endpoints": {**spec.endpoints, **more}}), warnings
