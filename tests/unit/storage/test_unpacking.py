"""Archives that unpack to far more than they are: looked through within bounds, or refused."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from evalhpc.core.masking import Mask
from evalhpc.errors import HarnessError, IntegrityError
from evalhpc.storage import unpacking
from evalhpc.storage.redaction import redact
from evalhpc.storage.scan import files_with_stubs
from evalhpc.storage.unpacking import Budget

MASK = Mask(["hf_0123456789ABCDEF"])
_MiB = 1 << 20
#: MiB by which looking through one of them may raise the peak of memory.
_MOST_MEMORY = 64


def zipped(content: bytes, copies: int = 1) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(copies):
            archive.writestr(f"{number}", content)
    return out.getvalue()


BOMBS: dict[str, Callable[[], bytes]] = {
    "gzip": lambda: gzip.compress(bytes(64 * _MiB)),
    "bzip2": lambda: bz2.compress(bytes(64 * _MiB)),
    "xz": lambda: lzma.compress(bytes(64 * _MiB)),
    "zip": lambda: zipped(bytes(8 * _MiB), copies=8),
    "zip in zip": lambda: zipped(zipped(bytes(8 * _MiB), copies=4), copies=4),
    "gzip in gzip": lambda: gzip.compress(gzip.compress(bytes(64 * _MiB))),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_little_memory(name: str, tmp_path: Path) -> None:
    """By whoever looks for stubs, and by whoever looks for secrets, which leaves its first bytes.

    What cannot be looked through for secrets cannot be kept.
    """
    path = tmp_path / "log.bin"
    path.write_bytes(BOMBS[name]())
    (tmp_path / "other.txt").write_text("hf_0123456789ABCDEF")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(HarnessError, match="unpack to more than 16777216 bytes"):
        files_with_stubs(tmp_path, Budget(16 * _MiB))
    with pytest.raises(HarnessError, match=r"run\.max_output"):
        redact(tmp_path, MASK, Budget(16 * _MiB))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    assert grown < _MOST_MEMORY
    assert path.stat().st_size == 6
    assert (tmp_path / "other.txt").read_text() == "*" * 19, "the others are looked at all the same"


def test_bombs_are_counted_together(tmp_path: Path) -> None:
    """Many small ones are as bad as one."""
    for number in range(20):
        (tmp_path / f"{number}.gz").write_bytes(gzip.compress(bytes(_MiB)))
    with pytest.raises(HarnessError, match="unpack to more than"):
        files_with_stubs(tmp_path, Budget(16 * _MiB))
    assert files_with_stubs(tmp_path, Budget(21 * _MiB)) == ()


def test_an_archive_within_itself_ends(tmp_path: Path) -> None:
    """Looked into three deep, whatever lies below."""
    data = b"hf_0123456789ABCDEF" * 50
    for _ in range(200):
        data = gzip.compress(data)
    (tmp_path / "x.gz").write_bytes(data)
    assert files_with_stubs(tmp_path) == ()
    assert redact(tmp_path, MASK) == ()


@pytest.mark.parametrize("cut", [False, True])
def test_an_endless_index_of_a_zip_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: bool
) -> None:
    """Its entries would cost ten times their bytes in memory."""
    monkeypatch.setattr(unpacking, "_MOST_AT_ONCE", 70_000)
    data = zipped(b"", copies=2000)
    (tmp_path / "x.zip").write_bytes(data[:-2000] if cut else data)
    with pytest.raises(IntegrityError if cut else HarnessError, match="through"):
        files_with_stubs(tmp_path)


def test_a_large_file_loses_its_secrets_in_little_memory(tmp_path: Path) -> None:
    """Piece by piece, also where pieces meet."""
    path, secret = tmp_path / "log", b"hf_0123456789ABCDEF"
    with path.open("wb") as file:
        for offset in range(100):
            file.write(bytes(_MiB - offset) + secret)
    size = path.stat().st_size
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert redact(tmp_path, MASK) == ("log",)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10 < _MOST_MEMORY
    assert path.stat().st_size == size
    assert path.read_bytes().count(b"*" * len(secret)) == 100
    assert redact(tmp_path, MASK) == ()
