"""The words of each runtime, and the variables that a command has inside."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalhpc.containers import apptainer, bwrap, charliecloud
from evalhpc.containers.environment import inner_environment
from evalhpc.containers.gpus import driver_mounts
from evalhpc.containers.mounts import Mount
from evalhpc.containers.runtime import wrap
from evalhpc.containers.start import HOME, Start
from evalhpc.models.site import Container, Runtime

MOUNTS = (Mount("/run", "/run"), Mount("/models/a", "/m", "ro"))


def start(**changes: object) -> Start:
    fields: dict[str, object] = {
        "root": "/root", "mounts": MOUNTS, "folder": "/run", "home": "/tmp/h",
        "options": ("--own",), **changes,
    }  # fmt: skip
    return Start(**fields)  # type: ignore[arg-type]  # a test names them one by one


@pytest.mark.parametrize("runtime", ["apptainer", "charliecloud", "bwrap"])
def test_a_step_is_wrapped_by_words_of_ours(runtime: Runtime) -> None:
    """No option of srun; image, mounts and options of the site, each as one word."""
    container = Container(
        runtime=runtime, mounts=("/d:/d:ro",), options=("--x",), node_dir="$TMPDIR", unpack=False
    )
    wrapped = wrap(container, "/i.sqsh", writable=["/run"], read_only=["/m"])
    assert wrapped.srun_options == ()
    assert wrapped.prefix == (
        f"--runtime={runtime}", "--image=/i.sqsh", "--node-dir=$TMPDIR", "--no-unpack",
        "--mount=/run:/run", "--mount=/m:/m:ro", "--mount=/d:/d:ro", "--option=--x", "--",
    )  # fmt: skip


def test_pyxis_gets_the_options_of_the_site() -> None:
    """They stand behind ours."""
    wrapped = wrap(Container(runtime="pyxis", options=("--container-remap-root",)), "/i.sqsh")
    assert wrapped.srun_options[-1] == "--container-remap-root"


def test_bwrap_shows_the_image_read_only() -> None:
    """The image is /, the node's /tmp is writable, and a mount only if it may be."""
    words = " ".join(bwrap.command(start()))
    assert words.startswith("bwrap --ro-bind /root / --dev-bind /dev /dev ")
    assert words.endswith(
        " --bind /tmp /tmp --bind /run /run --ro-bind /models/a /m --chdir /run --own --"
    )


def test_charliecloud_gets_its_mounts() -> None:
    """It has no read-only mounts; who we are inside it says itself, unless we do."""
    words = charliecloud.command(start())
    assert words == (
        "ch-run", "--bind=/run:/run", "--bind=/models/a:/m", "--cd=/run", "--own", "/root", "--",
    )  # fmt: skip
    ours = start(mounts=(Mount("/tmp/passwd", "/etc/passwd", "ro"),))
    assert "--no-passwd" in charliecloud.command(ours)


@pytest.mark.parametrize("gpus", [True, False])
def test_apptainer_gets_a_home_that_is_not_the_users(gpus: bool) -> None:
    """And the driver of the GPUs where the node has any."""
    words = apptainer.command(start(gpus=gpus))
    assert words[:3] == ("apptainer", "exec", f"--home=/tmp/h:{HOME}")
    assert ("--nv" in words) == gpus
    assert words[-5:] == ("--bind=/run:/run", "--bind=/models/a:/m:ro", "--pwd=/run", "--own",
                          "/root")  # fmt: skip


def test_variables_of_the_image_come_on_top(tmp_path: Path) -> None:
    """Those that name files of the node stay outside; ours cannot be overwritten."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "environment").write_text(
        "# a comment\nPATH=\"/opt/venv/bin:/bin\"\nexport A='x y'\nEVALHPC_PORT=1\nno line\n"
        "C=${B}-${D}\n"
    )
    outer = {
        "PATH": "/node/bin", "EVALHPC_PORT": "80", "LD_LIBRARY_PATH": "/cuda", "TMPDIR": "/scratch",
        "PYTHONPATH": "/mine", "HOME": "/home/me", "B": "b",
    }  # fmt: skip
    assert inner_environment(outer, tmp_path, "/h") == {
        "PATH": "/opt/venv/bin:/bin", "EVALHPC_PORT": "80", "HOME": "/h", "A": "x y", "B": "b",
        "C": "b-",
    }  # fmt: skip


def test_an_image_without_variables_gets_a_plain_path(tmp_path: Path) -> None:
    """The node's own PATH names folders that are not there; GPUs add the driver's."""
    inner = inner_environment({"PATH": "/node/bin"}, tmp_path / "i.sqsh", "/h", gpus=True)
    assert inner["PATH"].startswith("/usr/local/sbin:")
    assert inner["LD_LIBRARY_PATH"] == "/usr/local/nvidia/lib64"


def test_the_driver_is_mounted_library_by_library() -> None:
    """Those of NVIDIA's driver for this machine's words, and of two with a name the first."""
    listed = """2 libs found in cache `/etc/ld.so.cache'
\tlibnvidia-ml.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libnvidia-ml.so.1
\tlibcudart.so.12 (libc6,x86-64) => /cuda/libcudart.so.12
\tlibcuda.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libcuda.so.1
\tlibcuda.so.1 (libc6,x86-64) => /old/libcuda.so.1
\tlibcuda.so.1 (libc6) => /lib/i386-linux-gnu/libcuda.so.1
"""
    assert [str(mount) for mount in driver_mounts(listed)] == [
        "/lib/x86_64-linux-gnu/libcuda.so.1:/usr/local/nvidia/lib64/libcuda.so.1:ro",
        "/lib/x86_64-linux-gnu/libnvidia-ml.so.1:/usr/local/nvidia/lib64/libnvidia-ml.so.1:ro",
    ]
