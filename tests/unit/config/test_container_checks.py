"""Rules of container runtimes that are enforced before anything is submitted."""

from __future__ import annotations

from typing import Any

import pytest

from evalhpc.config.checks import check_site, image_for
from evalhpc.errors import ConfigError
from evalhpc.models.site import Site

ENVIRON = {"HOME": "/home/me", "ENROOT_DATA_PATH": "/home/me/enroot"}


def problems(environ: dict[str, str] = ENVIRON, **data: Any) -> str:
    site = Site.model_validate({"name": "here", "run_root": "/lustre/me/runs", **data})
    return "\n".join(map(str, check_site(site, environ)))


def pyxis(**keys: Any) -> dict[str, Any]:
    return {"runtime": "pyxis", **keys}


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--container-image=/i.sqsh", "whole batch script into the image"),
        ("--container-mounts=/a:/b", "whole batch script into the image"),
        ("--no-container-entrypoint", "whole batch script into the image"),
    ],
)
@pytest.mark.parametrize("runtime", ["pyxis", "none"])
def test_no_container_option_becomes_a_directive(option: str, said: str, runtime: str) -> None:
    """As #SBATCH lines they would put the batch script into the image, or mount nothing at all."""
    found = problems(slurm={"extra": [option]}, container={"runtime": runtime})
    assert said in found


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--container-name=mine", "share one container"),
        ("--container-save=/x.sqsh", "share one container"),
        ("--container-image=/x.sqsh", "from container.images"),
        ("--container-mounts=/a:/b", "from container.images"),
        ("--exclusive", "not one of Pyxis's"),
        ("remap", "is no option"),
        ("--x\ny", "is no option"),
    ],
)
def test_options_of_pyxis_that_break_an_array_are_refused(option: str, said: str) -> None:
    """Tasks may share no container, and image and mounts differ from script to script."""
    assert said in problems(container=pyxis(options=[option]))
    assert not problems(container=pyxis(options=["--container-remap-root"]))


@pytest.mark.parametrize(
    "environment",
    [
        {"variables": {"ENROOT_DATA_PATH": "/home/me/x"}},
        {"variables": {"ENROOT_RUNTIME_PATH": "/lustre/me/runs"}},
        {"pass_through": ["ENROOT_DATA_PATH"]},
        {"setup": ["export ENROOT_DATA_PATH=$HOME/enroot"]},
        {"setup": ['export A=1 ENROOT_RUNTIME_PATH="~/run"']},
    ],
)
def test_enroot_must_not_unpack_into_a_shared_home(environment: dict[str, Any]) -> None:
    """Nodes race for the names there; a folder of each node's own is none of our business."""
    assert "which all nodes share" in problems(environment=environment, container=pyxis())
    local = {"variables": {"ENROOT_DATA_PATH": "/raid/enroot/me"}}
    assert not problems(environment=local, container=pyxis())


def test_a_mount_under_another_name_needs_an_image() -> None:
    """Without one nothing is mounted, and the command runs beside the node's own folder."""
    moved = {"runtime": "none", "mounts": ["/datasets:/data:ro"]}
    assert "shows a folder under another name" in problems(container=moved)
    assert not problems(container={**moved, "mounts": ["/lustre:/lustre"]})


def test_the_nodes_own_folder_is_absolute() -> None:
    """Or begins with a variable of the node's."""
    assert "relative path" in problems(container={"runtime": "bwrap", "node_dir": "scratch"})
    assert not problems(container={"runtime": "bwrap", "node_dir": "$TMPDIR/images"})


@pytest.mark.parametrize(
    ("runtime", "image"),
    [
        ("pyxis", "/i/x.sqsh"), ("apptainer", "/i/x.sif"), ("apptainer", "/i/x.sqsh"),
        ("apptainer", "/i/folder"), ("charliecloud", "/i/x.sqsh"), ("charliecloud", "/i/folder"),
        ("bwrap", "/i/x.sqsh"), ("bwrap", "/i/folder"),
    ],
)  # fmt: skip
def test_each_runtime_takes_its_images(runtime: str, image: str) -> None:
    """Files by the end of their names, and folders where no plugin stands between."""
    container = {"runtime": runtime, "images": {"lm-eval": image}}
    site = Site.model_validate({"name": "here", "container": container})
    assert image_for("lm-eval", site, None) == image


@pytest.mark.parametrize(
    ("runtime", "image", "cause"),
    [
        ("pyxis", "x.sqsh", "one in a registry"), ("pyxis", "/i/folder", "one in a registry"),
        ("pyxis", "/i/x.sif", "one in a registry"),
        ("pyxis", "registry.example#team/x:1", "by every node at once"),
        ("apptainer", "docker://team/x", "by every node at once"),
        ("charliecloud", "/i/x.sif", "cannot start anything else"),
        ("bwrap", "x.sqsh", "jobs run in other folders"),
    ],
)  # fmt: skip
def test_what_a_runtime_would_misread_is_no_image(runtime: str, image: str, cause: str) -> None:
    """Nothing is imported behind the user's back, on every node at once."""
    container = {"runtime": runtime, "images": {"lm-eval": image}}
    site = Site.model_validate({"name": "here", "container": container})
    with pytest.raises(ConfigError) as caught:
        image_for("lm-eval", site, None)
    assert cause in caught.value.cause
