"""Secrets read on the node: from a private file alone, by name alone, and never shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evalhpc.errors import ConfigError
from evalhpc.models.site import Secrets
from evalhpc.workflow.record.secrets import exports, read_secrets

VALUE = "v4lue-of-a-secret"


def private(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_named_secrets_are_read_and_no_others(tmp_path: Path) -> None:
    """Comments, exports and quotes are understood; dollars and blanks stay."""
    text = f"# mine\nexport A_TOKEN='{VALUE}'\n\nB = nothing\n"
    text = text.replace("B = nothing", 'B="$x y"') + "C=unnamed\n"
    file = private(tmp_path / "secrets.env", text)
    secrets = Secrets(file=file, names=("A_TOKEN", "B"))
    assert read_secrets(secrets, {}) == {"A_TOKEN": VALUE, "B": "$x y"}
    assert exports(secrets, {}) == f"export A_TOKEN={VALUE}\nexport B='$x y'\n"


def test_home_and_variables_are_those_of_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`~` and $VARIABLES are expanded where the file is read."""
    private(tmp_path / "secrets.env", f"A_TOKEN={VALUE}")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_secrets(Secrets(file="~/secrets.env", names=("A_TOKEN",)), {}) == {"A_TOKEN": VALUE}
    monkeypatch.setenv("PLACE", str(tmp_path))
    assert read_secrets(Secrets(file="$PLACE/secrets.env", names=("A_TOKEN",)), {})


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o606, 0o660, 0o620, 0o601])
def test_a_file_that_others_can_use_is_refused_with_the_command_that_mends_it(
    tmp_path: Path, mode: int
) -> None:
    """Group or others may do anything with it: `chmod 600`."""
    file = private(tmp_path / "a b.env", f"A_TOKEN={VALUE}", mode)
    with pytest.raises(ConfigError, match="others can use it") as refused:
        read_secrets(Secrets(file=file, names=("A_TOKEN",)), {})
    assert f"chmod 600 '{file}'" in refused.value.hint
    assert VALUE not in str(refused.value)


def test_somebody_elses_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner could change the key under which our jobs work."""
    file = private(tmp_path / "secrets.env", f"A_TOKEN={VALUE}")
    other = os.geteuid() + 1
    monkeypatch.setattr("os.geteuid", lambda: other)
    with pytest.raises(ConfigError, match="belongs to user"):
        read_secrets(Secrets(file=file, names=("A_TOKEN",)), {})


def test_what_is_no_file_of_secrets_is_refused(tmp_path: Path) -> None:
    """Absent, a folder, a pipe, a huge one, no text: each is told, and none is waited for."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    private(tmp_path / "huge", "#" * (2 << 20))
    (tmp_path / "binary").write_bytes(b"A=\xff")
    (tmp_path / "binary").chmod(0o600)
    private(tmp_path / "nul", "A=\0")
    for name, said in (
        ("absent", "cannot be read"), ("", "no regular file"), ("pipe", "no regular file"),
        ("huge", "too large"), ("binary", "not UTF-8"), ("nul", "NUL"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            read_secrets(Secrets(file=str(tmp_path / name), names=("A",)), {})


def test_a_line_that_is_not_understood_is_named_by_its_number(tmp_path: Path) -> None:
    """Not shown: it may be the secret."""
    file = private(tmp_path / "secrets.env", f"# x\n{VALUE}\n")
    with pytest.raises(ConfigError, match="line 2, is not NAME=VALUE") as refused:
        read_secrets(Secrets(file=file, names=("A",)), {})
    assert VALUE not in str(refused.value)


def test_a_secret_without_a_value_is_named(tmp_path: Path) -> None:
    """Unless the environment has it already, as lines of setup or a local shell give it."""
    file = private(tmp_path / "secrets.env", "A=\nB=bbbbbb\n")
    with pytest.raises(ConfigError, match="no value for A, C on this node"):
        read_secrets(Secrets(file=file, names=("A", "B", "C")), {})
    given = {"A": "aaaaaa", "C": "cccccc"}
    assert read_secrets(Secrets(file=file, names=("A", "B", "C")), given) == {"B": "bbbbbb"}
    assert read_secrets(Secrets(names=("A",)), given) == {}
