"""Our folder on a node's own disk: ours alone, and cleared of what has ended."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from evalhpc.errors import StorageError
from evalhpc.workflow.node.folder import node_folder, outer_user, private_folder


@pytest.fixture(autouse=True)
def _no_locks_left() -> Iterator[None]:
    """A command's lock is a descriptor that it inherits; here there is no command."""
    opened = Path("/proc/self/fd")
    before = {path.name for path in opened.iterdir()}
    yield
    for name in {path.name for path in opened.iterdir()} - before:
        if (opened / name).exists():
            os.close(int(name))


def test_the_folder_is_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With variables of the node in its name; one that others could change is refused."""
    monkeypatch.setenv("NODE_DISK", str(tmp_path))
    folder = node_folder("$NODE_DISK/local")
    assert folder.parent == tmp_path / "local"
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(StorageError, match="not a folder of ours alone"):
        node_folder("$NODE_DISK/local")


def test_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    """Somebody else's link would have us unpack into a folder of theirs."""
    (tmp_path / "theirs").mkdir(mode=0o700)
    (tmp_path / f"evalhpc-{os.geteuid()}").symlink_to(tmp_path / "theirs")
    with pytest.raises(StorageError, match="not a folder of ours alone"):
        node_folder(str(tmp_path))


def test_a_commands_folder_lives_as_long_as_the_command(tmp_path: Path) -> None:
    """One whose lock is held stays, one whose command has ended goes with the next start."""
    folder = node_folder(str(tmp_path))
    first = private_folder(folder)
    second = private_folder(folder)
    assert first.is_dir()
    assert list((second / "home").iterdir()) == []
    ended = folder / "commands" / "ended"
    (ended / "home").mkdir(parents=True)
    private_folder(folder)
    assert not ended.exists()
    assert first.is_dir()


@pytest.mark.parametrize(
    ("uid_map", "uid", "outer"),
    [
        ("         0          0 4294967295\n", 20001, 20001),
        ("         0      20001          1\n", 0, 20001),
        ("         0       1000          1\n         1     100000      65536\n", 7, 100006),
        ("         0      20001          1\n", 65534, 65534),
    ],
)
def test_users_who_are_root_in_a_namespace_have_a_folder_each(
    uid_map: str, uid: int, outer: int
) -> None:
    """Named by the id outside; one that is not mapped keeps its own."""
    assert outer_user(uid_map, uid) == outer
