"""Mount points in an unpacked image: made where they are missing, and never outside of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalhpc.containers.mounts import Mount
from evalhpc.errors import ConfigError
from evalhpc.workflow.node.mount_points import make_mount_points


def test_folders_and_files_are_made_as_their_sources_are(tmp_path: Path) -> None:
    """A second start finds them there."""
    root, source = tmp_path / "root", tmp_path / "file"
    root.mkdir()
    source.touch()
    mounts = [Mount(str(tmp_path), "/a/b"), Mount(str(source), "/etc/passwd", "ro")]
    for _ in range(2):
        make_mount_points(root, mounts)
    assert (root / "a" / "b").is_dir()
    assert (root / "etc" / "passwd").is_file()
    assert {"dev", "proc", "sys", "tmp"} <= {path.name for path in root.iterdir()}


def test_links_are_followed_as_they_are_inside(tmp_path: Path) -> None:
    """An absolute link, or one that climbs, names a place in the image and none of the node's."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "var").mkdir(parents=True)
    outside.mkdir()
    (root / "data").symlink_to(outside)
    (root / "var" / "up").symlink_to("../../../x")
    make_mount_points(root, [Mount("/", "/data/set"), Mount("/", "/var/up/y")])
    assert list(outside.iterdir()) == []
    assert (root / str(outside)[1:] / "set").is_dir()
    assert (root / "x" / "y").is_dir()


def test_a_circle_of_links_is_an_error(tmp_path: Path) -> None:
    """It does not hang."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ConfigError, match="no place to mount /a"):
        make_mount_points(tmp_path, [Mount("/", "/a")])


def test_a_read_only_folder_of_ours_is_no_obstacle(tmp_path: Path) -> None:
    """Images hold folders of mode 555, which the unpacked ones then have."""
    (tmp_path / "locked").mkdir(mode=0o555)
    make_mount_points(tmp_path, [Mount("/", "/locked/x")])
    assert (tmp_path / "locked" / "x").is_dir()
