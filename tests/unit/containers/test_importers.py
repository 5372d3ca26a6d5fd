"""Command lines of the import tools, their folders, and what their messages mean."""

from __future__ import annotations

import pytest

from evalhpc.containers.importers import (
    APPTAINER,
    ENROOT,
    SINGULARITY,
    failure,
    importers_for,
    scratch_folders,
)
from evalhpc.containers.references import Reference
from evalhpc.errors import ConfigError, EvalhpcError, StorageError

_IMAGE = Reference("team/x", "registry.example", "1")


def test_enroot_separates_the_registry_with_a_hash() -> None:
    """Without the hash it would look for a repository of that name in its default registry."""
    assert ENROOT.argv(_IMAGE, "/o") == (
        "enroot", "import", "--output", "/o", "docker://registry.example#team/x:1",
    )  # fmt: skip
    assert ENROOT.argv(Reference("x", digest="0" * 64), "/o")[-1] == f"docker://x:sha256:{'0' * 64}"


def test_apptainer_separates_it_with_a_slash() -> None:
    """As in a URL; a digest takes the place of the tag."""
    assert APPTAINER.argv(_IMAGE, "/o") == (
        "apptainer", "pull", "/o", "docker://registry.example/team/x:1",
    )  # fmt: skip
    pinned = Reference("x", tag="1", digest="0" * 64)
    assert APPTAINER.argv(pinned, "/o")[-1] == f"docker://x@sha256:{'0' * 64}"


def test_each_runtime_has_its_tools() -> None:
    """SIF for apptainer, squashfs for all others, nothing where nothing runs in images."""
    assert importers_for("apptainer") == (APPTAINER, SINGULARITY)
    assert all(importers_for(name) == (ENROOT,) for name in ("pyxis", "charliecloud", "bwrap"))
    with pytest.raises(ConfigError):
        importers_for("none")


def test_scratch_folders_follow_environment_then_configuration_then_default() -> None:
    """What cannot be known without the tool's own shell is left out."""
    environ = {"HOME": "/home/me", "ENROOT_CACHE_PATH": "/c"}
    assert scratch_folders(ENROOT, environ) == {
        "ENROOT_TEMP_PATH": "/tmp", "ENROOT_CACHE_PATH": "/c",
    }  # fmt: skip
    configured = "#ENROOT_TEMP_PATH /no\n ENROOT_TEMP_PATH   /raid/${USER}\n"
    folders = scratch_folders(ENROOT, {"HOME": "/home/me", "USER": "me"}, configured)
    assert folders == {
        "ENROOT_TEMP_PATH": "/raid/me", "ENROOT_CACHE_PATH": "/home/me/.cache/enroot",
    }  # fmt: skip
    shell = "ENROOT_TEMP_PATH /run/$(id -u)\n"
    assert "ENROOT_TEMP_PATH" not in scratch_folders(ENROOT, {"HOME": "/h"}, shell)


@pytest.mark.parametrize(
    ("log", "kind", "cause", "transient"),
    [
        ("[ERROR] URL https://r/v2 returned error code: 401 Unauthorized", ConfigError,
         "credentials", False),
        ("[ERROR] URL https://r/v2 returned error code: 403", ConfigError, "credentials", False),
        ("[ERROR] URL https://r/v2 returned error code: 429", EvalhpcError, "limit", True),
        ("[ERROR] URL https://r/v2 returned error code: 404", ConfigError, "no such image", False),
        ("curl: (6) Could not resolve host: r", EvalhpcError, "no way to the registry", True),
        ("tar: x: Cannot write: No space left on device", StorageError, "full", False),
        ("Write failed because Disk quota exceeded", StorageError, "full", False),
        ("[ERROR] Command not found: mksquashfs", ConfigError, "without a program", False),
        ("[ERROR] Could not parse digest information from https://r", ConfigError,
         "no registry", False),
        ("FATAL:   Unable to handle docker://x uri: UNAUTHORIZED: denied", ConfigError,
         "credentials", False),
    ],
)  # fmt: skip
def test_a_message_gives_cause_and_next_step(
    log: str, kind: type[EvalhpcError], cause: str, transient: bool
) -> None:
    """The tool's own line is shown, and what may pass by itself is marked so."""
    error = failure(ENROOT, _IMAGE, 1, f"[INFO] Fetching image manifest\n{log}\n")
    assert type(error) is kind
    assert log in error.what
    assert cause in error.cause
    assert error.hint
    assert error.transient is transient


def test_an_unknown_failure_shows_how_it_ended() -> None:
    """Nothing is guessed; a silent tool is said to be silent."""
    assert "the moon" in failure(ENROOT, _IMAGE, 3, "a\nthe moon\n").cause
    assert "printed nothing" in failure(ENROOT, _IMAGE, 3, "").what
