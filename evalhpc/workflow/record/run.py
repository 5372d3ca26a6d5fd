"""An opened run: its directory, its frozen spec, and the hash that both stand for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evalhpc.config.run_file import read_frozen
from evalhpc.core.quoting import shell_word
from evalhpc.errors import ConfigError, StorageError
from evalhpc.models.runspec import RunSpec
from evalhpc.models.suite import Benchmark
from evalhpc.paths import RunPaths
from evalhpc.storage.atomic import is_there, storage_error, storage_errors

if TYPE_CHECKING:
    from evalhpc.storage.store import Store


@dataclass(frozen=True)
class Run:
    """What every verb on an existing run begins with."""

    paths: RunPaths
    spec: RunSpec
    hash: str

    @property
    def word(self) -> str:
        """Its directory as a word of a command line that a user may paste into a shell."""
        return shell_word(str(self.paths.root))

    def benchmark(self, name: str) -> Benchmark:
        """The benchmark of this name."""
        return next(b for b in self.spec.benchmarks if b.name == name)

    @property
    def plans_inline(self) -> bool:
        """Whether pass 0 belongs to the array: by choice, or because it needs the model."""
        served = self.spec.served().values()
        needs_model = self.spec.run.miss == "forward" and any(s.model.url is None for s in served)
        return self.spec.run.plan == "inline" or self.spec.run.miss == "wait" or needs_model

    @property
    def first_tasks(self) -> int:
        """How many array tasks can have work before anything is planned."""
        return 1 if self.spec.run.miss == "forward" else self.spec.run.shards

    def open_store(self) -> Store:
        """The answers merged so far; empty before the first merge."""
        # Late: HDF5 is a third of the start of commands that only look at a run, or submit one.
        from evalhpc.storage.store import Store

        if not is_there(self.paths.store):
            return Store.empty()
        return Store.open(self.paths.store, self.hash)


def open_run(root: Path) -> Run:
    """The run in `root`; raises StorageError when that is no run directory."""
    paths = RunPaths(root.absolute())
    with storage_errors(paths.spec):
        present = paths.spec.is_file()
    if not present:
        raise StorageError(
            f"{root} is not a run directory: it has no run.yaml",
            cause="a wrong path, or a submission that was stopped before it wrote anything",
            hint="list the runs of this site: evalhpc ls runs",
        )
    try:
        spec, recorded = read_frozen(paths.spec)
    except ConfigError as error:
        if isinstance(error.__cause__, OSError):
            raise storage_error(paths.spec, error.__cause__) from error
        raise
    return Run(paths, spec, recorded)
