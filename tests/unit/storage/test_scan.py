"""A stub is found wherever a harness may have put it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from evalhpc.core.stubs import MARKER
from evalhpc.errors import IntegrityError
from evalhpc.storage.scan import files_below, files_with_stubs


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("other.txt", "nothing")
        archive.writestr("inner.json", content)
    return buffer.getvalue()


PACKERS: list[Callable[[bytes], bytes]] = [
    lambda b: b,
    lambda b: b.decode().encode("utf-16"),
    lambda b: b"x" * ((1 << 20) - 4) + b,  # across two reads
    gzip.compress,
    bz2.compress,
    lzma.compress,
    zipped,
    lambda b: zipped(zipped(b)),
    lambda b: gzip.compress(zipped(b)),
]


@pytest.mark.parametrize("pack", PACKERS)
def test_a_marker_is_found_in_any_packing(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """Plain, wide, cut in two, compressed, archived, archived twice."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "made_of_stubs").write_bytes(pack(f"score {MARKER}".encode()))
    (tmp_path / "clean").write_bytes(pack(b"score 1.0"))
    assert files_with_stubs(tmp_path) == ("sub/made_of_stubs",)


def test_what_is_only_linked_is_not_looked_at(tmp_path: Path) -> None:
    """It is not published either; a link to all the disk, or back, costs nothing."""
    outside, output = tmp_path / "outside", tmp_path / "output"
    outside.mkdir()
    output.mkdir()
    (outside / "log").write_text(MARKER)
    (output / "real").write_text(MARKER)
    (output / "same").symlink_to("real")
    (output / "link").symlink_to(outside)
    (output / "file").symlink_to(outside / "log")
    (output / "disk").symlink_to("/")
    (output / "back").symlink_to(output)
    assert files_with_stubs(output) == ("real", "same")
    assert {path.name for path in files_below(output)} == {"real", "same", "file"}


@pytest.mark.parametrize(
    # Named, because both contents hold the time.
    "content",
    [gzip.compress(b"x" * 99)[:-4], zipped(b"x" * 99)[:-30]],
    ids=["gzip", "zip"],
)
def test_an_archive_that_cannot_be_read_is_named(content: bytes, tmp_path: Path) -> None:
    """What cannot be looked through cannot be believed."""
    (tmp_path / "log.bin").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"log\.bin"):
        files_with_stubs(tmp_path)
