"""Staging: what a benchmark needs is copied into the run directory at submission.

Compute nodes often have no internet and no shared cache; a run directory with its own task
definitions and data can also be read, checked and run again years later.

    RUN/tasks/<benchmark>/    task.yaml data.jsonl, and a copy of the user's own definitions
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from evalhpc.errors import StorageError, UsageError
from evalhpc.harness.catalogue import DataFile, TaskEntry, definition_path, list_tasks
from evalhpc.models.suite import Benchmark


def stage_tasks(benchmarks: Sequence[Benchmark], folder: Path) -> tuple[Path, ...]:
    """Give each benchmark a folder of its name in `folder`; returns every file there, sorted.

    A catalogue task with a definition of ours gets `task.yaml` and its data as `data.jsonl`;
    `params.include_path` is copied whole. Other tasks are the harness's own: an empty folder.
    Raises UsageError for a missing package or folder, StorageError if `folder` cannot be written.
    """
    tasks = {(entry.harness, entry.task): entry for entry in list_tasks().values()}
    try:
        for benchmark in benchmarks:
            target = folder / benchmark.name
            target.mkdir(parents=True, exist_ok=True)
            if benchmark.params.include_path is not None:
                _copy_definitions(Path(benchmark.params.include_path), target)
            entry = tasks.get((benchmark.harness, benchmark.task))
            if entry is not None:
                _stage_entry(entry, target)
    except OSError as error:
        raise StorageError(f"cannot stage tasks in {folder}: {error}") from error
    return tuple(sorted(path for path in folder.rglob("*") if path.is_file()))


def _stage_entry(entry: TaskEntry, target: Path) -> None:
    definition = definition_path(entry)
    if definition is None or entry.data is None:
        return
    data = target / "data.jsonl"
    shutil.copyfile(_data_path(entry.data), data)
    task = yaml.safe_load(definition.read_text(encoding="utf-8"))
    # Absolute: the harness resolves a relative name against wherever it happens to be started.
    task["dataset_kwargs"] = {"data_files": {task["test_split"]: str(data.resolve())}}
    text = yaml.safe_dump(task, sort_keys=False)  # in ASCII: PyYAML would lose a U+0085
    (target / "task.yaml").write_text(text, encoding="utf-8")


def _data_path(data: DataFile) -> Path:
    spec = importlib.util.find_spec(data.package)
    if spec is None or spec.origin is None:
        raise UsageError(
            f"the Python package {data.package!r}, which holds the data of this task, is missing",
            hint="pip install 'evalhpc[demo]'",
        )
    path = Path(spec.origin).parent / data.file
    if not path.is_file():
        raise UsageError(
            f"the Python package {data.package!r} has no file {data.file}",
            cause="another version of it is installed",
            hint="pip install --upgrade 'evalhpc[demo]'",
        )
    return path


def _copy_definitions(source: Path, target: Path) -> None:
    if not source.is_dir():
        raise UsageError(
            f"include_path is not a folder: {source}",
            hint=f"ls -ld {source}",
        )
    if Path(os.path.realpath(target)).is_relative_to(os.path.realpath(source)):
        raise UsageError(
            f"include_path {source} holds the run directory, into which it would be copied",
            hint="put the task definitions into a folder of their own, or choose another --run-dir",
        )
    for path in source.rglob("*"):
        if any("\ud800" <= char <= "\udfff" for char in path.name):
            raise UsageError(
                f"a name in include_path is not UTF-8: {str(path)!a}",
                hint="rename the file: every file of a run is listed by name",
            )
    ignore = shutil.ignore_patterns("__pycache__", ".git", "*.pyc")
    shutil.copytree(source, target, ignore=ignore, dirs_exist_ok=True)
