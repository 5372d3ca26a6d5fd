"""The directory of a new run: made ours, submitted once, and undone when that fails."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evalhpc.core.quoting import shell_word
from evalhpc.errors import StorageError
from evalhpc.models.runspec import RunSpec
from evalhpc.paths import RunPaths
from evalhpc.slurm.chain import LeftBehind
from evalhpc.storage.atomic import is_there, storage_errors, sync_folder
from evalhpc.storage.locks import exclusive
from evalhpc.workflow.record.run import Run, open_run

#: The directory itself was made, or filled, or it was rendered before.
Undo = Literal["folder", "contents", "nothing"]
_BUSY = "another evalhpc command is at work on this run"


@dataclass(frozen=True)
class Prepared:
    """A run directory that is ready to be submitted."""

    run: Run
    undo: Undo  # what goes again when the submission fails
    warnings: tuple[str, ...] = ()  # of the checkpoint: what does not stop a run

    @contextmanager
    def rendering(self) -> Iterator[None]:
        """Within the block, nobody else fills or submits it; undone if the block fails."""
        paths = self.run.paths
        with self._undone_on_failure(), exclusive(paths.control_lock, _BUSY):
            if is_there(paths.jobs):
                raise _submitted(self.run, same=True)
            yield

    @contextmanager
    def submitting(self) -> Iterator[None]:
        """Within the block, the one submission that this directory ever has; undone if it fails.

        StorageError for a second one at the same time, which undoes nothing.
        """
        paths = self.run.paths
        _begin_submission(self.run)
        try:
            with self._undone_on_failure(), exclusive(paths.control_lock, _BUSY, wait=60):
                _refuse_mixed(self.run)
                yield
        except LeftBehind:
            raise
        except BaseException:
            paths.jobs.unlink(missing_ok=True)  # it is only rendered again
            raise

    @contextmanager
    def _undone_on_failure(self) -> Iterator[None]:
        """Removes what this call made of the directory if the block fails.

        Not where jobs may have been left in the queue: the directory is how they are found.
        """
        try:
            yield
        except LeftBehind as error:
            word = self.run.word
            error.hint = (
                f"once Slurm answers (scontrol ping): evalhpc cancel {word}, which finds them, "
                f"then evalhpc resume {word}"
            )
            raise
        except BaseException as error:
            self._undo()
            if isinstance(error, StorageError):
                # What it says to look at is gone.
                root = self.run.paths.root
                error.hint = re.sub(rf"{re.escape(str(root))}[^\s;]*", str(root.parent), error.hint)
            raise

    def _undo(self) -> None:
        root = self.run.paths.root
        if self.undo == "folder":
            shutil.rmtree(root, ignore_errors=True)
        elif self.undo == "contents":
            _empty(root)


def claim(root: Path, spec: RunSpec) -> Undo:
    """Make the directory ours; what to undo of it. A run that was submitted is never reused."""
    with storage_errors(root):
        _make_parents(root.parent)
        try:
            root.mkdir(mode=0o700)
            return "folder"
        except FileExistsError:
            _refuse_others(root)
        if root.is_dir() and not any(root.iterdir()):
            return "contents"
    if not RunPaths(root).spec.is_file():
        raise StorageError(
            f"{root} exists and is no run directory",
            cause="a folder with other files in it, or a submission that was killed at its start",
            hint=f"ls -la {shell_word(str(root))}; choose another --run-dir, or remove it",
        )
    other = open_run(root)
    if is_there(other.paths.jobs):
        raise _submitted(other, same=other.hash == spec.digest())
    return "nothing"  # rendered only: this submission takes it over


def _begin_submission(run: Run) -> None:
    """Make the record of jobs, which nobody else can from now on; StorageError if it is there."""
    with storage_errors(run.paths.jobs):
        try:
            run.paths.jobs.open("x").close()
            sync_folder(run.paths.root)
        except FileExistsError:
            raise _submitted(run, same=True) from None


def _refuse_mixed(run: Run) -> None:
    """Raises StorageError where another wish was rendered here between our scripts and our jobs."""
    if open_run(run.paths.root).hash != run.hash:
        raise StorageError(
            f"{run.paths.root} was rendered anew meanwhile, for another run",
            cause="two submissions with the same --run-dir",
            hint="choose another --run-dir",
        )


def _submitted(run: Run, *, same: bool) -> StorageError:
    root = run.paths.root
    return StorageError(
        f"{root} holds {'this very run' if same else 'another run'}, submitted before",
        cause="same model, suite and settings" if same else "--run-dir was used before",
        hint=f"evalhpc status {run.word}"
        + (f", evalhpc resume {run.word}, or --name for a second run" if same else ""),
    )


def _refuse_others(root: Path) -> None:
    """Raises StorageError for a folder into which somebody else could put links or scripts."""
    status = root.stat()
    if status.st_uid != os.geteuid() or status.st_mode & stat.S_IWOTH:
        raise StorageError(
            f"{root} is another user's, or everybody may write to it",
            cause="whoever can change its files decides what the jobs of this run do",
            hint=f"ls -ld {shell_word(str(root))}; choose another --run-dir, or: "
            f"chmod o-w {shell_word(str(root))}",
        )


def _make_parents(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise StorageError(
            f"cannot create {folder}: a part of the path is not a folder",
            cause="a file, or a link to nothing, is in the way",
            hint=f"namei -l {folder}",
        ) from error


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
