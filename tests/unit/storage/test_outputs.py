"""A harness's output folder: its own files are taken, and nothing that leads elsewhere."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

import pytest

from evalhpc.errors import HarnessError
from evalhpc.storage.outputs import check_readable, copy_plain, foreign_entries, plain_files

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
@pytest.mark.parametrize("kind", ["pipe", "link", "device"])
def test_a_result_that_is_no_file_of_its_own_is_refused(
    output: Path, tmp_path: Path, name: str, kind: str
) -> None:
    """Before a reader opens it: it would leave the folder, or wait for ever."""
    check_readable(output)
    (tmp_path / "other.json").write_text("{}")
    if kind == "pipe":
        os.mkfifo(output / name)
    else:
        (output / name).symlink_to(tmp_path / "other.json" if kind == "link" else "/dev/zero")
    with pytest.raises(HarnessError, match=Path(name).name):
        check_readable(output)
