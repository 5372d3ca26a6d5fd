"""What runtimes print when an image does not start has a cause and a next step."""

from __future__ import annotations

import pytest

from evalhpc.containers.explain import explain
from evalhpc.errors import StorageError


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ("pyxis: [ERROR] No such file or directory: /images/x.sqsh", "not on the compute node"),
        ("pyxis: [ERROR] Invalid image format: /images/x.sqsh", "not a squashfs image"),
        ("srun: error: --container-mounts: source path does not exist: /x", "mounted folder"),
        ("pyxis: Invalid --container-mounts argument: /x", "not SRC:DST"),
        ("pyxis: couldn't chdir to /nowhere: No such file or directory", "not in the image"),
        ("srun: unrecognized option '--container-image=/i.sqsh'", "no Pyxis"),
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


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (
            "ch-run[7]: error: can't bind: destination not found: /r/x (ch_core.c:111)",
            "mount point",
        ),
        (
            "ch-run[6]: error: can't mkdir: /x: Read-only file system (ch_misc.c:409 30)",
            "mount poi",
        ),
        ("fuse: failed to open /dev/fuse: Permission denied", "FUSE"),
        ("ch-run[74]: error: unknown image type: /tmp/f.sqsh (ch_core.c:278)", "not a squashfs"),
        ("ch-run[72]: error: can't stat: /x: No such file or directory (ch_core.c:255 2)", "node"),
        ("bwrap: Can't mkdir /nowhere: Read-only file system", "mount point"),
        ("bwrap: Can't find source path /nope: No such file or directory", "mounted folder"),
        ("bwrap: execvp bash: No such file or directory", "lacks a program"),
        ("FATAL:   could not open image /x.sif: failed to retrieve path", "compute node"),
        ("FATAL:   container creation failed: mount source /x doesn't exist", "mounted folder"),
    ],
)
def test_errors_of_other_runtimes_are_explained(log: str, cause: str) -> None:
    """Whichever runtime the site has: a log tells by itself whose it is."""
    explained = explain(f"loading\n{log}\n")
    assert explained is not None
    assert cause in explained[1]


def test_an_error_of_ours_explains_itself() -> None:
    """`evalhpc node enter` prints cause and next step, which come through as they are."""
    error = StorageError("the image /i.sqsh does not fit into /tmp", cause="full", hint="df /tmp")
    assert explain(f"INFO x\nerror: {error}\n") == (error.what, "full", "df /tmp")


@pytest.mark.parametrize(
    "log", ["OSError: No space left on device", "error: the run is gone", "No such file: x.sqsh"]
)
def test_errors_of_programs_inside_are_not_the_images(log: str) -> None:
    """A harness that fills a disk has started in its image."""
    assert explain(log) is None
