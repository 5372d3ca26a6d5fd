"""Images, mounts and pyxis: what is rendered is what the plugin understands."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalhpc.containers.mounts import Mount, bind, distinct, parse_mount
from evalhpc.containers.preflight import check_image, check_site
from evalhpc.containers.pyxis import explain, step_options
from evalhpc.containers.runtime import Wrap, wrap
from evalhpc.errors import ConfigError
from evalhpc.models.site import Container

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


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ("pyxis: [ERROR] No such file or directory: /images/x.sqsh", "not on the compute node"),
        ("pyxis: [ERROR] Invalid image format: /images/x.sqsh", "not a squashfs image"),
        ("srun: error: --container-mounts: source path does not exist: /x", "mounted folder"),
        ("FATAL ERROR: writer: failed to write file", "data path is full"),
        ("pyxis: importing docker image: x.sqsh", "registry"),
    ],
)
def test_errors_of_pyxis_are_explained(log: str, cause: str) -> None:
    """The last line of such a log only says that a plugin failed."""
    noise = "\nspank: required plugin spank_pyxis.so: task_init() failed with rc=-1"
    explained = explain(log + noise)
    assert explained is not None
    assert cause in explained[1]


def test_other_logs_are_not_explained() -> None:
    """A missing file of the harness's is none of pyxis's business."""
    assert explain("cat: x: No such file or directory") is None


def test_an_image_must_be_a_squashfs_file(tmp_path: Path) -> None:
    """An interrupted import is found before submission."""
    image = tmp_path / "x.sqsh"
    with pytest.raises(ConfigError, match="cannot be read"):
        check_image(image)
    image.write_bytes(b"<html>")
    with pytest.raises(ConfigError, match="not a squashfs"):
        check_image(image)
    image.write_bytes(b"hsqs\0\0")
    check_image(image)


def test_a_site_is_checked_only_where_images_are_used(tmp_path: Path) -> None:
    """Runtime `none` ignores images and mounts; pyxis needs both to be there."""
    check_site(Container(), ["/nowhere.sqsh"])
    image = tmp_path / "x.sqsh"
    image.write_bytes(b"hsqs\0\0")
    gone = Container(runtime="pyxis", mounts=(f"{tmp_path}/gone:/data",))
    with pytest.raises(ConfigError, match="does not exist here"):
        check_site(gone, [str(image), None])
