"""Images, mounts and pyxis: what is rendered is what the plugin understands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evalhpc.containers.mounts import Mount, bind, distinct, parents_first, parse_mount
from evalhpc.containers.preflight import check_image, check_mounts, check_site
from evalhpc.containers.pyxis import step_options
from evalhpc.containers.runtime import Wrap, wrap
from evalhpc.errors import ConfigError
from evalhpc.models.site import Container, Runtime

#: The superblock of an empty squashfs 4.0 file.
SQUASHFS = b"hsqs" + bytes(24) + (4).to_bytes(2, "little") + bytes(10) + (96).to_bytes(56, "little")
PYXIS = Container(runtime="pyxis", mounts=("/data:/data:ro",))


def test_a_mount_reads_back_as_it_was_written() -> None:
    """Two or three parts."""
    for text in ("/a:/b", "/a:/b:ro+rprivate"):
        assert str(parse_mount(text)) == text


@pytest.mark.parametrize("text", ["/a", "a:/b", "/a:b", "/a:/b:ro:x", "/a,b:/c", "~/a:/b", ""])
def test_what_pyxis_would_misread_is_no_mount(text: str) -> None:
    """Relative paths, and characters that separate mounts."""
    with pytest.raises(ConfigError, match="is not a mount"):
        parse_mount(text)


def test_bind_shows_a_path_under_its_own_name() -> None:
    """Read-only unless asked otherwise."""
    assert bind("/m") == Mount("/m", "/m", "ro")
    assert bind("/m", read_only=False) == Mount("/m", "/m")


def test_one_mount_a_target() -> None:
    """The run's own mounts come first and stay."""
    mounts = [Mount("/run", "/run"), Mount("/m", "/m", "ro"), Mount("/elsewhere", "/run", "ro")]
    assert distinct(mounts) == (Mount("/run", "/run"), Mount("/m", "/m", "ro"))


def test_no_runtime_and_no_image_give_no_options() -> None:
    """A command then runs in the job's own environment, and srun gets no pyxis option at all."""
    assert not wrap(Container(mounts=("/data:/data",)), "/i.sqsh", read_only=["/a,b"])
    assert not wrap(PYXIS, None, writable=["/m"])


def test_pyxis_options() -> None:
    """One --container-mounts with every mount; neither home nor entry point."""
    options = (
        "--container-image=/i.sqsh",
        "--container-mounts=/run:/run,/m:/m:ro,/data:/data:ro",
        "--no-container-mount-home",
        "--no-container-entrypoint",
    )
    assert wrap(PYXIS, "/i.sqsh", writable=["/run"], read_only=["/m"]) == Wrap(options)


def test_a_relative_image_is_refused() -> None:
    """Pyxis would look for it in a registry."""
    with pytest.raises(ConfigError, match="absolute"):
        step_options("lm-eval.sqsh", [])


def test_an_image_must_be_a_squashfs_file(tmp_path: Path) -> None:
    """An interrupted import is found before submission."""
    image = tmp_path / "x.sqsh"
    with pytest.raises(ConfigError, match="cannot be read"):
        check_image(image)
    image.write_bytes(b"<html>")
    with pytest.raises(ConfigError, match="not a squashfs"):
        check_image(image)
    image.write_bytes(SQUASHFS)
    check_image(image)


def test_a_site_is_checked_only_where_images_are_used(tmp_path: Path) -> None:
    """Runtime `none` ignores images and mounts; pyxis needs both to be there."""
    check_site(Container(), ["/nowhere.sqsh"])
    image = tmp_path / "x.sqsh"
    image.write_bytes(SQUASHFS)
    gone = Container(runtime="pyxis", mounts=(f"{tmp_path}/gone:/data",))
    with pytest.raises(ConfigError, match="does not exist here"):
        check_site(gone, [str(image), None])


@pytest.mark.parametrize("runtime", ["pyxis", "charliecloud", "bwrap"])
def test_an_image_of_another_runtime_is_refused(runtime: Runtime, tmp_path: Path) -> None:
    """A SIF file under a squashfs file's name would be found out by every node, by none here."""
    image = tmp_path / "x.sqsh"
    image.write_bytes(bytes(32) + b"SIF_MAGIC\0" + bytes(200))
    with pytest.raises(ConfigError, match=rf"a \.sif file, which {runtime} cannot start"):
        check_image(image, runtime)
    check_image(image, "apptainer")


def test_an_unpacked_image_has_a_shell(tmp_path: Path) -> None:
    """Every rendered script is run by bash inside; pyxis takes no folder at all."""
    with pytest.raises(ConfigError, match="no bash"):
        check_image(tmp_path, "bwrap")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "bash").symlink_to("/usr/bin/bash")
    check_image(tmp_path, "bwrap")
    with pytest.raises(ConfigError, match="cannot be read"):
        check_image(tmp_path, "pyxis")


def test_what_a_mode_keeps_from_its_user_is_told_from_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image and mounts that are there, in themselves or below a folder that is closed."""
    known = Path.stat

    def closed(path: Path, *, follow_symlinks: bool = True) -> Any:
        if path.name == "?" or "locked" in path.parts[:-1]:
            raise PermissionError(13, "Permission denied")
        return known(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", closed)  # tests may be root, whom no mode keeps out
    for path in (tmp_path, tmp_path / "locked" / "x"):
        with pytest.raises(ConfigError, match="Permission denied"):
            check_image(path, "bwrap")
        with pytest.raises(ConfigError, match="cannot be read"):
            check_mounts([Mount(str(path), "/m")])
    monkeypatch.undo()
    check_mounts([Mount(str(tmp_path), "/m")])


def test_no_mount_hides_another() -> None:
    """A site's /lustre comes before the run directory on it, which would else be read-only."""
    mounts = [Mount("/lustre/me/run", "/lustre/me/run"), Mount("/m", "/m"),
              Mount("/lustre", "/lustre", "ro"), Mount("/", "/host")]  # fmt: skip
    assert [mount.target for mount in parents_first(mounts)] == [
        "/lustre", "/lustre/me/run", "/m", "/host",
    ]  # fmt: skip
