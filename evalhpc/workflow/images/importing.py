"""Importing an image into a site's store: once, under a lock, whole or not at all."""

from __future__ import annotations

import getpass
import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from evalhpc.containers.image_files import SUFFIXES
from evalhpc.models.image import ImageRecord, ImportWish
from evalhpc.storage.atomic import storage_errors
from evalhpc.storage.images import ImageStore, file_name
from evalhpc.workflow.images.source import Source, copied, fitting

log = logging.getLogger(__name__)

#: How long somebody else's import of the same image is waited for, in seconds.
LOCK_WAIT = 4 * 3600.0


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
    source = Source(wish, environ)
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


def _made(store: ImageStore, source: Source) -> ImageRecord:
    with store.workspace(source.key) as work:
        temporary = work / "image"
        log.info("importing %s into %s", source.reference, store.root)
        tool, sha256 = source.make(temporary)
        kind = fitting(source.wish, temporary)
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
            copied(store.path(found), work / "image")
        store.add(work / "image", record)
    return record


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())  # a user whom this node's directory does not know


def now() -> str:
    """The time in UTC, such that later ones sort behind earlier ones."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
