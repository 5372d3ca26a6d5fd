"""Finding runs: by path, or by id below the run roots of the sites in use."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path

from evalhpc.config.sites import list_sites, load_site
from evalhpc.errors import EvalhpcError, UsageError
from evalhpc.models.base import Frozen
from evalhpc.paths import RunPaths
from evalhpc.storage.atomic import storage_errors
from evalhpc.workflow.record.run import Run, open_run
from evalhpc.workflow.watch.status import run_status

ROOT_VARIABLE = "EVALHPC_RUN_ROOT"


class RunRow(Frozen):
    """One line of `evalhpc ls runs`."""

    run_id: str
    run_dir: str
    state: str
    site: str
    model: str
    benchmarks: tuple[str, ...]


def run_roots(env: Mapping[str, str]) -> list[Path]:
    """Where runs are: $EVALHPC_RUN_ROOT, or the `run_root` of every site that validates.

    One with a variable that is not set here is another cluster's.
    """
    if env.get(ROOT_VARIABLE):
        return [expanded(env[ROOT_VARIABLE])]
    usable = [entry.name for entry in list_sites(env) if not entry.error]
    roots = [expanded(load_site(name, env).site.run_root) for name in usable]
    return list(dict.fromkeys(root for root in roots if "$" not in str(root)))


def expanded(path: str) -> Path:
    """`path` with ~ and $VARIABLES filled in, absolute."""
    return Path(os.path.expandvars(path)).expanduser().absolute()


def find_run(name: str, env: Mapping[str, str]) -> Run:
    """The run in directory `name`, or with that id below the run root."""
    direct = Path(name).expanduser()
    if _is_run(direct) or os.sep in name:
        return open_run(direct)
    roots = run_roots(env)
    for root in roots:
        if _is_run(root / name):
            return open_run(root / name)
    known = [path.name for root in roots for path in run_dirs(root)]
    near = difflib.get_close_matches(name, known, n=1)
    raise UsageError(
        f"there is no run {name!r} here or in {', '.join(map(str, roots))}"
        + (f"; perhaps you meant {near[0]!r}?" if near else ""),
        cause="a run directory elsewhere (--run-dir)",
        hint="evalhpc ls runs, or give the run's directory",
    )


def list_runs(root: Path | None, env: Mapping[str, str]) -> list[RunRow]:
    """Every run below `root` (default: the run roots), by name."""
    if root is not None and not root.is_dir():
        raise UsageError(f"there is no folder {root}", hint="evalhpc ls runs, without --root")
    roots = [root] if root is not None else run_roots(env)
    return [_row(path) for place in roots for path in run_dirs(place)]


def run_dirs(root: Path) -> list[Path]:
    """The run directories in `root`, by name; none where there is no such folder."""
    if not root.is_dir():
        return []
    with storage_errors(root):
        return sorted(path for path in root.iterdir() if _is_run(path))


def _is_run(path: Path) -> bool:
    # Of other users' folders below a shared root, os.access says no where is_file would raise.
    return os.access(RunPaths(path).spec, os.R_OK)


def _row(path: Path) -> RunRow:
    try:
        run = open_run(path)
        state: str = run_status(run).state
    except EvalhpcError as error:
        # One broken run must not hide the others.
        return RunRow(
            run_id=path.name, run_dir=str(path), state=f"unreadable: {error.what}",
            site="", model="", benchmarks=(),
        )  # fmt: skip
    return RunRow(
        run_id=path.name,
        run_dir=str(path),
        state=state,
        site=run.spec.site.name,
        model=run.spec.model.model_id,
        benchmarks=tuple(b.name for b in run.spec.benchmarks),
    )
