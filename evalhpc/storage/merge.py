"""Merging journals into a store: every frame checked, each answer once, inputs never touched.

Journals are read once: while a window of theirs is in the CPU's cache, its frames are checked,
indexed and written. Bodies therefore come first in the store, and those of duplicates are taken
out again when it is known which ones they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from evalhpc.core.frames import Damage
from evalhpc.errors import IntegrityError
from evalhpc.storage.atomic import publish, storage_errors, temporary_name
from evalhpc.storage.framed import other_run
from evalhpc.storage.merge_bodies import Bodies
from evalhpc.storage.merge_index import Index
from evalhpc.storage.merge_order import Choice, choose
from evalhpc.storage.seals import Seals
from evalhpc.storage.spool import CHUNK, as_bytes
from evalhpc.storage.store_file import Column, stored_run
from evalhpc.storage.store_writer import LayoutWriter, bodies_at


@dataclass
class MergeReport:
    """What a merge found. `bytes` are those of the merged bodies."""

    journals: int = 0
    answers: int = 0
    duplicates: int = 0
    disagreements: int = 0  # duplicates whose status, content type or body differs from the first
    bytes: int = 0
    damaged: list[tuple[Path, Damage]] = field(default_factory=list)


def merge_journals(
    journals: Iterable[Path],
    out: Path,
    run_hash: str,
    *,
    log: Callable[[str], None] | None = None,
    seals: Seals | None = None,
    before: Callable[[Path, MergeReport], None] | None = None,
) -> MergeReport:
    """Write the store of all `journals` to `out`, whole or not at all.

    Of several answers to one key the first by (seal, journal name, place) stays; what no seal
    covers is not read. Without `seals` all counts alike. The bytes of the store depend on the
    journals and the seals only. `log` hears of each damaged span, and of an `out` that is
    damaged: it is made anew. `before` sees the new store before it takes the place of `out`.
    Memory is flat but for some bytes an answer; the index of many answers goes through nameless
    files beside `out`, about 160 bytes an answer.

    Raises IntegrityError where a journal or the present `out` belongs to another run,
    StorageError where something cannot be read or written.
    """
    _refuse_other_run(out, run_hash, log)
    paths = sorted(set(journals), key=lambda path: (path.name, path))
    temporary = temporary_name(out)
    try:
        with storage_errors(out):
            report = _merge(paths, temporary, run_hash, seals)
        if before:
            before(temporary, report)
        with storage_errors(out):
            publish(temporary, out)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if log:
        for path, damage in report.damaged:
            log(f"{path.name}: {damage}")
    return report


def _refuse_other_run(out: Path, run_hash: str, log: Callable[[str], None] | None) -> None:
    if not out.exists():
        return
    try:
        found = stored_run(out)
    except IntegrityError as error:
        if log:
            log(f"{error.what}; it is made anew from the journals")
        return
    if found != run_hash:
        raise other_run(out, found, run_hash)


def _merge(paths: list[Path], temporary: Path, run_hash: str, seals: Seals | None) -> MergeReport:
    with Bodies(temporary, bodies_at(run_hash)) as bodies:
        index = Index(paths, run_hash, temporary.parent, bodies.add, seals)
        choice = choose(index.rows, temporary.parent)
        bodies.close_up(index.rows.chunks(), choice)
        _write_layout(temporary, index, choice, run_hash, bodies.size, seals)
        bodies.sync()
    return MergeReport(
        journals=len(paths),
        answers=len(choice.by_key),
        duplicates=choice.duplicates,
        disagreements=choice.disagreements,
        bytes=bodies.size,
        damaged=index.damaged,
    )


def _write_layout(
    temporary: Path, index: Index, choice: Choice, run_hash: str, size: int, seals: Seals | None
) -> None:
    """Everything but the bodies, which have `size` bytes."""
    count = seals.count if seals else 0
    with LayoutWriter(temporary, run_hash, len(choice.by_key), size, count) as writer:
        writer.rows(_columns(index, choice))
        writer.by_key(
            {"keys": as_bytes(records["key"]), "rows": records["row"]}
            for records in choice.ranked()
        )
        writer.tables(
            content_types=_content_types(index), journals=[path.name for path in index.paths]
        )
        writer.close()


def _content_types(index: Index) -> list[str]:
    return sorted({content_type for _, content_type in index.parsed})


def _columns(index: Index, choice: Choice) -> Iterator[dict[str, Column]]:
    """The store's columns for the rows that stay, in chunks."""
    place = {name: number for number, name in enumerate(_content_types(index))}
    statuses = np.array([status for status, _ in index.parsed], "<i2")
    types = np.array([place[name] for _, name in index.parsed], "<u4")
    for number, chunk in enumerate(index.rows.chunks()):
        rows = chunk[choice.stays[number * CHUNK : number * CHUNK + len(chunk)]]
        headers = rows["header"]
        yield {
            "digest": as_bytes(headers["digest"]),
            "status": statuses[rows["meta"]],
            "content_type": types[rows["meta"]],
            "latency": headers["latency"],
            "attempts": headers["attempts"],
            "journal": rows["journal"],
            "length": headers["body_length"],
        }
