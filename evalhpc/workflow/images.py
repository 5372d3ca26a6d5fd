"""Importing an image into a site's store: once, under a lock, whole or not at all."""

from __future__ import annotations

import getpass
import hashlib
import logging
import os
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from evalhpc import process
from evalhpc.containers.image_files import SUFFIXES, image_format
from evalhpc.containers.importers import Importer, failure, importers_for, scratch_folders
from evalhpc.containers.references import Reference, parse_reference
from evalhpc.errors import ConfigError, StorageError
from evalhpc.models.image import ImageFormat, ImageRecord, ImportWish
from evalhpc.storage.atomic import file_hash, storage_errors, write_all
from evalhpc.storage.images import ImageStore, check_space, file_name, readable

log = logging.getLogger(__name__)

#: How long somebody else's import of the same image is waited for, in seconds.
LOCK_WAIT = 4 * 3600.0
_LOOK_SECONDS, _REPORT_SECONDS = 0.1, 60.0
_BLOCK = 4 << 20
#: Beside an image: its record, and the slack of a file system.
_SLACK = 1 << 20


@dataclass(frozen=True)
class Imported:
    """What an import came to; `fresh` if this very call made it."""

    record: ImageRecord
    path: Path
    fresh: bool


def import_image(
    wish: ImportWish, environ: Mapping[str, str], *, lock_wait: float = LOCK_WAIT
) -> Imported:
    """The image in the store, imported now unless it is there; raises EvalhpcError.

    Whoever asks while another imports the same waits for that, and gets its image.
    """
    store = ImageStore(Path(wish.image_dir))
    source = _Source(wish, environ)
    found = None if wish.again else source.find(store)
    if found is None:
        source.check(store.root)
        store.make()
        with store.locked(source.key, lock_wait) as certain:
            found = None if wish.again else source.find(store)
            if found is None:
                if certain:
                    store.clear(source.key)
                record = _made(store, source)
                return Imported(record, store.path(record), fresh=True)
    if found.name != wish.name:
        found = _named(store, found, wish.name)
    return Imported(found, store.path(found), fresh=False)


def _made(store: ImageStore, source: _Source) -> ImageRecord:
    with store.workspace(source.key) as work:
        temporary = work / "image"
        log.info("importing %s into %s", source.reference, store.root)
        tool, sha256 = source.make(temporary)
        kind = _fitting(source.wish, temporary)
        with storage_errors(temporary):
            size = temporary.stat().st_size
        record = ImageRecord(
            name=source.wish.name,
            reference=source.reference,
            file=file_name(source.wish.name, sha256, SUFFIXES[kind]),
            sha256=sha256,
            bytes=size,
            format=kind,
            tool=tool,
            imported=now(),
            imported_by=f"{_user()}@{socket.gethostname()}",
            source_mtime_ns=source.mtime_ns,
        )
        store.add(temporary, record)
        return record


def _named(store: ImageStore, found: ImageRecord, name: str) -> ImageRecord:
    """The same image under a further name: another link to the same bytes."""
    suffix = Path(found.file).suffix
    record = found.model_copy(
        update={"name": name, "file": file_name(name, found.sha256, suffix), "imported": now()}
    )
    with store.workspace(name) as work:
        try:
            os.link(store.path(found), work / "image")
        except OSError:  # another user's file, or a file system without links
            _copied(store.path(found), work / "image")
        store.add(work / "image", record)
    return record


class _Source:
    """Where an image comes from: a registry, through a tool, or a file."""

    def __init__(self, wish: ImportWish, environ: Mapping[str, str]) -> None:
        self.wish = wish
        self.environ = environ
        self.image: Reference | None = None
        self.mtime_ns: int | None = None
        if wish.path is None:
            self.image = parse_reference(wish.reference or "")
            self.reference = str(self.image)
        else:
            self.reference = wish.path
            with storage_errors(Path(wish.path)):
                found = Path(wish.path).stat()
            self.size, self.mtime_ns = found.st_size, found.st_mtime_ns

    @property
    def key(self) -> str:
        """What its lock and its work folder are called: the same for all who want this image."""
        stem = self.image.name if self.image else "file"
        return f"{stem}-{hashlib.sha256(self.reference.encode()).hexdigest()[:8]}"

    def find(self, store: ImageStore) -> ImageRecord | None:
        """The newest whole image of this source; of the wished name, where there is one."""
        same = [
            record
            for record in store.records()
            if record.reference == self.reference
            and record.source_mtime_ns == self.mtime_ns
            and (self.mtime_ns is None or record.bytes == self.size)
            and store.present(record)
        ]
        named = [record for record in same if record.name == self.wish.name]
        return next(iter([*named, *same]), None)

    def check(self, folder: Path) -> None:
        """Raises for a source that cannot be imported, and for too little space."""
        if self.image is None:
            path = Path(self.reference)
            _fitting(self.wish, path)
            _space(folder, self.size + _SLACK, f"a copy of {path}", "container.image_dir")
            return
        importer = _installed(self.wish.runtime, self.environ)
        places = {"container.image_dir": str(folder)}
        places |= scratch_folders(importer, self.environ, _configuration(self.environ))
        for key, place in places.items():
            _space(Path(place), self.wish.need, f"importing {self.reference}", key)

    def make(self, target: Path) -> tuple[str, str]:
        """Write the image to the new file `target`; (tool, SHA-256)."""
        if self.image is None:
            return "copy", _copied(Path(self.reference), target)
        importer = _installed(self.wish.runtime, self.environ)
        _run(importer, self.image, target, self.environ)
        with storage_errors(target):
            return importer.program, file_hash(target)


def _fitting(wish: ImportWish, path: Path) -> ImageFormat:
    """What kind of image it is; raises ConfigError for one that the site's runtime cannot run."""
    kind = image_format(path)
    if kind == "sif" and wish.runtime not in ("none", "apptainer"):
        raise ConfigError(
            f"{path} is a SIF file, and {wish.runtime} runs squashfs files",
            cause="it was made by Apptainer or Singularity",
            hint="apptainer sif list FILE and apptainer sif dump ID FILE > image.sqsh take its "
            "squashfs out",
        )
    return kind


def _space(folder: Path, need: int, purpose: str, key: str) -> None:
    hint = (
        f"evalhpc images prune; or set {key} to a folder on a larger disk, or --need SIZE if the "
        "image is smaller (docs/images.md)"
    )
    check_space(folder.absolute(), need, purpose, hint)


def _installed(runtime: str, environ: Mapping[str, str]) -> Importer:
    importers = importers_for(runtime)
    for importer in importers:
        if shutil.which(importer.program, path=environ.get("PATH")):
            return importer
    raise ConfigError(
        f"{importers[0].program} is not installed on {socket.gethostname()}",
        cause="it is on compute nodes only, or needs a `module load`",
        hint="set container.import_job: true, which imports in a job, or bring the image as a "
        "file: evalhpc images import /path/to/image.sqsh",
    )


def _configuration(environ: Mapping[str, str]) -> str:
    """What the administrator told enroot; empty where there is no enroot."""
    folder = Path(environ.get("ENROOT_SYSCONF_PATH", "/etc/enroot"))
    texts = []
    for path in (folder / "enroot.conf", *sorted(folder.glob("enroot.conf.d/*.conf"))):
        try:
            texts.append(path.read_text(errors="replace"))
        except OSError:
            continue  # without it the tool's defaults are checked
    return "\n".join(texts)


def _copied(source: Path, target: Path) -> str:
    digest = hashlib.sha256()
    # About the store: the source has been read before, and the target's folder goes on an error.
    with storage_errors(target.parent), source.open("rb") as reader, target.open("xb") as writer:
        while block := reader.read(_BLOCK):
            digest.update(block)
            write_all(writer.fileno(), block)
        os.fsync(writer.fileno())
    return digest.hexdigest()


def _run(importer: Importer, image: Reference, target: Path, environ: Mapping[str, str]) -> None:
    """The tool, to its end; raises EvalhpcError with what it printed."""
    output = target.with_name("import.log")
    argv = importer.argv(image, str(target))
    child = process.start(argv, log=output, env=process.scrubbed(environ), cwd=target.parent)
    report = time.monotonic() + _REPORT_SECONDS
    try:
        while (code := child.poll()) is None:
            time.sleep(_LOOK_SECONDS)
            if time.monotonic() > report:
                log.info("%s is still at work: %s", importer.program, _progress(target, output))
                report += _REPORT_SECONDS
    except BaseException:
        process.stop(child)
        raise
    if code != 0:
        raise failure(importer, image, code, output.read_text(errors="replace"))
    if not target.is_file():
        raise StorageError(
            f"{importer.program} ended well but wrote no {target}",
            cause="a wrapper around it that writes elsewhere",
            hint=f"type -a {importer.program}",
        )


def _progress(target: Path, output: Path) -> str:
    if target.is_file():
        return f"{readable(target.stat().st_size)} written"
    lines = output.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "it has printed nothing yet"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())  # a user whom this node's directory does not know


def now() -> str:
    """The time in UTC, such that later ones sort behind earlier ones."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
