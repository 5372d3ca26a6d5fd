"""What an image file is, from its first bytes."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from evalhpc.containers.image_files import image_format
from evalhpc.errors import ConfigError


def squashfs(used: int = 4096, major: int = 4, size: int = 4096) -> bytes:
    """A superblock that claims `used` bytes, in a file of `size` bytes."""
    head = struct.pack("<4s24xHH8xQ", b"hsqs", major, 0, used)
    return head.ljust(size, b"\0")


def sif(data: int = 1000, size: int = 5096) -> bytes:
    """A global header with `data` bytes from offset 4096 on."""
    launch = b"#!/usr/bin/env run-singularity\n"
    head = struct.pack("<32s10s3s3s16x48xqq", launch, b"SIF_MAGIC", b"01", b"02", 4096, data)
    return head.ljust(size, b"\0")


@pytest.mark.parametrize(("data", "kind"), [(squashfs(), "squashfs"), (sif(), "sif")])
def test_whole_images_are_known_by_content(tmp_path: Path, data: bytes, kind: str) -> None:
    """Whatever the file is called."""
    path = tmp_path / "image"
    path.write_bytes(data)
    assert image_format(path) == kind


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "not a squashfs"),
        (b"<html>", "not a squashfs"),
        (b"hsqs", "cut short"),
        (squashfs(used=4097), "cut short: 4096 of 4097"),
        (squashfs(major=3), "version 3"),
        (sif(data=1001), "cut short: 5096 of 5097"),
        (sif()[:60], "cut short"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, data: bytes, what: str) -> None:
    """Half an image is worse than none: it fails on every node, or in mid-run."""
    path = tmp_path / "image.sqsh"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=what) as caught:
        image_format(path)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["absent.sqsh", "."])
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str) -> None:
    """A missing file, or a folder."""
    with pytest.raises(ConfigError, match="cannot be read"):
        image_format(tmp_path / name)
