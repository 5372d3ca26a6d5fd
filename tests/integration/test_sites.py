"""Every shipped site renders whole runs, and `evalhpc site check` tells a real cluster's truth."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from evalhpc.cli.main import cli
from evalhpc.config.sites import load_site
from evalhpc.errors import UsageError
from tests.golden_variants import shipped_sites
from tests.integration.cluster import DevCluster
from tests.models.checkpoints import write_hf

EVALHPC = str(Path(sys.executable).with_name("evalhpc"))
CLUSTERS = sorted(set(shipped_sites()) - {"local", "devcluster"})
#: The 96 bytes with which a squashfs 4.0 file begins, of one that holds nothing else.
EMPTY_SQUASHFS = (
    b"hsqs" + bytes(24) + (4).to_bytes(2, "little") + bytes(10) + (96).to_bytes(8, "little")
) + bytes(48)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with a checkpoint, images and the variables that clusters set."""
    for name in ("lm-eval", "vllm"):
        (tmp_path / f"{name}.sqsh").write_bytes(EMPTY_SQUASHFS)
    write_hf(tmp_path / "tiny")
    for path in (tmp_path / "tiny").iterdir():
        os.utime(path, (1, 1))  # at rest, or inspection warns
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    for name in ("USER", "WORK"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path


def render(home: Path, site: str, **settings: object) -> Result:
    """`evalhpc render` of a Hugging Face checkpoint, with the user's images."""
    sets = {
        "container.images.lm-eval": home / "lm-eval.sqsh",
        "container.images.vllm": home / "vllm.sqsh",
        **settings,
    }
    words = ["render", "--site", site, "--model", str(home / "tiny"), "--tasks", "lm-eval/arc_easy"]
    words += ["--run-dir", str(home / "run"), "--shards", "3"]
    words += [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    return CliRunner().invoke(cli, words)


@pytest.mark.parametrize("site", CLUSTERS)
def test_a_run_is_rendered_with_made_up_values(home: Path, site: str) -> None:
    """What a site requires is all that it needs; the shards ask for the GPUs of a node."""
    layer = load_site(site, {"HOME": str(home)}).site
    required = {f"slurm.{key}": f"my-{key}" for key in layer.slurm.required}
    done = render(home, site, **required)
    assert done.exit_code == 0, done.output
    shard = (home / "run" / "scripts" / "shard.sbatch").read_text()
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", shard, flags=re.MULTILINE))
    partition = layer.slurm.partition or "my-partition"
    assert (asked["partition"], asked["array"]) == (partition, "0-2")
    gpus = layer.resources.shard.gpus_per_node
    wanted = {"gres": f"gpu:{gpus}", "gpus-per-node": str(gpus)}
    for option in ("gres", "gpus-per-node"):
        assert asked.get(option) == (wanted[option] if option == layer.slurm.gpu_request else None)
    passes = (home / "run" / "scripts" / "planning.sbatch").read_text()
    assert not re.search(r"^#SBATCH --(gres|gpus)", passes, flags=re.MULTILINE)


def test_without_its_required_keys_a_site_renders_nothing(home: Path) -> None:
    """The error names each of them, and no run directory is left."""
    done = render(home, "eos")
    assert isinstance(done.exception, UsageError)
    assert "--set slurm.account=NAME --set slurm.partition=NAME" in done.exception.hint
    assert not (home / "run").exists()


def test_a_site_is_checked_on_its_cluster(cluster: DevCluster) -> None:
    """The development cluster's file fits it; one for GPU nodes is told what there is instead."""

    def check(site: str) -> tuple[int, dict[str, str], str]:
        words = [EVALHPC, "site", "check", site, "--json"]
        done = cluster.exec(words, env={"PATH": f"{Path(EVALHPC).parent}:/usr/bin:/bin"})
        checks = json.loads(done.stdout)
        wrong = {c["name"]: c["found"] for c in checks if not c["ok"]}
        assert all(c["hint"] for c in checks if not c["ok"])
        return done.returncode, wrong, done.stdout

    code, wrong, text = check("devcluster")
    assert (code, wrong) == (0, {})
    assert '"batch' in text
    code, wrong, _ = check("google-a3-mega")
    assert code == 3
    assert set(wrong) == {"images", "partition", "Pyxis"}
    assert "no 'a3mega'; there are batch" in wrong["partition"]
    assert wrong["Pyxis"] == "srun does not know --container-image"
