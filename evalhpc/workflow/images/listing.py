"""`evalhpc images ls`: what a site's store holds, who uses it, and whether it is still the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from evalhpc.config.expand import expand
from evalhpc.containers.image_files import image_format
from evalhpc.containers.references import is_file
from evalhpc.errors import EvalhpcError, IntegrityError
from evalhpc.models.base import Frozen
from evalhpc.models.image import ImageRecord
from evalhpc.models.site import Site
from evalhpc.storage.atomic import file_hash, storage_errors
from evalhpc.storage.images import ImageStore
from evalhpc.workflow.images.importing import now
from evalhpc.workflow.record.image_sites import find_image

#: What the state of an image may be; only these two mean that it can be used as it is.
VERIFIED, WHOLE = "verified", "whole"


class ImageRow(Frozen):
    """One image of the store, or one that a key names and that is not there."""

    name: str
    reference: str = ""
    sha256: str = ""  # empty: nobody recorded one
    bytes: int = 0
    imported: str = ""
    file: str = ""
    used_by: tuple[str, ...] = ()  # harnesses and servers of the site
    state: str  # `verified` (now or before), `whole`, or what is wrong

    @property
    def good(self) -> bool:
        """Whether the file is what it should be, as far as was looked."""
        return self.state.startswith((VERIFIED, WHOLE))


def list_images(site: Site, environ: Mapping[str, str], *, verify: bool = False) -> list[ImageRow]:
    """Every image of the site's store, by name, the newest of a name first; and missing ones.

    `verify` computes every digest anew, which reads every byte.
    """
    store = ImageStore(Path(site.container.image_dir or ""))
    used, missing = users(site, store, environ)
    rows = [_row(store, record, used, verify) for record in store.records()]
    rows += [_foreign(path, used) for path in store.unrecorded()]
    rows += [
        ImageRow(name=text, used_by=(key,), state="not imported") for key, text in missing.items()
    ]
    return sorted(rows, key=lambda row: row.name)


def damaged(rows: Iterable[ImageRow]) -> list[IntegrityError]:
    """One error that names every imported image which is not what it was."""
    bad = [row for row in rows if row.sha256 and not row.good]
    if not bad:
        return []
    return [
        IntegrityError(
            "; ".join(f"{Path(row.file).name}: {row.state}" for row in bad),
            cause="somebody wrote into the store, or its disk is failing",
            hint=f"rm {bad[0].file}, then: evalhpc images import {bad[0].reference}",
        )
    ]


def users(
    site: Site, store: ImageStore, environ: Mapping[str, str]
) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """File of the store → keys of `container.images` that mean it; key → text for no such file."""
    used: dict[str, tuple[str, ...]] = {}
    missing = {}
    for key, text in sorted(site.container.images.items()):
        record = find_image(store, text, site.container.registry)
        path = store.root / expand(text, environ, f"container.images.{key}")
        file = record.file if record else path.name
        if record is None and not (is_file(text) and path.exists()):
            missing[key] = text
        elif record is not None or path.parent == store.root:
            used[file] = (*used.get(file, ()), key)
    return used, missing


def _row(
    store: ImageStore, record: ImageRecord, used: dict[str, tuple[str, ...]], verify: bool
) -> ImageRow:
    state = _state(store, record, verify)
    return ImageRow(
        name=record.name,
        reference=record.reference,
        sha256=record.sha256,
        bytes=record.bytes,
        imported=record.imported,
        file=str(store.path(record)),
        used_by=used.get(record.file, ()),
        state=state,
    )


def _state(store: ImageStore, record: ImageRecord, verify: bool) -> str:
    path = store.path(record)
    if not path.exists():
        return "the file is gone"
    if not store.present(record):
        return f"{path.stat().st_size} bytes, imported with {record.bytes}"
    if verify:
        with storage_errors(path):
            found = file_hash(path)
        if found != record.sha256:
            return f"changed: sha256 is now {found}"
        record = record.model_copy(update={"verified": now()})
        _note(store, record)
    return f"{VERIFIED} {record.verified[:10]}" if record.verified else WHOLE


def _note(store: ImageStore, record: ImageRecord) -> None:
    try:
        store.update(record)
    except EvalhpcError:
        return  # another user's store: what was found is shown all the same


def _foreign(path: Path, used: dict[str, tuple[str, ...]]) -> ImageRow:
    try:
        image_format(path)
        state = "no digest: evalhpc images import FILE"
    except EvalhpcError as error:
        state = error.what
    return ImageRow(
        name=path.name,
        bytes=path.stat().st_size,
        file=str(path),
        used_by=used.get(path.name, ()),
        state=state,
    )
