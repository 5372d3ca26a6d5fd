"""A site's store of images: digest-named files, each with a record, and nothing half-made.

IMAGE_DIR/
  <name>+<16 digits>.sqsh       an image; its name says its content
  <name>+<16 digits>.sqsh.json  its record (models.image.ImageRecord)
  .<key>.lock                   held by whoever imports from one source
  .import-<key>.*/              an import under way
  .job-<name>-<time>-*/         script, wish, log and outcome of an import as a job
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from evalhpc.errors import StorageError
from evalhpc.models.image import ImageRecord
from evalhpc.storage.atomic import publish, storage_error, storage_errors, sync_folder, write_json
from evalhpc.storage.locks import exclusive

#: Images are for everybody who may read the folder; nobody is to write into one.
_IMAGE_MODE, _RECORD_MODE, _LOCK_MODE, _FOLDER_MODE = 0o444, 0o644, 0o666, 0o755
_RECORD = ".json"


class ImageStore:
    """The images of one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def records(self) -> list[ImageRecord]:
        """Every readable record, the newest first, whether or not its file is there."""
        found = [record_of(path.with_suffix("")) for path in self._names(f"*{_RECORD}")]
        return sorted(
            (record for record in found if record), key=lambda r: (r.imported, r.file), reverse=True
        )

    def path(self, record: ImageRecord) -> Path:
        """Where the image of `record` is."""
        return self.root / record.file

    def present(self, record: ImageRecord) -> bool:
        """Whether the file is there in its recorded size."""
        try:
            return self.path(record).stat().st_size == record.bytes
        except FileNotFoundError:
            return False
        except OSError as error:
            raise storage_error(self.path(record), error) from error

    def unrecorded(self) -> list[Path]:
        """Image files without a record: put there by hand, or of an import that just began."""
        kept = {record.file for record in self.records()}
        return [p for suffix in ("sqsh", "sif") for p in self._names(f"*.{suffix}")
                if p.name not in kept]  # fmt: skip

    def leftovers(self) -> list[Path]:
        """What killed imports left: work folders, locks, records without a file; by name.

        Those of an import under way are among them: `locked` tells.
        """
        recorded = [self.root / (r.file + _RECORD) for r in self.records() if not self.present(r)]
        return sorted([*self._names(".import-*"), *self._names(".*.lock"), *recorded])

    def jobs(self) -> list[Path]:
        """The folders of imports as jobs, whether they have ended or not."""
        return self._names(".job-*")

    def new_job(self, name: str) -> Path:
        """The name of a fresh folder for an import as a job."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        return self.root / f".job-{name}-{stamp}-{secrets.token_hex(3)}"

    def now(self) -> float:
        """The time that a file changed here now would bear; raises StorageError.

        What other machines wrote is compared with that, not with this machine's clock: most file
        servers stamp files themselves. (Lustre takes the writer's time: there, a margin helps.)
        """
        with storage_errors(self.root), tempfile.TemporaryFile(dir=self.root) as file:
            file.write(b"\0")
            file.flush()
            os.fsync(file.fileno())  # an NFS client shows its own time until the server's is known
            return os.fstat(file.fileno()).st_mtime

    def make(self) -> None:
        """Create the folder, for everybody to read; raises StorageError."""
        with storage_errors(self.root):
            if not self.root.is_dir():
                self.root.mkdir(parents=True, exist_ok=True)
                self.root.chmod(_FOLDER_MODE)

    @contextmanager
    def locked(self, key: str, wait: float = 0.0, *, keep: bool = False) -> Iterator[bool]:
        """The right to import `key`; StorageError if another has it for more than `wait` seconds.

        The block is told whether the file system has locks at all. The lock file goes with the
        lock, unless it is to be kept.
        """
        busy = f"another import of {key} into {self.root} is under way"
        cause = f"{', '.join(path.name for path in self._work(key)) or 'it has just begun'}"
        with exclusive(self._lock(key), busy, wait=wait, mode=_LOCK_MODE, cause=cause) as held:
            try:
                yield held
            finally:
                if held and not keep:
                    self._lock(key).unlink(missing_ok=True)

    def has_lock(self, key: str) -> bool:
        """Whether there is a lock file for `key`, held or not."""
        return self._lock(key).exists()

    @contextmanager
    def workspace(self, key: str) -> Iterator[Path]:
        """A fresh folder in the store, so that a rename publishes from it; gone afterwards."""
        host = os.uname().nodename.partition(".")[0]
        with storage_errors(self.root):
            folder = tempfile.mkdtemp(prefix=f".import-{key}.{host}.{os.getpid()}.", dir=self.root)
        try:
            yield Path(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def clear(self, key: str) -> None:
        """Remove what killed imports of `key` left; only for the holder of its lock."""
        for folder in self._work(key):
            shutil.rmtree(folder, ignore_errors=True)

    def add(self, temporary: Path, record: ImageRecord) -> None:
        """Publish the finished file under the record's name; raises StorageError.

        The record comes first: a file without one is then no image of ours, and one that is
        there already is left alone, because containers may be running from it.
        """
        path = self.path(record)
        with storage_errors(path):
            write_json(path.with_name(path.name + _RECORD), record.model_dump(mode="json"))
            path.with_name(path.name + _RECORD).chmod(_RECORD_MODE)
            if self.present(record):
                return
            temporary.chmod(_IMAGE_MODE)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            publish(temporary, path)

    def update(self, record: ImageRecord) -> None:
        """Write the record anew; raises StorageError."""
        path = self.root / (record.file + _RECORD)
        with storage_errors(path):
            write_json(path, record.model_dump(mode="json"))
            path.chmod(_RECORD_MODE)

    def remove(self, path: Path) -> None:
        """Remove an image with its record, or one of `leftovers`; raises StorageError."""
        with storage_errors(path):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                # The image goes first: a record without its file counts as nothing.
                path.unlink(missing_ok=True)
                path.with_name(path.name + _RECORD).unlink(missing_ok=True)
            sync_folder(self.root)

    def _lock(self, key: str) -> Path:
        return self.root / f".{key}.lock"

    def _work(self, key: str) -> list[Path]:
        # The key of another image may begin alike, but no key holds the host's dots and digits.
        pattern = re.compile(rf"\.import-{re.escape(key)}\.[^.]*\.\d+\.[^.]+")
        return [path for path in self._names(".import-*") if pattern.fullmatch(path.name)]

    def _names(self, pattern: str) -> list[Path]:
        try:
            return sorted(self.root.glob(pattern)) if self.root.is_dir() else []
        except OSError as error:
            raise storage_error(self.root, error) from error


def file_name(name: str, sha256: str, suffix: str) -> str:
    """`<name>+<first 16 digits>.sqsh`: no character that srun, a mount or a shell would read."""
    return f"{name}+{sha256[:16]}{suffix}"


def record_of(image: Path) -> ImageRecord | None:
    """The record beside an image; None where there is none, or none that can be read."""
    try:
        text = (image.parent / f"{image.name}{_RECORD}").read_bytes()
        record = ImageRecord.model_validate_json(text)
    except (FileNotFoundError, PermissionError, NotADirectoryError, ValidationError):
        return None  # then the image has no known digest, which its reader says
    except OSError as error:
        raise storage_error(image, error) from error
    return record if record.file == image.name else None


def check_space(folder: Path, need: int, purpose: str, hint: str) -> None:
    """Raises StorageError unless `need` bytes are free where `folder` is, or will be."""
    existing = next(path for path in (folder, *folder.parents) if path.is_dir())
    with storage_errors(existing):
        space = os.statvfs(existing)
    free = space.f_bavail * space.f_frsize
    if free < need:
        raise StorageError(
            f"no space for {purpose}: {readable(free)} free in {folder}, {readable(need)} needed",
            cause="the file system is full, or too small for images",
            hint=hint,
        )


def readable(size: float) -> str:
    """`12.3 GB` for bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
