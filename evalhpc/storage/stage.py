"""A site's stage folder: what `evalhpc stage` fetched, and a record for each benchmark.

STAGE/
  huggingface/ nltk_data/ tiktoken/     the caches that harnesses read
  records/<harness>-<task>-<key>.json   what was staged, and how it was proved
  records/tokenizers/<entry>.json       those that only a checkpoint names
  logs/<harness>-<task>-<key>.log       of a staging that failed
  work/<host>-<pid>-<random>            of the staging that goes on now
  stage.lock
"""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from evalhpc.models.stage import StagedEntry, StageRecord, holds, record_name
from evalhpc.models.suite import Benchmark
from evalhpc.storage.atomic import storage_errors, write_text
from evalhpc.storage.locks import exclusive
from evalhpc.storage.opens import Opens

#: Folders of caches; each of their entries is one data set, tokenizer, table or piece of code.
CACHES = (
    "huggingface/hub",
    "huggingface/datasets",
    "huggingface/modules",
    "nltk_data",
    "tiktoken",
)
_UNFINISHED = (".incomplete", ".lock", ".tmp")


class StageFolder:
    """Names inside one stage folder, its records, and what its caches hold."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.records = root / "records"
        self._tokenizers = self.records / "tokenizers"
        self.logs = root / "logs"
        self._work = root / "work"
        self._lock = root / "stage.lock"

    def make(self) -> None:
        """Create what is missing of it; a new one is its user's alone. Raises StorageError."""
        with storage_errors(self.root):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.records, self.logs, self._work, *map(self.root.joinpath, CACHES)):
                folder.mkdir(parents=True, exist_ok=True)

    def locked(self, wait: float) -> AbstractContextManager[bool]:
        """Only one staging at a time; another one is waited for, `wait` seconds at most."""
        busy = f"another `evalhpc stage` works in {self.root}"
        return exclusive(self._lock, busy, wait=wait, cause="it fetches data for another suite")

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """A private folder for one staging, gone afterwards.

        What one that was killed on this machine left goes first. One of another machine may be at
        work, whatever the lock says: some file systems lock on one machine only.
        """
        host = os.uname().nodename
        with storage_errors(self._work):
            for left in self._work.glob(f"{glob.escape(host)}-*-*"):
                pid = left.name.rsplit("-", 2)[1]
                if not Path("/proc", pid).exists():
                    shutil.rmtree(left, ignore_errors=True)
            work = Path(tempfile.mkdtemp(dir=self._work, prefix=f"{host}-{os.getpid()}-"))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def log(self, benchmark: Benchmark) -> Path:
        """Where the log of a staging that failed is kept."""
        return self.logs / f"{record_name(benchmark)}.log"

    def read(self, benchmark: Benchmark) -> StageRecord | None:
        """What was staged for the benchmark; None for nothing, and for a record that is damaged."""
        path = self.records / f"{record_name(benchmark)}.json"
        with storage_errors(self.root):
            there = path.is_file()
        return _parsed(path) if there else None

    def all_records(self) -> Iterator[StageRecord]:
        """Every record that can be read, by name."""
        with storage_errors(self.root):
            paths = sorted(self.records.iterdir()) if self.records.is_dir() else []
        for path in (path for path in paths if path.suffix == ".json"):
            found = _parsed(path)
            if found is not None:
                yield found

    def write(self, benchmark: Benchmark, record: StageRecord) -> None:
        """Keep the record, in place of an older one."""
        path = self.records / f"{record_name(benchmark)}.json"
        write_text(path, record.model_dump_json(indent=1) + "\n")

    def write_tokenizer(self, entry: str) -> None:
        """Note that this entry of the caches was fetched whole, as a model's tokenizer."""
        with storage_errors(self._tokenizers):
            self._tokenizers.mkdir(exist_ok=True)
        write_text(self._note(entry), self._entry(entry).model_dump_json(indent=1) + "\n")

    def has_tokenizer(self, entry: str) -> bool:
        """Whether it was, and is still there."""
        note = self._note(entry)
        if not note.is_file():
            return False
        with storage_errors(note):
            then = StagedEntry.model_validate_json(note.read_bytes())
        return holds(then, self._entry(entry))

    def _note(self, entry: str) -> Path:
        return self._tokenizers / f"{Path(entry).name}.json"

    def entries(self) -> tuple[StagedEntry, ...]:
        """Everything that the caches hold, by name."""
        with storage_errors(self.root):
            return tuple(
                self._entry(f"{cache}/{path.name}")
                for cache in CACHES
                if (self.root / cache).is_dir()
                for path in sorted((self.root / cache).iterdir())
                if not path.name.startswith(".") and not path.name.endswith(_UNFINISHED)
            )

    def opens(self) -> Opens:
        """Within its block it is noted which of the files in the caches are opened."""
        caches = [self.root / cache for cache in CACHES]
        folders = [Path(name) for cache in caches for name, _, _ in os.walk(cache)]
        return Opens(folders, self.root)

    def entries_of(self, files: Iterable[Path]) -> set[str]:
        """Names of the entries that the files are, or lie in."""
        parts = [path.relative_to(self.root).parts for path in files]
        depths = {cache: cache.count("/") + 1 for cache in CACHES}
        return {
            "/".join(names[: depth + 1])
            for names in parts
            for cache, depth in depths.items()
            if "/".join(names[:depth]) == cache
        }

    def by_name(self) -> dict[str, StagedEntry]:
        """The same, to compare records with: one walk serves all of them."""
        return {entry.name: entry for entry in self.entries()}

    def _entry(self, name: str) -> StagedEntry:
        sizes = list(_sizes(self.root / name))
        version = self.root / name / "refs" / "main"
        commit = version.read_text().strip() if version.is_file() else ""
        return StagedEntry(name=name, version=commit, files=len(sizes), bytes=sum(sizes))


def _parsed(path: Path) -> StageRecord | None:
    with storage_errors(path):
        text = path.read_bytes()
    try:
        return StageRecord.model_validate_json(text)
    except ValidationError:
        return None  # staging again writes it anew, and takes little where all is there


def _sizes(path: Path) -> Iterator[int]:
    """Sizes of the finished files at and below `path`; links count for nothing."""
    if path.is_file():
        yield path.lstat().st_size
    for folder, _, names in os.walk(path):
        for name in names:
            file = Path(folder, name)
            if not file.is_symlink() and not name.endswith(_UNFINISHED):
                with suppress(FileNotFoundError):  # another staging goes on, and renames it
                    yield file.lstat().st_size
