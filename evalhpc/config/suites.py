"""Suites: read from a file, found by name, or made of the names after `--tasks`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalhpc.config.folders import Folder, is_path, search_path
from evalhpc.config.schema import did_you_mean, drop_blank
from evalhpc.config.validation import validate
from evalhpc.config.yaml_files import load_yaml
from evalhpc.errors import ConfigError, UsageError
from evalhpc.models.site import RunSettings
from evalhpc.models.suite import Benchmark, Suite

VARIABLE = "EVALHPC_SUITE_PATH"
# Data of a sibling room: its place is known here, its code is not imported.
_SHIPPED = Path(__file__).resolve().parents[1] / "harness" / "catalogue" / "suites"
#: The longest name that a suite may have.
_NAME_LENGTH = 100


@dataclass(frozen=True)
class SuiteEntry:
    """One line of a listing; `error` says why the file cannot be used."""

    name: str
    path: Path
    description: str
    origin: str
    benchmarks: tuple[str, ...] = ()
    error: str = ""


def suite_folders(env: Mapping[str, str]) -> list[Folder]:
    """The search path for suites; the first file of a name wins."""
    return search_path("suites", VARIABLE, _SHIPPED, env)


def list_suites(env: Mapping[str, str]) -> list[SuiteEntry]:
    """Every suite by name; a file that does not validate is listed with its error."""
    entries: dict[str, SuiteEntry] = {}
    for folder in suite_folders(env):
        for path in folder.files():
            if path.stem not in entries:
                entries[path.stem] = _entry(path, folder.origin)
    return [entries[name] for name in sorted(entries)]


def load_suite(name_or_path: str, env: Mapping[str, str]) -> Suite:
    """The suite of that name, or in that file; UsageError if unknown, ConfigError if broken."""
    if is_path(name_or_path):
        return _load(Path(name_or_path).absolute())
    files: dict[str, Path] = {}
    for folder in suite_folders(env):
        for path in folder.files():
            files.setdefault(path.stem, path)
    if name_or_path not in files:
        raise UsageError(
            f"there is no suite {name_or_path!r}{did_you_mean(name_or_path, files)}",
            cause=f"the suites are {', '.join(sorted(files))}" if files else "",
            hint="name one of them, give the path of a YAML file, or use --tasks",
        )
    return _load(files[name_or_path])


def adhoc_suite(tasks: str, lookup_task: Callable[[str], Benchmark]) -> Suite:
    """The suite of `--tasks a,b`; `lookup_task` knows the catalogue and raises UsageError."""
    names = [name.strip() for name in tasks.split(",")]
    if not all(names):
        raise UsageError(
            f"--tasks {tasks}: a name is missing", hint="separate the names by single commas"
        )
    twice = repeated(names)
    if twice:
        raise UsageError(f"--tasks {tasks}: {twice!r} is named twice", hint="name each task once")
    benchmarks = tuple(lookup_task(name) for name in names)
    name = "-".join(benchmark.name for benchmark in benchmarks)
    if len(name) > _NAME_LENGTH:
        name = f"{benchmarks[0].name[:80]}-and-{len(benchmarks) - 1}-more"
    return Suite(name=name, benchmarks=benchmarks)


def repeated(names: Iterable[str]) -> str:
    """The first name that comes a second time, or ""."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return ""


def _entry(path: Path, origin: str) -> SuiteEntry:
    try:
        suite = _load(path)
    except ConfigError as error:
        return SuiteEntry(path.stem, path, "", origin, error=error.what)
    names = tuple(benchmark.name for benchmark in suite.benchmarks)
    return SuiteEntry(path.stem, path, suite.description, origin, names)


def _load(path: Path) -> Suite:
    data = drop_blank(Suite, load_yaml(path))
    data.setdefault("name", path.stem)
    for wish in data["endpoints"].values() if isinstance(data.get("endpoints"), dict) else ():
        _locate_model(wish, path.parent)
    known = (f"run.{key}" for key in RunSettings.model_fields)
    for benchmark in data["benchmarks"] if isinstance(data.get("benchmarks"), list) else ():
        _locate(benchmark, path.parent)
    suite = validate(Suite, data, str(path), known=known)
    validate(RunSettings, suite.run, f"{path}: run")
    twice = repeated(benchmark.name for benchmark in suite.benchmarks)
    if twice:
        raise ConfigError(
            f"{path}: two benchmarks are called {twice!r}",
            cause="the name is the benchmark's folder in the run directory",
            hint="give one of them another `name:`; `task:` may stay the same",
        )
    return suite


def _locate(benchmark: Any, folder: Path) -> None:
    """Make the paths of a benchmark absolute: in a suite file they are relative to the file.

    By realpath, here and below: Path.resolve raises for a link to itself.
    """
    params = benchmark.get("params") if isinstance(benchmark, dict) else None
    if not isinstance(params, dict):
        return
    for key in ("include_path", "tokenizer"):
        value = params.get(key)
        # A tokenizer may also be a name that the harness knows.
        if isinstance(value, str) and (key == "include_path" or value.startswith(("./", "../"))):
            params[key] = os.path.realpath(folder / value)


def _locate_model(wish: Any, folder: Path) -> None:
    """A checkpoint that a suite file names by a relative path lies beside the file."""
    model = wish.get("model") if isinstance(wish, dict) else None
    if isinstance(model, str) and model.startswith(("./", "../")):
        wish["model"] = os.path.realpath(folder / model)
