"""The directory of a new run: made ours, submitted once, and undone when that fails."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evalhpc.core.quoting import shell_word
from evalhpc.errors import StorageError
from evalhpc.slurm.chain import LeftBehind
from evalhpc.storage.atomic import look_anew, storage_errors, sync_folder
from evalhpc.storage.locks import exclusive
from evalhpc.workflow.record.run import Run, open_run

#: The directory itself was made, or filled, or it was rendered before.
Undo = Literal["folder", "contents", "nothing"]
_BUSY = "another evalhpc command is at work on this run"
#: Seconds for which that one is waited for.
_PATIENCE = 60.0


@dataclass(frozen=True)
class Prepared:
    """A run directory that is ready to be submitted."""

    run: Run
    undo: Undo  # what goes again when the submission fails
    warnings: tuple[str, ...] = ()  # of the checkpoint: what does not stop a run

    @contextmanager
    def submitting(self) -> Iterator[None]:
        """Within the block, the one submission that this directory ever has; undone if it fails.

        StorageError for a second one at the same time, which undoes nothing.
        """
        paths = self.run.paths
        _begin_submission(self.run)
        try:
            with exclusive(paths.control_lock, _BUSY, wait=_PATIENCE):
                _refuse_mixed(self.run)
                with self._undone_on_failure():
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


@contextmanager
def filling(run: Run, warnings: tuple[str, ...] = ()) -> Iterator[Prepared]:
    """Within the block the run's directory, new or rendered before, is filled by nobody else; what
    was made of it goes if the block fails. A run that was submitted is never reused.
    """
    paths = run.paths
    made = _make(run)
    with exclusive(paths.control_lock, _BUSY, wait=_PATIENCE):
        # Whoever had the lock may have filled it, or removed it.
        prepared = Prepared(run, _undo_of(run, made=made), warnings)
        with prepared._undone_on_failure():
            yield prepared


def _make(run: Run) -> bool:
    """Whether the directory is new; StorageError for one that is somebody else's."""
    paths, root = run.paths, run.paths.root
    with storage_errors(root):
        _make_parents(root.parent)
        try:
            root.mkdir(mode=0o700)
            return True
        except FileExistsError:
            _refuse_others(root)
        names = {path.name for path in root.iterdir()} if root.is_dir() else {root.name}
    if names and not names & {paths.spec.name, paths.control_lock.name}:
        raise _no_run(root, "--run-dir names a folder with other files in it")
    _refuse_submitted(run, names)
    return False


def _undo_of(run: Run, *, made: bool) -> Undo:
    """What to undo of the directory, whose lock is ours; StorageError where another run has it."""
    paths = run.paths
    names = look_anew(paths.root)
    if paths.control_lock.name not in names:
        raise StorageError(
            f"{paths.root} was removed meanwhile",
            cause="another submission of the same run failed, and undid what it had made",
            hint="submit again",
        )
    if names == {paths.control_lock.name}:
        return "folder" if made else "contents"
    if paths.spec.name not in names:
        raise _no_run(paths.root, "a submission was killed before it had rendered its scripts")
    _refuse_submitted(run, names)
    return "nothing"  # rendered only: this submission takes it over


def _refuse_submitted(run: Run, names: Collection[str]) -> None:
    if run.paths.jobs.name in names:
        raise _submitted(run, same=open_run(run.paths.root).hash == run.hash)


def _no_run(root: Path, cause: str) -> StorageError:
    return StorageError(
        f"{root} exists and is no run directory",
        cause=cause,
        hint=f"ls -la {shell_word(str(root))}; choose another --run-dir, or remove it",
    )


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
