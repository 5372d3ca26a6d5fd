"""A merge on a real file system that fills up: a small tmpfs in a mount namespace of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: In new namespaces, so that neither root nor a change of the machine is needed.
_UNSHARE = ["unshare", "--user", "--map-root-user", "--mount"]
#: Merges onto a disk that has so many bytes left; prints what is said, and how many answers stay.
_PROGRAM = """
import os, sys
from pathlib import Path
from evalhpc.core.identity import Answer, make_key
from evalhpc.errors import StorageError
from evalhpc.storage.journal import JournalWriter
from evalhpc.storage.store import Store, merge_journals

disk, journals, run = Path(sys.argv[1]), Path(sys.argv[2]), "ab" * 32
keys = [bytes([number]) * 16 + bytes(4) for number in range(200)]
def write(name, size):
    with JournalWriter.create(journals / name, run) as journal:
        for key in keys:
            journal.append(key, Answer(200, "text/plain", bytes(size)))
    return journals / name
first = write("0", 1000)
merge_journals([first], disk / "store.h5", run)
before = (disk / "store.h5").read_bytes()
second, space = write("a", 4000), os.statvfs(disk)
(disk / "ballast").write_bytes(bytes(space.f_bavail * space.f_bsize - int(sys.argv[3])))
try:
    merge_journals([second], disk / "store.h5", run)
except StorageError as error:
    print(error.what)
assert sorted(path.name for path in disk.iterdir()) == ["ballast", "store.h5"]
assert (disk / "store.h5").read_bytes() == before
with Store.open(disk / "store.h5", run) as store:
    store.verify()
    print(len(store))
"""


@pytest.fixture(scope="module")
def namespaces() -> None:
    probe = [*_UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        done = subprocess.run(probe, capture_output=True, timeout=300, check=False)
    except FileNotFoundError:
        pytest.skip("unshare(1) is not installed")
    if done.returncode:
        pytest.skip("this kernel lets nobody mount a tmpfs of their own")


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize("free", [0, 4096, 16_384, 400_000])
def test_a_full_disk_leaves_the_old_store(tmp_path: Path, free: int) -> None:
    """ENOSPC in the layout or among the bodies is a StorageError; the old store stays whole."""
    disk, journals = tmp_path / "disk", tmp_path / "journals"
    disk.mkdir()
    journals.mkdir()
    mount = 'mount -t tmpfs -o size=2m none "$1" && shift && exec "$@"'
    program = [sys.executable, "-c", _PROGRAM, str(disk), str(journals), str(free)]
    done = subprocess.run(
        [*_UNSHARE, "sh", "-c", mount, "sh", str(disk), *program],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said, answers = done.stdout.splitlines()
    assert said == f"cannot use {disk / 'store.h5'}: No space left on device"
    assert answers == "200"
