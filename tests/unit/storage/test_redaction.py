"""What a harness wrote loses its secrets, keeps its length, and stays readable."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import lzma
import os
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from evalhpc.core.masking import Mask
from evalhpc.errors import HarnessError, IntegrityError
from evalhpc.storage.redaction import redact
from evalhpc.storage.scan import files_with_stubs

SECRET = "hf_0123456789ABCDEF"
MASK = Mask([SECRET])


def zipped(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/log.json", content)
        archive.writestr("b", b"other")
    return out.getvalue()


def test_files_of_every_kind_lose_it(tmp_path: Path) -> None:
    """Plain, encoded, packed, packed in packed, in a database; others are not touched."""
    text = f"key={SECRET};".encode()
    (tmp_path / "plain.txt").write_bytes(text * 3)
    (tmp_path / "clean.txt").write_bytes(b"no secret")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x.gz").write_bytes(gzip.compress(text))
    (tmp_path / "log.eval").write_bytes(zipped(zipped(text)))
    (tmp_path / "basic").write_bytes(base64.b64encode(b"me:" + SECRET.encode()))
    with sqlite3.connect(tmp_path / "cache.db") as cache:
        cache.execute("create table t (x)")
        cache.execute("insert into t values (?)", (SECRET,))
    cache.close()
    (tmp_path / "plain.txt").chmod(0o440)
    before = (tmp_path / "clean.txt").stat().st_ino
    assert redact(tmp_path, MASK) == (
        "basic", "cache.db", "deep/x.gz", "log.eval", "plain.txt"
    )  # fmt: skip
    stars = b"*" * len(SECRET)
    assert (tmp_path / "plain.txt").read_bytes() == (b"key=" + stars + b";") * 3
    assert (tmp_path / "plain.txt").stat().st_mode & 0o777 == 0o440
    assert (tmp_path / "clean.txt").stat().st_ino == before
    assert gzip.decompress((tmp_path / "deep" / "x.gz").read_bytes()) == b"key=" + stars + b";"
    with zipfile.ZipFile(tmp_path / "log.eval") as outer:
        nested = io.BytesIO(outer.read("a/log.json"))
    with zipfile.ZipFile(nested) as inner:
        assert inner.read("a/log.json") == b"key=" + stars + b";"
        assert inner.read("b") == b"other"
    with sqlite3.connect(tmp_path / "cache.db") as cache:
        assert cache.execute("select x from t").fetchall() == [(stars.decode(),)]
    cache.close()
    assert redact(tmp_path, MASK) == (), "nothing is left"


def test_a_file_of_somebody_elses_is_not_changed(tmp_path: Path) -> None:
    """A link out of the output folder to a file with a secret ends the pass."""
    outside, output = tmp_path / "outside", tmp_path / "output"
    output.mkdir()
    outside.write_text(SECRET)
    (output / "link").symlink_to(outside)
    with pytest.raises(HarnessError, match="holds a secret") as refused:
        redact(output, MASK)
    assert SECRET not in str(refused.value)
    assert outside.read_text() == SECRET


def test_a_secret_across_two_reads_is_found(tmp_path: Path) -> None:
    """Files are read in pieces of 1 MiB."""
    for offset in (1, len(SECRET) // 2, len(SECRET) - 1):
        path = tmp_path / str(offset)
        path.write_bytes(b"x" * ((1 << 20) - offset) + SECRET.encode() + b"y")
    assert len(redact(tmp_path, MASK)) == 3


@pytest.mark.parametrize("cut", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("kind", ["zip", "gz", "bz2", "xz"])
def test_nothing_is_left_of_an_archive_that_was_cut_short(
    tmp_path: Path, kind: str, cut: float
) -> None:
    """What its readable part holds cannot be told apart; it stays a broken archive."""
    content = bytes(range(256)) * 40 + SECRET.encode() * 20 + os.urandom(5000)
    packers: dict[str, Callable[[bytes], bytes]] = {
        "zip": zipped, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress,
    }  # fmt: skip
    whole = packers[kind](content)
    path = tmp_path / f"log.{kind}"
    path.write_bytes(whole[: int(len(whole) * cut)])
    assert redact(tmp_path, MASK) == (path.name,)
    assert path.read_bytes() == whole[:6]
    with pytest.raises(IntegrityError, match="cut off"):
        files_with_stubs(tmp_path)


@pytest.mark.parametrize("magic", ["PK\3\4", "BZh", "\x1f\x8b", "\xfd7zXZ"])
def test_a_text_that_begins_like_an_archive_is_a_text(tmp_path: Path, magic: str) -> None:
    """Only the secret goes."""
    path = tmp_path / "log.txt"
    path.write_bytes(f"{magic} cut {SECRET} and more".encode("latin-1"))
    assert redact(tmp_path, MASK) == ("log.txt",)
    stars = "*" * len(SECRET)
    assert path.read_bytes() == f"{magic} cut {stars} and more".encode("latin-1")
    if magic == "BZh":
        assert files_with_stubs(tmp_path) == ()
