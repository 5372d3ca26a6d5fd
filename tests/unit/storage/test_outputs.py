"""A harness's output folder: its own files are taken, and nothing that leads elsewhere."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from evalhpc.errors import HarnessError
from evalhpc.storage.outputs import (
    Bounds,
    check_readable,
    copy_plain,
    excess,
    foreign_entries,
    plain_files,
)

ODD = ["a b", "new\nline", "-rf", "$(touch x)", "'", '"', "\\", "日本", "\x1b[2J", "é" * 127, "..."]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Two files, a link to one of them, and a folder."""
    folder = tmp_path / "output"
    (folder / "sub").mkdir(parents=True)
    (folder / "results.json").write_text("{}")
    (folder / "sub" / "log").write_text("said")
    (folder / "latest").symlink_to("sub/log")
    return folder


def strange(folder: Path) -> dict[str, Path]:
    """Everything that is no file of the folder's own; nothing of it is opened."""
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(folder / "socket"))
    links = {
        "outside": "/etc/passwd", "up": "../secret", "device": "/dev/zero", "dangling": "nowhere",
        "folder": "sub", "disk": "/", "loop": "loop", "to_pipe": "pipe",
    }  # fmt: skip
    for name, target in links.items():
        (folder / name).symlink_to(target)
    (folder / "\udcff").write_text("")
    names = {"pipe", "socket", "\udcff", *links}
    return {name: folder / name for name in names}


def test_plain_files_are_copied_byte_for_byte(output: Path, tmp_path: Path) -> None:
    """Names of any text, hard links and links within the folder included."""
    for number, name in enumerate(ODD):
        (output / name).write_text(str(number))
    os.link(output / "sub" / "log", output / "hard")
    target = tmp_path / "copy"
    copy_plain(output, target)
    names = {str(path.relative_to(output)) for path in plain_files(output)}
    assert names == {"results.json", "sub/log", "latest", "hard", *ODD}
    assert {str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()} == names
    assert all((target / name).read_bytes() == (output / name).read_bytes() for name in names)
    assert not any(path.is_symlink() for path in target.rglob("*"))


def test_nothing_from_outside_is_copied(
    output: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Links out, pipes, sockets and devices stay behind, are named, and nobody waits for them."""
    (tmp_path / "secret").write_text("of another run")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "bind", _make_socket)
    left = strange(output)
    assert foreign_entries(output) == sorted(left.values())
    target = tmp_path / "copy"
    with caplog.at_level(logging.WARNING):
        copy_plain(output, target)
    assert {path.name for path in target.rglob("*")} == {"results.json", "sub", "log", "latest"}
    assert "'device'" in caplog.text
    assert "and 6 more" in caplog.text


def _make_socket(_: socket.socket, place: str) -> None:
    # Unit tests may not bind; the name in the file system is all that this is about.
    os.mknod(place, 0o140600)


@pytest.mark.parametrize("name", ["results_x.json", "sub/samples_x.jsonl", "a_b.eval", "r.yml"])
@pytest.mark.parametrize("kind", ["pipe", "link", "device", "hard link"])
def test_a_result_that_is_no_file_of_its_own_is_refused(
    output: Path, tmp_path: Path, name: str, kind: str
) -> None:
    """Before a reader opens it: it would leave the folder, or wait for ever."""
    check_readable(output)
    (tmp_path / "other.json").write_text("{}")
    if kind == "pipe":
        os.mkfifo(output / name)
    elif kind == "hard link":
        os.link(tmp_path / "other.json", output / name)
    else:
        (output / name).symlink_to(tmp_path / "other.json" if kind == "link" else "/dev/zero")
    with pytest.raises(HarnessError, match=Path(name).name):
        check_readable(output)


def _hole(output: Path) -> None:
    os.truncate(output / "results.json", 1 << 40)


def _many(output: Path) -> None:
    for number in range(50):
        (output / str(number)).touch()


def _deep(output: Path) -> None:
    place = output
    for _ in range(101):
        place /= "d"
        place.mkdir()


def _long(output: Path) -> None:
    place = output
    while len(str(place)) < 3500:
        place /= "d" * 200
        place.mkdir()


def _linked(output: Path) -> None:
    os.truncate(output / "results.json", 600)
    for number in range(3):
        (output / f"{number}").symlink_to("results.json")


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (_hole, "GiB"),
        (_linked, "GiB"),
        (_many, "more than 40 files"),
        (_deep, "within one another"),
        (_long, "paths of"),
    ],
)
def test_what_goes_beyond_its_bounds_is_said(
    output: Path, left: Callable[[Path], None], said: str
) -> None:
    """Holes count, since they are read and copied; so do links, which become copies."""
    bounds = Bounds(bytes=2000, names=40 if left is _many else 200)
    assert excess(output, bounds) == ""
    left(output)
    assert said in excess(output, bounds)


def test_what_is_only_linked_does_not_count(output: Path, tmp_path: Path) -> None:
    """A checkpoint that a harness links to is not copied."""
    (tmp_path / "model").touch()
    os.truncate(tmp_path / "model", 1 << 40)
    (output / "model").symlink_to(tmp_path / "model")
    assert excess(output, Bounds(bytes=2000, names=9)) == ""


def test_thousands_of_folders_within_one_another_are_walked(tmp_path: Path) -> None:
    """Without recursion, and past the longest path that the system takes."""
    with suppress(OSError):
        _nest(tmp_path, 3000)
    try:
        assert "within one another" in excess(tmp_path, Bounds(bytes=1, names=9999))
        assert list(plain_files(tmp_path)) == []
    finally:
        _unnest(tmp_path)


def _nest(folder: Path, count: int) -> None:
    here = os.open(folder, os.O_RDONLY)
    for _ in range(count):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def _unnest(folder: Path) -> None:
    """What shutil.rmtree, and so pytest, cannot remove."""
    last, aside = folder / "last", folder / "aside"
    while (folder / "d").exists():
        if (folder / "d" / "d").exists():
            (folder / "d" / "d").rename(aside)
            (folder / "d").rmdir()
            aside.rename(folder / "d")
        else:
            (folder / "d").rename(last)
            last.rmdir()


def test_a_file_with_a_name_elsewhere_stays_behind(output: Path, tmp_path: Path) -> None:
    """A hard link out of the folder is as good as any other; one within it is the folder's own."""
    os.link(output / "sub" / "log", output / "again")
    (tmp_path / "secret").write_text("of another run")
    os.link(tmp_path / "secret", output / "mine")
    assert foreign_entries(output) == [output / "mine"]
    copy_plain(output, tmp_path / "copy")
    assert not (tmp_path / "copy" / "mine").exists()
    assert (tmp_path / "copy" / "again").read_text() == "said"
