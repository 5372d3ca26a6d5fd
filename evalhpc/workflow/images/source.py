"""Where an image comes from: a registry, through the runtime's tool, or a file."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from evalhpc import process
from evalhpc.containers.image_files import image_format
from evalhpc.containers.importers import Importer, failure, importers_for, scratch_folders
from evalhpc.containers.references import Reference, parse_reference
from evalhpc.errors import ConfigError, StorageError
from evalhpc.models.image import ImageFormat, ImageRecord, ImportWish
from evalhpc.storage.atomic import file_hash, storage_errors, write_all
from evalhpc.storage.images import ImageStore, check_space, readable

log = logging.getLogger(__name__)

_LOOK_SECONDS, _REPORT_SECONDS = 0.1, 60.0
_BLOCK = 4 << 20
#: Beside an image: its record, and the slack of a file system.
_SLACK = 1 << 20


class Source:
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
            fitting(self.wish, path)
            _space(folder, self.size + _SLACK, f"a copy of {path}", "container.image_dir")
            return
        importer = _installed(self.wish.runtime, self.environ)
        places = {"container.image_dir": str(folder)}
        places |= scratch_folders(importer, self.environ, enroot_configuration(self.environ))
        for key, place in places.items():
            _space(Path(place), self.wish.need, f"importing {self.reference}", key)

    def make(self, target: Path) -> tuple[str, str]:
        """Write the image to the new file `target`; (tool, SHA-256)."""
        if self.image is None:
            return "copy", copied(Path(self.reference), target)
        importer = _installed(self.wish.runtime, self.environ)
        _run(importer, self.image, target, self.environ)
        with storage_errors(target):
            return importer.program, file_hash(target)


def fitting(wish: ImportWish, path: Path) -> ImageFormat:
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


def enroot_folder(environ: Mapping[str, str]) -> Path:
    """Where the administrator configures enroot."""
    return Path(environ.get("ENROOT_SYSCONF_PATH", "/etc/enroot"))


def enroot_configuration(environ: Mapping[str, str]) -> str:
    """What the administrator told enroot; empty where there is no enroot."""
    folder = enroot_folder(environ)
    texts = []
    for path in (folder / "enroot.conf", *sorted(folder.glob("enroot.conf.d/*.conf"))):
        try:
            texts.append(path.read_text(errors="replace"))
        except OSError:
            continue  # without it the tool's defaults are checked
    return "\n".join(texts)


def copied(source: Path, target: Path) -> str:
    """Copy to the new file `target`; returns the SHA-256. Raises StorageError."""
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
